"""Reconstruction: which items did a person rate, from what leaves their device?

FedAvg of a linear classifier sends a combination of the rated latents, with one rating the latent itself; the first
layer of a network sends one such combination for each hidden unit, often of a single latent (Phong et al. 2018,
"Privacy-preserving deep learning via additively homomorphic encryption", section 3; Geiping et al. 2020, arXiv
2003.14053, proposition 3.1). DP-EM sends posterior moments, whose directions lie in the span of the rated features. All
are inverted in closed form, by an attacker who knows the state of the round and all items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common import update
from common.errors import SettingError
from simulations.attacks.ground import Ground, cohorts, noise_std, protected, released, updates_of
from simulations.strategies.base import State, Strategy
from simulations.strategies.classifiers import Linear, Perceptron
from simulations.strategies.dp_em import DpEm
from simulations.strategies.fedavg import FedAvg
from simulations.strategies.local_training import Network

VICTIMS: dict[str, Strategy] = {
    "fedavg-logistic": FedAvg(classifier=Linear(), steps=1),
    "fedavg-mlp": FedAvg(name="fedavg-mlp", classifier=Perceptron(), steps=1),
    "dp-em": DpEm(),
}
"""One local step: what FedSGD sends, and the easiest to invert. More steps change the shares, not the span."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Settings of the attack.

    Attributes:
        strategies: of ``VICTIMS``.
        ratings: numbers of ratings a victim has given.
        cohorts: people whose sum the attacker sees; 1 is a single update, without secure aggregation.
        epsilons: budgets; infinity is no clipping and no noise, the control.
        victims: people attacked in each setting.
    """

    strategies: tuple[str, ...] = tuple(VICTIMS)
    ratings: tuple[int, ...] = (1, 5, 40)
    cohorts: tuple[int, ...] = (1, 2, 10, 100)
    epsilons: tuple[float, ...] = (math.inf, 30.0, 8.0, 1.0)
    victims: int = 100

    def __post_init__(self) -> None:
        unknown = sorted(set(self.strategies) - set(VICTIMS))
        if unknown:
            raise SettingError(f"strategy {unknown[0]!r} cannot be inverted here; choose from {', '.join(VICTIMS)}")
        if min(self.ratings) < 1 or min(self.cohorts) < 1 or self.victims < 1:
            raise SettingError("ratings, cohorts and victims must be >= 1; try 5, 10 and 100")


def points(settings: Reconstruction) -> list[dict[str, Any]]:
    """The strategies and numbers of ratings, each measured for all cohorts and budgets together."""
    return [{"strategy": name, "ratings": ratings} for name in settings.strategies for ratings in settings.ratings]


def measure(point: dict[str, Any], settings: Reconstruction, ground: Ground) -> list[dict[str, Any]]:
    """One row per cohort and budget.

    ``identified``: share of victims of whom the public item most like anything found was really rated; ``chance``: of
    a blind guess. ``cosine``: to the nearest rated item as the strategy sees items, mean over victims;
    ``blind_cosine``: to as many items that the victim did not rate.
    """
    name, ratings = point["strategy"], point["ratings"]
    strategy = VICTIMS[name]
    state = strategy.start(ground.task(ratings, strategy.rounds))
    count = max(settings.cohorts) + 200
    answers = ground.likes(ground.tastes(settings.victims, 10), ratings, 11)
    others = updates_of(strategy, ground, ground.likes(ground.tastes(count, 12), ratings, 13), state)
    own, rated = updates_of(strategy, ground, answers, state), answers.items[..., 0]
    items, rows = ground.items(), []
    table = items.features[:, :-1] if isinstance(strategy, DpEm) else items.latents
    for people in settings.cohorts:
        for epsilon in settings.epsilons:
            generator = torch.Generator().manual_seed(ground.seed)
            kept = [protected(part, epsilon, strategy.norm_bound) for part in (own, others)]
            std = noise_std(epsilon, strategy.rounds, strategy.norm_bound, own.shape[1])
            seen = released(cohorts(kept[0], kept[1], people, generator), std, generator)
            found = directions(strategy, seen, state, ground)
            where = {"strategy": name, "ratings": ratings, "cohort": people, "epsilon": epsilon}
            rows.append({**where, **_success(found, rated, table)})
    return rows


def directions(strategy: Strategy, seen: Tensor, state: State, ground: Ground) -> Tensor:
    """Directions that an attacker takes for rated items: their latents, or the features that DP-EM looks at.

    Args:
        strategy: one of ``VICTIMS``.
        seen: ``(victims, D)`` updates, sums or releases.
        state: what the round started from.
        ground: sizes.

    Returns:
        ``(victims, candidates, d or k)``.
    """
    if isinstance(strategy, DpEm):
        p = ground.components + 1
        t, moment = update.decode(seen, p)
        # t and the eigenvectors of U with large eigenvalues are combinations of R phi
        whitened = torch.cat([t[:, None], torch.linalg.eigh(moment).eigenvectors.mT], dim=1)
        values, vectors = torch.linalg.eigh(state["covariance"])
        features: Tensor = whitened @ ((vectors / values.sqrt()) @ vectors.mT)
        return features[..., :-1]
    assert isinstance(strategy, FedAvg), "VICTIMS holds these two kinds"
    if isinstance(strategy.classifier, Perceptron):
        return Network.of(seen, ground.latents + 1).body[..., :-1]
    return seen[:, None, :-1]


def _success(found: Tensor, rated: Tensor, pool: Tensor) -> dict[str, float]:
    """How near the directions found are to what was rated. ``found (v, c, d)``, ``rated (v, t)``, ``pool (n, d)``."""
    unit = found / torch.linalg.vector_norm(found, dim=-1, keepdim=True).clamp(min=1e-300)
    items = pool / torch.linalg.vector_norm(pool, dim=-1, keepdim=True)
    best = torch.stack([(one @ items.T).abs().amax(0) for one in unit])  # one victim at a time: (c, n) each
    guess = best.argmax(1, keepdim=True)
    near = best.gather(1, rated).amax(1)
    blind = best.gather(1, (rated + pool.shape[0] // 2) % pool.shape[0]).amax(1)  # shifted by half the pool
    return {
        "identified": float((rated == guess).any(1).double().mean()),
        "chance": rated.shape[1] / pool.shape[0],
        "cosine": float(near.mean()),
        "blind_cosine": float(blind.mean()),
    }
