"""A question as it is shown, and what became of it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace

from client.web.modes import Mode


def _key() -> str:
    return secrets.token_urlsafe(9)


@dataclass(frozen=True, kw_only=True)
class Question:
    """Pictures and a question about them.

    Attributes:
        mode: how it is asked.
        items: numbers of what is shown, in order.
        pictures: names of the pictures, in the same order.
        version: of the model that chose them.
        notice: what the person should be told with it.
        origin: the item whose neighbours these are; None for a normal question.
        key: what a form names it by; a question that is shown again gets a new one, so that an old form is known.
    """

    mode: Mode
    items: tuple[int, ...]
    pictures: tuple[str, ...]
    version: int = 0
    notice: str | None = None
    origin: int | None = None
    key: str = field(default_factory=_key)

    def again(self) -> Question:
        """The same question under a new key."""
        return replace(self, key=_key(), notice=None)


@dataclass(kw_only=True)
class Answered:
    """A question that is behind the person.

    Attributes:
        question: what was asked.
        answer: what was said; None for a skip.
        events: numbers of the ratings it made, oldest first.
        foretold: whether the model had guessed it; None where it did not try.
    """

    question: Question
    answer: str | None
    events: list[int] = field(default_factory=list)
    foretold: bool | None = None

    @property
    def chosen(self) -> int | None:
        """The item the answer speaks well of, or the only one there was; None where that is not one item."""
        items, names = self.question.items, [action.name for action in self.question.mode.answers]
        if len(items) == 1:
            return items[0]
        place = names.index(self.answer) if self.answer in names else len(items)
        return items[place] if place < len(items) and self.question.mode.name != "worst" else None
