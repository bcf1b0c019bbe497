"""A policy that a crowd teaches under a budget: the releases, and what is made of them alone.

Shared by the experiments on population policies; the promise, the clipping, the sum and the noise are those of every
other strategy.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from client.generators.pack import GeneratorPack
from client.policy import population
from client.policy.learner import LearnSettings
from client.policy.population import PopulationSettings
from client.policy.training import Learned
from common.population_policy import PopulationPolicy
from common.prior import PopulationPrior
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from simulations.batched import train
from simulations.crowd import Crowd
from simulations.strategies import arrange, strategy
from simulations.strategies.base import State, Task
from simulations.strategies.dp_em import DpEm
from simulations.strategies.policy_gradient import PolicyGradient, centre

GRADIENT = PolicyGradient.name
WAYS = (GRADIENT, DpEm.name)


def promise(
    epsilon: float, *, people: int, delta: float, way: str = GRADIENT, participations: int = 0
) -> PrivacySettings:
    """What each of those who teach is promised; rounds are those that suit the way, where none are asked for.

    Raises:
        SettingError: it cannot be kept.
    """
    suits = strategy(way)
    return PrivacySettings(
        epsilon=epsilon,
        delta=delta,
        participations=participations or suits.rounds,
        norm_bound=suits.norm_bound,
        expected_people=people,
        minimum_people=1,
    )


@dataclass(frozen=True, kw_only=True)
class Released:
    """What a crowd taught under a budget.

    Attributes:
        way: one of ``WAYS``.
        state: the last one that was published.
        statement: the claim for it.
        rounds: releases.
        clipped: share of the updates that were clipped; for the experimenter only.
    """

    way: str
    state: State
    statement: PrivacyStatement
    rounds: int
    clipped: float

    @property
    def law(self) -> tuple[Tensor, Tensor | None]:
        """The law of tastes that was released, as ``client.policy.population.train`` takes it."""
        if self.way == DpEm.name:
            return self.state["mean"], self.state["covariance"]
        return centre(self.state), None


def taught(
    crowd: Crowd, flat: PopulationPrior, promised: PrivacySettings, *, way: str, ratings: int, seed: int
) -> Released:
    """Let a crowd teach.

    Args:
        crowd: who teaches.
        flat: the prior of somebody who knows nobody, over the features of the crowd's items.
        promised: see `promise`.
        way: one of ``WAYS``.
        ratings: answers a person has given, at most.
        seed: of what is public.
    """
    task = Task(items=crowd.items, flat=flat, rounds=promised.participations, ratings=ratings, seed=seed)
    learner, mechanism = arrange(strategy(way), promised, task)
    trained = train(learner, crowd, mechanism, flat=flat, seed=seed)
    clipped = sum(each.clipped for each in trained.rounds) / max(1, sum(each.people for each in trained.rounds))
    return Released(
        way=way, state=trained.state, statement=trained.statement, rounds=len(trained.rounds), clipped=clipped
    )


def made_of(released: Released, pack: GeneratorPack, *, seed: int, rounds: int) -> tuple[PopulationPolicy, Learned]:
    """The policy of a release, as it is published, and how it was learned; its privacy is that of the release.

    Args:
        released: see `taught`.
        pack: the generator.
        seed: of what is drawn while it is learned.
        rounds: most rounds of learning.
    """
    settings = PopulationSettings(seed=seed, learn=LearnSettings(rounds=rounds))
    learned = population.train(pack, *released.law, settings)
    return population.publish(learned.policy, pack, released.statement, released.rounds), learned
