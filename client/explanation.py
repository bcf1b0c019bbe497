"""How well a person is understood, in numbers that were measured and words a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from client.classifiers.base import Answers
from client.classifiers.evaluation import chance
from client.memory import Rated
from client.ratings import Choice, Glance

LAST = 10  # answers the plain sentence is about
ENOUGH = 20  # answers before it is fair to say that nothing is learned


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a session knows about how well it does.

    Attributes:
        answers: ratings that count.
        by_kind: how many of each kind.
        guessed_of_last: right guesses, and guesses made, among the last ten answers; each was guessed before it was
            given.
        held_out_accuracy: share of all answers that were guessed before they were given; None before the first.
        chance: share that always giving the commonest answer would have guessed.
        certainty: how much of what makes typical items differ for this person is known, 0 to 1.
        next_question: what would be asked next and why.
        source: where suggestions come from now: ``nothing yet``, ``the crowd``, ``both`` or ``you``.
        notice: what the person should be told now; None for nothing.
        troubles: what goes wrong and what helps.
    """

    answers: int
    by_kind: dict[str, int]
    guessed_of_last: tuple[int, int]
    held_out_accuracy: float | None
    chance: float
    certainty: float
    next_question: str
    source: str
    notice: str | None
    troubles: list[str]

    def to_json(self) -> dict[str, Any]:
        """As JSON allows it."""
        return asdict(self)


def explain(
    history: Sequence[Rated], answers: Answers, *, certainty: float, crowd: bool, notice: str | None
) -> Explanation:
    """Explain the state of a session.

    Args:
        history: ratings that count, oldest first.
        answers: the same, as taste models take them.
        certainty: see `Explanation`.
        crowd: whether a population prior is used.
        notice: what the person should be told now.
    """
    guesses = [r.foretold for r in history if r.foretold is not None]
    accuracy = sum(guesses) / len(guesses) if guesses else None
    asked = torch.tensor([r.foretold is not None for r in history], dtype=torch.bool)
    luck = chance(answers.select(asked)) if guesses else 0.5
    return Explanation(
        answers=len(history),
        by_kind=_by_kind(history),
        guessed_of_last=(sum(guesses[-LAST:]), len(guesses[-LAST:])),
        held_out_accuracy=accuracy,
        chance=luck,
        certainty=certainty,
        next_question=_next(len(history), crowd),
        source=_source(len(history), crowd, certainty),
        notice=notice,
        troubles=_troubles(history, accuracy, luck),
    )


def _by_kind(history: Sequence[Rated]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for rated in history:
        name = rated.rating.row[0].name.lower()
        counts[name] = counts.get(name, 0) + 1
    return counts


def _next(answers: int, crowd: bool) -> str:
    if answers == 0 and not crowd:
        return "two pictures as different as can be, to find out where to look"
    return "the best guess so far, against the one that could be better still"


def _source(answers: int, crowd: bool, certainty: float) -> str:
    if answers == 0:
        return "the crowd" if crowd else "nothing yet"
    return "both" if crowd and certainty < 0.9 else "you"


def _troubles(history: Sequence[Rated], accuracy: float | None, luck: float) -> list[str]:
    found = []
    tried = sum(r.foretold is not None for r in history)
    if accuracy is not None and tried >= ENOUGH and accuracy < luck + 0.05:
        found.append(
            "I do not guess your answers better than chance yet: answer only when you feel a difference, "
            "or choose another way to rate"
        )
    contradictions = _contradictions(history)
    if contradictions:
        found.append(
            f"{contradictions} answers contradict others about the same pictures: that is fine for close calls, "
            "or take one back in the history"
        )
    weak = sum(isinstance(r.rating, Glance) for r in history)
    if weak and weak == len(history):
        found.append("only how long you looked is known so far: rate a few to be understood sooner")
    return found


def _contradictions(history: Sequence[Rated]) -> int:
    """Answers whose opposite was given about the same items, directly or around a circle of preferences."""
    better: dict[int, set[int]] = {}
    found = 0
    for rated in history:
        rating = rated.rating
        if not isinstance(rating, Choice) or rating.answer not in ("a", "b"):
            continue
        _, value, (a, b) = rating.row
        winner, loser = (a, b) if value == 0 else (b, a)
        if _reaches(better, loser, winner):
            found += 1
        better.setdefault(winner, set()).add(loser)
    return found


def _reaches(better: dict[int, set[int]], start: int, goal: int) -> bool:
    seen, open_ = {start}, [start]
    while open_:
        for after in better.get(open_.pop(), set()):
            if after == goal:
                return True
            if after not in seen:
                seen.add(after)
                open_.append(after)
    return False
