"""Builds of the federation: the one that ships, and the same with one protection broken.

A build is a value: the functions between a person's update and a published sum. Nothing is patched; the broken ones
are made by replacing one function, which is what a bug or a dishonest release does.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from common.privacy.clip import clip
from common.privacy.noise import Randomness, discrete_gaussian, system_randomness

Noise = Callable[[int, Fraction], Tensor]
"""``(count,)`` int64 draws of a variance in squared integer steps."""


def exact_noise(randomness: Randomness = system_randomness) -> Noise:
    """The noise that ships."""
    return lambda count, variance: discrete_gaussian(count, variance, randomness)


def repeatable(seed: int) -> Randomness:
    """Bytes that the same seed gives again (SHAKE-256 of the seed and the number of the call); protects nobody."""
    calls = itertools.count()
    return lambda count: hashlib.shake_256(f"{seed} {next(calls)}".encode()).digest(count)


def rounded_normal(generator: torch.Generator) -> Noise:
    """Rounded normal noise, a hundred times faster: to find out what an audit can see, never for its verdict.

    At the thousands of steps used here its law differs from the exact one by less than 1e6 runs can show.
    """

    def draw(count: int, variance: Fraction) -> Tensor:
        normal = torch.randn(count, generator=generator, dtype=torch.float64)
        return (normal * math.sqrt(variance)).round().to(torch.int64)

    return draw


def equal_weights(claimed: Tensor) -> Tensor:
    """One for everybody, whatever they claim."""
    return torch.ones_like(claimed)


def always_fresh(noise: Noise) -> Noise:
    """New draws at every call."""
    return noise


def each_round_once(charged: int) -> list[int]:
    """Rounds 1 to ``charged``."""
    return list(range(1, charged + 1))


@dataclass(frozen=True, kw_only=True)
class Build:
    """The functions a claim rests on.

    Attributes:
        name: for scripts.
        label: what is different, for people.
        clip: from updates ``(people, D)`` and a norm bound to what is added.
        weights: from the weights ``(people,)`` int64 that people claim to those they are given.
        noise: from the noise asked for to the noise that the rounds of one federation get.
        ledger: from the participations people are charged to the numbers of the rounds that are really run.
        broken: whether an audit has to find something.
    """

    name: str
    label: str
    clip: Callable[[Tensor, float], Tensor] = clip
    weights: Callable[[Tensor], Tensor] = equal_weights
    noise: Callable[[Noise], Noise] = always_fresh
    ledger: Callable[[int], list[int]] = each_round_once
    broken: bool = True


HONEST = Build(name="honest", label="as it ships", broken=False)


def _unclipped(updates: Tensor, norm_bound: float) -> Tensor:
    return updates


def _loosely(factor: float) -> Callable[[Tensor, float], Tensor]:
    return lambda updates, norm_bound: clip(updates, factor * norm_bound)


def _scaled(factor: Fraction) -> Callable[[Noise], Noise]:
    return lambda noise: lambda count, variance: noise(count, variance * factor**2)


def _drawn_once(noise: Noise) -> Noise:
    drawn: dict[int, Tensor] = {}

    def draw(count: int, variance: Fraction) -> Tensor:
        return drawn.setdefault(count, noise(count, variance))

    return draw


def _each_round_twice(charged: int) -> list[int]:
    return [number for number in each_round_once(charged) for _ in range(2)]


def _as_claimed(claimed: Tensor) -> Tensor:
    return claimed


def _up_to(most: int) -> Callable[[Tensor], Tensor]:
    return lambda claimed: claimed.clamp(max=most)


BROKEN = (
    Build(name="no-clip", label="updates are not clipped", clip=_unclipped),
    Build(name="quarter-noise", label="a quarter of the noise", noise=_scaled(Fraction(1, 4))),
    Build(name="round-twice", label="rounds are run twice, charged once", ledger=_each_round_twice),
    Build(name="noise-reused", label="noise drawn once for all rounds", noise=_drawn_once),
    Build(name="weights-trusted", label="people state their own weight", weights=_as_claimed),
)

BUILDS = (HONEST, *BROKEN)


def effects() -> list[Build]:
    """Builds with faults of each kind, small to large: from what size on does an audit see them?"""
    loose = [
        Build(name=f"clip-x{factor:g}", label=f"clipped at {factor:g} C", clip=_loosely(factor))
        for factor in (1.05, 1.25, 1.5, 2.0, 4.0)
    ]
    quiet = [
        Build(
            name=f"noise-x{percent / 100:g}", label=f"{percent} % of the noise", noise=_scaled(Fraction(percent, 100))
        )
        for percent in (98, 90, 75, 50, 25)
    ]
    heavy = [Build(name=f"weight-{most}", label=f"weights up to {most}", weights=_up_to(most)) for most in (2, 4)]
    repeated = [build for build in BROKEN if build.name in ("round-twice", "noise-reused")]
    return [HONEST, *loose, *quiet, *heavy, *repeated]
