"""Clouds of points as small pictures, for contact sheets."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from client.flows.drawing import REACH, draw
from client.flows.judge import judge
from client.flows.plots import PAPER
from simulations.contact_sheet import Pictures

_FINER = 3  # drawn so many times as large, so that dots are round
_DOT = 0.022  # of the side, radius of the nearest dot


def tiles(clouds: Tensor, side: int) -> Pictures:
    """Pictures ``(n, side, side, 3)`` of clouds ``(n, points, 3)``; what is near is drawn last and larger."""
    drawing = draw(clouds, judge(clouds))
    rows = zip(drawing.places, drawing.depth, drawing.colours, strict=True)
    return np.stack([_tile(places, depth, colours, side) for places, depth, colours in rows])


def _tile(places: Tensor, depth: Tensor, colours: Tensor, side: int) -> Pictures:
    wide = side * _FINER
    image = Image.new("RGB", (wide, wide), PAPER)
    canvas = ImageDraw.Draw(image)
    order = depth.argsort()
    across = (places[order] / REACH + 1) / 2 * wide
    radii = wide * _DOT * (0.6 + 0.4 * depth[order])
    inks = (colours[order] * 255).round().int().tolist()
    for (x, up), radius, ink in zip(across.tolist(), radii.tolist(), inks, strict=True):
        y = wide - up
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(ink))
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS), dtype=np.uint8)
