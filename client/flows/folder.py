"""Where a toy and its training are kept, so that the same command goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from client.flows.checkpoint import encode
from client.flows.course import Course
from client.flows.network import PointFlow
from client.flows.training import Training, TrainSettings
from client.run_folder import RunFolder
from common.errors import FolderError

FLOW = "flow.safetensors"
_STATE = "state.safetensors"
_WEIGHT, _PICKS = "weight.", "picks"


class TrainFolder(RunFolder):
    """The folder of a training: its state, and the flow as it is so far."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Make the folder, or go on in one of the same settings; see `RunFolder`."""
        super().__init__(path, settings, form="plgl-flow-training-1", holds="the training of a flow")

    def save(self, training: Training, command: str) -> None:
        """Keep a training, and its flow as ``flow.safetensors``.

        Raises:
            StorageError: the disk refuses it.
        """
        self.write(_STATE, save(training.state()))
        self.write(FLOW, encode(training, command))

    def load(self, settings: TrainSettings, device: torch.device) -> Training:
        """The training kept last, or a new one.

        Raises:
            FolderError: the file is damaged.
        """
        path = self.path / _STATE
        if not path.exists():
            return Training(settings, device)
        try:
            return Training.resume(settings, device, load(path.read_bytes()))
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
            raise FolderError(f"{path} is damaged; remove {self.path} to start again") from error


class ToyFolder(RunFolder):
    """The folder of a toy: B as it was after the last whole injection, and the picks that made it."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Make the folder, or go on in one of the same settings; see `RunFolder`."""
        super().__init__(path, settings, form="plgl-toy-1", holds="a toy")

    def save(self, course: Course) -> None:
        """Keep B and its picks, in one file.

        Raises:
            StorageError: the disk refuses it.
        """
        kept = {_WEIGHT + name: value for name, value in course.student.state_dict().items()}
        kept[_PICKS] = course.picks
        self.write(_STATE, save({name: value.detach().cpu().clone().contiguous() for name, value in kept.items()}))

    def load(self, course: Course) -> bool:
        """Give a course the B that was kept.

        Returns:
            Whether there was one.

        Raises:
            FolderError: the file is damaged.
        """
        path = self.path / _STATE
        if not path.exists():
            return False
        try:
            course.restore(*_restored(load(path.read_bytes()), course))
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
            raise FolderError(f"{path} is damaged; remove {self.path} to start again") from error
        return True


def _restored(kept: Mapping[str, Tensor], course: Course) -> tuple[PointFlow, Tensor]:
    student = PointFlow(course.base.settings)
    weights = {name.removeprefix(_WEIGHT): value for name, value in kept.items() if name.startswith(_WEIGHT)}
    student.load_state_dict(weights)
    picks = kept[_PICKS]
    if picks.shape[1:] != course.picks.shape[1:] or not all(bool(value.isfinite().all()) for value in kept.values()):
        raise ValueError("other shapes, or numbers that are not finite")
    return student.to(course.device).requires_grad_(False), picks
