"""Membership in a release, by budget and cohort: the attack of ``simulations.audits.membership`` as curves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from common import update
from common.errors import SettingError
from common.privacy.settings import PrivacySettings
from simulations.attacks.ground import Ground
from simulations.audits import membership as audited
from simulations.audits.builds import HONEST, rounded_normal
from simulations.audits.pipeline import claimed_mu


@dataclass(frozen=True, kw_only=True)
class MembershipCurves:
    """Settings of the attack.

    Attributes:
        people: cohorts.
        epsilons: budgets; infinity adds no noise, the control.
        norm_bound: clip norm.
        parameters: p.
        ratings: of each person.
        trials: releases with the person, and as many without.
    """

    people: tuple[int, ...] = (20, 100, 1_000)
    epsilons: tuple[float, ...] = (math.inf, 8.0, 4.0, 2.0, 1.0)
    norm_bound: float = 4.0
    parameters: int = 9
    ratings: int = 30
    trials: int = 2_000

    def __post_init__(self) -> None:
        if not self.people or not self.epsilons:
            raise SettingError("give at least one cohort and one budget")
        for people in self.people:
            self.who(people)

    def who(self, people: int) -> audited.Membership:
        """Sizes of one attack."""
        return audited.Membership(people=people, parameters=self.parameters, ratings=self.ratings, trials=self.trials)


def points(settings: MembershipCurves) -> list[dict[str, Any]]:
    """Cohorts and budgets."""
    return [{"people": people, "epsilon": epsilon} for people in settings.people for epsilon in settings.epsilons]


def measure(point: dict[str, Any], settings: MembershipCurves, ground: Ground) -> list[dict[str, Any]]:
    """Area under the curve, advantage, members found at 1 % false alarms; the most that the budget allows of each."""
    people, epsilon = point["people"], float(point["epsilon"])
    generator = torch.Generator().manual_seed(ground.seed)  # the same people for every budget
    who = settings.who(people)
    promise = who.promise(PrivacySettings(epsilon=epsilon, norm_bound=settings.norm_bound))
    found = audited.attack(HONEST, promise, who, rounded_normal(generator), generator)
    private = math.isfinite(epsilon)
    mu = claimed_mu(promise, update.length(who.parameters)) if private else math.inf
    row = {
        "people": people,
        "epsilon": epsilon,
        "auc": found.auc,
        "auc_allowed": audited.largest_auc(mu) if private else 1.0,
        "advantage": found.advantage,
        "advantage_allowed": audited.largest_advantage(mu) if private else 1.0,
        "found": found.true_positives(0.01),
        "found_allowed": audited.largest_true_positives(0.01, mu) if private else 1.0,
    }
    return [row]
