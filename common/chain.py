"""A file that only grows: entries in SQLite, each with the hash of the one before it, signed where there is a key.

What a ledger or a journal says is a replay of its entries. An entry that was altered, taken out, put in, moved or cut
off is noticed when the file is opened, because every hash covers all that came before, and a head line says how many
entries there are. Without a key this catches accidents; with one, also whoever can write the file but not sign. An
older copy of the whole file looks right: who uses a chain compares it with something kept elsewhere.

A commit is on disk when it returns (``synchronous=EXTRA``). No write-ahead log: a rollback journal lets several
processes use one file without the WAL-reset bug of SQLite 3.7.0 to 3.51.2 (sqlite.org/wal.html).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import LedgerError, SignatureError, StorageError, StoreInUse
from common.signing import SIGNATURE_BYTES, SigningKey, canonical, verify

MEMORY = Path(":memory:")
"""Instead of a file: a chain that is forgotten with the process. For tests."""

_HASH = 32
_TABLES = {
    "entries": (
        "CREATE TABLE entries(id INTEGER PRIMARY KEY, body BLOB NOT NULL, content BLOB, hash BLOB NOT NULL,"
        " signature BLOB NOT NULL)"
    ),
    "head": "CREATE TABLE head(id INTEGER PRIMARY KEY, count INTEGER NOT NULL, hash BLOB NOT NULL)",
}
_SETTINGS = (
    "journal_mode=DELETE",
    "synchronous=EXTRA",  # FULL, and the removal of the rollback journal is waited for as well
    "fullfsync=ON",
    "temp_store=MEMORY",
    "trusted_schema=OFF",
    "cell_size_check=ON",
    "mmap_size=0",
)
_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a chain is for.

    Attributes:
        name: for people and for signatures, e.g. ``"ledger"``.
        application: number in the first page of the file.
        advice: what to do about a damaged one.
        patience: seconds to wait for another process that is writing.
    """

    name: str
    application: int
    advice: str
    patience: float = 10.0


@dataclass(frozen=True)
class Entry:
    """One entry: its number from 1, what it says, and bytes that belong to it."""

    number: int
    body: dict[str, Any]
    content: bytes | None


class Chain:
    """A chain that is open.

    Guarantee: ``apply`` is told of every entry, in order, once, after it is on disk and verified; so what it builds
    never runs ahead of the file. Safe to use from several threads and several processes.
    """

    def __init__(
        self,
        path: Path,
        kind: Kind,
        apply: Callable[[Entry], None],
        *,
        key: SigningKey | None = None,
        public: bytes | None = None,
        first: dict[str, Any] | None = None,
    ) -> None:
        """Open a chain and verify all of it.

        Args:
            path: of its file.
            kind: what it is for.
            apply: is told of each entry; ``KeyError``, ``TypeError`` and ``ValueError`` mean a malformed one.
            key: signs new entries; none for an unsigned chain, or to read.
            public: ``(32,)`` key the entries must be signed with; that of ``key`` without.
            first: entry to begin with, where ``path`` is ``MEMORY``.

        Raises:
            LedgerError: the file is missing, damaged, altered, cut short, or not signed with that key.
            StoreInUse: another process keeps it locked.
            StorageError: the disk refuses.
        """
        self.path, self._kind, self._apply, self._key = path, kind, apply, key
        self._public = key.public if key is not None and public is None else public
        self._count, self._hash = 0, bytes(_HASH)
        self._lock = threading.RLock()
        self._database = _prepare(":memory:", kind) if path == MEMORY else _connect(path, kind)
        self._file = None if path == MEMORY else path.stat()
        if first is not None:
            _insert(self._database, 0, self._hash, first, None, kind, key)
        try:
            self.refresh()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def create(path: Path, kind: Kind, first: dict[str, Any], key: SigningKey | None = None) -> None:
        """Make a chain with one entry, for the owner only. After a crash there is all of it or nothing.

        Raises:
            LedgerError: there is one already; it is never overwritten.
            StorageError: the disk refuses; nothing is left behind.
        """
        fresh: Path | None = None
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
            fresh = Path(name)
            os.close(handle)
            with _errors(path, kind), contextlib.closing(_prepare(fresh, kind)) as database:
                _insert(database, 0, bytes(_HASH), first, None, kind, key)
            os.link(fresh, path)  # unlike a rename it never takes the place of another file
            _sync_folder(path.parent)
        except FileExistsError as error:
            raise LedgerError(f"{path} exists; a {kind.name} is never begun anew, {kind.advice}") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise StorageError(f"cannot write {path}: {reason}; free some space or choose another folder") from error
        finally:
            if fresh is not None:
                fresh.unlink(missing_ok=True)

    def refresh(self) -> None:
        """Look for entries that another process wrote; errors as when opening."""
        with self._lock, _errors(self.path, self._kind):
            self._database.execute("BEGIN")  # one moment of the file, however long reading takes
            try:
                self._catch_up()
            finally:
                self._end()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Callable[[dict[str, Any], bytes | None], None]]:
        """A transaction: nobody else writes in the meantime, and all entries so far were applied.

        Gives a function that adds an entry. Everything added is on disk when the block has ended well, and nothing of
        it otherwise.

        Raises:
            StorageError: the disk refuses; nothing may be done that the entries would have allowed.
            LedgerError: the file was moved, replaced or damaged while it was open.
        """
        with self._lock, _errors(self.path, self._kind):
            self._still_there()
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._catch_up()
                count, last = self._count, self._hash

                def add(body: dict[str, Any], content: bytes | None = None) -> None:
                    nonlocal count, last
                    last = _insert(self._database, count, last, body, content, self._kind, self._key)
                    count += 1

                yield add
                self._database.execute("COMMIT")
            finally:
                self._end()
            if count > self._count:
                self.refresh()

    def content(self, number: int) -> bytes | None:
        """The bytes of an entry that was applied."""
        with self._lock, _errors(self.path, self._kind):
            found = self._database.execute("SELECT content FROM entries WHERE id = ?", (number,)).fetchone()
        return None if found is None else found[0]

    def close(self) -> None:
        """Let go of the file; twice does no harm."""
        with self._lock:
            self._database.close()

    def _catch_up(self) -> None:
        head = self._database.execute("SELECT count, hash FROM head").fetchall()
        query = "SELECT id, body, content, hash, signature FROM entries WHERE id > ? ORDER BY id"
        for row in self._database.execute(query, (self._count,)):
            entry, hashed = self._checked(*row)
            try:
                self._apply(entry)
            except (KeyError, TypeError, ValueError) as error:
                raise self._damaged(f"entry {entry.number} makes no sense") from error
            self._count, self._hash = entry.number, hashed
        if head != [(self._count, self._hash)]:
            raise self._damaged("entries at its end are missing or too many")

    def _checked(
        self, number: object, body: object, content: object, hashed: object, signature: object
    ) -> tuple[Any, ...]:
        if number != self._count + 1 or not isinstance(body, bytes) or not isinstance(content, bytes | None):
            raise self._damaged(f"entry {self._count + 1} is missing")
        right = _hash(self._hash, self._count + 1, body, content)
        if right != hashed:
            raise self._damaged(f"entry {number} was altered or moved")
        try:
            if self._public is not None:
                verify(self._public, self._kind.name, right, signature)  # type: ignore[arg-type]
            values = json.loads(body)
        except (SignatureError, ValueError, RecursionError) as error:
            raise self._damaged(f"entry {number} is not signed with its key") from error
        return Entry(self._count + 1, values, content), right

    def _still_there(self) -> None:
        try:
            same = self._file is None or os.path.samestat(self._file, self.path.stat())
        except OSError:
            same = False
        if not same:
            raise self._damaged("it was moved or replaced while it was open")

    def _damaged(self, what: str) -> LedgerError:
        return LedgerError(f"{self._kind.name} {self.path} is damaged: {what}; {self._kind.advice}")

    def _end(self) -> None:
        if self._database.in_transaction:  # a full disk has rolled back already
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")


