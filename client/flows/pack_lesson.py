"""What a session's answers teach a flow: items that were liked, and items that were preferred to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from client.flows.packs import PackFlow
from client.memory import Rated
from client.ratings import Kind
from client.session import Session
from common.errors import RewardError, SettingError

FEWEST = 8
"""Answers a flow can be taught from, as for a stream."""
_MOST_PAIRS = 400  # of likes with dislikes


@dataclass(frozen=True)
class Said:
    """Answers as items of a session.

    Attributes:
        liked: items that are good by themselves, each once.
        pairs: preferred item first; of two answers about single items, the better one.
    """

    liked: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, rated: Sequence[Rated]) -> Said:
        """Take answers apart. Looks in passing count for nothing: they are too weak to change a network for."""
        tally = _Tally()
        for each in rated:
            tally.hear(*each.rating.row)
        graded = [(low, high) for low in tally.level for high in tally.level if tally.level[high] > tally.level[low]]
        step = max(1, -(-len(graded) // _MOST_PAIRS))
        pairs = (*tally.pairs, *((high, low) for low, high in graded[::step]))
        return cls(tuple(dict.fromkeys(tally.liked)), pairs)


@dataclass
class _Tally:
    liked: list[int] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    level: dict[int, float] = field(default_factory=dict)  # of items graded alone: 0 bad to 1 good

    def hear(self, kind: Kind, value: int, items: tuple[int, ...]) -> None:
        if kind in (Kind.LIKE, Kind.STARS):
            self.grade(items, float(value) if kind == Kind.LIKE else (value - 1) / 4)
        elif kind == Kind.CHOICE and value >= 2:
            self.grade(items, float(value == 2))
        elif kind in (Kind.CHOICE, Kind.BEST):
            self.liked.append(items[value])
            self.pairs += [(items[value], other) for other in items if other != items[value]]
        elif kind == Kind.WORST:
            self.pairs += [(other, items[value]) for other in items if other != items[value]]

    def grade(self, items: tuple[int, ...], level: float) -> None:
        self.level |= dict.fromkeys(items, level)
        self.liked += items if level > 0.5 else ()


@dataclass(frozen=True, eq=False)
class PackLesson:
    """Samples a flow learns from, and those it is judged by.

    Attributes:
        liked: ``(m, *shape)``.
        better: ``(p, *shape)`` and worse ``(p, *shape)``: pairs.
        worse: see above.
        held_better: ``(q, *shape)``, of answers that nothing is taught from; held_worse the same.
        held_worse: see above.
        answers: how many there are in all.
    """

    liked: Tensor
    better: Tensor
    worse: Tensor
    held_better: Tensor
    held_worse: Tensor
    answers: int


def lesson_of(session: Session, source: PackFlow, *, held_out: float = 0.2, seed: int = 0) -> PackLesson:
    """The lesson of a session, of the answers in its context.

    Args:
        session: on the pack of ``source``.
        source: what is taught.
        held_out: share of the answers that is only judged by, 0 to below 1.
        seed: of which those are.

    Raises:
        SettingError: too few answers, or none of them positive.
    """
    if not 0 <= held_out < 1:
        raise SettingError(f"held_out={held_out} must be at least 0 and below 1; try 0.2")
    rated = [each for each in session.history if each.context == session.context and each.rating.weight == 1]
    again = f"rate more, with: plgl rate --generator {source.pack.folder}"
    if len(rated) < FEWEST:
        few = "1 answer is" if len(rated) == 1 else f"{len(rated)} answers are"
        raise SettingError(f"{few} too few to teach a flow, which needs {FEWEST}; {again}")
    order = torch.randperm(len(rated), generator=torch.Generator().manual_seed(seed)).tolist()
    kept = sorted(order[round(held_out * len(rated)) :])
    heard, held = Said.of([rated[i] for i in kept]), Said.of([rated[i] for i in sorted(set(order) - set(kept))])
    if not heard.liked:
        raise SettingError(f"none of {len(rated)} answers is positive; like something first, and {again}")
    numbers = sorted({i for said in (heard, held) for i in (*said.liked, *(j for pair in said.pairs for j in pair))})
    samples = source.samples(torch.stack([session.item(i).latent for i in numbers]))
    place = {number: row for row, number in enumerate(numbers)}

    def rows(items: Sequence[int]) -> Tensor:
        return samples[torch.tensor([place[i] for i in items], dtype=torch.int64, device=samples.device)]

    pairs = [rows([pair[side] for pair in said.pairs]) for said in (heard, held) for side in (0, 1)]
    return PackLesson(rows(heard.liked), pairs[0], pairs[1], pairs[2], pairs[3], len(rated))


def must_have_pairs(lesson: PackLesson) -> None:
    """Check that an answer says that one item is better than another.

    Raises:
        RewardError: none does.
    """
    if not len(lesson.better):
        raise RewardError(
            "no answer says that one item is better than another; answer A or B, or dislike something too; "
            "--by injection learns from likes alone"
        )
