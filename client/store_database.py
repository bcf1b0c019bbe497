"""The SQLite file of a store: its tables, settings and what goes wrong with it, without any key.

Three tables, each with a row number and one sealed (or, for the header, public) value; there is no other index and
no other column, so the file says how many rows there are and roughly how long each is, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from client.store_files import disk_errors, sync_folder
from client.vault import Header
from common.errors import DamagedStore, NewerStore, StorageError, StoreError, StoreInUse

APPLICATION = 0x504C474C  # "PLGL", in the first page of the file
PAGE = 16384  # seven rows of 512 numbers fit; with 4096 half of each page would be wasted
TABLES = {
    "events": "CREATE TABLE events(id INTEGER PRIMARY KEY, sealed BLOB NOT NULL)",
    "header": "CREATE TABLE header(id INTEGER PRIMARY KEY, content BLOB NOT NULL)",
    "state": "CREATE TABLE state(id INTEGER PRIMARY KEY, sealed BLOB NOT NULL)",
}
# one process with one connection: with EXCLUSIVE there is no shared memory file, and nobody else can write or
# checkpoint, which keeps away from the WAL-reset bug of SQLite 3.7.0 to 3.51.2 (sqlite.org/wal.html)
_SETTINGS = (
    "locking_mode=EXCLUSIVE",
    "journal_mode=WAL",
    "synchronous=FULL",
    "fullfsync=ON",
    "checkpoint_fullfsync=ON",
    "secure_delete=ON",
    "temp_store=MEMORY",
    "trusted_schema=OFF",
    "cell_size_check=ON",
    "mmap_size=0",
)
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH}
_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}


@contextlib.contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says about the file into our errors."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise StoreInUse(f"another program has {path} open; close it there first") from error
        if code & 0xFF in _DAMAGED or code == sqlite3.SQLITE_IOERR_SHORT_READ:
            raise DamagedStore(f"{path} was altered or cut short ({error}); import an export or a backup") from error
        if code & 0xFF in _DISK:
            raise StorageError(f"cannot write {path}: {error}; free some space or choose another folder") from error
        raise StoreError(f"{path} cannot be used: {error}; see: plgl doctor") from error


def schema_of(path: Path) -> int:
    """The schema version in the first page of a file, before SQLite has touched it.

    Raises:
        DamagedStore: it is no store.
    """
    with disk_errors(path), path.open("rb") as file:
        first = file.read(100)
    if len(first) < 100 or first[:16] != b"SQLite format 3\0" or first[68:72] != APPLICATION.to_bytes(4, "big"):
        raise DamagedStore("it is no plgl store; choose another path")
    return int.from_bytes(first[60:64], "big")


def connect(path: Path, newest: int) -> sqlite3.Connection:
    """Open the file of a store with the settings above; nothing in it is believed but its layout.

    Args:
        path: of the file; the process lock is held.
        newest: schema version this program knows.

    Raises:
        NewerStore: its schema is newer.
        DamagedStore: it is no store.
    """
    version = schema_of(path)
    if version > newest:
        raise NewerStore(f"its schema has version {version}, this program knows {newest}; install a newer plgl")
    with disk_errors(path):
        path.chmod(0o600)
    with database_errors(path):
        database = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False)
        try:
            for setting in _SETTINGS:
                database.execute(f"PRAGMA {setting}")
            # an altered file could bring triggers and views, which run when we write
            found = dict(database.execute("SELECT name, sql FROM sqlite_schema"))
            if found != TABLES or version < 1:
                raise DamagedStore("its tables were altered; import an export or take a backup of the file")
        except BaseException:
            database.close()
            raise
    return database


def header_in(database: sqlite3.Connection) -> Header:
    """The header of a store.

    Raises:
        DamagedStore: there is not exactly one, or it cannot be read.
    """
    found = database.execute("SELECT content FROM header").fetchall()
    if len(found) != 1 or not isinstance(found[0][0], bytes):
        raise DamagedStore("its header is missing; import an export or take a backup of the file")
    return Header.decode(found[0][0], "store")


def write(path: Path, header: Header, schema: int, state: bytes, rows: Iterable[tuple[int, bytes]]) -> None:
    """Write a whole new file, for the owner only, and wait for the disk.

    Args:
        path: where; what lies there is left over from a crash and is removed.
        header: public part.
        schema: version of the schema.
        state: sealed.
        rows: number and sealed event.

    Raises:
        StorageError: the disk refuses; nothing is left behind.
    """
    try:
        with disk_errors(path), database_errors(path):
            path.unlink(missing_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
                for setting in (f"page_size={PAGE}", f"application_id={APPLICATION}", f"user_version={schema}"):
                    database.execute(f"PRAGMA {setting}")
                database.execute("PRAGMA journal_mode=OFF")  # a crash leaves a file that nobody will look at
                database.execute("BEGIN")
                for statement in TABLES.values():
                    database.execute(statement)
                database.execute("INSERT INTO header VALUES (1, ?)", (header.encode(),))
                database.execute("INSERT INTO state VALUES (1, ?)", (state,))
                database.executemany("INSERT INTO events VALUES (?, ?)", rows)
                database.execute("COMMIT")
            handle = os.open(path, os.O_RDWR)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def settle(fresh: Path, path: Path) -> None:
    """Give a new file its name; from here on it is the store."""
    with disk_errors(path):
        fresh.replace(path)
        sync_folder(path.parent)