def _hash(before: bytes, number: int, body: bytes, content: bytes | None) -> bytes:
    inner = b"none" if content is None else hashlib.sha256(content).digest()
    parts = before + number.to_bytes(8, "big") + hashlib.sha256(body).digest() + inner
    return hashlib.sha256(b"plgl chain 1\0" + parts).digest()


def _insert(
    database: sqlite3.Connection,
    count: int,
    last: bytes,
    body: dict[str, Any],
    content: bytes | None,
    kind: Kind,
    key: SigningKey | None,
) -> bytes:
    raw = canonical(body)
    hashed = _hash(last, count + 1, raw, content)
    signature = bytes(SIGNATURE_BYTES) if key is None else key.sign(kind.name, hashed)
    database.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (count + 1, raw, content, hashed, signature))
    database.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (count + 1, hashed))
    return hashed


def _prepare(path: Path | str, kind: Kind) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for setting in (*_SETTINGS, f"application_id={kind.application}", "user_version=1"):
        database.execute(f"PRAGMA {setting}")
    for statement in _TABLES.values():
        database.execute(statement)
    return database


def _connect(path: Path, kind: Kind) -> sqlite3.Connection:
    if not path.exists():
        raise LedgerError(f"{kind.name} {path} is missing; {kind.advice}")
    with _errors(path, kind):
        # written to also when only read: what a killed process left half done is taken back first
        place = f"{path.absolute().as_uri()}?mode=rw"
        database = sqlite3.connect(
            place, uri=True, timeout=kind.patience, isolation_level=None, check_same_thread=False
        )
        try:
            for setting in _SETTINGS:
                database.execute(f"PRAGMA {setting}")
            numbers = [database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
            # an altered file could bring triggers and views, which run when we write
            found = dict(database.execute("SELECT name, sql FROM sqlite_schema"))
            if numbers == [kind.application, 1] and found == _TABLES:
                return database
            if numbers[0] == kind.application and numbers[1] > 1:
                raise LedgerError(f"{path} has version {numbers[1]}, this program knows 1; install a newer plgl")
            raise LedgerError(f"{path} is no {kind.name}, or its tables were altered; {kind.advice}")
        except BaseException:
            database.close()
            raise


@contextlib.contextmanager
def _errors(path: Path, kind: Kind) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise StoreInUse(f"another program keeps {path} locked; end it first") from error
        if code & 0xFF in _DISK and code != sqlite3.SQLITE_IOERR_SHORT_READ:
            raise StorageError(f"cannot write {path}: {error}; free some space, nothing was counted") from error
        raise LedgerError(f"{kind.name} {path} is damaged: {error}; {kind.advice}") from error


def _sync_folder(path: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
