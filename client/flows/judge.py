"""What a cloud of points is: Swiss roll, S-curve or neither, measured by its distance to both curves.

The judge knows the two curves and nothing of any flow. It lays each curve on the cloud by the best turn, size and
place in its plane (iterative closest point; Besl and McKay 1992, with the least squares of complex numbers), then
measures how far the points lie off the curve and how far the curve goes where no point is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from client.flows.shapes import KINDS, ROLL, S_CURVE, curve
from common.errors import SettingError

NEITHER = -1
_TURNS = 24  # angles each curve is tried at
_KEPT = 3  # of them are refined
_ROUNDS = 8  # of refinement; more move nothing
_ALONG = 96  # points a curve is measured at
_SIZES = (0.75, 1.33)  # of the curve against the first guess; one that shrinks to a point would fit anything


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a cloud is still a shape. Lengths are shares of its size, the root mean square radius in its plane.

    Attributes:
        off: greatest root mean square distance from the points to the curve.
        gap: the same from the curve to the points; a shape with a piece missing has a large one.
        narrowest: least standard deviation along the axis.
        widest: greatest.
    """

    off: float = 0.09
    gap: float = 0.20
    narrowest: float = 0.28
    widest: float = 0.70

    def __post_init__(self) -> None:
        if not (0 < self.off < 1 and 0 < self.gap < 1):
            raise SettingError(f"off={self.off} and gap={self.gap} must lie between 0 and 1; try 0.09 and 0.2")
        if not 0 <= self.narrowest < self.widest:
            raise SettingError(f"narrowest={self.narrowest} must be below widest={self.widest}; try 0.28 and 0.7")


@dataclass(frozen=True)
class Verdicts:
    """What the clouds are; each tensor is ``(n,)``.

    Attributes:
        kind: of the nearer curve, `ROLL` or `S_CURVE`; meaningful where ``valid``.
        distance: to the nearer curve: the root mean square of ``off`` and ``gap``.
        off: from the points to that curve.
        gap: from that curve to the points.
        turn: angle of that curve in its plane, radians in -pi to pi; of an S-curve in -pi/2 to pi/2.
        size: root mean square radius of the cloud in its plane.
        width: standard deviation along the axis, as a share of the size.
        place: ``(n, points)`` where along the curve each point lies, 0 to 1.
        valid: whether it is a shape at all.
    """

    kind: Tensor
    distance: Tensor
    off: Tensor
    gap: Tensor
    turn: Tensor
    size: Tensor
    width: Tensor
    place: Tensor
    valid: Tensor

    def share(self, kind: int = S_CURVE) -> float:
        """Share of valid shapes of a kind among all clouds; NaN without any."""
        return float((self.valid & (self.kind == kind)).double().mean())

    @property
    def invalid(self) -> float:
        """Share of clouds that are no shape; NaN without any."""
        return float((~self.valid).double().mean())

    def label(self, index: int) -> str:
        """A word for one cloud."""
        return KINDS[int(self.kind[index])] if bool(self.valid[index]) else "neither"


@torch.no_grad()
def judge(clouds: Tensor, limits: Limits | None = None, chunk: int = 128) -> Verdicts:
    """Say what clouds are.

    Args:
        clouds: ``(n, points, 3)``, the axis last. A cloud with a NaN or without extent is no shape.
        limits: what still counts as a shape.
        chunk: clouds at a time; bounds the memory.

    Returns:
        On the device of ``clouds``, float32.

    Raises:
        SettingError: another shape.
    """
    if clouds.dim() != 3 or clouds.shape[2] != 3 or clouds.shape[1] < 3:
        raise SettingError(f"clouds of shape {tuple(clouds.shape)} should be (n, points, 3) with 3 points or more")
    some = clouds.float() if len(clouds) else clouds.new_zeros(1, *clouds.shape[1:], dtype=torch.float32)
    parts = [_judge(part, limits or Limits()) for part in torch.split(some, chunk)]
    names = Verdicts.__dataclass_fields__
    return Verdicts(**{name: torch.cat([getattr(part, name) for part in parts])[: len(clouds)] for name in names})


