"""The velocity of a cloud of points: one small network shared by all points, and what they know of each other.

Deep Sets (Zaheer et al. 2017): each point is lifted alone, the mean over the points becomes a context, and the context
shifts and scales what each point does next (FiLM; Perez et al. 2018). A permutation of the points permutes the
velocities and changes nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from common.errors import SettingError

_TIME = 16  # frequencies that tell the time
_MOMENTS = 12
_SPACE = (1.0, 2.0, 4.0)  # frequencies that tell the place of a point; a spiral has arms 0.6 apart


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Size of the network.

    Attributes:
        width: units of each layer, >= 4.
        blocks: rounds in which the points learn of each other, >= 1.
    """

    width: int = 64
    blocks: int = 3

    def __post_init__(self) -> None:
        if self.width < 4 or self.blocks < 1:
            raise SettingError(f"width={self.width} must be >= 4 and blocks={self.blocks} >= 1; try 64 and 3")


class PointFlow(nn.Module):
    """A velocity field on clouds; see the module."""

    def __init__(self, settings: NetworkSettings) -> None:
        """Start with random weights, drawn from torch's default generator, and a velocity of zero."""
        super().__init__()
        width = settings.width
        self.settings = settings
        self.time = nn.Sequential(nn.Linear(2 * _TIME, width), nn.SiLU(), nn.Linear(width, width))
        self.look = nn.Linear(_MOMENTS, width)
        self.lift = nn.Linear(3 + 6 * len(_SPACE), width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(settings.blocks))
        self.out = nn.Linear(width, 3)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, clouds: Tensor, time: Tensor) -> Tensor:
        """Velocities.

        Args:
            clouds: ``(n, points, 3)``; any number of points.
            time: ``(n,)`` in [0, 1], 0 is noise.

        Returns:
            ``(n, points, 3)``, distance per unit of time.
        """
        context = self.time(_waves(time, torch.arange(1, _TIME + 1, device=time.device) * (math.pi / 2)))
        context = context + self.look(_moments(clouds))
        places = [_waves(clouds, clouds.new_tensor(_SPACE)), clouds]
        points = silu(self.lift(torch.cat(places, -1)))
        for block in self.blocks:
            points, context = block(points, context)
        velocity: Tensor = self.out(points)
        return velocity


class _Block(nn.Module):
    """The points tell the context what they are; the context tells the points what to do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tell = nn.Linear(width, width)
        self.gather = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.film = nn.Linear(width, 2 * width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, points: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        told = silu(self.tell(points)).mean(-2)
        context = context + self.gather(torch.cat([told, context], -1))
        scale, shift = self.film(silu(context)).unsqueeze(-2).chunk(2, -1)
        moved = silu(self.inner(points) * (1 + scale) + shift)
        return points + self.outer(moved), context


def _moments(clouds: Tensor) -> Tensor:
    """``(n, 12)``: the means of ``p_i``, ``p_i p_j`` and ``p_i |p|^2``, about normal with variance 1 where p is noise.

    They tell a shape from the first moment on; a mean of learned features says the same, but takes long to learn it.
    """
    points = clouds.shape[-2]
    rows, columns = torch.triu_indices(3, 3, device=clouds.device)
    second = clouds.mT @ clouds / points - torch.eye(3, device=clouds.device)
    third = (clouds * clouds.square().sum(-1, keepdim=True)).mean(-2)
    parts = [clouds.mean(-2), second[:, rows, columns], third / math.sqrt(35)]
    return torch.cat(parts, -1) * math.sqrt(points)


def _waves(values: Tensor, frequencies: Tensor) -> Tensor:
    """``(..., 2 * d * f)``: sine and cosine of values ``(..., d)``, or ``(n,)``, at each frequency."""
    if values.dim() == 1:
        values = values[:, None]
    angles = (values[..., None] * frequencies).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], -1)
