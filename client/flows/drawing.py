"""Clouds of points on a plane of view, and as braille in a terminal: each character is two by four dots.

The colours follow the curve from end to end, as the judge sees it; what is no shape is grey. A colour is never the only
sign: the caption names the shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client.flows.judge import Verdicts
from client.half_blocks import RESET, Depth
from common.errors import SettingError

YAW, PITCH = 0.26, 0.17  # of the view, radians: mostly along the axis, so that spirals and curves are seen as such
REACH = 1.95  # half the side of the view; the largest shape of the usual settings fits
_RAMP = ("#3b1c8c", "#1f6fd6", "#12a7a0", "#5bb83a", "#e0a80a", "#ef5b2b", "#c2185b")
GREY = "#8a8f9c"
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # Unicode 15, block U+2800, rows of two
_CUBE = (0, 95, 135, 175, 215, 255)


@dataclass(frozen=True)
class Drawing:
    """Clouds ready to be drawn.

    Attributes:
        places: ``(n, points, 2)``, right and up, within about `REACH` of 0.
        depth: ``(n, points)``, 0 far to 1 near.
        colours: ``(n, points, 3)`` in 0 to 1.
        captions: a word for each cloud.
    """

    places: Tensor
    depth: Tensor
    colours: Tensor
    captions: tuple[str, ...]


def draw(clouds: Tensor, verdicts: Verdicts) -> Drawing:
    """Look at clouds from a little above and aside, without perspective.

    Args:
        clouds: ``(n, points, 3)``.
        verdicts: what they are.
    """
    clouds = (clouds - clouds.mean(-2, keepdim=True)).cpu().nan_to_num(0, 0, 0)
    seen = clouds @ _view().T
    depth = seen[..., 2]
    low, high = (depth.amin(-1, keepdim=True), depth.amax(-1, keepdim=True)) if len(clouds) else (depth, depth)
    captions = tuple(verdicts.label(index) for index in range(len(clouds)))
    depth = (depth - low) / (high - low).clamp_min(1e-6)
    return Drawing(seen[..., :2], depth, _colours(verdicts), captions)


def braille(places: Tensor, colours: Tensor, columns: int, depth: Depth | None) -> list[str]:
    """One cloud as lines of a terminal.

    Guarantee: every line shows exactly ``columns`` characters; half as many lines as columns, rounded up.

    Args:
        places: ``(points, 2)`` of a `Drawing`; what lies outside the view is left out.
        colours: ``(points, 3)`` in 0 to 1; the points of one character share the mean of theirs.
        columns: >= 1.
        depth: colours the terminal has; None for none.

    Raises:
        SettingError: no column.
    """
    if columns < 1:
        raise SettingError(f"columns={columns} must be at least 1; make the window wider")
    rows = -(-columns // 2)
    x = ((places[:, 0] + REACH) / (2 * REACH) * 2 * columns).floor().long()
    y = ((REACH - places[:, 1]) / (2 * REACH) * 4 * rows).floor().long()
    inside = (x >= 0) & (x < 2 * columns) & (y >= 0) & (y < 4 * rows)
    x, y, colours = x[inside], y[inside], colours[inside]
    cell = y.div(4, rounding_mode="floor") * columns + x.div(2, rounding_mode="floor")
    dots = torch.zeros(rows * columns, 8, dtype=torch.bool)
    dots[cell, 2 * (y % 4) + x % 2] = True
    bits = torch.tensor([bit for row in _DOTS for bit in row])
    codes = (dots * bits).sum(-1).view(rows, columns).tolist()
    count = torch.zeros(rows * columns).index_add_(0, cell, torch.ones(len(cell)))
    mixed = torch.zeros(rows * columns, 3).index_add_(0, cell, colours) / count.clamp_min(1)[:, None]
    inks = _inks(mixed, depth)
    return [_line(row, inks[index * columns : (index + 1) * columns]) for index, row in enumerate(codes)]


def _view() -> Tensor:
    """Rows: right, up, towards the viewer. The plane of the curve faces the viewer but for a turn and a nod."""
    turn = torch.tensor(
        [[math.cos(YAW), 0, math.sin(YAW)], [0, 1, 0], [-math.sin(YAW), 0, math.cos(YAW)]], dtype=torch.float32
    )
    nod = torch.tensor(
        [[1, 0, 0], [0, math.cos(PITCH), -math.sin(PITCH)], [0, math.sin(PITCH), math.cos(PITCH)]], dtype=torch.float32
    )
    return nod @ turn


def _colours(verdicts: Verdicts) -> Tensor:
    ramp = torch.stack([_rgb(colour) for colour in _RAMP])
    at = verdicts.place.cpu() * (len(ramp) - 1)
    low = at.floor().long().clamp(max=len(ramp) - 2)
    mixed = torch.lerp(ramp[low], ramp[low + 1], (at - low)[..., None])
    return torch.where(verdicts.valid.cpu()[:, None, None], mixed, _rgb(GREY))


def _rgb(colour: str) -> Tensor:
    return torch.tensor([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])


def _inks(colours: Tensor, depth: Depth | None) -> list[str]:
    """Escape sequences (ECMA-48), lightened: thin dots on a dark ground need bright inks, on a light one still show."""
    if depth is None:
        return [""] * len(colours)
    bright = (colours + 0.30 * (1 - colours)) * 255
    if depth == "24-bit":
        return [f"\x1b[38;2;{r};{g};{b}m" for r, g, b in bright.round().int().tolist()]
    near = (bright[..., None] - torch.tensor(_CUBE)).abs().argmin(-1)
    return [f"\x1b[38;5;{16 + 36 * r + 6 * g + b}m" for r, g, b in near.tolist()]


def _line(codes: Sequence[int], inks: Sequence[str]) -> str:
    parts, ink = list[str](), ""
    for code, wanted in zip(codes, inks, strict=True):
        if code and wanted != ink:
            parts.append(wanted)
            ink = wanted
        parts.append(chr(0x2800 + code) if code else " ")
    return "".join(parts) + (RESET if ink else "")
