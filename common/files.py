"""Writing files so that a crash, a full disk or Ctrl-C never leaves half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from common.errors import StorageError


def make_folder(folder: Path, option: str) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        StorageError: the disk refuses; the message tells to choose another ``option``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror}; choose another {option}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``: afterwards the file holds all of it or what it held before.

    Raises:
        StorageError: the disk is full or refuses the write; nothing is left behind.
    """
    _write(path, content, 0o644)


def write_privately(path: Path, content: bytes) -> None:
    """``write_atomically`` for what only its owner may read: the file is never readable by others, not for a moment.

    Raises:
        StorageError: the disk is full or refuses the write; nothing is left behind.
    """
    _write(path, content, 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)  # made 0600 by mkstemp
        Path(temporary).replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write {path}: {reason}; free some space or choose another folder") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
