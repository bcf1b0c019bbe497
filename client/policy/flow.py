"""The policy: an invertible network from noise to latents that starts as the identity, so as the generator itself.

Affine couplings (Dinh, Sohl-Dickstein & Bengio 2017, eq. 4-6): half of the numbers are scaled and shifted by a network
of the other half and of the level. Log densities are exact, so the divergence from the latent law is measured, not
bounded, and a sample drawn by an old policy can be weighed by a new one.

The level goes from 0 (safe) to 1 (surprising). It is an input: one policy serves all levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from common.errors import SettingError

BOUND = 1.5  # of a log scale: no coupling stretches by more than e^1.5
_LEVEL = 2  # numbers that tell a network the level


@dataclass(frozen=True, kw_only=True)
class FlowSettings:
    """Size of a policy.

    Attributes:
        dimension: ``d`` of the latents, at least 2.
        couplings: layers, at least 2, so that every number can be moved.
        width: hidden units of each coupling's network.
        seed: of the halves and of the first weights.

    Raises:
        SettingError: a value is out of range.
    """

    dimension: int
    couplings: int = 6
    width: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"dimension": (2, 1 << 20), "couplings": (2, 64), "width": (1, 4096)}
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise SettingError(f"{name}={getattr(self, name)} of a policy must lie between {least} and {most}")


class Moved(NamedTuple):
    """Where noise went, or came from.

    Attributes:
        places: ``(n, d)``.
        log_stretch: ``(n,)`` log absolute determinant of the map from noise to latents, at each.
    """

    places: Tensor
    log_stretch: Tensor


class Coupling(nn.Module):
    """Scales and shifts some numbers by a network of the others and of the level; the identity at first."""

    kept: Tensor
    moved: Tensor

    def __init__(self, settings: FlowSettings, kept: Tensor, moved: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("kept", kept, persistent=False)  # the seed gives them again
        self.register_buffer("moved", moved, persistent=False)
        self.enter = _bare(len(kept) + _LEVEL, settings.width)
        self.leave = _bare(settings.width, 2 * len(moved))
        self.level = _bare(_LEVEL, 2 * len(moved), bias=False)
        with torch.no_grad():
            bound = 1 / math.sqrt(self.enter.in_features)
            for weights in (self.enter.weight, self.enter.bias):
                weights.uniform_(-bound, bound, generator=generator)
            for layer in (self.leave, self.level):
                nn.init.zeros_(layer.weight)
            nn.init.zeros_(self.leave.bias)

    def change(self, places: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Log scale and shift ``(n, moved)``, given the numbers that are kept."""
        about = torch.stack([2 * level - 1, (2 * level - 1).square()], dim=1)
        hidden = nn.functional.gelu(self.enter(torch.cat([places[:, self.kept], about], dim=1)))
        scale, shift = (self.leave(hidden) + self.level(about)).chunk(2, dim=1)
        return BOUND * torch.tanh(scale / BOUND), shift

    def forward(self, places: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Places ``(n, d)`` moved on, and the log stretch ``(n,)``."""
        scale, shift = self.change(places, level)
        return places.index_copy(1, self.moved, places[:, self.moved] * scale.exp() + shift), scale.sum(1)

    def back(self, places: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse: places before, and the log stretch of the way there."""
        scale, shift = self.change(places, level)
        return places.index_copy(1, self.moved, (places[:, self.moved] - shift) * (-scale).exp()), scale.sum(1)


class LatentPolicy(nn.Module):
    """Noise ``N(0, I)`` to latents, for each level.

    Guarantees: a fresh policy is the identity; `noise_of` inverts `forward` up to rounding; densities are normalised.

    Attributes:
        settings: its size.
    """

    def __init__(self, settings: FlowSettings) -> None:
        """Make the identity."""
        super().__init__()
        self.settings = settings
        generator = torch.Generator().manual_seed(settings.seed)
        couplings = []
        for turn in range(settings.couplings):
            if turn % 2 == 0:  # the next one moves what this one keeps
                order = torch.randperm(settings.dimension, generator=generator)
                halves = order[: settings.dimension // 2].sort().values, order[settings.dimension // 2 :].sort().values
            couplings.append(Coupling(settings, halves[turn % 2], halves[1 - turn % 2], generator))
        self.couplings = nn.ModuleList(couplings)

    @property
    def parameters_in_all(self) -> int:
        """Numbers that are learned."""
        return sum(weights.numel() for weights in self.parameters())

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return next(self.parameters()).device

    def forward(self, noise: Tensor, level: Tensor) -> Moved:
        """Latents of noise ``(n, d)`` at levels ``(n,)``; differentiable."""
        places, stretch = noise, noise.new_zeros(len(noise))
        for coupling in self.couplings:
            places, added = coupling(places, level)
            stretch = stretch + added
        return Moved(places, stretch)

    def noise_of(self, latents: Tensor, level: Tensor) -> Moved:
        """The noise that becomes latents ``(n, d)`` at levels ``(n,)``; differentiable."""
        places, stretch = latents, latents.new_zeros(len(latents))
        for coupling in reversed(self.couplings):
            assert isinstance(coupling, Coupling)
            places, added = coupling.back(places, level)
            stretch = stretch + added
        return Moved(places, stretch)

    def log_ratio_of(self, latents: Tensor, level: Tensor) -> Tensor:
        """Log density of the policy minus that of the latent law ``(n,)``, nats, at latents ``(n, d)``."""
        noise, stretch = self.noise_of(latents, level)
        return log_ratio(noise, Moved(latents, stretch))

    @torch.no_grad()
    def draw(self, count: int, level: float, generator: torch.Generator) -> Tensor:
        """Latents ``(count, d)`` float32 at one level.

        Raises:
            SettingError: the level lies outside 0 to 1, or the count is negative.
        """
        check_level(level)
        if count < 0:
            raise SettingError(f"count={count} must be >= 0")
        noise = torch.randn(count, self.settings.dimension, generator=generator, device=generator.device)
        noise = noise.to(self.device)
        return self(noise, torch.full((count,), level, device=self.device)).places  # type: ignore[no-any-return]


def _bare(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A layer whose weights are not set yet; torch would draw them from its global random numbers."""
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs, bias=bias)  # type: ignore[no-untyped-call]
    return layer


def log_ratio(noise: Tensor, moved: Moved) -> Tensor:
    """Log density of a policy minus that of the latent law ``(n,)`` where noise ``(n, d)`` went, nats.

    By the change of variables, ``log q(z) - log p(z) = (|z|^2 - |noise|^2) / 2 - log |dz/dnoise|``. Its mean over noise
    is the Kullback-Leibler divergence; every term is exact, the estimate is unbiased, and zero for the identity.
    """
    return (moved.places.square().sum(1) - noise.square().sum(1)) / 2 - moved.log_stretch


def check_level(level: float) -> None:
    """Refuse a level outside its range.

    Raises:
        SettingError: it lies outside 0 to 1.
    """
    if not 0 <= level <= 1:
        raise SettingError(f"level={level} must lie between 0 (safe) and 1 (surprising)")
