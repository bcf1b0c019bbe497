"""Pictures in a terminal: each character is an upper half block whose two colours are two pixels.

A character is about twice as high as it is wide, so the two pixels it holds are square. Colours are written as ECMA-48
select graphic rendition: ``38;2;r;g;b`` (24 bits) or ``38;5;n`` (the 256 colours of xterm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from common.errors import SettingError

Depth = Literal["24-bit", "256"]
RESET = "\x1b[0m"
_FULL_COLOUR = ("kitty", "alacritty", "foot", "wezterm", "ghostty", "contour", "direct")
_FULL_COLOUR_PROGRAMS = {"iTerm.app", "vscode", "WezTerm", "ghostty", "Hyper"}
_CUBE = (0, 95, 135, 175, 215, 255)  # levels of each channel among the colours 16 to 231 of xterm
_GREYS = tuple(range(8, 248, 10))  # the colours 232 to 255


def colour_depth(environment: Mapping[str, str], terminal: bool) -> Depth | None:
    """How many colours can be drawn; None where pictures have to go to files.

    Args:
        environment: of the process. ``NO_COLOR`` (no-color.org) and ``TERM=dumb`` mean none.
        terminal: whether the output is one.
    """
    name = environment.get("TERM", "").lower()
    windows = "WT_SESSION" in environment
    if not terminal or environment.get("NO_COLOR") or name in ("dumb", "unknown") or not (name or windows):
        return None
    if name.startswith("vt") and "256" not in name:
        return None
    if environment.get("COLORTERM", "").lower() in ("truecolor", "24bit") or windows:
        return "24-bit"
    program = environment.get("TERM_PROGRAM", "")
    if program in _FULL_COLOUR_PROGRAMS or any(part in name for part in _FULL_COLOUR):
        return "24-bit"
    return "256"


def half_blocks(picture: Tensor, columns: int, depth: Depth = "24-bit") -> list[str]:
    """Draw a picture.

    Guarantee: every line shows exactly ``columns`` characters and ends with the colours reset.

    Args:
        picture: ``(3, h, w)`` in [-1, 1]; what lies outside is cut off.
        columns: width in characters, at least 1; the height follows from the shape of the picture.
        depth: colours the terminal has.

    Returns:
        Lines, the upper first; half as many as there are columns for a square picture, rounded up.

    Raises:
        SettingError: another shape, NaN, or no column.
    """
    if picture.ndim != 3 or picture.shape[0] != 3 or 0 in picture.shape:
        raise SettingError(f"a picture of shape {tuple(picture.shape)} should be (3, h, w)")
    if not bool(picture.isfinite().all()):
        raise SettingError("the picture holds NaN or infinite numbers; draw it again")
    if columns < 1:
        raise SettingError(f"columns={columns} must be at least 1; make the window wider")
    rows = max(1, -(-columns * picture.shape[1] // (2 * picture.shape[2])))
    pixels = _shrunk(picture, 2 * rows, columns)
    codes = _true_colours(pixels) if depth == "24-bit" else _xterm_colours(pixels)
    return [_line(codes[2 * row], codes[2 * row + 1]) for row in range(rows)]


def beside(drawings: Sequence[Sequence[str]], gap: int) -> list[str]:
    """Drawings of equal height next to each other, ``gap`` spaces apart."""
    return [(" " * gap).join(parts) for parts in zip(*drawings, strict=True)]


def _shrunk(picture: Tensor, height: int, width: int) -> Tensor:
    """``(height, width, 3)`` in [0, 255]: the mean of what each pixel covers."""
    small = functional.adaptive_avg_pool2d(picture.float().clamp(-1, 1), (height, width))
    return (small.permute(1, 2, 0) + 1) * 127.5


def _true_colours(pixels: Tensor) -> list[list[str]]:
    return [[f"2;{r};{g};{b}" for r, g, b in row] for row in pixels.round().int().tolist()]


def _xterm_colours(pixels: Tensor) -> list[list[str]]:
    """The nearest of the colour cube and of the greys. Dithering was tried: at this size its grain hides the shapes."""
    levels = torch.tensor(_CUBE, dtype=torch.float32)
    near = (pixels[..., None] - levels).abs().argmin(-1)
    greys = torch.tensor(_GREYS, dtype=torch.float32)
    grey = (pixels.mean(-1, keepdim=True) - greys).abs().argmin(-1)
    cube_error = (levels[near] - pixels).square().sum(-1)
    grey_error = (greys[grey][..., None] - pixels).square().sum(-1)
    in_cube = 16 + 36 * near[..., 0] + 6 * near[..., 1] + near[..., 2]
    chosen = torch.where(grey_error < cube_error, 232 + grey, in_cube)
    return [[f"5;{number}" for number in row] for row in chosen.tolist()]


def _line(upper: Sequence[str], lower: Sequence[str]) -> str:
    """One line of characters; a colour is only written where it changes."""
    parts: list[str] = []
    ink = paper = ""
    for above, below in zip(upper, lower, strict=True):
        changes = [f"38;{above}"] * (above != ink) + [f"48;{below}"] * (below != paper)
        parts.append((f"\x1b[{';'.join(changes)}m" if changes else "") + "▀")
        ink, paper = above, below
    return "".join(parts) + RESET
