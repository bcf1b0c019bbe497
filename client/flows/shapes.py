"""Whole shapes as clouds of points: Swiss rolls and S-curves, each a curve in a plane drawn out along an axis.

A cloud is ``(points, 3)``: columns 0 and 1 are the plane of the curve, column 2 runs along the axis. The order of the
points means nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from common.errors import SettingError

KINDS = ("Swiss roll", "S-curve")
ROLL, S_CURVE = 0, 1
_FINE = 8192  # of the table a curve is measured by


@dataclass(frozen=True, kw_only=True)
class ShapeSettings:
    """The law of the shapes.

    Attributes:
        points: of each shape, >= 16.
        s_curves: share of S-curves, strictly between 0 and 1; the rest are Swiss rolls.
        turn: largest angle about the axis, radians, 0 to pi; the law is uniform on both sides.
        smallest: least size; a curve of size 1 has points at a root mean square distance of 1 from its middle.
        largest: greatest size.
        narrowest: least length along the axis, for a shape of size 1.
        widest: greatest.
    """

    points: int = 64
    s_curves: float = 0.25
    turn: float = 0.7
    smallest: float = 0.85
    largest: float = 1.15
    narrowest: float = 1.2
    widest: float = 2.0

    def __post_init__(self) -> None:
        if self.points < 16:
            raise SettingError(f"points={self.points} must be >= 16; try 64")
        if not 0 < self.s_curves < 1:
            raise SettingError(f"s_curves={self.s_curves} must lie between 0 and 1; try 0.25")
        if not 0 <= self.turn <= math.pi:
            raise SettingError(f"turn={self.turn} must lie between 0 and pi; try 0.7")
        for low, high in ((self.smallest, self.largest), (self.narrowest, self.widest)):
            if not 0 < low <= high < math.inf:
                raise SettingError(f"sizes from {low} to {high} must be positive and ascend")


@cache
def curve(kind: int, points: int) -> Tensor:
    """The curve of a kind in its plane, as complex numbers ``(points,)``, complex128.

    Guarantee: neighbours are equally far apart along the curve, to 1 in 8192 of its length; the mean is 0, the mean
    square is 1.

    Args:
        kind: `ROLL` or `S_CURVE`.
        points: along it, its two ends included, >= 2.

    Raises:
        SettingError: another kind.
    """
    if kind == ROLL:  # Archimedean spiral of one and a half turns, as in scikit-learn's make_swiss_roll
        angle = torch.linspace(1.5 * math.pi, 4.5 * math.pi, _FINE, dtype=torch.float64)
        fine = torch.polar(angle, angle)
    elif kind == S_CURVE:  # two three-quarter circles, as in scikit-learn's make_s_curve
        angle = torch.linspace(-1.5 * math.pi, 1.5 * math.pi, _FINE, dtype=torch.float64)
        fine = torch.complex(angle.sin(), angle.sign() * (angle.cos() - 1))
    else:
        raise SettingError(f"kind={kind} must be {ROLL} ({KINDS[ROLL]}) or {S_CURVE} ({KINDS[S_CURVE]})")
    length = torch.cat([angle.new_zeros(1), (fine[1:] - fine[:-1]).abs().cumsum(0)])
    found = fine[torch.searchsorted(length, torch.linspace(0, float(length[-1]), points, dtype=torch.float64))]
    found = found - found.mean()
    even: Tensor = found / found.abs().square().mean().sqrt()
    return even


def sample_shapes(n: int, settings: ShapeSettings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw true shapes.

    Args:
        n: shapes, >= 0.
        settings: their law.
        generator: random numbers; the shapes are on its device.

    Returns:
        Clouds ``(n, points, 3)`` float32 and kinds ``(n,)``, `ROLL` or `S_CURVE`.
    """
    kinds = (_uniform(n, generator) < settings.s_curves).long()
    return shapes_of(kinds, settings, generator), kinds


def shapes_of(kinds: Tensor, settings: ShapeSettings, generator: torch.Generator) -> Tensor:
    """Draw one shape of each given kind.

    Args:
        kinds: ``(n,)`` of `ROLL` or `S_CURVE`.
        settings: the law of size, turn, width and points.
        generator: random numbers, on the device of ``kinds``.

    Returns:
        Clouds ``(n, points, 3)`` float32.
    """
    n, device = len(kinds), generator.device
    curves = torch.stack([curve(kind, 4096) for kind in (ROLL, S_CURVE)]).to(device, torch.complex64)
    along = torch.randint(curves.shape[1], (n, settings.points), generator=generator, device=device)
    size = settings.smallest + (settings.largest - settings.smallest) * _uniform(n, generator)
    turn = settings.turn * (2 * _uniform(n, generator) - 1)
    flat = curves[kinds].gather(1, along) * torch.polar(size, turn)[:, None]
    width = settings.narrowest + (settings.widest - settings.narrowest) * _uniform(n, generator)
    across = (_uniform(n * settings.points, generator).view(n, -1) - 0.5) * (size * width)[:, None]
    return torch.stack([flat.real, flat.imag, across], -1)


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, device=generator.device)
