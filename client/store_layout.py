"""What stands in the file of a store, under its keys: the state, the rows it vouches for, and versions of both.

The state is sealed like the rows and changes in the same transaction. It names how many rows there are and a digest
of exactly those, so rows that were lost, added or put back are noticed, erased ones among them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.journal import Event
from client.records import pack, unpack
from client.store_database import connect, settle, write
from client.store_files import Mark, ProcessLock, beside, private_file, wipe
from client.vault import Cost, Header, KeyringLike, Vault, forget_key, lock, subkey
from common.errors import DamagedStore, StorageError

Migration = Callable[[Event], Event]  # an event of one version as one of the next; its number and time stay
_STATE = struct.Struct("<QQQ32s")


@dataclass(frozen=True)
class State:
    """What belongs in a store.

    Attributes:
        sequence: commits so far.
        next: number the next event gets.
        count: events kept.
        digest: of exactly those, see `Vault.digest`.
    """

    sequence: int = 0
    next: int = 1
    count: int = 0
    digest: int = 0

    def encode(self) -> bytes:
        """The state as 56 bytes, to be sealed."""
        return _STATE.pack(self.sequence, self.next, self.count, self.digest.to_bytes(32, "little"))

    @classmethod
    def decode(cls, content: bytes) -> State:
        """The state from bytes that were sealed."""
        sequence, following, count, digest = _STATE.unpack(content)
        return cls(sequence, following, count, int.from_bytes(digest, "little"))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A version of what stands in a store, and how to come to it from older ones.

    Attributes:
        schema: version that is written.
        migrations: ``migrations[v]`` takes events from version ``v`` to ``v + 1``, for every ``v`` below ``schema``.
        sealing: what seals rows.
    """

    schema: int = 1
    migrations: Mapping[int, Migration] = field(default_factory=dict)
    sealing: type[Vault] = Vault


def state_in(database: sqlite3.Connection, vault: Vault) -> State:
    """The state of a store.

    Raises:
        DamagedStore: it is missing or was altered.
    """
    found = database.execute("SELECT sealed FROM state WHERE id = 1").fetchone()
    if found is None:
        raise DamagedStore("its state is missing; import an export or take a backup of the file")
    return State.decode(vault.open("state", 1, found[0]))


def events_in(database: sqlite3.Connection, vault: Vault, state: State) -> list[Event]:
    """All events, in order, verified against the state.

    Raises:
        DamagedStore: a row was altered, moved, added, lost or put back.
    """
    rows = database.execute("SELECT id, sealed FROM events ORDER BY id").fetchall()
    opened = [(number, vault.open("events", number, sealed)) for number, sealed in rows]
    if len(rows) != state.count or vault.digest(rows) != state.digest:
        raise DamagedStore(
            f"it holds {len(rows)} rows where {state.count} were written, or not the same ones; "
            "rows were lost or put back: import an export or take a backup of the file"
        )
    return unpack(opened)


def check_pages(database: sqlite3.Connection) -> None:
    """Let SQLite check its pages.

    Raises:
        DamagedStore: it finds a fault.
    """
    found = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise DamagedStore(f"SQLite finds it damaged: {found}; import an export or take a backup of the file")


def mark_of(path: Path, header: Header, data_key: bytes) -> Mark:
    """The mark beside a store."""
    return Mark(beside(path, ".seen"), header.id, subkey(data_key, "mark"))


def build(
    path: Path,
    layout: Layout,
    passphrase: str | None,
    keyring: KeyringLike | None,
    cost: Cost,
    events: Sequence[Event] = (),
    following: int = 1,
) -> None:
    """Write a whole new store with new keys, as one file that appears at once.

    Args:
        path: where there is none yet; the process lock is held.
        layout: to write.
        passphrase: that locks it, or None for the keyring.
        keyring: instead of that of the system.
        cost: work of a guess.
        events: with the numbers they keep.
        following: number the next event gets.

    Raises:
        KeyringError: no passphrase and no keyring that can be used.
        StorageError: the disk refuses; nothing is left behind.
    """
    data_key, number = os.urandom(32), os.urandom(16)
    header = lock(data_key, "store", number, passphrase, cost, keyring)
    fresh, vault = beside(path, ".new"), layout.sealing(data_key, number, layout.schema)
    try:
        for ending in (".seen", "-wal"):  # of a store that is gone; SQLite would read its WAL into ours
            beside(path, ending).unlink(missing_ok=True)
        _write(fresh, header, layout, vault, events, State(1, following))
        settle(fresh, path)
    except BaseException:
        forget_key(header, keyring)
        raise


