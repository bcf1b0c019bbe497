"""The server's journal: what each round cost whom, on disk before it happens, in a chain that is signed.

A round is planned, debited to its members, released, and published; or aborted, and what was debited stays debited::

    PLANNED --> DEBITED --> RELEASED --> PUBLISHED
        \\__________\\__________________> ABORTED

The bytes of a release are in the entry that says it was released. After a crash the same bytes are published; noise is
never drawn a second time for numbers that somebody may have seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common.chain import MEMORY, Chain, Entry, Kind
from common.errors import BudgetError, LedgerError, SettingError, StorageError, StoreInUse
from common.privacy.accounting import epsilon
from common.privacy.promise import promise
from common.signing import SigningKey, canonical
from common.terms import Terms

_FORMAT = "plgl-journal-1"
_KIND = Kind(
    name="journal",
    application=0x504C474A,
    advice="what members have spent is not known; restore the newest copy of the whole folder, or begin a federation",
)


class State(StrEnum):
    """How far a round has come."""

    PLANNED = "planned"
    DEBITED = "debited"
    RELEASED = "released"
    PUBLISHED = "published"
    ABORTED = "aborted"


_BEFORE = {
    State.DEBITED: {State.PLANNED},
    State.RELEASED: {State.DEBITED},
    State.PUBLISHED: {State.RELEASED},
    State.ABORTED: {State.PLANNED, State.DEBITED},
}


@dataclass(frozen=True, kw_only=True)
class RoundEntry:
    """One round, as far as it has come.

    Attributes:
        number: from 1, over all sessions.
        state: how far it has come.
        session: the run it belongs to.
        start: digest of the release it starts from.
        charged: members it was charged to.
        record: what may be published about it.
        reason: why it was aborted.
        version: of its release.
        release: SHA-256 of its release.
        times: when it came to each state, seconds since 1970.
    """

    number: int
    state: State
    session: str
    start: str
    charged: int = 0
    record: dict[str, Any] | None = None
    reason: str | None = None
    version: int | None = None
    release: str | None = None
    times: dict[State, int] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in {State.PUBLISHED, State.ABORTED}


class JournalView:
    """A journal to read, also while another process writes; ``Journal.read`` opens one.

    Guarantee: everything it says was verified entry by entry. ``refresh`` brings it up to now.
    """

    def __init__(self, path: Path, *, key: SigningKey | None = None, public: bytes | None = None) -> None:
        """Open and verify; errors as for ``Journal.read``."""
        self._begin(path, key, public, None)

    def _begin(self, path: Path, key: SigningKey | None, public: bytes | None, first: dict[str, Any] | None) -> None:
        self._rounds: list[RoundEntry] = []
        self._spent: Counter[int] = Counter()
        self._places: list[int] = []  # entries that hold the releases
        self._chain = Chain(path, _KIND, self._apply, key=key, public=public, first=first)

    @property
    def terms(self) -> Terms:
        """What the federation promised when the journal was begun."""
        return self._terms

    def refresh(self) -> None:
        """Read what was written since.

        Raises:
            LedgerError: the journal was damaged meanwhile.
        """
        self._chain.refresh()

    def spent(self, member: int) -> int:
        """Participations charged to a member."""
        return self._spent[member]

    def most_spent(self) -> int:
        """Participations charged to the member who took part most, 0 for none."""
        return max(self._spent.values(), default=0)

    def members(self) -> dict[int, int]:
        """Participations charged, by member."""
        return dict(self._spent)

    def rounds(self) -> list[RoundEntry]:
        """All rounds, oldest first."""
        return list(self._rounds)

    def unfinished(self) -> list[RoundEntry]:
        """Rounds that are neither published nor aborted; at most one."""
        return [entry for entry in self._rounds if not entry.finished]

    def releases(self) -> list[tuple[int, str]]:
        """Version and SHA-256 of every release, oldest first."""
        return [(e.version, e.release) for e in self._rounds if e.version is not None and e.release is not None]

    def release_content(self, version: int) -> bytes | None:
        """The bytes of a release, None where there is none of that version."""
        if not 1 <= version <= len(self._places):
            return None
        content = self._chain.content(self._places[version - 1])
        if content is None or hashlib.sha256(content).hexdigest() != self.releases()[version - 1][1]:
            raise LedgerError(f"release {version} in the journal was altered while it was open; {_KIND.advice}")
        return content

    def latest_release(self) -> bytes | None:
        """The bytes of the newest release, published or not; None where there is none."""
        return self.release_content(len(self._places))

    def epsilon_after(self, participations: int) -> float:
        """What so many participations cost one member, at the delta of the terms and with the noise really added."""
        if participations < 1:
            return 0.0
        return epsilon(promise(self.terms).noise_multiplier, participations, self.terms.settings.delta)

    def epsilons(self) -> dict[str, float]:
        """For display: spent so far by the member who spent most, after one more round, and the budget."""
        most = self.most_spent()
        budget = self.terms.settings
        return {
            "spent": self.epsilon_after(most),
            "next": self.epsilon_after(min(most + 1, budget.participations)),
            "budget": budget.epsilon,
        }

    def close(self) -> None:
        """Let go of the file; twice does no harm."""
        self._chain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _apply(self, entry: Entry) -> None:
        body = entry.body
        if (body["kind"] == "begin") != (entry.number == 1):
            raise LedgerError("this is no journal of rounds; choose another file")
        if body["kind"] == "begin":
            if body["format"] != _FORMAT:
                raise LedgerError(f"format {str(body['format'])[:40]!r} is not {_FORMAT}; install a newer plgl")
            self._terms = Terms.from_json(body["terms"])
            return
        state, number, times = State(body["kind"]), body["round"], {State(body["kind"]): body["time"]}
        if state is State.PLANNED:
            if number != len(self._rounds) + 1:
                raise ValueError("a round is missing")
            round_ = RoundEntry(number=number, state=state, session=body["session"], start=body["start"], times=times)
            self._rounds.append(round_)
            return
        before = self._rounds[number - 1] if 0 < number <= len(self._rounds) else None
        if before is None or before.state not in _BEFORE[state]:
            raise ValueError("a round in the wrong order")
        changes: dict[str, Any] = {"state": state, "times": before.times | times}
        if state is State.DEBITED:
            self._spent.update(body["members"])
            changes["charged"] = len(body["members"])
        elif state is State.RELEASED:
            self._places.append(entry.number)
            changes |= {"version": len(self._places), "release": body["release"], "record": body["record"]}
        elif state is State.ABORTED:
            changes |= {"reason": body["reason"], "record": body["record"]}
        self._rounds[number - 1] = replace(before, **changes)


class Journal(JournalView):
    """A journal to write; one process at a time.

    Guarantee: what a method returned from survives the end of the process and of the power. What raised was not
    written, except where the disk failed while it confirmed: then it may have been, and opening again shows.
    """

    def __init__(
        self,
        path: Path,
        key: SigningKey,
        terms: Terms,
        *,
        published: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open for writing; `open` and `create` are the usual ways, with the same arguments and errors."""
        self._clock, self._lock = clock, None if path == MEMORY else _WriterLock(path)
        try:
            self._begin(path, key, None, _first(terms, clock) if path == MEMORY else None)
            self._check(path, terms, published)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, key: SigningKey, terms: Terms, *, clock: Callable[[], float] = time.time) -> Journal:
        """Begin a journal, and open it.

        Raises:
            LedgerError: there is one already.
            StorageError: the disk refuses.
        """
        if path != MEMORY:
            Chain.create(path, _KIND, _first(terms, clock), key)
        return cls(path, key, terms, clock=clock)

    @classmethod
    def open(
        cls,
        path: Path,
        key: SigningKey,
        terms: Terms,
        published: int = 0,
        *,
        clock: Callable[[], float] = time.time,
    ) -> Journal:
        """Open a journal and verify all of it.

        Args:
            path: its file.
            key: that signs it.
            terms: of the federation; it must be this one's journal.
            published: highest version among the releases that were published, so that an older copy is noticed.
            clock: seconds since 1970.

        Raises:
            LedgerError: it is missing, damaged, altered, another federation's, under other terms, not signed with
                ``key``, or older than what was published.
            StoreInUse: another process has it open for writing.
            StorageError: the disk refuses.
        """
        return cls(path, key, terms, published=published, clock=clock)

    @staticmethod
    def read(path: Path, public: bytes) -> JournalView:
        """Open a journal to read it; it must be signed with the key whose public half is given.

        Raises:
            LedgerError: it is missing, damaged, altered, or not signed with that key.
        """
        return JournalView(path, public=public)

    def plan(self, *, session: str, start: str) -> int:
        """Begin a round; nobody is charged yet.

        Args:
            session: the run it belongs to.
            start: digest of the release it starts from.

        Returns:
            Its number.

        Raises:
            LedgerError: the round before it is not finished.
        """
        with self._adding() as add:
            for entry in self.unfinished():
                raise LedgerError(f"round {entry.number} is {entry.state}; publish or abort it first")
            number = len(self._rounds) + 1
            add({"kind": State.PLANNED, "round": number, "session": session, "start": start})
        return number

    def debit(self, round: int, members: Sequence[int]) -> None:
        """Charge a round to its members, before anything that depends on a rating leaves a device.

        Raises:
            BudgetError: one of them has no participation left; nothing is written.
            SettingError: a number is not from 1 or comes twice, or there is none.
            LedgerError: the round is not planned.
        """
        limit = self.terms.settings.participations
        if not members or len(set(members)) != len(members) or any(type(m) is not int or m < 1 for m in members):
            raise SettingError("a round is charged to one or more members, each once, by numbers from 1")
        with self._adding(round, State.DEBITED) as add:
            empty = [member for member in members if self._spent[member] >= limit]
            if empty:
                raise BudgetError(
                    f"{len(empty)} of {len(members)} members (the first is {empty[0]}) have used their {limit} "
                    "participations; leave them out"
                )
            add({"kind": State.DEBITED, "round": round, "members": list(members)})

    def release(self, round: int, content: bytes, record: Mapping[str, Any]) -> None:
        """Keep the bytes of a release. From now on these and no others are published for this round.

        Args:
            round: that was debited.
            content: of the release.
            record: what may be published about the round; plain finite values.

        Raises:
            LedgerError: the round is not debited.
            SettingError: the record holds something JSON cannot, or there are no bytes.
        """
        if not content:
            raise SettingError("a release without bytes cannot be kept")
        digest = hashlib.sha256(content).hexdigest()
        with self._adding(round, State.RELEASED) as add:
            add({"kind": State.RELEASED, "round": round, "release": digest, "record": _plain(record)}, content)

    def published(self, round: int) -> None:
        """Note that the release is where everybody can fetch it.

        Raises:
            LedgerError: the round has no release, or was published already.
        """
        with self._adding(round, State.PUBLISHED) as add:
            add({"kind": State.PUBLISHED, "round": round})

    def abort(self, round: int, reason: str, record: Mapping[str, Any] | None = None) -> None:
        """End a round without a release. If it was debited, it stays so.

        Raises:
            LedgerError: the round is released, and must be published; or it is finished.
            SettingError: the record holds something JSON cannot.
        """
        plain = None if record is None else _plain(record)
        with self._adding(round, State.ABORTED) as add:
            add({"kind": State.ABORTED, "round": round, "reason": reason, "record": plain})

    def close(self) -> None:
        """Let go of the file and its lock; twice does no harm."""
        if hasattr(self, "_chain"):  # opening may have failed
            super().close()
        if self._lock is not None:
            self._lock.close()

    @contextlib.contextmanager
    def _adding(self, round: int | None = None, to: State | None = None) -> Iterator[Callable[..., None]]:
        with self._chain.writing() as add:
            if round is not None and to is not None:
                if not 0 < round <= len(self._rounds):
                    raise LedgerError(f"round {round} was never planned")
                if (state := self._rounds[round - 1].state) not in _BEFORE[to]:
                    raise LedgerError(f"round {round} is {state}, so it cannot become {to}")
            yield lambda body, content=None: add({**body, "time": int(self._clock())}, content)

    def _check(self, path: Path, terms: Terms, published: int) -> None:
        if self.terms.federation != terms.federation:
            raise LedgerError(f"{path} is the journal of another federation; {_KIND.advice}")
        if self.terms != Terms.from_json(terms.to_json()):
            raise LedgerError(f"{path} was begun under other terms; terms cannot be changed, begin a new federation")
        if published > len(self._places):
            raise LedgerError(
                f"{path} knows {len(self._places)} releases, but release {published} is published: it is an older "
                f"copy; {_KIND.advice}"
            )


class _WriterLock:
    """A file beside the journal that one process holds; the system lets go of it however the process ends."""

    def __init__(self, path: Path) -> None:
        place = path.with_name(path.name + ".lock")
        try:
            self._handle: int | None = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageError(f"cannot use {place}: {error.strerror}; choose another folder") from error
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(self._handle, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise StoreInUse(f"another process writes {path}; a federation runs once at a time") from error

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
        self._handle = None


def _first(terms: Terms, clock: Callable[[], float]) -> dict[str, Any]:
    return {"kind": "begin", "format": _FORMAT, "terms": terms.to_json(), "time": int(clock())}


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(record)
    try:
        canonical(values)
    except (ValueError, TypeError) as error:
        raise SettingError(f"the record of a round holds something JSON cannot: {error}") from error
    return values
