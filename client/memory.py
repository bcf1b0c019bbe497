"""What a journal says, replayed: who saw what, said what, took what back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from client.journal import Event, Journal
from client.ratings import ANSWERS, Best, Choice, Glance, Kind, Like, Rating, Stars
from common.errors import ItemError


@dataclass(frozen=True)
class Rated:
    """A rating with its circumstances.

    Attributes:
        event: number in the journal.
        rating: what was said.
        at: seconds since 1970.
        context: mood, time or situation, ``""`` for none.
        foretold: whether the model had guessed it; None where that was not tried.
    """

    event: int
    rating: Rating
    at: float
    context: str
    foretold: bool | None

    def to_json(self) -> dict[str, Any]:
        """As JSON allows it."""
        kind, value, items = self.rating.row
        return {
            "event": self.event,
            "kind": kind.name.lower(),
            "value": value,
            "items": list(items),
            "at": self.at,
            "context": self.context,
            "foretold": self.foretold,
        }


@dataclass
class _Person:
    packs: set[str] = field(default_factory=set)
    latents: list[Tensor] = field(default_factory=list)
    rated: dict[int, Rated] = field(default_factory=dict)  # all that was ever said and not removed
    counted: list[int] = field(default_factory=list)
    undone: list[int] = field(default_factory=list)
    favourites: dict[int, None] = field(default_factory=dict)
    unwanted: dict[int, None] = field(default_factory=dict)


class Memory:
    """The state a journal stands for, kept up to date while the journal grows."""

    def __init__(self, journal: Journal) -> None:
        """Replay a journal."""
        self._journal = journal
        self._people: dict[str, _Person] = {}
        for event in journal.events():
            self._apply(event)

    def _write(self, events: Sequence[Event]) -> list[Event]:
        kept = self._journal.append(events)
        for event in kept:
            self._apply(event)
        return kept

    def _apply(self, event: Event) -> None:
        body = event.body
        person = self._person(body.get("profile", "me"))
        if event.kind == "item" and event.latent is not None:
            person.latents.append(event.latent)
            person.packs.add(body["pack"])
        elif event.kind == "rating":
            person.rated[event.id] = Rated(
                event.id, _rating(body), event.at, body.get("context", ""), body.get("foretold")
            )
            person.counted.append(event.id)
            person.undone.clear()
        elif event.kind == "undo" and body["event"] in person.counted:
            person.counted.remove(body["event"])
            person.undone.append(body["event"])
        elif event.kind == "redo" and body["event"] in person.undone:
            person.undone.remove(body["event"])
            person.counted.append(body["event"])
            person.counted.sort()
        elif event.kind in ("favourite", "unwanted"):
            marked = person.favourites if event.kind == "favourite" else person.unwanted
            marked.pop(body["item"], None)
            if body["on"]:
                marked[body["item"]] = None

    def _person(self, profile: str) -> _Person:
        return self._people.setdefault(profile, _Person())

    def profiles(self) -> list[str]:
        """Everybody who was shown something."""
        return [name for name, person in self._people.items() if person.latents]

    def packs(self, profile: str) -> set[str]:
        """Hashes of the packs that made a profile's items."""
        return self._person(profile).packs

    def latents(self, profile: str) -> Tensor | None:
        """``(items, d)`` of everything a profile was shown; None for nothing."""
        latents = self._person(profile).latents
        return torch.stack(latents) if latents else None

    def history(self, profile: str) -> list[Rated]:
        """Ratings that count, oldest first."""
        person = self._person(profile)
        return [person.rated[event] for event in person.counted]

    def favourites(self, profile: str) -> list[int]:
        """Favourite items, oldest first."""
        return list(self._person(profile).favourites)

    def unwanted(self, profile: str) -> list[int]:
        """Items marked as unwanted content, oldest first."""
        return list(self._person(profile).unwanted)

    def same_question(self, profile: str, rating: Rating, context: str) -> Rated | None:
        """An earlier rating that answers the same question about the same items."""
        kind, _, items = rating.row
        if kind == Kind.GLANCE:
            return None
        for rated in reversed(self.history(profile)):
            other, _, others = rated.rating.row
            if other == kind and set(others) == set(items) and rated.context == context:
                return rated
        return None

    def show(self, profile: str, pack: str, first: int, latents: Tensor) -> None:
        """Remember that items ``(n, d)`` were shown."""
        about = {"pack": pack, "profile": profile}
        self._write([Event("item", {"item": first + i, **about}, latent) for i, latent in enumerate(latents)])

    def rate(self, profile: str, context: str, rating: Rating, foretold: bool | None) -> int:
        """Remember a rating; returns its event."""
        kind, value, items = rating.row
        body: dict[str, Any] = {"kind": int(kind), "value": value, "items": list(items), "profile": profile}
        if isinstance(rating, Glance):
            body["seconds"], body["skipped"] = rating.seconds, rating.skipped
        if context:
            body["context"] = context
        if foretold is not None:
            body["foretold"] = foretold
        return self._write([Event("rating", body)])[0].id

    def undo(self, profile: str, event: int | None = None) -> Rating | None:
        """Take back a rating, the last one unless told."""
        person = self._person(profile)
        if not person.counted:
            return None
        event = person.counted[-1] if event is None else event
        self.note("undo", {"event": event, "profile": profile})
        return person.rated[event].rating

    def redo(self, profile: str) -> Rating | None:
        """Give the last rating that was taken back again."""
        person = self._person(profile)
        if not person.undone:
            return None
        event = person.undone[-1]
        self.note("redo", {"event": event, "profile": profile})
        return person.rated[event].rating

    def remove(self, profile: str, event: int) -> None:
        """Delete a rating for good.

        Raises:
            ItemError: this profile gave no such rating.
        """
        person = self._person(profile)
        if event not in person.rated:
            raise ItemError(f"rating {event} is not in the history; look there for its number")
        self._journal.erase([event])
        del person.rated[event]
        person.counted = [kept for kept in person.counted if kept != event]
        person.undone = [kept for kept in person.undone if kept != event]

    def note(self, kind: str, body: dict[str, Any]) -> None:
        """Remember anything else."""
        self._write([Event(kind, body)])


def _rating(body: dict[str, Any]) -> Rating:
    kind, value, items = Kind(body["kind"]), body["value"], body["items"]
    if kind == Kind.LIKE:
        return Like(items[0], bool(value))
    if kind == Kind.CHOICE:
        return Choice(items[0], items[1], ANSWERS[value])
    if kind == Kind.STARS:
        return Stars(items[0], value)
    if kind == Kind.GLANCE:
        return Glance(items[0], body["seconds"], body["skipped"])
    return Best(items, value, worst=kind == Kind.WORST)