def _write(path: Path, header: Header, layout: Layout, vault: Vault, events: Sequence[Event], state: State) -> None:
    records = zip(events, pack(events), strict=True)
    rows = vault.seal_all("events", ((event.id, record) for event, record in records))
    state = replace(state, count=len(rows), digest=vault.digest(rows))
    write(path, header, layout.schema, vault.seal("state", 1, state.encode()), rows)


def migrate(path: Path, layout: Layout, header: Header, data_key: bytes, version: int) -> None:
    """Bring a store from an older version to that of a layout: copy, migrate, verify all, rename.

    A crash at any point leaves the old file or the new one under the name of the store, whole; the old one is kept
    beside it as ``.v1`` and so on.

    Args:
        path: of the store; the process lock is held, and nobody has it open.
        layout: to come to.
        header: of the store; it stays.
        data_key: of the store; it stays.
        version: to come from.

    Raises:
        DamagedStore: the old file does not verify; nothing is changed.
    """
    vault, older = (layout.sealing(data_key, header.id, schema) for schema in (layout.schema, version))
    with contextlib.closing(connect(path, layout.schema)) as database:
        state = state_in(database, older)
        mark_of(path, header, data_key).check(state.sequence)
        events = events_in(database, older, state)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # so that the file alone is the old store
    for step in range(version, layout.schema):
        changed = map(layout.migrations[step], events)
        events = [replace(new, id=old.id, at=old.at) for old, new in zip(events, changed, strict=True)]
    fresh = beside(path, ".new")
    _write(fresh, header, layout, vault, events, replace(state, sequence=state.sequence + 1))
    with contextlib.closing(connect(fresh, layout.schema)) as database:
        check_pages(database)
        events_in(database, vault, state_in(database, vault))
    with path.open("rb") as source, private_file(beside(path, f".v{version}")) as copy:
        shutil.copyfileobj(source, copy)
    settle(fresh, path)


def derived_files(path: Path) -> list[Path]:
    """Files beside a store that hold what was learned from it."""
    name = re.compile(re.escape(path.name) + r"\.derived-[0-9a-f]{16}")
    return sorted(file for file in path.parent.iterdir() if name.fullmatch(file.name))


def obliterate(path: Path, header: Header | None, keyring: KeyringLike | None, held: ProcessLock) -> None:
    """Destroy a store: overwrite the wrapped key and all else, clear the keyring, remove every file and the lock.

    Args:
        path: of the store; its database is closed.
        header: of the store; None where it cannot be read, and an entry in the keyring stays.
        keyring: instead of that of the system.
        held: the process lock.

    Raises:
        StorageError: the disk refused for a file; every other one is gone.
        KeyringError: the keyring does not answer; every file is gone.
    """
    version = re.compile(re.escape(path.name) + r"\.v[0-9]+")  # kept by `migrate`
    older = sorted(file for file in path.parent.iterdir() if version.fullmatch(file.name))
    refused: StorageError | None = None
    older += derived_files(path)
    for file in (path, beside(path, "-wal"), *older, beside(path, ".new")):  # the wrapped key lies in the first
        try:
            wipe(file)
        except StorageError as error:  # go on: every other file is worth wiping
            refused = refused or error
    try:
        if header is not None:
            forget_key(header, keyring)
    finally:
        for ending in (".seen", "-shm", "-journal"):
            beside(path, ending).unlink(missing_ok=True)
        held.remove()
    if refused is not None:
        raise refused
