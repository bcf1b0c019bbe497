"""A trained flow in one file: its weights as plain tensors, what it was trained on and by which command as JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from client.flows.network import NetworkSettings, PointFlow
from client.flows.shapes import ShapeSettings
from client.flows.training import Training, TrainSettings
from common.errors import DamagedPack, StorageError
from common.files import write_atomically

FORMAT = "plgl-flow-1"
_ABOUT = "about"  # the one entry of the metadata
SHIPPED = Path(__file__).parent / "shapes.safetensors"
_LARGEST = 64 * 2**20  # bytes of a file that is opened


@dataclass(frozen=True)
class Checkpoint:
    """A trained flow and where it comes from.

    Attributes:
        flow: the network, in evaluation mode, without gradients.
        settings: what it was trained with.
        command: that trains it again.
        loss: mean of the last hundred steps.
        fingerprint: SHA-256 of its file.
    """

    flow: PointFlow
    settings: TrainSettings
    command: str
    loss: float
    fingerprint: str


def encode(training: Training, command: str) -> bytes:
    """A trained flow as the bytes of a safetensors file."""
    last = training.losses[-100:]
    about = {
        "format": FORMAT,
        "settings": asdict(training.settings),
        "command": command,
        "loss": sum(last) / max(1, len(last)),
    }
    weights = {name: value.cpu().contiguous() for name, value in training.flow.state_dict().items()}
    return save(weights, {_ABOUT: json.dumps(about)})  # one entry: safetensors writes several in a random order


def open_checkpoint(path: Path | None = None, device: torch.device | None = None) -> Checkpoint:
    """Read a flow and check it.

    Args:
        path: of the file; None for the one that comes with the program.
        device: where the network goes; the CPU without.

    Raises:
        StorageError: it cannot be read.
        DamagedPack: it is no flow, is altered, or holds numbers that are not finite.
    """
    path = SHIPPED if path is None else path
    try:
        if path.stat().st_size > _LARGEST:
            raise DamagedPack(f"{path} is larger than {_LARGEST >> 20} MiB, so it is no flow of this program")
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror}; train a flow: plgl toy --train --out FOLDER"
        ) from error
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(_ABOUT, "{}"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.get("format") != FORMAT:
            raise DamagedPack(f"{path} is not a flow of format {FORMAT}; train one: plgl toy --train --out FOLDER")
        settings = _settings(about["settings"])
        flow = PointFlow(settings.network)
        flow.load_state_dict(weights)
        loss = float(about["loss"])
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedPack(f"{path} is damaged: {reason}; train it again: plgl toy --train --out FOLDER") from error
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        raise DamagedPack(f"{path} holds NaN or infinite weights; train it again: plgl toy --train --out FOLDER")
    flow = flow.to(device or torch.device("cpu")).eval().requires_grad_(False)
    return Checkpoint(flow, settings, str(about["command"]), loss, hashlib.sha256(content).hexdigest())


def write_checkpoint(path: Path, training: Training, command: str) -> None:
    """Write a flow, all of it or nothing.

    Raises:
        StorageError: the disk refuses.
    """
    write_atomically(path, encode(training, command))


def _settings(values: dict[str, Any]) -> TrainSettings:
    shapes, network = ShapeSettings(**values.pop("shapes")), NetworkSettings(**values.pop("network"))
    return TrainSettings(shapes=shapes, network=network, **values)
