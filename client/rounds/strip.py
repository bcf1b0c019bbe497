"""Pictures side by side: progress towards a target, pairs with their answers."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP, CAPTION = 8, 22  # pixels
_INK, _CHOSEN = "#222222", (46, 160, 67)


def image(picture: Tensor) -> Image.Image:
    """A picture ``(3, h, w)`` in [-1, 1] for Pillow."""
    values = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous()
    return Image.fromarray(values.numpy())


def png(picture: Tensor) -> bytes:
    """A picture ``(3, h, w)`` in [-1, 1] as a PNG file."""
    return _encoded(image(picture))


def captioned(pictures: Sequence[Tensor], captions: Sequence[tuple[str, str]]) -> bytes:
    """Pictures in a row on white, the first set apart, each with two lines below; as a PNG file.

    Args:
        pictures: each ``(3, h, w)`` in [-1, 1], all of one size; at least one.
        captions: two short lines for each.
    """
    _, height, width = pictures[0].shape
    left = [GAP + i * (width + GAP) + (2 * GAP if i else 0) for i in range(len(pictures))]
    sheet = Image.new("RGB", (left[-1] + width + GAP, GAP + height + 2 * CAPTION + GAP // 2), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(15), ImageFont.load_default(12)
    for x, picture, (title, about) in zip(left, pictures, captions, strict=True):
        sheet.paste(image(picture), (x, GAP))
        draw.text((x + width / 2, GAP + height + 4), title, _INK, large, anchor="ma")
        draw.text((x + width / 2, GAP + height + CAPTION), about, _INK, small, anchor="ma")
    return _encoded(sheet)


def pair_sheet(a: Tensor, b: Tensor, chosen_a: Tensor, chosen_b: Tensor, border: int = 3) -> Tensor:
    """Pairs as columns, A above B; a green frame for what was chosen or called good, white for the rest.

    Args:
        a: ``(n, 3, h, w)`` in [-1, 1].
        b: ``(n, 3, h, w)``.
        chosen_a: ``(n,)`` bool.
        chosen_b: ``(n,)`` bool.
        border: width of the frames, pixels.

    Returns:
        ``(3, 2 * (h + 2 * border), n * (w + 2 * border))`` in [-1, 1].
    """
    green = torch.tensor(_CHOSEN) / 127.5 - 1
    rows = []
    for pictures, chosen in ((a, chosen_a), (b, chosen_b)):
        n, _, height, width = pictures.shape
        framed = torch.ones(n, 3, height + 2 * border, width + 2 * border)
        framed[chosen] = green[:, None, None]
        framed[:, :, border:-border, border:-border] = pictures
        rows.append(torch.cat(list(framed), 2))
    return torch.cat(rows, 1)


def _encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
