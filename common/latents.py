"""The latent space of a generator: its law, its typical shell, samples and well-spread subsets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import SettingError

LAWS = ("normal",)


@dataclass(frozen=True)
class LatentSpace:
    """Where a generator's inputs live.

    Attributes:
        dimension: ``d``, at least 1.
        law: distribution the generator was made for; ``"normal"`` is N(0, I).

    Raises:
        SettingError: the dimension is below 1 or the law is unknown.
    """

    dimension: int
    law: str = "normal"

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise SettingError(f"latent dimension={self.dimension} must be >= 1")
        if self.law not in LAWS:
            raise SettingError(f"latent law={self.law!r} is unknown; known: {', '.join(LAWS)}")

    @property
    def radius(self) -> float:
        """Radius of the typical shell: almost all of N(0, I) lies near norm ``sqrt(d)``."""
        return math.sqrt(self.dimension)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw latents from the law.

        Args:
            n: how many, >= 0.
            generator: source of randomness; its device is the device of the result.

        Returns:
            ``(n, d)`` float32.

        Raises:
            SettingError: ``n`` is negative.
        """
        if n < 0:
            raise SettingError(f"number of latents n={n} must be >= 0")
        return torch.randn(n, self.dimension, generator=generator, device=generator.device)

    def project(self, latents: Tensor) -> Tensor:
        """Move latents along their own direction onto the typical shell.

        Guarantee: every row of the result has norm `radius`, up to rounding. The zero latent, which has no direction,
        goes to the point with equal coordinates. NaN stays NaN. Differentiable away from zero.

        Args:
            latents: ``(..., d)``.

        Returns:
            ``(..., d)``, same dtype and device.

        Raises:
            SettingError: the last dimension is not ``d``.
        """
        if latents.shape[-1:] != (self.dimension,):
            raise SettingError(f"latents of shape {tuple(latents.shape)} should end in {self.dimension}")
        # Two steps, so that neither tiny nor huge latents lose their direction to underflow or overflow.
        largest = latents.detach().abs().amax(-1, keepdim=True)
        moved = torch.where(largest == 0, torch.ones_like(latents), latents / torch.where(largest == 0, 1, largest))
        projected: Tensor = moved * (self.radius / torch.linalg.vector_norm(moved, dim=-1, keepdim=True))
        return projected


def spread_out(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Choose points far from each other: a random one, then always the one farthest from those chosen (Gonzalez 1985).

    Guarantee: distinct indices; the smallest distance among the chosen is at least half of the best possible for any
    choice of ``count`` points. Equal points are only taken when nothing else is left.

    Args:
        points: ``(n, d)``.
        count: how many, between 0 and ``n``.
        generator: chooses the first point; on the CPU.

    Returns:
        ``(count,)`` int64 row numbers, in the order chosen, on the device of ``points``.

    Raises:
        SettingError: ``count`` is out of range, or ``points`` is not a finite matrix.
    """
    if points.ndim != 2 or not bool(points.isfinite().all()):
        raise SettingError(f"points of shape {tuple(points.shape)} must be a finite (n, d) matrix")
    n = points.shape[0]
    if not 0 <= count <= n:
        raise SettingError(f"count={count} must lie between 0 and the {n} points there are")
    chosen = torch.empty(count, dtype=torch.int64, device=points.device)
    distance = torch.full((n,), math.inf, dtype=points.dtype, device=points.device)
    for i in range(count):
        index = distance.argmax() if i else torch.randint(n, (), generator=generator).to(points.device)
        chosen[i] = index
        distance = torch.minimum(distance, torch.linalg.vector_norm(points - points[index], dim=1))
        distance[chosen[: i + 1]] = -1.0
    return chosen
