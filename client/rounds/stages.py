"""Stages of a round that choose latents: sampling, filtering, pairing; each a function, each in a registry.

A round (after Kazemi et al., WACV 2020): sample latents, keep those the reward model ranks highest, pair them, let the
user choose, remember, train, and move a destination along the reward's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from common.errors import SettingError
from common.latents import LatentSpace

NEAR_SHARE = 0.7  # of a mixed sample; the rest explores
REALISTIC_SHARE = 0.5  # of the candidates that the realism filter lets through to the ranking

T = TypeVar("T")


def choose(registry: Mapping[str, T], stage: str, name: str) -> T:
    """The implementation of that name.

    Raises:
        SettingError: there is none; the message lists those there are.
    """
    if name not in registry:
        raise SettingError(f"{stage}={name!r} is unknown; choose one of {', '.join(registry)}")
    return registry[name]


@dataclass(frozen=True, eq=False)
class Whereabouts:
    """Where a round starts.

    Attributes:
        space: latent space of the generator.
        centre: ``(d,)`` on the typical shell, what samples gather around.
        angle: how far they may be from it, radians on the shell.
    """

    space: LatentSpace
    centre: Tensor
    angle: float


@dataclass(frozen=True, eq=False)
class Candidates:
    """Sampled latents, as filters see them.

    Attributes:
        latents: ``(n, d)``.
        reward: ``(n,)`` what the reward model expects.
        realism: gives ``(n,)``, higher is more realistic; a function, since it may have to draw all pictures.
    """

    latents: Tensor
    reward: Tensor
    realism: Callable[[], Tensor]


class Sampler(Protocol):
    """Draws the candidates of a round."""

    def __call__(self, where: Whereabouts, count: int, generator: torch.Generator) -> Tensor:
        """``(count, d)`` finite latents; the same generator state gives the same ones."""


class Filter(Protocol):
    """Keeps some candidates."""

    def __call__(self, candidates: Candidates, keep: int) -> Tensor:
        """``(keep,)`` int64, different rows of the candidates, of which there are at least ``keep``."""


class Pairing(Protocol):
    """Says which of the kept pictures are compared."""

    def __call__(self, reward: Tensor, pairs: int, generator: torch.Generator) -> Tensor:
        """Pairs of rows.

        Args:
            reward: ``(k,)`` of the kept pictures, k at least ``2 * pairs``; row 0 is the user's favourite so far.
            pairs: how many.
            generator: source of randomness.

        Returns:
            ``(pairs, 2)`` int64; no picture meets itself, no two pictures meet twice.
        """


def sample_prior(where: Whereabouts, count: int, generator: torch.Generator) -> Tensor:
    """Anything the generator was made for, wherever the destination is. See `Sampler`."""
    return where.space.sample(count, generator)


def sample_around(where: Whereabouts, count: int, generator: torch.Generator) -> Tensor:
    """Points of the typical shell at 0.3 to 1 times the angle from the centre, in random directions. See `Sampler`."""
    axis = where.centre / torch.linalg.vector_norm(where.centre)
    tangent = torch.randn(count, len(axis), generator=generator)
    tangent = tangent - (tangent @ axis)[:, None] * axis
    tangent = tangent / torch.linalg.vector_norm(tangent, dim=1, keepdim=True).clamp(min=1e-12)
    angle = where.angle * (0.3 + 0.7 * torch.rand(count, 1, generator=generator))
    return where.space.project(angle.cos() * axis + angle.sin() * tangent)


def sample_mixed(where: Whereabouts, count: int, generator: torch.Generator) -> Tensor:
    """70 % around the centre, 30 % from the prior. See `Sampler`."""
    near = round(NEAR_SHARE * count)
    return torch.cat([sample_around(where, near, generator), sample_prior(where, count - near, generator)])


def keep_by_reward(candidates: Candidates, keep: int) -> Tensor:
    """Those of highest reward, best first. See `Filter`."""
    return candidates.reward.argsort(descending=True, stable=True)[:keep]


def keep_all(candidates: Candidates, keep: int) -> Tensor:
    """Every few of them, whatever their reward: no filter. See `Filter`."""
    return torch.arange(keep) * len(candidates.latents) // keep


def keep_realistic(candidates: Candidates, keep: int) -> Tensor:
    """The more realistic half, or as many as are needed, and of these the highest rewards. See `Filter`."""
    through = max(keep, round(REALISTIC_SHARE * len(candidates.latents)))
    real = candidates.realism().argsort(descending=True, stable=True)[:through]
    return real[candidates.reward[real].argsort(descending=True, stable=True)[:keep]]


def pair_at_random(reward: Tensor, pairs: int, generator: torch.Generator) -> Tensor:
    """Anybody meets anybody, each at most once. See `Pairing`."""
    return torch.randperm(len(reward), generator=generator)[: 2 * pairs].reshape(pairs, 2)


def pair_neighbours(reward: Tensor, pairs: int, generator: torch.Generator) -> Tensor:
    """Neighbours in the ranking meet, where the model is least sure who is better. See `Pairing`."""
    return reward.argsort(descending=True, stable=True)[: 2 * pairs].reshape(pairs, 2)


def pair_with_favourite(reward: Tensor, pairs: int, generator: torch.Generator) -> Tensor:
    """The favourite meets the challengers of highest reward. See `Pairing`."""
    challengers = 1 + reward[1:].argsort(descending=True, stable=True)[:pairs]
    return torch.stack([torch.zeros_like(challengers), challengers], 1)


SAMPLERS: dict[str, Sampler] = {"mixed": sample_mixed, "prior": sample_prior, "around": sample_around}
FILTERS: dict[str, Filter] = {"reward": keep_by_reward, "none": keep_all, "realism": keep_realistic}
PAIRINGS: dict[str, Pairing] = {
    "favourite": pair_with_favourite,
    "random": pair_at_random,
    "neighbours": pair_neighbours,
}
