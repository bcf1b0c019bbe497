"""One picture with a row of items for each importer, its name to the left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GROUND, INK, FAINT = "#16181d", "#f1f1ee", "#a3a8b3"
CELL, GAP, MARGIN, LABELS, ROUND = 64, 6, 20, 196, 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """Pictures of one importer.

    Attributes:
        label: its name.
        note: under it, smaller.
        pictures: ``(n, 3, h, w)`` in [-1, 1]; ``h`` divides or is a multiple of `CELL`.
    """

    label: str
    note: str
    pictures: Tensor


def draw(lines: Sequence[Line], columns: int) -> Image.Image:
    """Draw the lines below each other, ``columns`` pictures in each."""
    width = 2 * MARGIN + LABELS + columns * (CELL + GAP) - GAP
    image = Image.new("RGB", (width, 2 * MARGIN + len(lines) * (CELL + GAP) - GAP), GROUND)
    pen = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        top = MARGIN + row * (CELL + GAP)
        pen.text((MARGIN, top + CELL / 2 - 2), line.label, fill=INK, font=_font(16, bold=True), anchor="ls")
        pen.text((MARGIN, top + CELL / 2 + 18), line.note, fill=FAINT, font=_font(12), anchor="ls")
        for column, picture in enumerate(line.pictures[:columns]):
            _paste(image, picture, (MARGIN + LABELS + column * (CELL + GAP), top))
    return image


def _paste(image: Image.Image, picture: Tensor, at: tuple[int, int]) -> None:
    values = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    drawn = Image.fromarray(np.ascontiguousarray(values))
    larger = drawn.width <= CELL  # pixels of pixel art stay squares
    drawn = drawn.resize((CELL, CELL), Image.Resampling.NEAREST if larger else Image.Resampling.BOX)
    mask = Image.new("L", (CELL * 4, CELL * 4), 0)  # four times as large, so that round corners are smooth
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, CELL * 4 - 1, CELL * 4 - 1), radius=4 * ROUND, fill=255)
    image.paste(drawn, at, mask.resize((CELL, CELL), Image.Resampling.LANCZOS))


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font matplotlib brings along."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
