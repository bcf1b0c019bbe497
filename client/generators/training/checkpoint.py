"""Checkpoints of a training: weights, their average and the optimiser, as safetensors with a note of settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from client.generators.training.course import TrainingSettings
from common.errors import FolderError
from common.files import write_atomically

FORMAT = "plgl-training-1"
FILE = "checkpoint.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """Where a training stands.

    Attributes:
        step: steps done.
        tensors: ``weights/``, ``average/`` and ``optimiser/`` by name, on the CPU.
    """

    step: int
    tensors: Mapping[str, Tensor]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one of the three."""
        return {k.removeprefix(f"{name}/"): v for k, v in self.tensors.items() if k.startswith(f"{name}/")}


def note(settings: TrainingSettings, pictures: str) -> dict[str, Any]:
    """What must stay the same when a training goes on; ``pictures`` is their SHA-256."""
    return {"format": FORMAT, "pictures": pictures, **asdict(settings)}


def save(folder: Path, about: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        StorageError: the disk refused.
    """
    notes = {"about": json.dumps({**about, "step": checkpoint.step}, sort_keys=True)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
    write_atomically(folder / FILE, safetensors.torch.save(tensors, notes))


def load(folder: Path, about: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint of a folder; None for a new or an empty one.

    Raises:
        FolderError: the folder holds something else, or a training with other settings or pictures.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    found, checkpoint = read(folder)
    changed = [name for name in {**found, **about} if found.get(name) != about.get(name)]
    if changed:
        name = changed[0]
        was, now = (str(each.get(name))[:16] for each in (found, about))
        raise FolderError(
            f"{folder} was trained with {name}={was}, not {now}; give the same settings, or another --out"
        )
    return checkpoint


def read(folder: Path) -> tuple[dict[str, Any], Checkpoint]:
    """What a folder says it was trained with, as `note`, and its checkpoint.

    Raises:
        FolderError: it holds something else, or a damaged checkpoint.
    """
    if not (folder / FILE).is_file():
        raise FolderError(f"{folder} holds something else than a training; choose another --out")
    try:
        with safetensors.safe_open(str(folder / FILE), "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        step = int(about.pop("step"))
    except Exception as error:  # safetensors has an error type of its own
        raise FolderError(f"{folder / FILE} cannot be read ({error}); choose another --out") from error
    if not all(bool(value.isfinite().all()) for value in tensors.values() if value.is_floating_point()):
        raise FolderError(f"{folder / FILE} holds NaN or infinite numbers; start again with another --out")
    return about, Checkpoint(step=step, tensors=tensors)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser as named tensors: ``INDEX/NAME``."""
    state = optimiser.state_dict()["state"]
    return {f"{index}/{name}": torch.as_tensor(value) for index, each in state.items() for name, value in each.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that `optimiser_tensors` took."""
    whole = optimiser.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**whole, "state": state})
