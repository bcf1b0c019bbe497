"""One trial of the lab: a strategy learns from a crowd under a promise, then newcomers are asked a few questions.

Everything that must be the same for strategies to be compared comes from the trial's seeds: the crowd, the newcomers,
their questions and answers. What protects people is drawn from the operating system.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from client.ratings import Kind
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from simulations.batched import Trained, Watch, train
from simulations.correlated_mechanisms import BandedNoise, BltNoise
from simulations.crowd import Answers
from simulations.invented_crowd import Habits, InventedCrowd, Newcomers
from simulations.mechanisms import Mechanism
from simulations.people import Population
from simulations.protection import Protection
from simulations.strategies import arrange, strategy
from simulations.strategies.base import OwnPrivacy, State, Strategy, Task, statement_of
from simulations.world import World

_EVERYONE = Protection()
_DIGITS = 5  # of a percentile that is kept; its law has at most 1 / (2 * unseen) finer steps


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is tried.

    Attributes:
        strategy: one of ``STRATEGIES``.
        epsilon: total budget; infinity for no noise.
        delta: failure probability.
        people: who take part.
        participations: rounds; 0 for as many as suit the strategy.
        population: law of the tastes.
        habits: activity, drop-outs, drift.
        ratings: answers of each person, at most.
        kind: of question.
        new_people: newcomers who are met afterwards.
        answers: numbers of own answers after which they are recommended something, rising.
        crowd_seed: of the crowd and the newcomers.
        public_seed: of what the strategy draws in public.
        protection: who is asked in a round, and what noise; not used by strategies that protect people themselves.
    """

    strategy: str
    epsilon: float
    delta: float
    people: int
    participations: int
    population: Population
    habits: Habits
    ratings: int
    kind: Kind
    new_people: int
    answers: tuple[int, ...]
    crowd_seed: int
    public_seed: int
    protection: Protection = _EVERYONE

    @property
    def asked(self) -> float:
        """Expected people in a round."""
        return self.protection.asked(self.people) if takes_mechanism(self.strategy) else self.people

    def check(self) -> None:
        """Raise where the promise, or what should protect it, cannot be."""
        promise = self.promise()
        if takes_mechanism(self.strategy):
            self.protection.check(promise)

    def promise(self) -> PrivacySettings:
        """What each person is promised; ``participations`` is the number of rounds."""
        suits = strategy(self.strategy)
        return PrivacySettings(
            epsilon=self.epsilon,
            delta=self.delta,
            participations=self.participations or max(1, suits.rounds),
            norm_bound=suits.norm_bound,
            expected_people=self.people,
            minimum_people=1,
        )

    def crowd(self, world: World) -> InventedCrowd:
        """Who takes part."""
        return InventedCrowd(
            world,
            self.people,
            self.population,
            seed=self.crowd_seed,
            ratings=self.ratings,
            kind=self.kind,
            habits=self.habits,
        )

    def arranged(self, world: World) -> tuple[Strategy, Mechanism]:
        """The strategy and the mechanism that keep the promise."""
        promise = self.promise()
        task = Task(
            items=world.pool,
            flat=world.flat,
            rounds=promise.participations,
            ratings=self.ratings,
            seed=self.public_seed,
        )
        return arrange(strategy(self.strategy), promise, task, self.protection)

    def claim(self, world: World, numbers: int) -> tuple[PrivacyStatement, float]:
        """The statement that will stand beside the result, for updates of so many numbers, and ``noise_norm``."""
        learner, mechanism = self.arranged(world)
        statement = statement_of(learner, mechanism, numbers, mechanism.rounds)
        return statement, noise_norm(statement, numbers, mechanism)


@cache
def takes_mechanism(name: str) -> bool:
    """Whether a mechanism protects a strategy's people, not the strategy itself, or nobody."""
    return not isinstance(strategy(name), OwnPrivacy)


@cache
def takes_budget(name: str) -> bool:
    """Whether epsilon means anything to a strategy: not to one that learns from nobody, or protects nobody."""
    world = World.abstract(components=2, latents=2, pool=100, unseen=100)
    trial = Trial(
        strategy=name, epsilon=1.0, delta=1e-6, people=100, participations=1, population=Population(),
        habits=Habits(), ratings=1, kind=Kind.CHOICE, new_people=1, answers=(0,), crowd_seed=0, public_seed=0,
    )  # fmt: skip
    return 0 < trial.claim(world, 10)[0].epsilon < math.inf


