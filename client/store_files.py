"""The files around a store: its lock, the mark of how far it had come, private folders, and wiping.

Only the owner may read them: folders are made with mode 0700, files with 0600.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.errors import DamagedStore, StorageError, StoreInUse

_MARK = 16 + 8 + 32  # number of the store, count of commits, MAC


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says into a `StorageError` about ``path``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot use {path}: {reason}; free some space or choose another path") from error


def beside(path: Path, ending: str) -> Path:
    """The file of that ending beside a store."""
    return path.with_name(path.name + ending)


def private_folder(path: Path) -> None:
    """Make a folder and those above it, each for the owner only; those that exist stay as they are."""
    with disk_errors(path):
        for folder in reversed([path, *path.parents]):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)


@contextlib.contextmanager
def private_file(path: Path) -> Iterator[BinaryIO]:
    """A file only the owner may read, to write in; it takes the place of ``path`` when the block ends well.

    Raises:
        StorageError: the disk is full or refuses the write; nothing is left behind.
    """
    temporary: Path | None = None
    with disk_errors(path):
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
            temporary = Path(name)
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Make names in a folder survive a power cut, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def wipe(path: Path) -> None:
    """Overwrite a file with zeros, wait for the disk, remove it. A missing file is no error.

    A solid-state disk keeps old blocks: what counts is that the wrapped key is among what is overwritten first.
    """
    with disk_errors(path), contextlib.suppress(FileNotFoundError):
        with path.open("r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            for start in range(0, size, 1 << 20):
                file.write(bytes(min(1 << 20, size - start)))
            os.fsync(file.fileno())
        path.unlink()


class ProcessLock:
    """A file that one process at a time may hold; the system lets go of it when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            StoreInUse: another process, or another part of this one, holds it.
        """
        self.path = path
        with disk_errors(path):
            while True:
                self._file = open(path, "a+b", buffering=0, opener=_owner_only)  # noqa: SIM115
                try:
                    self._take()
                except BaseException:
                    self._file.close()
                    raise
                if self._is_current():
                    break
                self._file.close()  # it was removed by `remove` between opening and locking
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n".encode())

    def _take(self) -> None:
        try:
            if sys.platform == "win32":
                import msvcrt

                self._file.seek(1 << 30)  # a byte far away, so that others can still read the process number
                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self._file.seek(0)
            holder = self._file.read(20).decode("ascii", "replace").strip() or "unknown"
            raise StoreInUse(f"process {holder} has the store open ({self.path}); close it there first") from None

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let go; the file stays. Twice does no harm."""
        self._file.close()

    def remove(self) -> None:
        """Let go and remove the file."""
        if os.name == "posix":
            self.path.unlink(missing_ok=True)  # while it is held, so that nobody holds what is removed
            self._file.close()
        else:
            self._file.close()
            self.path.unlink(missing_ok=True)


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Mark:
    """How many commits a store had when it was last seen here, so that an older copy put in its place is noticed.

    The mark is written after each commit and not waited for: after a power cut it may be behind, never ahead. Who can
    write to the folder can remove it, which looks like a store that came from another machine.
    """

    def __init__(self, path: Path, number: bytes, key: bytes) -> None:
        """Take the file, the number of the store and the key for the MAC."""
        self.path = path
        self._number, self._key = number, key
        self._file: BinaryIO | None = None

    def check(self, sequence: int) -> None:
        """Compare a store with its mark.

        Raises:
            DamagedStore: the store is older than the mark, or the mark is not that of this store.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return
        if not content:
            return  # a power cut between making and writing it
        advice = f"if you put a backup there yourself, remove {self.path} and open it again"
        if len(content) != _MARK or not hmac.compare_digest(content, self._encode(content[16:24])):
            raise DamagedStore(f"its mark belongs to another store or was altered; {advice}")
        if (seen := int.from_bytes(content[16:24], "little")) > sequence:
            raise DamagedStore(f"it has {sequence} commits where {seen} were seen: an older copy; {advice}")

    def move(self, sequence: int) -> None:
        """Note that the store has come this far. A disk that refuses is no error: the commit itself is safe."""
        with contextlib.suppress(OSError):
            if self._file is None:
                flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
                self._file = os.fdopen(os.open(self.path, flags, 0o600), "r+b", buffering=0)
            self._file.seek(0)
            self._file.write(self._encode(sequence.to_bytes(8, "little")))  # one write of one sector

    def _encode(self, sequence: bytes) -> bytes:
        content = self._number + sequence
        return content + hashlib.blake2b(content, key=self._key, digest_size=32).digest()

    def close(self) -> None:
        """Let go of the file; twice does no harm."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
