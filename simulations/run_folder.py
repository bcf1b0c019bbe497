"""The folder of one run: its settings, its finished cells, its results; the same command goes on where it stopped."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from common.errors import FolderError, SettingError, StorageError
from common.files import write_atomically
from common.version import version

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FORMAT = "plgl-run-1"
_MARKER, _LOCK = "settings.json", ".lock"
_SAME = ("command", "version", "seeds")  # beside the settings, what a run must share with the folder it goes on in


class RunFolder:
    """A folder that belongs to one command with one set of settings, and to one process at a time.

    Guarantee: a file in it is whole or absent, so a run that is killed at any moment can be resumed; a cell that was
    saved comes back with exactly the same numbers. A folder that is refused is left as it was.

    ::

        with RunFolder.open(out, "simulate cold-start", settings) as folder:
            cell = folder.cell("seed-1")
            if cell is None:
                folder.save_cell("seed-1", cell := compute())
    """

    def __init__(self, folder: Path, marker: dict[str, Any], lock: BinaryIO) -> None:
        """Use ``RunFolder.open``."""
        self.folder = folder
        self._marker = marker
        self._lock = lock

    @classmethod
    def open(cls, path: str | Path, command: str, settings: dict[str, Any], *, seeds: Sequence[int] = ()) -> RunFolder:
        """Make the folder, or go on in one that the same command made with the same settings.

        Args:
            path: the folder; parents are made.
            command: what makes the results, e.g. ``"simulate cold-start"``.
            settings: everything the results depend on; plain values, paths and tuples (see ``plain``).
            seeds: the seeds of the run, where ``settings`` does not hold them under ``"seeds"``.

        Raises:
            FolderError: the folder is not empty and not ours, holds a run with other settings, or is in use.
            StorageError: it cannot be made or written.
        """
        folder = Path(path)
        values = plain(settings)
        wanted = {
            "format": FORMAT,
            "command": command,
            "version": version(),
            "settings": values,
            "seeds": list(seeds) or values.get("seeds", []),
            "environment": environment(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "complete": False,
        }
        _found(folder, wanted)  # before anything is made, so that a refused folder stays as it was
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {folder}: {error.strerror}; choose another --out") from error
        lock = _locked(folder)
        try:
            marker = _found(folder, wanted)  # again: another process may have been quicker
            if marker is None:
                marker = wanted
                write_atomically(folder / _MARKER, _bytes(marker))
        except BaseException:
            lock.close()
            raise
        return cls(folder, marker, lock)

    @property
    def settings(self) -> dict[str, Any]:
        """What ``settings.json`` holds: command, version, settings, seeds, environment, date of the first start."""
        return dict(self._marker)

    @property
    def complete(self) -> bool:
        """Whether ``finish`` was called, by this process or an earlier one."""
        return bool(self._marker["complete"])

    def finish(self) -> None:
        """Mark the run as complete: every result is written."""
        marker = {**self._marker, "complete": True}
        write_atomically(self.folder / _MARKER, _bytes(marker))
        self._marker = marker

    def path(self, name: str) -> Path:
        """The path of a file of this run.

        Raises:
            SettingError: ``name`` would leave the folder.
        """
        relative = Path(name)
        if not name or relative.is_absolute() or ".." in relative.parts:
            raise SettingError(f"file name {name!r} must lie inside the run folder; give a relative name")
        return self.folder / relative

    def write(self, name: str, content: bytes) -> Path:
        """Write a file of this run, all of it or nothing, and return its path.

        Raises:
            StorageError: the disk refuses it.
        """
        path = self.path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {path.parent}: {error.strerror}; choose another --out") from error
        write_atomically(path, content)
        return path

    def cell(self, name: str) -> dict[str, Any] | None:
        """What ``save_cell`` wrote under this name; ``None`` where the cell is not there or cannot be read."""
        try:
            values = json.loads(self.path(_cell(name)).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # a cell somebody damaged is computed again
        return values if isinstance(values, dict) else None

    def save_cell(self, name: str, values: dict[str, Any]) -> None:
        """Keep one finished part of the run as ``cells/<name>.json``; floats come back bit for bit.

        Args:
            name: letters, digits, ``.``, ``_``, ``=`` and ``-``.
            values: anything JSON holds; NaN and infinities are kept.

        Raises:
            StorageError: the disk refuses it.
        """
        self.write(_cell(name), json.dumps(values).encode())

    def close(self) -> None:
        """Let other processes use the folder."""
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def plain(value: Any) -> Any:
    """A value as JSON holds it: tuples as lists, paths as text, numpy numbers as numbers, NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if hasattr(value, "tolist"):  # a numpy array or number, a tensor
        return plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def environment() -> dict[str, str]:
    """What the numbers were computed with: Python, platform, versions of the libraries that compute."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "processors": str(os.cpu_count())}
    for names in (("torch",), ("numpy",), ("flwr",), ("onnxruntime-gpu", "onnxruntime")):
        for name in names:
            try:
                found[name] = importlib.metadata.version(name)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def _cell(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._=-]+", name) or set(name) == {"."}:
        raise SettingError(f"cell name {name!r} must be letters, digits, '.', '_', '=' or '-'; rename it")
    return f"cells/{name}.json"


def _bytes(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def _found(folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The marker of a folder this run may go on in; ``None`` where there is no folder or nothing in it."""
    try:
        names = {entry.name for entry in folder.iterdir()}
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise FolderError(f"{folder} is a file; choose another --out") from error
    except OSError as error:
        raise FolderError(f"cannot read {folder}: {error.strerror}; choose another --out") from error
    if _MARKER not in names:
        # a start that was killed before its marker was whole leaves these two
        foreign = sorted(name for name in names if name != _LOCK and not name.startswith(f".{_MARKER}."))
        if foreign:
            raise FolderError(f"{folder} is not empty and not ours (it holds {foreign[0]}); choose another --out")
        return None
    marker = _read(folder / _MARKER)
    if marker is None:
        raise FolderError(f"{folder} is not ours: its {_MARKER} is not one of a run; choose another --out")
    differing = _differences(marker, wanted)
    if differing:
        raise FolderError(
            f"{folder} holds a run with other settings: {'; '.join(differing)}; "
            "choose another --out or remove the folder"
        )
    return marker


def _read(path: Path) -> dict[str, Any] | None:
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(marker, dict) or marker.get("format") != FORMAT:
        return None
    whole = isinstance(marker.get("settings"), dict) and {*_SAME, "complete"} <= marker.keys()
    return marker if whole else None


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """One phrase for each key whose values differ, e.g. ``"epsilon is 1.0 there, 2.0 here"``."""

    def show(values: dict[str, Any], key: str) -> str:
        return json.dumps(values[key], ensure_ascii=False) if key in values else "not set"

    found = [f"{key} is {show(there, key)} there, {show(here, key)} here" for key in _SAME if there[key] != here[key]]
    old, new = there["settings"], here["settings"]
    return found + [
        f"{key} is {show(old, key)} there, {show(new, key)} here"
        for key in sorted({*old, *new} - set(_SAME))
        if key not in old or key not in new or old[key] != new[key]
    ]


def _locked(folder: Path) -> BinaryIO:
    """Hold the folder for this process. The system lets go of it when the process ends, however it ends."""
    try:
        handle = (folder / _LOCK).open("a+b")
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    try:
        if sys.platform == "win32":
            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise FolderError(
            f"{folder} is in use by another run ({error.strerror}); wait for it or choose another --out"
        ) from error
    return handle
