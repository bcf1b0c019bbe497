"""Contact sheets: small pictures in rows, drawn on a dark panel like a photographer's, with what was said of each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from common.errors import SettingError

Pictures = npt.NDArray[np.uint8]
_GROUND, _INK, _FAINT, _LIKED = "#16181d", "#f1f1ee", "#a3a8b3", "#6fd6a8"
_MARGIN, _GAP = 28, 10
_LIKES = ("liked", "best", "chosen", "both", "4 stars", "5 stars")


@dataclass(frozen=True)
class Row:
    """Pictures that belong together.

    Attributes:
        label: what they are, e.g. ``"recommended after 5 ratings"``.
        pictures: ``(n, h, w, 3)`` uint8, RGB, n >= 1.
        captions: one for each picture, e.g. ``"liked"``; or none at all.
    """

    label: str
    pictures: Pictures
    captions: Sequence[str] = ()

    def __post_init__(self) -> None:
        shape = self.pictures.shape
        if self.pictures.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise SettingError(f"pictures of row {self.label!r} must be uint8 (n, h, w, 3), n > 0; got {shape}")
        if self.captions and len(self.captions) != shape[0]:
            raise SettingError(f"row {self.label!r} has {shape[0]} pictures and {len(self.captions)} captions")


@dataclass(frozen=True, kw_only=True)
class ContactSheet:
    """What one person was shown and recommended.

    Attributes:
        title: of the sheet, e.g. ``"Shown and recommended"``.
        person: who, e.g. ``"Person 3"``; an invented one.
        rows: at least one, as a ``Row`` or as its values in a tuple: label, pictures, and captions or ``None``.
    """

    title: str
    person: str
    rows: Sequence[Row | tuple[str, Pictures] | tuple[str, Pictures, Sequence[str] | None]]

    def __post_init__(self) -> None:
        if not self.rows:
            raise SettingError(f"contact sheet {self.title!r} has no rows; give it at least one")
        _ = self.lines  # refuses pictures of another form now, not when the page is written

    @property
    def lines(self) -> list[Row]:
        """The rows, each as a ``Row``."""
        return [row if isinstance(row, Row) else Row(row[0], row[1], (row[2:] or [()])[0] or ()) for row in self.rows]

    @property
    def description(self) -> str:
        """What a screen reader says in place of the picture."""
        rows = "; ".join(f"{row.label}, {len(row.pictures)} pictures{_counted(row.captions)}" for row in self.lines)
        return f"{self.title}, {self.person}: {rows}"


def _counted(captions: Sequence[str]) -> str:
    """How often each caption occurs, e.g. ``" (3 liked, 2 not)"``."""
    kinds = {caption: list(captions).count(caption) for caption in captions if caption}
    return f" ({', '.join(f'{count} {caption}' for caption, count in kinds.items())})" if kinds else ""


def draw_sheet(sheet: ContactSheet, *, columns: int, cell: int, text: int) -> Image.Image:
    """Draw a sheet.

    Args:
        sheet: what to draw; rows longer than ``columns`` go on in the next line.
        columns: pictures in one line, >= 1.
        cell: width of a picture in pixels; the height follows its shape.
        text: height of letters in pixels.

    Returns:
        An RGB picture as wide as ``columns`` cells.
    """
    bold, plain = _font(text, bold=True), _font(round(text * 0.86))
    width = 2 * _MARGIN + columns * cell + (columns - 1) * _GAP
    places: list[tuple[Row, int, int]] = []  # row, y of its label, height of one line of pictures
    y = _MARGIN
    for row in sheet.lines:
        _n, h, w, _channels = row.pictures.shape
        line = round(cell * h / w) + _GAP + (round(text * 1.35) if any(row.captions) else 0)
        places.append((row, y, line))
        y += round(text * 1.9) + line * -(-len(row.pictures) // columns) + text
    image = Image.new("RGB", (width, y - text - _GAP + _MARGIN), _GROUND)
    draw = ImageDraw.Draw(image)
    for row, top, line in places:
        draw.text((_MARGIN, top), row.label, fill=_INK, font=bold)
        for index in range(len(row.pictures)):
            x = _MARGIN + index % columns * (cell + _GAP)
            _draw_picture(image, draw, row, index, (x, top + round(text * 1.9) + index // columns * line), cell, plain)
    return image


def _draw_picture(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    row: Row,
    index: int,
    at: tuple[int, int],
    cell: int,
    font: ImageFont.FreeTypeFont,
) -> None:
    height = round(cell * row.pictures.shape[1] / row.pictures.shape[2])
    picture = Image.fromarray(row.pictures[index]).resize((cell, height), Image.Resampling.LANCZOS)
    mask = Image.new("L", (cell * 4, height * 4), 0)  # four times as large, so that round corners are smooth
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, cell * 4 - 1, height * 4 - 1), radius=32, fill=255)
    image.paste(picture, at, mask.resize((cell, height), Image.Resampling.LANCZOS))
    caption = row.captions[index] if row.captions else ""
    if not caption:
        return
    liked = caption in _LIKES
    if liked:
        frame = (at[0] - 4, at[1] - 4, at[0] + cell + 3, at[1] + height + 3)
        draw.rounded_rectangle(frame, radius=11, outline=_LIKED, width=3)
    draw.text(
        (at[0] + cell / 2, at[1] + height + 5), f"♥ {caption}" if liked else caption,
        fill=_LIKED if liked else _FAINT, font=font, anchor="ma",
    )  # fmt: skip


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font matplotlib brings along: it is on every machine and knows every letter we need."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def as_png(image: Image.Image) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def as_jpeg(image: Image.Image) -> bytes:
    """A picture as JPEG, a tenth of the size: for small screens."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=86)
    return buffer.getvalue()
