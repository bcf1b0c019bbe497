"""What a person can say about what they saw. Nothing else in the project knows these words.

Each kind is one small record; ``encode`` turns any mix of them into the rows that ``client.likelihood`` understands.
Items are integers: positions in the list of what the person was shown. Anything with ``__index__`` will do, so an
``Item`` of a session can be given as it is.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Literal, SupportsIndex

from common.errors import SettingError


class Kind(IntEnum):
    """Kinds of feedback, as stored; numbers are never given a new meaning."""

    LIKE = 0
    CHOICE = 1
    STARS = 2
    BEST = 3
    WORST = 4
    GLANCE = 5


Answer = Literal["a", "b", "both", "neither"]
ANSWERS: tuple[Answer, ...] = ("a", "b", "both", "neither")


@dataclass(frozen=True)
class Like:
    """Like (True) or dislike (False) of one item."""

    item: SupportsIndex
    liked: bool
    weight: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "item", operator.index(self.item))

    @property
    def row(self) -> tuple[Kind, int, tuple[int, ...]]:
        """Kind, value and items, as stored."""
        return Kind.LIKE, int(self.liked), (operator.index(self.item),)


@dataclass(frozen=True)
class Choice:
    """A or B, both good, or neither."""

    a: SupportsIndex
    b: SupportsIndex
    answer: Answer
    weight: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "a", operator.index(self.a))
        object.__setattr__(self, "b", operator.index(self.b))
        if self.answer not in ANSWERS:
            raise SettingError(f"answer={self.answer!r} must be one of {', '.join(ANSWERS)}")
        if self.a == self.b:
            raise SettingError(f"a choice needs two different items, got item {self.a} twice")

    @property
    def row(self) -> tuple[Kind, int, tuple[int, ...]]:
        """Kind, value and items, as stored."""
        return Kind.CHOICE, ANSWERS.index(self.answer), (operator.index(self.a), operator.index(self.b))


@dataclass(frozen=True)
class Stars:
    """One to five stars for one item."""

    item: SupportsIndex
    stars: int
    weight: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "item", operator.index(self.item))
        if not 1 <= self.stars <= 5:
            raise SettingError(f"stars={self.stars} must be between 1 and 5")

    @property
    def row(self) -> tuple[Kind, int, tuple[int, ...]]:
        """Kind, value and items, as stored."""
        return Kind.STARS, self.stars, (operator.index(self.item),)


@dataclass(frozen=True)
class Best:
    """The best (or the worst) of several items shown together."""

    items: Sequence[SupportsIndex]
    chosen: int
    worst: bool = False
    weight: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(operator.index(item) for item in self.items))
        if len(self.items) < 2 or not 0 <= self.chosen < len(self.items):
            raise SettingError(
                f"chosen={self.chosen} must be a position among {len(self.items)} items, of which there are two or more"
            )

    @property
    def row(self) -> tuple[Kind, int, tuple[int, ...]]:
        """Kind, value and items, as stored."""
        return (Kind.WORST if self.worst else Kind.BEST), self.chosen, tuple(map(operator.index, self.items))


@dataclass(frozen=True)
class Glance:
    """How long an item was looked at, or that it was skipped: weak evidence that nobody typed.

    A glance is a soft label: ``seconds / (seconds + HALF)`` for a look, ``SKIPPED`` for a skip, with a small weight.
    Longer than ``CAP`` seconds counts as ``CAP``: somebody left the room.
    """

    item: SupportsIndex
    seconds: float
    skipped: bool = False
    weight: ClassVar[float] = 0.2
    HALF: ClassVar[float] = 3.0
    CAP: ClassVar[float] = 20.0
    SKIPPED: ClassVar[float] = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "item", operator.index(self.item))
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise SettingError(f"seconds={self.seconds} must be a finite number >= 0")

    @property
    def row(self) -> tuple[Kind, int, tuple[int, ...]]:
        """Kind, soft label in thousandths, and the item."""
        seconds = min(self.seconds, self.CAP)
        label = self.SKIPPED if self.skipped else seconds / (seconds + self.HALF)
        return Kind.GLANCE, round(1000 * label), (operator.index(self.item),)


Rating = Like | Choice | Stars | Best | Glance


def encode(ratings: Sequence[Rating]) -> tuple[list[int], list[int], list[list[int]]]:
    """Kinds ``(t,)``, values ``(t,)`` and items ``(t, widest)`` of a list of ratings; -1 where an item is missing."""
    rows = [rating.row for rating in ratings]
    widest = max((len(items) for _, _, items in rows), default=1)
    return (
        [int(kind) for kind, _, _ in rows],
        [value for _, value, _ in rows],
        [[*items, *[-1] * (widest - len(items))] for _, _, items in rows],
    )
