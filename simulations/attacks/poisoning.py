"""Poisoning: m of n members want everybody to be shown what they promote.

Three ways: honest devices with made-up answers (all of them want one taste to look like an archetype), any vector the
clip lets through, and a vector as long as it takes to replace the model (Bagdasaryan et al. 2020, arXiv 1807.00459,
equation 3), which works where nothing is clipped: the control.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from client.likelihood import Evidence
from client.ratings import Kind
from common.errors import SettingError
from common.privacy.clip import clip
from simulations.attacks.ground import Ground, noise_std, updates_of
from simulations.crowd import Answers, Items
from simulations.strategies.base import State, Strategy
from simulations.strategies.classifiers import Linear
from simulations.strategies.dp_em import DpEm
from simulations.strategies.fedavg import FedAvg

STRATEGIES: dict[str, Strategy] = {"dp-em": DpEm(), "fedavg-logistic": FedAvg(classifier=Linear())}
WAYS = ("answers", "vector", "replacement")
UNSEEN = 500
_TAKEN_OVER = 3.0  # length of the mean update after a replacement, several times that of honest people


@dataclass(frozen=True, kw_only=True)
class Poisoning:
    """Settings of the attack.

    Attributes:
        strategies: of ``STRATEGIES``.
        ways: of ``WAYS``.
        people: n, all members together, for each cohort.
        shares: m / n.
        epsilons: budgets; infinity adds no noise, and "replacement" is never clipped.
        ratings: of each member.
        repeats: other people and another promoted item each.
    """

    strategies: tuple[str, ...] = tuple(STRATEGIES)
    ways: tuple[str, ...] = WAYS
    people: tuple[int, ...] = (100, 1_000)
    shares: tuple[float, ...] = (0.0, 0.01, 0.05, 0.1, 0.2)
    epsilons: tuple[float, ...] = (math.inf, 1.0)
    ratings: int = 20
    repeats: int = 3

    def __post_init__(self) -> None:
        unknown = sorted((set(self.strategies) - set(STRATEGIES)) | (set(self.ways) - set(WAYS)))
        if unknown:
            raise SettingError(f"{unknown[0]!r} must be one of {', '.join((*STRATEGIES, *WAYS))}")
        if not all(0 <= share < 1 for share in self.shares):
            raise SettingError(f"shares={self.shares} must be at least 0 and below 1; try 0.1")
        if min(self.people) < 2 or self.ratings < 1 or self.repeats < 1:
            raise SettingError("people must be >= 2, ratings and repeats >= 1")


@dataclass(frozen=True)
class Effect:
    """What came of one poisoned training.

    Attributes:
        promoted: percentile of the promoted item among unseen ones for somebody without ratings; 0.5 is no effect.
        shift: how far the malicious moved the mean of the last round, over what clipping allows, ``m C / n``.
        liked: percentile, in the honest people's own taste, of the ten items shown first.
    """

    promoted: float
    shift: float
    liked: float


def points(settings: Poisoning) -> list[dict[str, Any]]:
    """Strategies, ways, cohorts, shares and budgets; without clipping nothing can be promised, so none there."""
    names = ("strategy", "way", "people", "share", "epsilon")
    axes: tuple[tuple[Any, ...], ...] = (
        settings.strategies,
        settings.ways,
        settings.people,
        settings.shares,
        settings.epsilons,
    )
    found = [dict(zip(names, values, strict=True)) for values in itertools.product(*axes)]
    return [point for point in found if point["way"] != "replacement" or math.isinf(point["epsilon"])]


def measure(where: dict[str, Any], settings: Poisoning, ground: Ground) -> list[dict[str, Any]]:
    """Means over the repeats; ``promoted_error`` is the standard error."""
    effects = [
        train(
            STRATEGIES[where["strategy"]],
            dataclasses.replace(ground, seed=ground.seed + 1 + repeat),
            way=where["way"],
            people=where["people"],
            malicious=round(where["share"] * where["people"]),
            epsilon=float(where["epsilon"]),
            ratings=settings.ratings,
        )
        for repeat in range(settings.repeats)
    ]
    promoted = torch.tensor([effect.promoted for effect in effects], dtype=torch.float64)
    error = float(promoted.std() / len(effects) ** 0.5) if len(effects) > 1 else math.nan
    row = {
        "promoted": float(promoted.mean()),
        "promoted_error": error,
        "shift": sum(effect.shift for effect in effects) / len(effects),
        "liked": sum(effect.liked for effect in effects) / len(effects),
    }
    return [{**where, **row}]


def train(
    strategy: Strategy, ground: Ground, *, way: str, people: int, malicious: int, epsilon: float, ratings: int
) -> Effect:
    """A whole training with malicious members.

    Args:
        strategy: one of ``STRATEGIES``.
        ground: items and people; its seed makes the promoted item.
        way: one of ``WAYS``.
        people: n.
        malicious: m of them.
        epsilon: budget of all rounds.
        ratings: of each member.
    """
    state, unseen = strategy.start(ground.task(ratings, strategy.rounds)), ground.items(UNSEEN, 3)
    generator = torch.Generator().manual_seed(ground.seed)
    tastes = ground.tastes(people - malicious, 20)
    target = _least_liked(ground, unseen)
    honest, shift = ground.likes(tastes, ratings, 21), 0.0
    for round in range(1, strategy.rounds + 1):
        total = clip(updates_of(strategy, ground, honest, state), strategy.norm_bound).sum(0)
        poison = _poison(strategy, ground, state, way, target, ratings, people, malicious)
        allowed = malicious * strategy.norm_bound
        shift = float(torch.linalg.vector_norm(poison)) / allowed if malicious else 0.0
        std = noise_std(epsilon, strategy.rounds, strategy.norm_bound, total.numel())
        noise = std * torch.randn(total.shape, generator=generator, dtype=torch.float64)
        state = strategy.advance(state, (total + poison + noise) / people, round)
    return Effect(*_outcome(strategy, state, unseen, target, tastes, shift))


def _poison(
    strategy: Strategy,
    ground: Ground,
    state: State,
    way: str,
    target: Tensor,
    ratings: int,
    people: int,
    malicious: int,
) -> Tensor:
    """``(D,)`` what the malicious add to a sum, all of them together."""
    if way == "answers":
        fake = _fans(ground, target, ratings, max(malicious, 1))
        updates = clip(updates_of(strategy, ground, fake, state), strategy.norm_bound)
        return updates.sum(0) if malicious else torch.zeros_like(updates[0])
    towards = _steepest(strategy, ground, state, target)
    if way == "replacement":  # together what everybody would send: the honest ones no longer matter
        return towards * _TAKEN_OVER * people if malicious else torch.zeros_like(towards)
    return towards * strategy.norm_bound * malicious


def _steepest(strategy: Strategy, ground: Ground, state: State, target: Tensor) -> Tensor:
    """``(D,)`` of length one: the update that raises the promoted item's cold-start score fastest."""
    latent = target[0] - target[0].mean()
    if isinstance(strategy, DpEm):
        values, vectors = torch.linalg.eigh(state["covariance"])
        features = torch.cat([latent @ ground.map(), torch.zeros(1, dtype=torch.float64)])
        t = (vectors * values.sqrt()) @ vectors.mT @ features
        p = t.numel()
        direction = torch.cat([t, torch.zeros(p * (p + 1) // 2, dtype=torch.float64)])
    else:
        direction = torch.cat([latent, torch.zeros(1, dtype=torch.float64)])
    unit: Tensor = direction / torch.linalg.vector_norm(direction)
    return unit


def _fans(ground: Ground, target: Tensor, ratings: int, count: int) -> Answers:
    """People who like what resembles the promoted item and dislike the rest: an archetype that nobody is."""
    features = ground.items().features
    wanted = torch.cat([target @ ground.map(), torch.zeros(1, 1, dtype=torch.float64)], dim=1)[0]
    likeness = features @ wanted
    extreme = torch.cat([likeness.argsort()[-(ratings - ratings // 2) :], likeness.argsort()[: ratings // 2]])
    value = (likeness[extreme] > 0).long().expand(count, ratings)
    kind = torch.full((count, ratings), int(Kind.LIKE))
    return Answers(kind, value, extreme[None, :, None].expand(count, ratings, 1), torch.ones(count, ratings).double())


def _least_liked(ground: Ground, unseen: Items) -> Tensor:
    """``(1, d)`` an item at the middle of the common taste, so that without an attack it is recommended to few."""
    common = ground.tastes(2_000, 22).mean(0)
    scores = unseen.features @ common
    return unseen.latents[scores.argsort()[len(scores) // 2]][None]


def _outcome(
    strategy: Strategy, state: State, unseen: Items, target: Tensor, tastes: Tensor, shift: float
) -> tuple[float, float, float]:
    view = strategy.view(unseen, state)
    empty = torch.zeros(1, 0, dtype=torch.int64)
    nothing = Evidence.gather(empty, empty, torch.zeros(1, 0, 1, dtype=torch.int64), view)
    scores = strategy.scores(nothing, state, unseen)[0]
    at = int((unseen.latents == target).all(1).nonzero()[0, 0])
    promoted = float((scores < scores[at]).double().mean())
    felt = tastes @ unseen.features.T
    ranks = felt.argsort(1).argsort(1).double() / (felt.shape[1] - 1)
    return promoted, shift, float(ranks[:, scores.topk(10).indices].mean())
