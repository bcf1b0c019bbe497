"""The output folder of a run of rounds: its settings, its state, its pictures; the same command goes on in it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from client.rounds.loggers import table
from client.rounds.loop import State
from client.rounds.record import Row
from client.rounds.reward import Memory
from common.errors import FolderError, StorageError
from common.files import write_atomically

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FORMAT = "plgl-rounds-1"
_SETTINGS, _STATE, _LOCK = "settings.json", "state.safetensors", ".lock"
_WEIGHT = "weight."


class RoundsFolder:
    """A folder that belongs to one run and to one process at a time.

    Guarantee: every file in it is whole; the state is one file, so it is always of one round. A folder that is refused
    is left as it was.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Make the folder, or go on in one of the same settings.

        Args:
            path: the folder; parents are made.
            settings: everything the result depends on, as JSON allows it.

        Raises:
            FolderError: the folder is not ours, holds other settings, or is in use.
            StorageError: it cannot be made or written.
        """
        self.path = path
        wanted = json.loads(json.dumps({"format": FORMAT, "settings": settings}))
        _check(path, wanted)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {path}: {error.strerror}; choose another --out") from error
        self._lock = _locked(path)
        try:
            if not _check(path, wanted):
                write_atomically(path / _SETTINGS, (json.dumps(wanted, indent=2) + "\n").encode())
        except BaseException:
            self._lock.close()
            raise

    def save(self, state: State) -> None:
        """Keep a state, and its rows as ``rounds.csv``.

        Raises:
            StorageError: the disk refuses it.
        """
        tensors = {
            "destination": state.destination,
            "favourite": state.favourite,
            "path": state.path,
            "memory.a": state.memory.a,
            "memory.b": state.memory.b,
            "memory.answer": state.memory.answer,
            **{_WEIGHT + name: value for name, value in state.weights.items()},
        }
        rows = [asdict(row) for row in state.rows]
        content = save({k: v.clone().contiguous() for k, v in tensors.items()}, {"rows": json.dumps(rows)})
        write_atomically(self.path / _STATE, content)
        write_atomically(self.path / "rounds.csv", table(rows))

    def load(self) -> State | None:
        """The state kept last; None before the first.

        Raises:
            FolderError: the file is damaged.
        """
        if not (self.path / _STATE).exists():
            return None
        try:
            with safe_open(self.path / _STATE, framework="pt") as file:
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                rows = tuple(Row(**row) for row in json.loads(file.metadata()["rows"]))
            return State(
                destination=kept["destination"],
                favourite=kept["favourite"],
                memory=Memory(kept["memory.a"], kept["memory.b"], kept["memory.answer"]),
                weights={k.removeprefix(_WEIGHT): v for k, v in kept.items() if k.startswith(_WEIGHT)},
                path=kept["path"],
                rows=rows,
            )
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise FolderError(f"{self.path / _STATE} is damaged; remove it to start again") from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file of this run, all of it or nothing.

        Raises:
            StorageError: the disk refuses it.
        """
        write_atomically(self.path / name, content)

    def __enter__(self) -> RoundsFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()


def _check(path: Path, wanted: dict[str, Any]) -> bool:
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
        ours = there["format"] == FORMAT and isinstance(there["settings"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise FolderError(f"{path} holds something else than rounds; choose another --out")
    old, new = there["settings"], wanted["settings"]
    differing = [
        f"{key} is {json.dumps(old.get(key))} there, {json.dumps(new.get(key))} here"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise FolderError(
            f"{path} holds rounds with other settings: {'; '.join(differing)}; choose another --out or remove it"
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
