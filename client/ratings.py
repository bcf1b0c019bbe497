"""What a person can say about what they saw. Nothing else in the project knows these words.

Each kind is one small record; ``encode`` turns any mix of them into the rows that ``client.likelihood`` understands.
Items are integers: positions in the list of what the person was shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from common.errors import SettingError


class Kind(IntEnum):
    """Kinds of feedback, as stored; numbers are never given a new meaning."""

    LIKE = 0
    CHOICE = 1
    STARS = 2
    BEST = 3
    WORST = 4


Answer = Literal["a", "b", "both", "neither"]
ANSWERS: tuple[Answer, ...] = ("a", "b", "both", "neither")


@dataclass(frozen=True)
class Like:
    """Like (True) or dislike (False) of one item."""

    item: int
    liked: bool

    @property
    def row(self) -> tuple[Kind, int, tuple[int, ...]]:
        """Kind, value and items, as stored."""
        return Kind.LIKE, int(self.liked), (self.item,)


@dataclass(frozen=True)
class Choice:
    """A or B, both good, or neither."""

    a: int
    b: int
    answer: Answer

    def __post_init__(self) -> None:
        if self.answer not in ANSWERS:
            raise SettingError(f"answer={self.answer!r} must be one of {', '.join(ANSWERS)}")
        if self.a == self.b:
            raise SettingError(f"a choice needs two different items, got item {self.a} twice")

    @property
    def row(self) -> tuple[Kind, int, tuple[int, ...]]:
        """Kind, value and items, as stored."""
        return Kind.CHOICE, ANSWERS.index(self.answer), (self.a, self.b)


@dataclass(frozen=True)
class Stars:
    """One to five stars for one item."""

    item: int
    stars: int

    def __post_init__(self) -> None:
        if not 1 <= self.stars <= 5:
            raise SettingError(f"stars={self.stars} must be between 1 and 5")

    @property
    def row(self) -> tuple[Kind, int, tuple[int, ...]]:
        """Kind, value and items, as stored."""
        return Kind.STARS, self.stars, (self.item,)


@dataclass(frozen=True)
class Best:
    """The best (or the worst) of several items shown together."""

    items: tuple[int, ...]
    chosen: int
    worst: bool = False

    def __post_init__(self) -> None:
        if len(self.items) < 2 or not 0 <= self.chosen < len(self.items):
            raise SettingError(
                f"chosen={self.chosen} must be a position among {len(self.items)} items, of which there are two or more"
            )

    @property
    def row(self) -> tuple[Kind, int, tuple[int, ...]]:
        """Kind, value and items, as stored."""
        return (Kind.WORST if self.worst else Kind.BEST), self.chosen, tuple(self.items)


Rating = Like | Choice | Stars | Best


def encode(ratings: Sequence[Rating]) -> tuple[list[int], list[int], list[list[int]]]:
    """Kinds ``(t,)``, values ``(t,)`` and items ``(t, widest)`` of a list of ratings; -1 where an item is missing."""
    rows = [rating.row for rating in ratings]
    widest = max((len(items) for _, _, items in rows), default=1)
    return (
        [int(kind) for kind, _, _ in rows],
        [value for _, value, _ in rows],
        [[*items, *[-1] * (widest - len(items))] for _, _, items in rows],
    )
