"""A person's ratings on disk, encrypted: a `Journal` of sealed rows in one SQLite file.

What is promised:
- nothing readable on disk, the WAL and temporary files included; every row is sealed and bound to its place;
- what `append` returned survives a crash and a power cut (WAL, ``synchronous=FULL``);
- rows that were altered, swapped, added, lost or put back, and an older copy of the file, are noticed: a sealed state
  row holds a count of commits, the number of rows and a digest of exactly those that belong there, and changes in
  the same transaction; a mark beside the file holds the count of commits that was last seen;
- one process at a time, with one connection.

What is not: Python cannot overwrite ``bytes``, so ratings and keys stay in memory until the process ends. A
solid-state disk keeps old blocks, so `Store.erase` is as good as the disk is; `Store.destroy` is good whatever the
disk does, once the passphrase or the keyring entry is gone with it. Who can write to the whole folder can put back an
older store together with its mark. The number of rows, their length up to 256 bytes and the time of the last change
can be seen by anybody who has the file.

Files: ``ratings.plgl``, and beside it ``.lock`` (one process), ``.seen`` (the mark), ``-wal`` (SQLite), ``.new`` while
a file is being made, ``.v1`` the file before a migration until the next good start, ``.derived-...`` what was learned
from the ratings and can be learned again (`Store.keep_derived`), sealed like them and gone with any rating that is
erased.
"""

from __future__ import annotations

import contextlib
import hmac
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import platformdirs

from client.journal import Event
from client.preferences import Preference, preferences
from client.records import pack
from client.store_database import connect, database_errors, header_in
from client.store_export import read_export, write_export, write_plain
from client.store_files import ProcessLock, beside, disk_errors, private_file, private_folder, wipe
from client.store_layout import (
    Layout,
    State,
    build,
    check_pages,
    derived_files,
    events_in,
    mark_of,
    migrate,
    obliterate,
    state_in,
)
from client.vault import Cost, Header, KeyringLike, forget_key, lock, subkey, unlock
from common.errors import DamagedStore, SettingError, StoreError


