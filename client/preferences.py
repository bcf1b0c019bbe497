"""The familiar view of a journal: one line (item, latent, rating) for each item a person said something about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from client.journal import Event
from client.ratings import ANSWERS, Kind


@dataclass(frozen=True, eq=False)
class Preference:
    """What one answer says about one item.

    Attributes:
        item: its number in the session of its profile.
        latent: ``(d,)`` float32, what it was made from.
        rating: from 0 (disliked) to 1 (liked); stars are spread over it, of a pair the preferred item has 1.
        kind: of the answer.
        profile: who answered.
        context: in which situation.
        event: number of the answer in the journal.
    """

    item: int
    latent: Tensor
    rating: float
    kind: Kind
    profile: str
    context: str
    event: int


def preferences(events: Iterable[Event], profile: str | None = None) -> list[Preference]:
    """The preferences of one profile, or of all, in the order they were said.

    Left out are answers that were undone (and not redone) or removed, items whose latent was erased, and kinds of
    answers this version does not know.
    """
    latents: dict[tuple[str, int], Tensor] = {}
    answers: dict[int, dict[str, Any]] = {}
    hidden: set[int] = set()
    for event in events:
        body = event.body
        if event.kind == "item" and event.latent is not None:
            latents[str(body.get("profile", "")), int(body["item"])] = event.latent
        elif event.kind == "rating":
            answers[event.id] = body
        elif event.kind in {"undo", "remove"} and "event" in body:
            hidden.add(int(body["event"]))
        elif event.kind == "redo" and "event" in body:
            hidden.discard(int(body["event"]))
    return [
        line
        for number, body in answers.items()
        if number not in hidden and profile in {None, body.get("profile", "")}
        for line in _lines(number, body, latents)
    ]


def _lines(number: int, body: dict[str, Any], latents: dict[tuple[str, int], Tensor]) -> list[Preference]:
    if body["kind"] not in set(Kind):
        return []
    kind, who = Kind(body["kind"]), str(body.get("profile", ""))
    scored = zip(body["items"], ratings(kind, int(body["value"]), len(body["items"])), strict=True)
    return [
        Preference(int(item), latents[who, int(item)], rating, kind, who, str(body.get("context", "")), number)
        for item, rating in scored
        if (who, int(item)) in latents
    ]


def ratings(kind: Kind, value: int, items: int) -> list[float]:
    """A rating from 0 to 1 for each of the items of one answer, from its stored value."""
    match kind:
        case Kind.LIKE:
            return [float(value)] * items
        case Kind.CHOICE:
            return {"a": [1.0, 0.0], "b": [0.0, 1.0], "both": [1.0, 1.0], "neither": [0.0, 0.0]}[ANSWERS[value]]
        case Kind.STARS:
            return [(value - 1) / 4] * items
        case Kind.BEST:
            return [float(i == value) for i in range(items)]
        case Kind.WORST:
            return [float(i != value) for i in range(items)]
        case Kind.GLANCE:
            return [value / 1000] * items
