"""Sybils: members who are made up, and add nothing of their own.

What they can do to the mean is ``simulations.attacks.poisoning``. Here they attack the privacy of the others: they
know what they sent, so a sum of n people with s Sybils is a sum of n - s; and where the members add the noise, theirs
is missing. The terms of a federation say how many members have to be honest; beyond that the promise weakens as
computed here, and an audit measures the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from common.errors import SettingError
from common.privacy import accounting
from common.privacy.promise import promise
from common.terms import Trust
from simulations import federation
from simulations.attacks import reconstruction
from simulations.attacks.ground import Ground
from simulations.audits import bounds


@dataclass(frozen=True, kw_only=True)
class Sybils:
    """Settings of the attack.

    Attributes:
        people: n, who answer a round.
        honest: share of them that the terms count on.
        shares: s / n, Sybils among those who answer.
        epsilons: budgets of one release.
        runs: of the measurement, with and without a victim.
        ratings: of a victim whose update is laid open.
    """

    people: tuple[int, ...] = (20, 100)
    honest: float = 0.5
    shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9)
    epsilons: tuple[float, ...] = (1.0, 4.0)
    runs: int = 50_000
    ratings: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.honest <= 1:
            raise SettingError(f"honest={self.honest} must be above 0 and at most 1; try 0.5")
        if not all(0 <= share < 1 for share in self.shares):
            raise SettingError(f"shares={self.shares} must be at least 0 and below 1: somebody has to be attacked")
        if any(math.isinf(epsilon) for epsilon in self.epsilons):
            raise SettingError("epsilon=inf has no noise to leave out; the rows without noise are always there")
        if min(self.people) < 2 or self.runs < 1_000:
            raise SettingError(f"people must be >= 2 and runs={self.runs} >= 1000")


def points(settings: Sybils) -> list[dict[str, Any]]:
    """Cohorts and shares, each measured for all budgets together."""
    return [{"people": people, "share": share} for people in settings.people for share in settings.shares]


def measure(point: dict[str, Any], settings: Sybils, ground: Ground) -> list[dict[str, Any]]:
    """One row per budget, and one without any noise.

    ``effective``: epsilon that is left, from the noise that is left; ``measured``: 95 % lower bound of a Monte-Carlo
    attack on it. Rows with an infinite budget are a secure sum without noise, the control: ``identified`` is the share
    of victims of whom a rated item is found in what the Sybils leave of the sum.
    """
    generator = torch.Generator().manual_seed(ground.seed)
    people, sybils = point["people"], min(round(point["share"] * point["people"]), point["people"] - 1)
    where = {**point, "sybils": sybils}
    rows = [{**where, "epsilon": math.inf, "identified": _identified(people - sybils, settings, ground)}]
    for epsilon in settings.epsilons:
        z = multiplier(epsilon, people, sybils, settings.honest)
        measured = _measured(z, settings.runs, generator)
        rows.append({**where, "epsilon": epsilon, "effective": accounting.epsilon(z, 1, DELTA), "measured": measured})
    return rows


DELTA = 1e-6


def multiplier(epsilon: float, people: int, sybils: int, honest: float) -> float:
    """Noise multiplier left in a sum of which some shares of the noise are missing.

    Args:
        epsilon: of the terms, for one release with distributed noise.
        people: who answer.
        sybils: of them, who add no noise.
        honest: share of the people that the terms count on.
    """
    needed = max(1, round(honest * people))
    kept = promise(
        federation.terms(
            people,
            components=32,
            trust=Trust.DISTRIBUTED,
            epsilon=epsilon,
            delta=DELTA,
            participations=1,
            minimum_people=people,
            honest_people=needed,
        )
    )
    left: Fraction = (people - sybils) * kept.share_variance
    return math.sqrt(left) / kept.sensitivity


def _measured(z: float, runs: int, generator: torch.Generator) -> float:
    """The same attack as ``simulations.audits.monte_carlo``, on the noise that is left, in units of the sensitivity."""
    absent, present = z * torch.randn(2, runs, generator=generator, dtype=torch.float64)
    return bounds.from_scores(absent, present + 1, 0.95).epsilon(DELTA).lower


def _identified(left: int, settings: Sybils, ground: Ground) -> float:
    one = reconstruction.Reconstruction(
        strategies=("dp-em",), ratings=(settings.ratings,), cohorts=(left,), epsilons=(math.inf,), victims=60
    )
    return float(reconstruction.measure(reconstruction.points(one)[0], one, ground)[0]["identified"])
