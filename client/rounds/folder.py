"""The output folder of a run of rounds: its settings, its state, its pictures; the same command goes on in it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from client.rounds.loggers import table
from client.rounds.loop import State
from client.rounds.record import Row
from client.rounds.reward import Memory
from client.run_folder import RunFolder
from common.errors import FolderError

FORMAT = "plgl-rounds-1"
_STATE = "state.safetensors"
_WEIGHT = "weight."


class RoundsFolder(RunFolder):
    """A folder that belongs to one run and to one process at a time.

    Guarantee: every file in it is whole; the state is one file, so it is always of one round. A folder that is refused
    is left as it was.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Make the folder, or go on in one of the same settings; see `RunFolder`."""
        super().__init__(path, settings, form=FORMAT, holds="rounds")

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
        self.write(_STATE, content)
        self.write("rounds.csv", table(rows))

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
