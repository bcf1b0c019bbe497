"""A crowd that is made up as it is asked: any number of people in the memory of one chunk.

Whatever is random about a person comes from a counter (``simulations.counter``), so person 712,345 is the same in any
chunk, on any device, in any run with the same seeds. Their tastes follow the law of ``simulations.people.Population``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from client.ratings import Kind
from common.errors import SettingError
from simulations import counter
from simulations.crowd import Answers, Items
from simulations.interview import HELD_OUT, TOP, WIDTH
from simulations.people import AnswerNoise, Population, Tastes, archetype_centres
from simulations.world import World as World

YARDSTICK = 256  # items of the pool over which a person's likes have mean 0 and standard deviation 1
_NEWCOMERS = 2**42  # person number of the first newcomer, far beyond any crowd


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What people do besides liking things.

    Attributes:
        unequal: a person gives ``ratings * U ** unequal`` answers, U uniform: 0, everybody gives all; 1, any number
            is as likely as any other; 3 and above, close to Zipf's law: most give few and a few give all.
        drop_out: chance that somebody says nothing at all in a round.
        drift: radians by which the centres of the archetypes turn from one round to the next.
    """

    unequal: float = 0.0
    drop_out: float = 0.0
    drift: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.unequal <= 20:
            raise SettingError(f"unequal={self.unequal} must be between 0 (all the same) and 20; try 3")
        if not 0 <= self.drop_out < 1:
            raise SettingError(f"drop_out={self.drop_out} must be at least 0 and below 1; try 0.2")
        if not 0 <= self.drift <= 1.6:
            raise SettingError(f"drift={self.drift} must be between 0 and 1.6 radians a round; try 0.1")


_POPULATION, _NOISE, _HABITS = Population(), AnswerNoise(), Habits()