def carry_out(trial: Trial, world: World, advance: Callable[[float], None]) -> dict[str, Any]:
    """Train, meet the newcomers, and tell what came out, as plain values.

    Returns:
        ``percentile`` ``[answers][new people]`` of the recommendations in 0 .. 1, the privacy ``statement``, and what
        the experimenter alone may know: clipped share, rounds, numbers of an update, processor seconds, and
        ``noise``, see ``noise_norm``.
    """
    began = time.process_time()
    learner, mechanism = trial.arranged(world)
    crowd = trial.crowd(world)
    done = 1 / max(1, trial.asked * mechanism.rounds)
    trained = train(
        learner,
        crowd,
        mechanism,
        flat=world.flat,
        seed=trial.public_seed,
        watch=Watch(on_chunk=lambda people: advance(0.9 * people * done)),
    )
    trained_seconds = time.process_time() - began
    newcomers = crowd.newcomers(trial.new_people, mechanism.rounds)
    percentile = meet(learner, trained.state, newcomers, world, trial.answers)
    clipped = sum(entry.clipped for entry in trained.rounds) / max(1, sum(entry.people for entry in trained.rounds))
    return {
        "percentile": [[round(value, _DIGITS) for value in row] for row in percentile],
        "statement": trained.statement.to_json(),
        "rounds": len(trained.rounds),
        "numbers": _numbers(trained),
        "clipped": clipped,
        "noise": noise_norm(trained.statement, _numbers(trained), mechanism),
        "train_seconds": round(trained_seconds, 3),
        "seconds": round(time.process_time() - began, 3),
    }


def meet(
    learner: Strategy, state: State, newcomers: Newcomers, world: World, answers: Sequence[int]
) -> list[list[float]]:
    """``[answers][people]`` true percentile of what newcomers are recommended after so many own answers."""
    view = learner.view(world.pool, state)
    found = []
    for count in answers:
        given = first(newcomers.answers, count)
        found.append(newcomers.percentile(learner.scores(given.seen_as(view), state, world.unseen)).tolist())
    return found


def first(answers: Answers, count: int) -> Answers:
    """Only the first ``count`` answers of everybody."""
    return Answers(*(x[:, :count] for x in (answers.kind, answers.value, answers.items, answers.weight)))


def noise_norm(statement: PrivacyStatement, numbers: int, mechanism: Mechanism) -> float:
    """Expected norm of the noise on the mean of a round, in units of the norm bound; 0 where the server adds none.

    Above 1 the noise is longer than what anybody could have sent, averaged over everybody. Correlated noise counts as
    the independent noise that leaves as much in the sums over rounds, root mean square: that is what it is made for.
    """
    if statement.noise_multiplier is None or not 0 < statement.epsilon < math.inf:
        return 0.0
    if isinstance(mechanism, BandedNoise | BltNoise):
        independent = math.sqrt((mechanism.rounds + 1) / 2)  # of the prefix sums of noise of variance 1
        return mechanism.prefix_rms / independent * math.sqrt(numbers) / mechanism.denominator
    sensitivity = statement.sensitivity or mechanism.norm_bound
    return statement.noise_multiplier * sensitivity * math.sqrt(numbers) / mechanism.denominator / mechanism.norm_bound


def _numbers(trained: Trained) -> int:
    return trained.rounds[-1].numbers if trained.rounds else 0


@cache
def world_at(path: Path) -> World:
    """The world of a file, read once in each process."""
    return World.load(path)


@dataclass(frozen=True)
class Pace:
    """How long a strategy takes on this machine.

    Attributes:
        person_seconds: for one person who is asked in one round.
        newcomer_seconds: for one newcomer with all their answers.
        own_rounds: how many it makes when asked for one: more where it has a number of its own.
        numbers: entries of an update.
    """

    person_seconds: float
    newcomer_seconds: float
    own_rounds: int
    numbers: int

    def seconds(self, trial: Trial) -> float:
        """A whole trial."""
        rounds = self.own_rounds if self.own_rounds > 1 else trial.promise().participations
        work = trial.asked * rounds * self.person_seconds
        return work + trial.new_people * self.newcomer_seconds


def measure_pace(trial: Trial, world: World, people: int = 256, newcomers: int = 16) -> Pace:
    """Try a strategy on a few people of a world, one round long; processor time, whatever else the machine does."""
    small = dataclasses.replace(
        trial, people=people, participations=1, new_people=newcomers, epsilon=math.inf, protection=_EVERYONE
    )
    carry_out(dataclasses.replace(small, people=8), world, lambda _: None)  # the first call loads and plans
    found = carry_out(small, world, lambda _: None)
    met = found["seconds"] - found["train_seconds"]
    rounds = max(1, found["rounds"])  # some have a number of their own
    return Pace(found["train_seconds"] / people / rounds, met / newcomers, rounds, found["numbers"])
