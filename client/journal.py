"""What happens in a session, as a list of events that is only ever appended to.

Everything a session knows is a replay of its journal: items that were shown, ratings, undo, favourites. A journal in
memory is forgotten with the process; ``client.store`` keeps one on disk, encrypted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Event:
    """One thing that happened.

    Attributes:
        kind: what, e.g. ``item``, ``rating``, ``undo``, ``redo``, ``favourite``, ``skip``, ``remove``.
        body: details, as JSON allows them.
        latent: ``(d,)`` float32, for an item that was shown.
        id: number in the journal, from 1, ascending, never used twice; 0 before it is written.
        at: seconds since 1970.
    """

    kind: str
    body: dict[str, Any] = field(default_factory=dict)
    latent: Tensor | None = None
    id: int = 0
    at: float = 0.0


class Journal(Protocol):
    """Where events are kept."""

    def append(self, events: Sequence[Event]) -> list[Event]:
        """Keep events, all or none; returns them with their ``id`` and ``at``. What was returned survives a crash."""

    def events(self) -> list[Event]:
        """Everything kept, in order."""

    def erase(self, ids: Iterable[int]) -> None:
        """Remove events for good, content and all. Unknown numbers are ignored."""

    def destroy(self) -> None:
        """Forget everything: keys, content, files. The journal cannot be used any more."""

    def close(self) -> None:
        """Let go of files and locks; twice does no harm."""


class MemoryJournal:
    """A journal that is forgotten with the process."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._next = 1

    def append(self, events: Sequence[Event]) -> list[Event]:
        """See `Journal`."""
        now = time.time()
        kept = [replace(event, id=self._next + i, at=event.at or now) for i, event in enumerate(events)]
        self._next += len(kept)
        self._events.extend(kept)
        return kept

    def events(self) -> list[Event]:
        """See `Journal`."""
        return list(self._events)

    def erase(self, ids: Iterable[int]) -> None:
        """See `Journal`."""
        gone = set(ids)
        self._events = [event for event in self._events if event.id not in gone]

    def destroy(self) -> None:
        """See `Journal`."""
        self._events.clear()

    def close(self) -> None:
        """See `Journal`."""


def open_journal(store: Path | str | Journal | None, passphrase: str | None = None) -> Journal:
    """The journal somebody asked for: an encrypted store at a path, one that is open already, or one in memory.

    Raises:
        StoreError: the store cannot be opened; see its kinds.
    """
    if store is None:
        return MemoryJournal()
    if isinstance(store, str | Path):
        from client.store import Store  # which is itself a journal

        return Store.open(Path(store), passphrase=passphrase)
    return store
