"""An output folder that belongs to one run: its settings, whole files, one process at a time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from common.errors import FolderError, StorageError
from common.files import write_atomically

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_SETTINGS, _LOCK = "settings.json", ".lock"


class RunFolder:
    """A folder that belongs to one run and to one process at a time.

    Guarantee: every file in it is whole. A folder that is refused is left as it was.

    Attributes:
        path: of the folder.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, form: str, holds: str) -> None:
        """Make the folder, or go on in one of the same settings.

        Args:
            path: the folder; parents are made.
            settings: everything the result depends on, as JSON allows it.
            form: name and version of what the folder holds, e.g. ``plgl-rounds-1``.
            holds: the same for people, in the plural.

        Raises:
            FolderError: the folder is not ours, holds other settings, or is in use.
            StorageError: it cannot be made or written.
        """
        self.path = path
        wanted = json.loads(json.dumps({"format": form, "settings": settings}))
        _check(path, wanted, holds)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {path}: {error.strerror}; choose another --out") from error
        self._lock = _locked(path)
        try:
            if not _check(path, wanted, holds):
                write_atomically(path / _SETTINGS, (json.dumps(wanted, indent=2) + "\n").encode())
        except BaseException:
            self._lock.close()
            raise

    def write(self, name: str, content: bytes) -> None:
        """Write a file of this run, all of it or nothing.

        Raises:
            StorageError: the disk refuses it.
        """
        write_atomically(self.path / name, content)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()


def _check(path: Path, wanted: dict[str, Any], holds: str) -> bool:
    """Whether the folder holds this run already; refuses any other content."""
    try:
        names = {entry.name for entry in path.iterdir()}
    except FileNotFoundError:
        return False
    except OSError as error:
        raise FolderError(f"{path} is no folder to write to: {error.strerror}; choose another --out") from error
    if _SETTINGS not in names:
        if foreign := sorted(name for name in names if name != _LOCK and not name.startswith(f".{_SETTINGS}.")):
            raise FolderError(f"{path} is not empty and not ours (it holds {foreign[0]}); choose another --out")
        return False
    try:
        there = json.loads((path / _SETTINGS).read_text(encoding="utf-8"))
        ours = there["format"] == wanted["format"] and isinstance(there["settings"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise FolderError(f"{path} holds something else than {holds}; choose another --out")
    old, new = there["settings"], wanted["settings"]
    differing = [
        f"{key} is {json.dumps(old.get(key))} there, {json.dumps(new.get(key))} here"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise FolderError(
            f"{path} holds {holds} with other settings: {'; '.join(differing)}; choose another --out or remove it"
        )
    return True


def _locked(path: Path) -> BinaryIO:
    """Hold the folder for this process; the system lets go of it however the process ends."""
    try:
        handle = (path / _LOCK).open("a+b")
    except OSError as error:
        raise StorageError(f"cannot write to {path}: {error.strerror}; choose another --out") from error
    try:
        if sys.platform == "win32":
            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise FolderError(f"{path} is in use by another run; wait for it or choose another --out") from error
    return handle