def default_path() -> Path:
    """Where the store of this person lies unless they choose another place."""
    return Path(platformdirs.user_data_dir("plgl", appauthor=False)) / "ratings.plgl"


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors about a store say which."""
    try:
        yield
    except StoreError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error


class Store:
    """An encrypted store that is open; see the module for what it promises. Safe to use from several threads."""

    layout: ClassVar[Layout] = Layout()

    def __init__(
        self,
        path: Path,
        database: sqlite3.Connection,
        held: ProcessLock,
        header: Header,
        data_key: bytes,
        keyring: KeyringLike | None,
        cost: Cost,
    ) -> None:
        """Use `open` instead."""
        self.path = path
        self._database: sqlite3.Connection | None = database
        self._held, self._header, self._data_key = held, header, data_key
        self._keyring, self._cost = keyring, cost
        self._vault = self.layout.sealing(data_key, header.id, self.layout.schema)
        self._mark = mark_of(path, header, data_key)
        self._using = threading.RLock()
        self._outdated: list[Path] = []

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        passphrase: str | None = None,
        create: bool = True,
        keyring: KeyringLike | None = None,
        cost: Cost | None = None,
    ) -> Self:
        """Open a store, or make one. Its rows are verified when they are read, all of them each time.

        Args:
            path: of the file; missing folders are made for the owner only.
            passphrase: that locks it; without one the key is in the keyring of the system. Never in the clear.
            create: make it where there is none.
            keyring: instead of that of the system.
            cost: work of a guess, for a passphrase that is new here.

        Raises:
            WrongKey: wrong passphrase, or no such key in the keyring.
            KeyringError: no passphrase and no keyring that can be used.
            DamagedStore: it was altered, or is no store.
            NewerStore: written by a newer version.
            StoreInUse: another process, or this one, has it open.
            StorageError: the disk refuses.
            StoreError: there is none, and ``create`` is off.
        """
        path, cost = Path(path).expanduser().resolve(), cost or Cost()
        if not create and not path.exists():
            raise StoreError(f"there is no store at {path}; choose another path or make one with: plgl rate")
        private_folder(path.parent)
        if path == default_path().resolve():
            path.parent.chmod(0o700)  # it is ours, whoever made it
        held = ProcessLock(beside(path, ".lock"))
        try:
            with _named(path):
                if not path.exists():
                    build(path, cls.layout, passphrase, keyring, cost)
                return cls._opened(path, held, passphrase, keyring, cost)
        except BaseException:
            held.close()
            raise

    @classmethod
    def _opened(
        cls, path: Path, held: ProcessLock, passphrase: str | None, keyring: KeyringLike | None, cost: Cost
    ) -> Self:
        with database_errors(path), contextlib.ExitStack() as undo:
            database = undo.enter_context(contextlib.closing(connect(path, cls.layout.schema)))
            header = header_in(database)
            data_key = unlock(header, passphrase, keyring)
            version = int(database.execute("PRAGMA user_version").fetchone()[0])
            if version < cls.layout.schema:
                database.close()
                migrate(path, cls.layout, header, data_key, version)
                database = undo.enter_context(contextlib.closing(connect(path, cls.layout.schema)))
            store = cls(path, database, held, header, data_key, keyring, cost)
            state = store._state()
            store._mark.check(state.sequence)
            highest = database.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0]
            if highest >= state.next:
                raise DamagedStore("it holds rows that were never written; import an export or a backup")
            store._mark.move(state.sequence)
            if version == cls.layout.schema:
                older = (beside(path, f".v{number}") for number in range(1, version))
                store._outdated = [file for file in older if file.exists()]
            undo.pop_all()
        return store

    @classmethod
    def locked_by(cls, path: Path | str) -> Literal["passphrase", "keyring"] | None:
        """What opens the store at ``path``: asked before a person is. None where there is no store."""
        path = Path(path).expanduser().resolve()
        if not path.exists():
            return None
        with (
            contextlib.closing(ProcessLock(beside(path, ".lock"))),
            _named(path),
            database_errors(path),
            contextlib.closing(connect(path, cls.layout.schema)) as database,
        ):
            return "keyring" if header_in(database).cost is None else "passphrase"

    @classmethod
    def forget(cls, path: Path | str, keyring: KeyringLike | None = None) -> None:
        """Destroy a store for good without opening it, for somebody who lost the passphrase too: see `destroy`."""
        path = Path(path).expanduser().resolve()
        if not path.exists():
            raise StoreError(f"there is no store at {path}; choose another path")
        held = ProcessLock(beside(path, ".lock"))
        try:
            header = None
            with (
                contextlib.suppress(StoreError, sqlite3.Error),
                contextlib.closing(connect(path, cls.layout.schema)) as database,
            ):
                header = header_in(database)
            obliterate(path, header, keyring, held)
        finally:
            held.close()

    def append(self, events: Sequence[Event]) -> list[Event]:
        """See `Journal`.

        Raises:
            StorageError: the disk refuses; none of the events is kept.
            SettingError: a body is not JSON.
        """
        now = time.time()
        if not events:
            return []
        records = pack(events, now)
        with self._transaction() as database:
            state = self._state()
            rows = self._vault.seal_all("events", enumerate(records, state.next))
            database.executemany("INSERT INTO events VALUES (?, ?)", rows)
            digest = state.digest ^ self._vault.digest(rows)
            self._keep(State(state.sequence + 1, state.next + len(rows), state.count + len(rows), digest))
        return [
            Event(event.kind, event.body, event.latent, number, event.at or now)
            for event, (number, _) in zip(events, rows, strict=True)
        ]

    def events(self) -> list[Event]:
        """See `Journal`; every row is verified.

        Raises:
            DamagedStore: a row was altered, moved, added or lost.
        """
        with self._open_database() as database:
            events = events_in(database, self._vault, self._state())
        while self._outdated:  # a good start: what was there before the migration is needed no more
            wipe(self._outdated.pop())
        return events

    def keep_derived(self, name: str, content: bytes) -> None:
        """Keep something that was learned from the ratings, such as a policy: sealed, in a file beside the store.

        It is gone with the store, and whenever a rating is erased, because it may tell about it. No export holds it.

        Raises:
            StorageError: the disk refuses; what was kept before stays.
        """
        with self._using, private_file(self._derived_file(name)) as file:
            file.write(self._vault.seal(f"derived {name}", 0, content))

    def derived(self, name: str) -> bytes | None:
        """What `keep_derived` kept under a name; None where there is nothing.

        Raises:
            DamagedStore: it was altered, or belongs to another store.
        """
        path = self._derived_file(name)
        with self._using, disk_errors(path):
            return self._vault.open(f"derived {name}", 0, path.read_bytes()) if path.exists() else None

    def forget_derived(self) -> None:
        """Wipe all that was learned from the ratings."""
        with self._using:
            for file in derived_files(self.path):
                wipe(file)

    def _derived_file(self, name: str) -> Path:
        """The file's name tells only somebody with the key what is in it."""
        key = subkey(self._data_key, "derived")
        return beside(self.path, f".derived-{hmac.digest(key, name.encode(), 'sha256')[:8].hex()}")

    def preferences(self, profile: str | None = None) -> list[Preference]:
        """Items with their latents and ratings, of one profile or of all; what was undone or removed is left out."""
        return preferences(self.events(), profile)

    def erase(self, ids: Iterable[int]) -> None:
        """See `Journal`. The file is written anew without them, so it takes time that grows with its size.

        What was learned from the ratings (`keep_derived`) is wiped too.
        """
        with self._transaction() as database:
            state, gone = self._state(), []
            for number in sorted(number for number in set(ids) if 0 < number < state.next):
                found = database.execute("SELECT sealed FROM events WHERE id = ?", (number,)).fetchone()
                if found is not None:
                    self._vault.open("events", number, found[0])  # an altered row must not change the digest
                    gone.append((number, found[0]))
            database.executemany("DELETE FROM events WHERE id = ?", [(number,) for number, _ in gone])
            digest = state.digest ^ self._vault.digest(gone)
            self._keep(State(state.sequence + 1, state.next, state.count - len(gone), digest))
        if not gone:
            return
        self.forget_derived()
        with self._open_database() as database:
            for statement in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
                database.execute(statement)

    def destroy(self) -> None:
        """See `Journal`: the wrapped key first (overwritten, waited for), the keyring, then every file.

        What was copied elsewhere (backups, exports, a prior others learned with your help) is not reached.
        """
        with self._using:
            self._disconnect()
            obliterate(self.path, self._header, self._keyring, self._held)

    def change_passphrase(self, new: str | None) -> None:
        """Lock the store by another passphrase, or with None by the keyring. What was sealed stays as it is.

        An old copy of the file still opens with the old passphrase; to leave that behind, export, destroy and import.
        """
        with self._using:
            old, header = self._header, lock(self._data_key, "store", self._header.id, new, self._cost, self._keyring)
            with self._transaction() as database:
                database.execute("UPDATE header SET content = ?", (header.encode(),))
                state = self._state()
                self._keep(replace(state, sequence=state.sequence + 1))
            self._header = header
            with self._open_database() as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # over the old header
            if header.cost is not None:
                forget_key(old, self._keyring)

    def health(self) -> dict[str, Any]:
        """How the store is, for ``plgl doctor``; nothing in it is private. Verifies every row.

        Returns:
            ``path``, ``rows``, ``bytes`` and ``wal_bytes`` on disk, ``schema``, ``kdf``, ``integrity`` (bool),
            ``problem`` (text or None), ``checkpointed`` (seconds since 1970).
        """
        problem, rows, cost = None, None, self._header.cost
        try:
            with self._open_database() as database:
                state = self._state()
                rows = state.count
                check_pages(database)
                events_in(database, self._vault, state)
        except DamagedStore as error:
            problem = str(error)
        wal, about = beside(self.path, "-wal"), self.path.stat()
        return {
            "path": str(self.path),
            "rows": rows,
            "bytes": about.st_size,
            "wal_bytes": wal.stat().st_size if wal.exists() else 0,
            "schema": self.layout.schema,
            "kdf": f"argon2id t={cost.passes} m={cost.kib}KiB p={cost.lanes}" if cost else "keyring",
            "integrity": problem is None,
            "problem": problem,
            "checkpointed": about.st_mtime,  # in WAL mode only a checkpoint writes to the file itself
        }

    def export(self, path: Path | str, passphrase: str) -> None:
        """Write everything to one file locked by a passphrase; see `client.store_export`."""
        with self._using:
            events = self.events()
            write_export(Path(path), passphrase, self._cost, events, self._state().next)

    @classmethod
    def import_(
        cls,
        exported: Path | str,
        passphrase: str,
        path: Path | str,
        new_passphrase: str | None = None,
        *,
        keyring: KeyringLike | None = None,
        cost: Cost | None = None,
    ) -> Self:
        """Make a store from an export; events keep their numbers.

        Raises:
            WrongKey: not the passphrase of the export.
            DamagedStore: the export was altered or cut short; no store is made.
            SettingError: there is a store already.
        """
        path = Path(path).expanduser().resolve()
        if path.exists():
            raise SettingError(f"{path} exists; choose another path, or first: plgl store forget")
        events, following = read_export(Path(exported), passphrase)
        private_folder(path.parent)
        with contextlib.closing(ProcessLock(beside(path, ".lock"))):
            if path.exists():
                raise SettingError(f"{path} exists; choose another path, or first: plgl store forget")
            build(path, cls.layout, new_passphrase, keyring, cost or Cost(), events, following)
        return cls.open(path, passphrase=new_passphrase, keyring=keyring, cost=cost)

    def dump(self, path: Path | str, format: Literal["json", "csv"] = "json") -> None:
        """Write everything to a plain file that anybody can read; see `client.store_export`."""
        write_plain(Path(path), self.events(), format)

    def close(self) -> None:
        """See `Journal`."""
        with self._using:
            self._disconnect()
            self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _disconnect(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):  # a full disk: what is not in the file yet stays in the WAL
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.close()
        self._mark.close()

    @contextlib.contextmanager
    def _open_database(self) -> Iterator[sqlite3.Connection]:
        with self._using, database_errors(self.path):
            if self._database is None:
                raise StoreError(f"the store at {self.path} is closed; open it again")
            yield self._database

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, whatever is raised inside, Ctrl-C included; the mark moves when it is on disk."""
        with self._open_database() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                sequence = self._state().sequence
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
            self._mark.move(sequence)

    def _state(self) -> State:
        """The state as it is in the file now; never remembered, so that no exception can leave it wrong."""
        with self._open_database() as database:
            return state_in(database, self._vault)

    def _keep(self, state: State) -> None:
        with self._open_database() as database:
            database.execute("UPDATE state SET sealed = ?", (self._vault.seal("state", 1, state.encode()),))
