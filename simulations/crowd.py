"""Who takes part in an experiment of the lab: people whose answers are made when they are asked for.

A crowd never holds everybody at once. It gives the answers of any range of people, always the same for the same
range, so a million people cost no more memory than the chunk that is being worked on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from client.likelihood import Evidence
from client.ratings import Kind
from simulations.people import AnswerNoise


@dataclass(frozen=True)
class Items:
    """The public things that answers are about.

    Attributes:
        features: ``(n, p)`` features phi of each item, the last column ones; what the taste model sees.
        latents: ``(n, d)`` latents of the same items; what classifiers on latents see. Items that were never made by a
            generator have their features here too.
    """

    features: Tensor
    latents: Tensor

    def to(self, device: torch.device) -> Items:
        """The same items on a device."""
        return Items(self.features.to(device), self.latents.to(device))


@dataclass(frozen=True)
class Answers:
    """What some people said, as rows of the items: no features yet, so a strategy chooses what it looks at.

    Attributes:
        kind: ``(people, t)`` int64, a ``client.ratings.Kind``.
        value: ``(people, t)`` int64, as ``client.ratings`` stores it.
        items: ``(people, t, m)`` int64 rows of the items, -1 where an answer is about fewer than m.
        weight: ``(people, t)``; 0 for an answer that was never given.
    """

    kind: Tensor
    value: Tensor
    items: Tensor
    weight: Tensor

    @property
    def people(self) -> int:
        """How many people."""
        return self.kind.shape[0]

    def first(self, answers: int) -> Answers:
        """Only the first ``answers`` answers of everybody."""
        return Answers(*(tensor[:, :answers] for tensor in self.tensors()))

    def select(self, people: Tensor | slice) -> Answers:
        """Only some of the people."""
        return Answers(*(tensor[people] for tensor in self.tensors()))

    def tensors(self) -> tuple[Tensor, ...]:
        """The fields in order."""
        return self.kind, self.value, self.items, self.weight

    def seen_as(self, table: Tensor) -> Evidence:
        """The answers as evidence for a model that sees item i as row i of ``table`` ``(n, q)``."""
        found = Evidence.gather(self.kind, self.value, self.items, table)
        return Evidence(found.kind, found.value, self.weight.to(table), found.features, found.shown)


class Crowd(Protocol):
    """People a strategy may learn from."""

    @property
    def people(self) -> int:
        """How many there are."""

    @property
    def items(self) -> Items:
        """What their answers are about."""

    def answers(self, first: int, last: int, round: int = 1) -> Answers:
        """What people ``first`` to ``last - 1`` had said by this round, on the device of the items.

        Guarantee: a person's answers depend on the crowd, the person and the round only, not on the range asked for.
        """

    def answers_of(self, people: Tensor, round: int = 1) -> Answers:
        """The same of any people, ``(k,)`` int64 rising: what a round costs in which few take part."""


@dataclass(frozen=True)
class HeldCrowd:
    """A crowd whose answers lie in memory: real people, or few enough invented ones. A `Crowd`.

    Attributes:
        items: what the answers are about.
        held: everybody's answers, the same in every round.
    """

    items: Items
    held: Answers

    @property
    def people(self) -> int:
        """How many people."""
        return self.held.people

    def answers(self, first: int, last: int, round: int = 1) -> Answers:
        """See `Crowd`."""
        return self.held.select(slice(first, last))

    def answers_of(self, people: Tensor, round: int = 1) -> Answers:
        """See `Crowd`."""
        return self.held.select(people.to(self.held.kind.device))


def pairs(utilities: Tensor, ratings: int, noise: AnswerNoise, generator: torch.Generator) -> Answers:
    """What people say when they are asked which of two random items they prefer; nobody sees an item twice.

    Args:
        utilities: ``(people, n)`` of the items, on any scale of each person's own; n >= 2 ``ratings``.
        ratings: answers of each of them.
        noise: how a taste becomes an answer.
        generator: of questions and noise.
    """
    standard = (utilities - utilities.mean(1, keepdim=True)) / utilities.std(1, keepdim=True).clamp(min=1e-9)
    shown = torch.rand(utilities.shape, generator=generator).topk(2 * ratings, dim=1).indices
    items = shown.reshape(len(shown), ratings, 2)
    felt = standard.gather(1, shown).reshape(items.shape)
    values = noise.answer(Kind.CHOICE, felt, noise.levels(len(shown), generator), generator)
    return Answers(
        torch.full_like(values, int(Kind.CHOICE)), values, items, torch.ones_like(values, dtype=torch.float32)
    )