def _judge(clouds: Tensor, limits: Limits) -> Verdicts:
    sound = clouds.isfinite().all(-1).all(-1)
    clouds = torch.where(sound[:, None, None], clouds, torch.zeros_like(clouds))
    flat = torch.complex(clouds[..., 0], clouds[..., 1])
    flat = flat - flat.mean(-1, keepdim=True)
    size = flat.abs().square().mean(-1).sqrt()
    flat = flat / size.clamp_min(1e-6)[:, None]
    width = clouds[..., 2].std(-1, correction=0) / size.clamp_min(1e-6)
    fits = [_fit(flat, curve(kind, _ALONG).to(flat.device, torch.complex64)) for kind in (ROLL, S_CURVE)]
    off, gap, turn, place = (torch.stack(values) for values in zip(*fits, strict=True))
    distance = ((off.square() + gap.square()) / 2).sqrt()
    kind = distance.argmin(0)
    pick = kind[None]
    off, gap, turn, distance = (values.gather(0, pick)[0] for values in (off, gap, turn, distance))
    place = place.gather(0, pick[..., None].expand(1, *place.shape[1:]))[0]
    flipped = (kind == S_CURVE) & (turn.cos() < 0)  # half a turn brings an S onto itself: name the one that stands up
    turn = torch.where(flipped, turn - math.pi * turn.sign(), turn)
    place = torch.where(flipped[:, None], 1 - place, place)
    valid = sound & (size > 1e-3) & (off <= limits.off) & (gap <= limits.gap)
    valid &= (width >= limits.narrowest) & (width <= limits.widest)
    return Verdicts(kind, distance, off, gap, turn, size, width, place, valid)


def _fit(flat: Tensor, line: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lay a curve ``(m,)`` on clouds ``(n, points)`` of size 1: off, gap, turn ``(n,)`` and places ``(n, points)``."""
    turns = torch.linspace(0, 2 * math.pi, _TURNS + 1, device=flat.device)[:-1]
    tried = torch.polar(torch.ones_like(turns), turns)
    coarse = _apart(flat[:, None, ::2], tried[:, None] * line[::2]).amin(-1).square().mean(-1)  # (n, turns)
    scale = tried[coarse.topk(_KEPT, largest=False).indices]  # (n, kept) complex: size and turn of the curve
    shift = torch.zeros_like(scale)
    for _ in range(_ROUNDS):
        near = line[_apart(flat[:, None], _laid(line, scale, shift)).argmin(-1)]  # (n, kept, points)
        scale, shift = _least_squares(near, flat[:, None])
    apart = _apart(flat[:, None], _laid(line, scale, shift))
    to_curve, place = apart.min(-1)
    off, gap = to_curve.square().mean(-1).sqrt(), apart.amin(-2).square().mean(-1).sqrt()
    best = (off.square() + gap.square()).argmin(-1, keepdim=True)
    place = place.gather(1, best[..., None].expand(-1, -1, place.shape[-1]))[:, 0] / (len(line) - 1)
    return off.gather(1, best)[:, 0], gap.gather(1, best)[:, 0], scale.gather(1, best)[:, 0].angle(), place


def _laid(line: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return scale[..., None] * line + shift[..., None]


def _apart(points: Tensor, laid: Tensor) -> Tensor:
    """Distances ``(..., points, m)`` between complex numbers ``(..., points)`` and ``(..., m)``."""
    return torch.cdist(torch.view_as_real(points), torch.view_as_real(laid))


def _least_squares(near: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
    """Complex ``scale`` and ``shift`` that bring ``near`` closest to ``flat``, the size held within bounds."""
    middle, goal = near.mean(-1, keepdim=True), flat.mean(-1, keepdim=True)
    spread = (near - middle).abs().square().sum(-1).clamp_min(1e-6)
    scale = ((near - middle).conj() * (flat - goal)).sum(-1) / spread
    length = scale.abs().clamp_min(1e-6)
    scale = scale * (length.clamp(*_SIZES) / length)
    return scale, goal[..., 0] - scale * middle[..., 0]
