"""What a person has spent in a federation, counted on the person's own device: the server's word is not asked for.

One file beside the membership, a `common.chain`: a charge is on disk before the vector it pays for is made. It also
keeps what must not change behind the person's back: the keys of other members and the newest release seen. It holds
no rating. It has no key of its own: damage and accidents are noticed, but whoever can write to the person's folder can
put back an older copy, as they could read everything else there.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from common.chain import Chain, Entry, Kind
from common.errors import BudgetError, LedgerError, ProtocolError, ReleaseError, SettingError

_FORMAT = "plgl-ledger-1"
_KIND = Kind(
    name="ledger",
    application=0x504C474D,
    advice="what was spent is not known, so leave the federation; join again as somebody who has no budget left there",
)


@dataclass(frozen=True)
class Charge:
    """One participation: when it was charged, in seconds since 1970, and for which round."""

    federation: str
    session: str
    round: int
    time: int


@dataclass
class _Federation:
    charges: dict[tuple[str, int], Charge] = field(default_factory=dict)
    keys: dict[int, bytes] = field(default_factory=dict)
    members: dict[bytes, int] = field(default_factory=dict)
    version: int = 0
    digest: str = ""


class Ledger:
    """The ledger of one membership.

    Guarantee: what ``charge`` returned from survives the end of the process and of the power; what raised permits
    nothing. The same file may be open in several processes, and the limit holds for all of them together.
    """

    def __init__(self, path: Path, *, create: bool = False, clock: Callable[[], float] = time.time) -> None:
        """Open a ledger and check all of it.

        Args:
            path: its file.
            create: make it if there is none. A membership that was used before passes False, so that a lost ledger is
                noticed and not begun again at zero.
            clock: seconds since 1970.

        Raises:
            LedgerError: there is none, or it is damaged.
            StorageError: the disk refuses it.
        """
        self._clock = clock
        self._known: defaultdict[str, _Federation] = defaultdict(_Federation)
        self._rows: list[Charge] = []
        if create and not path.exists():
            Chain.create(path, _KIND, {"kind": "begin", "format": _FORMAT, "time": int(clock())})
        self._chain = Chain(path, _KIND, self._apply)

    @classmethod
    def open(cls, path: Path, *, create: bool = False, clock: Callable[[], float] = time.time) -> Self:
        """The ledger in ``path``; arguments and errors as for the class."""
        return cls(path, create=create, clock=clock)

    def charge(self, *, federation: str, session: str, round: int, limit: int) -> None:
        """Count one participation. It is on disk when this returns.

        Raises:
            BudgetError: ``limit`` participations are counted already.
            ProtocolError: this round was charged before.
            StorageError, LedgerError, StoreInUse: it could not be written; nothing may be sent.
        """
        charge = Charge(federation, session, round, int(self._clock()))
        with self._chain.writing() as add:
            before = self._known[federation].charges
            if (session, round) in before:
                raise ProtocolError(f"round {round} was charged before; it is not answered twice")
            if len(before) >= limit:
                raise BudgetError(
                    f"{len(before)} of {limit} participations are used; a higher limit of your own may allow more"
                )
            add({"kind": "charge", **charge.__dict__}, None)

    def spent(self, federation: str) -> int:
        """Participations counted so far; errors as for ``charge``."""
        self._chain.refresh()
        return len(self._known[federation].charges)

    def rows(self) -> list[Charge]:
        """All participations, oldest first; errors as for ``charge``."""
        self._chain.refresh()
        return list(self._rows)

    def pin(self, federation: str, member: int, key: bytes) -> None:
        """``pin_all`` for one member."""
        self.pin_all(federation, {member: key})

    def pin_all(self, federation: str, keys: Mapping[int, bytes]) -> None:
        """Remember which key belongs to which member; in one write, and none if all are known.

        Raises:
            ProtocolError: a member was seen with another key, or a key with another member; nothing is remembered.
            StorageError, LedgerError, StoreInUse: it could not be written.
        """
        with self._chain.writing() as add:
            known = self._known[federation]
            owners = dict(known.members)
            for member, key in keys.items():
                if known.keys.get(member, key) != key or owners.setdefault(key, member) != member:
                    raise ProtocolError(f"member {member} comes with another key than before; ask the operator why")
            new = [[member, key.hex()] for member, key in keys.items() if member not in known.keys]
            if new:
                add({"kind": "pins", "federation": federation, "pins": new, "time": int(self._clock())}, None)

    def pins(self, federation: str) -> dict[int, bytes]:
        """Keys by member number; errors as for ``charge``."""
        self._chain.refresh()
        return dict(self._known[federation].keys)

    def highest_version(self, federation: str) -> int:
        """Version of the newest release seen, 0 for none; errors as for ``charge``."""
        self._chain.refresh()
        return self._known[federation].version

    def saw_version(self, federation: str, version: int, digest: str) -> None:
        """Remember a release.

        Raises:
            ReleaseError: a newer one was seen before, or another one of the same version.
            SettingError: ``version`` is not from 1.
            StorageError, LedgerError, StoreInUse: it could not be written.
        """
        if version < 1:
            raise SettingError(f"version={version} must be >= 1")
        with self._chain.writing() as add:
            known = self._known[federation]
            if version < known.version:
                raise ReleaseError(f"release {version} is older than release {known.version}, which was seen before")
            if version == known.version and digest != known.digest:
                raise ReleaseError(f"there are two different releases {version}; the operator has to explain")
            if version > known.version:
                seen = {"federation": federation, "version": version, "digest": digest, "time": int(self._clock())}
                add({"kind": "release", **seen}, None)

    def close(self) -> None:
        """Close the file; twice does no harm."""
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
            raise LedgerError("this is no ledger; choose another file")
        if body["kind"] == "begin":
            if body["format"] != _FORMAT:
                raise LedgerError(f"format {str(body['format'])[:40]!r} is not {_FORMAT}; install a newer plgl")
            return
        known = self._known[body["federation"]]
        if body["kind"] == "charge":
            charge = Charge(body["federation"], body["session"], body["round"], body["time"])
            known.charges[charge.session, charge.round] = charge
            self._rows.append(charge)
        elif body["kind"] == "pins":
            for member, key in body["pins"]:
                known.keys[member] = bytes.fromhex(key)
                known.members[known.keys[member]] = member
        elif body["kind"] == "release":
            known.version, known.digest = body["version"], body["digest"]
        else:
            raise ValueError(body["kind"])
