"""What a person has spent in a federation, counted on the person's own device: the server's word is not asked for.

One SQLite file beside the membership, written with ``synchronous=FULL``: a charge is on disk before the vector it pays
for is made. It also keeps what must not change behind the person's back: the keys of other members and the newest
release seen. It holds no rating.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.enrolment import MemberCertificate
from common.errors import BudgetError, LedgerError, ProtocolError, ReleaseError, StorageError

_VERSION = 1
_TABLES = """
CREATE TABLE charge (federation TEXT, session TEXT, round INTEGER, time INTEGER, UNIQUE (federation, session, round));
CREATE TABLE pin (federation TEXT, member INTEGER, key BLOB, certificate BLOB,
    UNIQUE (federation, member), UNIQUE (federation, key));
CREATE TABLE release (federation TEXT PRIMARY KEY, version INTEGER, digest TEXT);
"""


@dataclass(frozen=True)
class Charge:
    """One participation: when it was charged, in seconds since 1970, and for which round."""

    federation: str
    session: str
    round: int
    time: int


class Ledger:
    """The ledger of one membership.

    Args:
        path: its file.
        create: make it if there is none. A membership that was used before passes False, so that a lost ledger is
            noticed and not begun again at zero.
        clock: seconds since 1970.

    Raises:
        LedgerError: there is none, or it is damaged.
        StorageError: the disk refuses it.
    """

    def __init__(self, path: Path, *, create: bool = False, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        if not path.exists():
            if not create:
                raise LedgerError(
                    f"{path} is missing; what was spent is not known, so leave the federation and join anew"
                )
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with self._errors():
            self._base = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
            self._base.execute("PRAGMA synchronous = FULL")
            with self._transaction() as base:
                version = base.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    for statement in _TABLES.split(";\n"):
                        if statement.strip():
                            base.execute(statement)
                    base.execute(f"PRAGMA user_version = {_VERSION}")
                elif version != _VERSION:
                    raise LedgerError(f"{path} has version {version}, this program knows {_VERSION}; update it")

    @classmethod
    def open(cls, path: Path, *, create: bool = False) -> Ledger:
        """The ledger in ``path``; errors as for the class."""
        return cls(path, create=create)

    def charge(self, *, federation: str, session: str, round: int, limit: int) -> None:
        """Count one participation. It is on disk when this returns.

        Raises:
            BudgetError: ``limit`` participations are counted already.
            ProtocolError: this round was charged before.
            StorageError: it could not be written; nothing may be sent.
        """
        with self._errors(), self._transaction() as base:
            before = base.execute("SELECT count(*) FROM charge WHERE federation = ?", (federation,)).fetchone()[0]
            if before >= limit:
                raise BudgetError(f"{before} of {limit} participations are used; none is left")
            try:
                line = (federation, session, round, int(self._clock()))
                base.execute("INSERT INTO charge VALUES (?, ?, ?, ?)", line)
            except sqlite3.IntegrityError as error:
                raise ProtocolError(f"round {round} was charged before; it is not answered twice") from error

    def spent(self, federation: str) -> int:
        """Participations counted so far."""
        with self._errors():
            found = self._base.execute("SELECT count(*) FROM charge WHERE federation = ?", (federation,)).fetchone()
        return int(found[0])

    def rows(self) -> list[Charge]:
        """All participations, oldest first."""
        with self._errors():
            found = self._base.execute("SELECT federation, session, round, time FROM charge ORDER BY rowid").fetchall()
        return [Charge(*line) for line in found]

    def pin_all(self, federation: str, found: Mapping[int, MemberCertificate]) -> None:
        """Remember which key belongs to which member; in one write, and none if all are known.

        Args:
            federation: identifier.
            found: certificates by member number, checked by the caller.

        Raises:
            ProtocolError: a member was seen with another key, or a key with another member; nothing is remembered.
        """
        known = self.pins(federation)
        owners = {key: member for member, key in known.items()}
        for member, certificate in found.items():
            key = certificate.key
            if known.get(member, key) != key or owners.get(key, member) != member:
                raise ProtocolError(f"member {member} comes with another key than before")
        before = self.certificates(federation)
        new = [
            (federation, member, certificate.key, certificate.digest())
            for member, certificate in found.items()
            if before.get(member) != certificate.digest()
        ]
        if new:
            with self._errors(), self._transaction() as base:
                base.executemany("INSERT OR REPLACE INTO pin VALUES (?, ?, ?, ?)", new)

    def pins(self, federation: str) -> dict[int, bytes]:
        """Keys by member number."""
        with self._errors():
            return dict(
                self._base.execute("SELECT member, key FROM pin WHERE federation = ?", (federation,)).fetchall()
            )

    def certificates(self, federation: str) -> dict[int, bytes]:
        """Digests of the certificates seen and checked, by member number."""
        query = "SELECT member, certificate FROM pin WHERE federation = ?"
        with self._errors():
            return dict(self._base.execute(query, (federation,)).fetchall())

    def highest_version(self, federation: str) -> int:
        """Version of the newest release seen, 0 for none."""
        with self._errors():
            found = self._base.execute("SELECT version FROM release WHERE federation = ?", (federation,)).fetchone()
        return 0 if found is None else int(found[0])

    def saw_version(self, federation: str, version: int, digest: str) -> None:
        """Remember a release.

        Raises:
            ReleaseError: a newer one was seen before, or another one of the same version.
        """
        with self._errors(), self._transaction() as base:
            query = "SELECT version, digest FROM release WHERE federation = ?"
            highest, known = base.execute(query, (federation,)).fetchone() or (0, "")
            if version < highest:
                raise ReleaseError(f"release {version} is older than release {highest}, which was seen before")
            if version == highest and digest != known:
                raise ReleaseError(f"there are two different releases {version}; the operator has to explain")
            base.execute("INSERT OR REPLACE INTO release VALUES (?, ?, ?)", (federation, version, digest))

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield self._base
        except BaseException:
            if self._base.in_transaction:  # a full disk has rolled back already
                self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StorageError(f"cannot write {self._path}: {error}; free some space, nothing was sent") from error
        except sqlite3.DatabaseError as error:
            message = f"{self._path} is damaged: {error}; leave the federation and join anew"
            raise LedgerError(message) from error