@dataclass(frozen=True)
class InventedCrowd:
    """People over a world; a `Crowd`.

    Guarantee: what a person says depends on the fields (``people`` apart), their number and the round only, not on
    the range asked for, up to one answer in many millions that lies within rounding of a tie. Two crowds that differ
    in ``people`` agree on those they have in common, and have the same newcomers.

    Attributes:
        world: what they look at; answers are made on its device.
        people: how many there are.
        population: law of their tastes; seed: decides the archetypes and everybody.
        seed: see above.
        ratings: answers each of them has at most.
        kind: of question.
        noise: how a taste becomes an answer.
        habits: activity, drop-outs, drift.
    """

    world: World
    people: int
    population: Population = _POPULATION
    seed: int = 0
    ratings: int = 30
    kind: Kind = Kind.CHOICE
    noise: AnswerNoise = _NOISE
    habits: Habits = _HABITS

    def __post_init__(self) -> None:
        if not 1 <= self.people <= 2**40:
            raise SettingError(f"people={self.people} must be between 1 and 2^40; try 10000")
        if not 1 <= self.ratings <= 10_000:
            raise SettingError(f"ratings={self.ratings} must be between 1 and 10000; try 30")
        if self.kind not in WIDTH:
            raise SettingError(f"invented people cannot answer questions of kind {self.kind!r}; try like or choice")

    @property
    def items(self) -> Items:
        """The pool: what answers are about."""
        return self.world.pool

    def answers(self, first: int, last: int, round: int = 1) -> Answers:
        """See `Crowd`."""
        if not 0 <= first <= last <= self.people:
            raise SettingError(f"people {first} to {last} are not among the {self.people} of this crowd")
        return self._say(self._rows(first, last), round)

    def answers_of(self, people: Tensor, round: int = 1) -> Answers:
        """See `Crowd`."""
        if people.numel() and not 0 <= int(people.min()) <= int(people.max()) < self.people:
            raise SettingError(
                f"people {int(people.min())} to {int(people.max())} are not among the {self.people} of this crowd"
            )
        return self._say(people.to(self.world.pool_factors.device), round)

    def newcomers(self, count: int, round: int = 1) -> Newcomers:
        """People who never took part, with their tastes as of a round.

        Args:
            count: how many; asking for more keeps the first ones.
            round: tastes as of this round; matters only where they drift.
        """
        rows = self._rows(_NEWCOMERS, _NEWCOMERS + count)
        tastes, mean, deviation = self._tastes(rows, round)
        utilities = (tastes.of_all(self.world.unseen_factors) - mean) / deviation
        items, uniform = self._questions(rows, HELD_OUT, utilities.shape[1], "held out")
        felt = utilities.gather(1, items.flatten(1)).reshape(items.shape)
        held_out = self._answers(items, self._value(felt, rows, uniform))
        eager = dataclasses.replace(self, habits=Habits(drift=self.habits.drift))
        return Newcomers(eager._say(rows, round), utilities, held_out)

    def _rows(self, first: int, last: int) -> Tensor:
        return torch.arange(first, last, dtype=torch.int64, device=self.world.pool_factors.device)

    def _say(self, rows: Tensor, round: int) -> Answers:
        items, uniform = self._questions(rows, self.ratings, self.world.pool_factors.shape[0], "questions")
        tastes, mean, deviation = self._tastes(rows, round)
        felt = tastes.of_each(self.world.pool_factors[items.flatten(1)])
        felt = ((felt - mean) / deviation).reshape(items.shape)
        return self._answers(items, self._value(felt, rows, uniform), self._given(rows, round))

    def _questions(self, rows: Tensor, count: int, pool: int, purpose: str) -> tuple[Tensor, Tensor]:
        """Items ``(people, count, m)`` and the uniform numbers of the same shape that decide the answers.

        Alternatives after the first are taken each from a strip of its own of the circle of other items, so no
        question shows an item twice; different questions may.
        """
        width = WIDTH[self.kind]
        random = counter.bits(self.seed, purpose, rows, count * width).reshape(-1, count, width)
        strip = (pool - 1) // max(width - 1, 1)
        places = torch.arange(width, device=rows.device)
        step = 1 + (places - 1) * strip + counter.below(random, strip)
        start = counter.below(random[..., :1], pool)
        return torch.where(places == 0, start, (start + step) % pool), counter.uniform(random)

    def _value(self, felt: Tensor, rows: Tensor, uniform: Tensor) -> Tensor:
        levels = self.noise.pickiness * counter.normals(self.seed, "level", rows, 1)[:, 0]
        return self.noise.say(self.kind, felt, levels, uniform)

    def _answers(self, items: Tensor, value: Tensor, weight: Tensor | None = None) -> Answers:
        kind = torch.full_like(value, int(self.kind))
        return Answers(kind, value, items, torch.ones_like(value, dtype=torch.float32) if weight is None else weight)

    def _given(self, rows: Tensor, round: int) -> Tensor:
        """``(people, ratings)`` 1 for answers that were given."""
        active = counter.uniforms(self.seed, "activity", rows, 1) ** self.habits.unequal
        place = torch.arange(self.ratings, device=rows.device)
        there = counter.uniforms(self.seed, f"round {round}", rows, 1) >= self.habits.drop_out
        return ((place < active * self.ratings) & there).to(torch.float32)

    def _tastes(self, rows: Tensor, round: int) -> tuple[Tastes, Tensor, Tensor]:
        """Tastes, and mean and standard deviation ``(people, 1)`` of what each person feels about typical items."""
        factors = self.world.pool_factors.shape[1]
        random = counter.bits(self.seed, "person", rows, 1)[:, 0]
        own = counter.normals(self.seed, "taste", rows, 2 * factors)
        archetype = counter.below(random, self.population.archetypes)
        centres = self._centres(round).to(own)
        directions = (own[:, :factors], own[:, factors:])
        tastes = Tastes.of(self.population, centres, archetype, counter.uniform(random), directions)
        felt = tastes.of_all(self.world.pool_factors[:YARDSTICK])
        mean = felt.mean(dim=1, keepdim=True)
        return tastes, mean, (felt - mean).square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-6)

    def _centres(self, round: int) -> Tensor:
        """Centres of the archetypes in a round: each turns at a steady pace towards a direction of its own."""
        now, towards = self._plane
        angle = torch.tensor(self.habits.drift * (round - 1))
        return now * angle.cos() + towards * angle.sin()

    @cached_property
    def _plane(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        now = archetype_centres(self.population, self.world.pool_factors.shape[1], generator)
        other = archetype_centres(self.population, self.world.pool_factors.shape[1], generator)
        other = other - (other * now).sum(1, keepdim=True) * now
        return now, other / torch.linalg.vector_norm(other, dim=1, keepdim=True).clamp(min=1e-9)


@dataclass(frozen=True)
class Newcomers:
    """New people: what they say when asked about the pool, and what is true of them.

    Attributes:
        answers: ``(people, ratings)`` answers to random questions about the pool, in the order of asking.
        utilities: ``(people, unseen)`` how much they truly like the unseen items, in standard deviations.
        held_out: answers about the unseen items, to judge predictions by.
    """

    answers: Answers
    utilities: Tensor
    held_out: Answers

    @cached_property
    def rank(self) -> Tensor:
        """``(people, unseen)`` true percentile of each unseen item for each person, between 0 and 1."""
        order = self.utilities.argsort(dim=1).argsort(dim=1)
        return (order + 0.5) / self.utilities.shape[1]

    def percentile(self, scores: Tensor, top: int = TOP) -> Tensor:
        """``(people,)`` mean true percentile of the ``top`` recommendations.

        Args:
            scores: ``(people, unseen)``; ties fall on items in no particular order.
            top: recommendations that are judged.
        """
        return self.rank.gather(1, scores.topk(top, dim=1).indices).mean(1)
