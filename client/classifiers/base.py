"""What a taste model is: answers in, beliefs about items out.

A model is fitted to what one person said and gives a ``Taste``. A taste scores points of the latent space, can be
differentiated there, and says how sure it is. Scores are log-odds of liking, up to a constant for models that only
know comparisons.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from client.likelihood import Evidence
from client.ratings import Rating, encode
from common.errors import SettingError


@dataclass(frozen=True, eq=False)
class Points:
    """Points of a latent space, as taste models see them.

    Attributes:
        latents: ``(n, d)``.
        features: ``(n, p)`` features of the latent map, the constant last; same dtype.
    """

    latents: Tensor
    features: Tensor

    def __len__(self) -> int:
        return self.latents.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Points:
        return Points(self.latents[rows], self.features[rows])

    @staticmethod
    def join(parts: Sequence[Points]) -> Points:
        """All points, one list after the other."""
        return Points(torch.cat([part.latents for part in parts]), torch.cat([part.features for part in parts]))


@dataclass(frozen=True, eq=False)
class Answers:
    """What one person said.

    Attributes:
        points: ``(items)`` the items the answers are about, each once.
        kind: ``(t,)`` int64, a ``client.ratings.Kind``.
        value: ``(t,)`` int64, see ``client.ratings``.
        items: ``(t, m)`` int64 rows of ``points``, -1 where there is none.
        weight: ``(t,)`` float64, below 1 for weak evidence.
        context: ``(t,)`` int64, the context each was given in.
    """

    points: Points
    kind: Tensor
    value: Tensor
    items: Tensor
    weight: Tensor
    context: Tensor

    @classmethod
    def of(cls, ratings: Sequence[Rating], points: Points, context: Sequence[int] | None = None) -> Answers:
        """Ratings whose items are rows of ``points``.

        Raises:
            SettingError: an item is not among the points.
        """
        kinds, values, items = encode(ratings)
        rows = torch.tensor(items, dtype=torch.int64).reshape(len(ratings), -1 if ratings else 1)
        if rows.numel() and int(rows.max()) >= len(points):
            raise SettingError(f"item {int(rows.max())} was never shown; there are {len(points)} items")
        return cls(
            points,
            torch.tensor(kinds, dtype=torch.int64),
            torch.tensor(values, dtype=torch.int64),
            rows,
            torch.tensor([rating.weight for rating in ratings], dtype=torch.float64),
            torch.tensor(context if context is not None else [0] * len(ratings), dtype=torch.int64),
        )

    def __len__(self) -> int:
        return self.kind.shape[0]

    def select(self, rows: Tensor | slice) -> Answers:
        """Only some of the answers, about the same points."""
        return Answers(
            self.points, self.kind[rows], self.value[rows], self.items[rows], self.weight[rows], self.context[rows]
        )

    def weighted(self, factor: Tensor) -> Answers:
        """The same answers with their weights multiplied by ``factor`` ``(t,)``."""
        return replace(self, weight=self.weight * factor)

    def evidence(self) -> Evidence:
        """As evidence about a taste that is linear in the features: a batch of one person."""
        found = Evidence.gather(self.kind[None], self.value[None], self.items[None], self.points.features)
        return replace(found, weight=self.weight[None].to(found.weight))


class Beliefs(ABC):
    """What is believed about a list of n items, for one or many people at once.

    Attributes:
        mean: ``(people, n)`` expected scores.
        deviation: ``(people, n)`` standard deviations of the scores.
    """

    mean: Tensor
    deviation: Tensor

    @property
    def shape(self) -> torch.Size:
        """``(people, n)``."""
        return self.mean.shape

    @abstractmethod
    def gap(self, against: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``(people, n)`` of score minus that of item ``against`` ``(people,)``."""

    @abstractmethod
    def draw(self, generator: torch.Generator, spread: float = 1.0) -> Tensor:
        """Scores ``(people, n)`` drawn jointly from what is believed, deviations from the mean times ``spread``."""


class IndependentBeliefs(Beliefs):
    """Beliefs of a model that knows no correlations between items."""

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        """Take ``(people, n)`` means and standard deviations."""
        self.mean, self.deviation = mean, deviation

    def gap(self, against: Tensor) -> tuple[Tensor, Tensor]:
        """See `Beliefs`."""
        mean, variance = self.mean, self.deviation.square()
        rows = against[:, None]
        both = variance + variance.gather(1, rows)
        return mean - mean.gather(1, rows), both.scatter(1, rows, 0.0).sqrt()

    def draw(self, generator: torch.Generator, spread: float = 1.0) -> Tensor:
        """See `Beliefs`."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + spread * self.deviation * noise


class Taste(ABC):
    """One person's taste, as a fitted model has it."""

    @abstractmethod
    def score(self, points: Points) -> Tensor:
        """Expected scores ``(n,)``, differentiable in the points' tensors."""

    @abstractmethod
    def over(self, points: Points) -> Beliefs:
        """Beliefs about items, for a batch of one person."""


class TasteModel(ABC):
    """A way to learn a taste. Fitting the same answers twice gives the same taste."""

    name: ClassVar[str]

    @abstractmethod
    def fit(self, answers: Answers, context: int = 0) -> Taste:
        """Learn from answers; none at all is fine.

        Args:
            answers: what was said.
            context: whose taste is asked for; answers from other contexts count less.
        """
