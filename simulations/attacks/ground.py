"""What the attacks happen on: public items, invented people, and what a server or a mask lets an attacker see."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from client.ratings import Kind
from common.errors import SettingError
from common.prior import TYPICAL_SPREAD, PopulationPrior
from common.privacy.accounting import noise_sigma_squared
from common.privacy.clip import clip
from common.privacy.fixed_point import SCALE
from common.privacy.settings import PrivacySettings
from simulations.crowd import Answers, Items
from simulations.strategies.base import State, Strategy, Task

PACK = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Settings of the invented items and people.

    Attributes:
        latents: d.
        components: k of a public linear map of the latents with orthonormal rows, the easiest one to undo.
        pool: public items that ratings are about.
        spread: standard deviation of a person's scores around the common taste.
        common: of the scores of the common taste.
        seed: of everything.
    """

    latents: int = 100
    components: int = 32
    pool: int = 1_000
    spread: float = 1.0
    common: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.components <= self.latents:
            raise SettingError(f"components={self.components} must be between 1 and latents={self.latents}")
        if self.pool < 100:
            raise SettingError(f"pool={self.pool} must be >= 100 for finding an item among them to mean anything")

    def map(self) -> Tensor:
        """``(d, k)`` float64 with orthonormal columns; features are ``z @ map``."""
        draw = torch.randn(self.latents, self.components, generator=self._generator(0), dtype=torch.float64)
        columns: Tensor = torch.linalg.qr(draw).Q
        return columns

    def items(self, count: int | None = None, part: int = 1) -> Items:
        """Items with standard normal latents; another ``part`` gives others."""
        return _items(self, count or self.pool, part)

    def flat(self) -> PopulationPrior:
        """The prior of somebody who knows nobody."""
        return PopulationPrior.flat(self.components + 1, PACK, TYPICAL_SPREAD)

    def task(self, ratings: int, rounds: int) -> Task:
        """What a strategy is told."""
        return Task(items=self.items(), flat=self.flat(), rounds=rounds, ratings=ratings, seed=self.seed)

    def tastes(self, people: int, part: int) -> Tensor:
        """``(people, k + 1)`` over features: a common part and a personal one."""
        generator, k = self._generator(part), self.components
        common = torch.randn(k + 1, generator=self._generator(2), dtype=torch.float64) * self.common / k**0.5
        own = torch.randn(people, k + 1, generator=generator, dtype=torch.float64) * self.spread / k**0.5
        tastes: Tensor = common + own
        tastes[:, -1] = 0
        return tastes

    def likes(self, tastes: Tensor, ratings: int, part: int) -> Answers:
        """Likes and dislikes of random items, no item twice for one person.

        Args:
            tastes: ``(people, k + 1)``.
            ratings: of each person.
            part: other numbers give other items and answers.
        """
        generator, people = self._generator(part), tastes.shape[0]
        shown = torch.rand(people, self.pool, generator=generator).topk(ratings, dim=1).indices
        scores = (tastes @ self.items().features.T).gather(1, shown)
        value = torch.rand(scores.shape, generator=generator, dtype=torch.float64) < torch.sigmoid(2 * scores)
        kind = torch.full(value.shape, int(Kind.LIKE))
        return Answers(kind, value.to(torch.int64), shown[..., None], torch.ones(value.shape, dtype=torch.float64))

    def _generator(self, part: int) -> torch.Generator:
        return torch.Generator().manual_seed(1_000 * self.seed + part)


@lru_cache(maxsize=8)
def _items(ground: Ground, count: int, part: int) -> Items:
    latents = torch.randn(count, ground.latents, generator=ground._generator(part), dtype=torch.float64)
    features = torch.cat([latents @ ground.map(), torch.ones(count, 1, dtype=torch.float64)], dim=1)
    return Items(features, latents)


def updates_of(strategy: Strategy, ground: Ground, answers: Answers, state: State) -> Tensor:
    """``(people, D)`` float64 updates before clipping."""
    return strategy.updates(answers.seen_as(strategy.view(ground.items(), state)), state).double()


def cohorts(own: Tensor, others: Tensor, people: int, generator: torch.Generator) -> Tensor:
    """Sums of each victim's update and those of ``people - 1`` others, drawn anew for each victim.

    Args:
        own: ``(victims, D)``.
        others: ``(pool, D)``.
        people: of a cohort, the victim among them.
        generator: of the draw.

    Returns:
        ``(victims, D)``: all that a server with secure aggregation reads.
    """
    if people > others.shape[0]:
        raise SettingError(f"a cohort of {people} needs {people - 1} others; there are {others.shape[0]}")
    if people == 1:
        return own
    chosen = torch.rand(own.shape[0], others.shape[0], generator=generator).topk(people - 1, dim=1).indices
    member = torch.zeros(own.shape[0], others.shape[0], dtype=own.dtype).scatter_(1, chosen, 1.0)
    return own + member @ others


def noise_std(epsilon: float, rounds: int, norm_bound: float, numbers: int, delta: float = 1e-6) -> float:
    """Standard deviation of the noise in a sum, update units; 0 where nothing is promised."""
    if math.isinf(epsilon):
        return 0.0
    promise = PrivacySettings(
        epsilon=epsilon, delta=delta, participations=rounds, norm_bound=norm_bound, minimum_people=1
    )
    return math.sqrt(noise_sigma_squared(promise, numbers)) / SCALE


def released(sums: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Sums with normal noise, of the size of the exact one: attacks do not tell the two apart."""
    return sums + std * torch.randn(sums.shape, generator=generator, dtype=sums.dtype) if std else sums


def protected(updates: Tensor, epsilon: float, norm_bound: float) -> Tensor:
    """Clipped where something is promised, as they are where nothing is."""
    return updates if math.isinf(epsilon) else clip(updates, norm_bound)
