"""Checkpoints as named tensors: read without running code, and handed out by name until none is missing or left."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from client.generators.importers.inert import LIMITS, Storage, fill, mapping, read_legacy, stored, tensor
from client.generators.importers.restricted_pickle import Inert, read_pickle
from common.errors import UnreadableModel

LARGEST_FILE = 1 << 32
_SHOWN = 4
_MOST_NUMBERS = 1 << 30


class Weights:
    """Named tensors of one network.

    Guarantee: every number is finite and float32; `finish` accepts only if each tensor was taken once, with its shape.

    Args:
        tensors: by name; integers and counters (``num_batches_tracked``) are left out.
        what: what messages call the file.

    Raises:
        UnreadableModel: a tensor holds NaN or an infinity, or claims more numbers than are stored.
    """

    def __init__(self, tensors: Mapping[str, Tensor], what: str) -> None:
        self.what = what
        if bombs := [name for name, t in tensors.items() if t.numel() * t.itemsize > t.untyped_storage().nbytes()]:
            raise UnreadableModel(f"{what} claims more numbers than it holds in {_few(bombs)}; get the file again")
        if (count := sum(t.numel() for t in tensors.values())) > _MOST_NUMBERS:
            raise UnreadableModel(f"{what} holds {count} numbers, more than {_MOST_NUMBERS}; it is not a generator")
        self._tensors = {name: t.detach().float() for name, t in tensors.items() if _is_weight(name, t)}
        self._left = set(self._tensors)
        self._missing: list[str] = []
        self._wrong: list[str] = []
        if bad := [name for name, t in self._tensors.items() if not bool(t.isfinite().all())]:
            raise UnreadableModel(f"{what} holds NaN or infinite weights in {_few(bad)}; use an earlier checkpoint")

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def names(self) -> tuple[str, ...]:
        """All names, in the order of the file."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; empty if there is none, which `finish` reports."""
        if name not in self._tensors:
            self._note_missing(name)
            return ()
        return tuple(self._tensors[name].shape)

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor that should have this shape; zeros if it has not, which `finish` reports."""
        found = self._tensors.get(name)
        self._left.discard(name)
        if found is None:
            self._note_missing(name)
        elif tuple(found.shape) != shape:
            self._wrong.append(f"{name} {tuple(found.shape)} instead of {shape}")
        else:
            return found
        return torch.zeros(shape)

    def ignore(self, *names: str) -> None:
        """Leave tensors that the generator does not need."""
        self._left.difference_update(names)

    def finish(self, kind: str) -> None:
        """Check that the file held exactly the tensors of this kind of generator.

        Raises:
            UnreadableModel: names the first missing, extra and misshapen tensors.
        """
        extra = [name for name in self._tensors if name in self._left]
        problems = [
            f"{label} {_few(found)}"
            for label, found in (("missing", self._missing), ("extra", extra), ("of wrong shape", self._wrong))
            if found
        ]
        if problems:
            raise UnreadableModel(f"{self.what} is not a {kind} generator: {'; '.join(problems)}; try another --as")

    def _note_missing(self, name: str) -> None:
        if name not in self._missing:
            self._missing.append(name)


def _is_weight(name: str, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not name.endswith("num_batches_tracked")


def batch_norm(weights: Weights, name: str, channels: int, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Scale and shift, ``(channels,)`` each, that a batch normalisation in eval mode amounts to."""
    gain, bias = weights.take(f"{name}.weight", channels), weights.take(f"{name}.bias", channels)
    mean, variance = weights.take(f"{name}.running_mean", channels), weights.take(f"{name}.running_var", channels)
    scale = gain / (variance + eps).sqrt()
    return scale, bias - mean * scale


def read_checkpoint(path: Path) -> Any:
    """Read what ``torch.save`` wrote, or a safetensors file, without running code of the file.

    Stricter than ``torch.load(weights_only=True)``, which calls some functions a file names: here none is called, so a
    file may hold a training configuration too, which stays an inert note.

    Returns:
        The saved value: dicts, tensors, plain values, and inert notes of everything else.

    Raises:
        UnreadableModel: not a checkpoint, cut short, larger than 4 GiB, or with impossible tensors.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise UnreadableModel(f"{path.name} has more than {LARGEST_FILE} bytes; it is not a generator")
    if zipfile.is_zipfile(path):
        return _tensors_of(_read_zip(path), path.name)
    with path.open("rb") as file:
        if file.read(9)[8:] == b"{":
            return _read_safetensors(path)
        file.seek(0)
        return _tensors_of(read_legacy(file, path.name), path.name)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except Exception as error:  # safetensors has an error type of its own, and raises others
        raise UnreadableModel(f"{path.name} is no safetensors file, or damaged: {error}; get the file again") from error


def _read_zip(path: Path) -> Any:
    storages: dict[str, Storage] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
                raise UnreadableModel(f"{path.name} is compressed, which torch.save never does; unpack it first")
            with archive.open(entries["data.pkl"]) as file:
                value = read_pickle(file, path.name, LIMITS, lambda claim: stored(claim, storages, path.name))
            for key, storage in storages.items():
                fill(storage, archive.read(entries[f"data/{key}"]), path.name)
            return value
    except (zipfile.BadZipFile, KeyError, OSError, ValueError) as error:
        raise UnreadableModel(f"{path.name} is no checkpoint, or damaged ({error}); get the file again") from error


def _tensors_of(value: Any, what: str, depth: int = 0) -> Any:
    """The same value with tensors made of the notes that describe tensors."""
    if depth > 16:
        raise UnreadableModel(f"{what} nests values too deep; it is not a checkpoint")
    if (entries := mapping(value)) is not None:
        return {key: _tensors_of(entry, f"{what}: {key}", depth + 1) for key, entry in entries.items()}
    if isinstance(value, Inert) and value.name.name.startswith(("_rebuild_tensor", "_rebuild_parameter")):
        return tensor(value, what)
    return value


def state_dict(value: Any, keys: tuple[str, ...], what: str) -> dict[str, Tensor]:
    """The first state dict found under one of the keys, or the value itself if it is one.

    Names lose the ``module.`` that training on several GPUs puts before them.

    Raises:
        UnreadableModel: no tensors by name are found.
    """
    if isinstance(value, Mapping):
        for key in keys:
            if isinstance(value.get(key), Mapping):
                return state_dict(value[key], keys, what)
        named = {str(k): t for k, t in value.items() if isinstance(t, Tensor)}
        if named:
            inside = all(name.startswith("module.") for name in named)
            return {name.removeprefix("module.") if inside else name: t for name, t in named.items()}
    found = ", ".join(map(str, list(value)[:_SHOWN])) if isinstance(value, Mapping) else type(value).__name__
    raise UnreadableModel(f"{what} holds no weights by name (found {found}); save netG.state_dict() alone")


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
