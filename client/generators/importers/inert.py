"""Makes tensors and modules out of what `restricted_pickle` noted, checking every number before it is believed."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import torch
from torch import Tensor

from client.generators.importers.restricted_pickle import Inert, Name, PickleLimits, read_pickle
from common.errors import UnreadableModel

LIMITS = PickleLimits()
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first value of a file that torch.save wrote before 1.6, or of a lone storage
_MOST_DIMENSIONS = 8
_MOST_ELEMENTS = 1 << 31
_DEEPEST = 32
_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_ARRAYS = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}
_DICTS = frozenset({"OrderedDict", "EasyDict", "defaultdict", "dict"})


@dataclass(slots=True, eq=False)
class Storage:
    """Flat memory of a tensor: what the file claims about it, and its numbers once they were found."""

    dtype: torch.dtype
    elements: int
    flat: Tensor | None = None


@dataclass(slots=True, eq=False)
class StoredModule:
    """A network as the file describes it.

    Attributes:
        kind: name of its class.
        attributes: its plain attributes, as in ``conv_clamp``.
        tensors: its own parameters and buffers.
        children: the networks inside it, by name.
    """

    kind: str
    attributes: Mapping[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    children: dict[str, StoredModule] = field(default_factory=dict)

    def named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """All tensors with their dotted names, as in ``synthesis.b4.conv1.weight``."""
        yield from ((prefix + name, tensor) for name, tensor in self.tensors.items())
        for name, child in self.children.items():
            yield from child.named_tensors(f"{prefix}{name}.")

    def find(self, path: str) -> StoredModule | None:
        """The network at a dotted name, if there is one."""
        here: StoredModule | None = self
        for part in path.split("."):
            here = here.children.get(part) if here else None
        return here


def mapping(value: Any) -> Mapping[Any, Any] | None:
    """A dict, or one of the dict classes checkpoints use; else None."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Inert) and value.name.name in _DICTS:
        pairs = value.args[0] if value.args and isinstance(value.args[0], list) else []
        return dict(pairs) | value.items
    return None


def number(value: Any) -> Any:
    """A number that NumPy wrapped, as a plain one; anything else as it is."""
    if isinstance(value, Inert) and value.name.module.startswith("numpy") and value.name.name == "scalar":
        dtype, content = value.args
        return torch.frombuffer(bytearray(_raw(content)), dtype=_array_dtype(dtype)).item()
    return value


def module(value: Any, what: str, depth: int = 0) -> StoredModule:
    """Read a pickled network.

    Args:
        value: what `read_pickle` returned for it.
        what: what messages call it.
        depth: how many networks it lies in.

    Raises:
        UnreadableModel: not a network, nested too deep, or with impossible tensors.
    """
    if depth > _DEEPEST:
        raise UnreadableModel(f"{what} nests networks more than {_DEEPEST} deep; it is not a generator")
    kind, state = _kind_and_state(value, what)
    parts = {name: mapping(state.get(name)) or {} for name in ("_parameters", "_buffers", "_modules")}
    tensors = {
        str(name): tensor(entry, f"{what}.{name}")
        for part in ("_parameters", "_buffers")
        for name, entry in parts[part].items()
        if entry is not None
    }
    children = {
        str(name): module(entry, f"{what}.{name}", depth + 1)
        for name, entry in parts["_modules"].items()
        if entry is not None
    }
    attributes = {key: number(entry) for key, entry in state.items() if key not in parts}
    return StoredModule(kind, attributes, tensors, children)


def _kind_and_state(value: Any, what: str) -> tuple[str, Mapping[Any, Any]]:
    if isinstance(value, Inert):
        if value.name.name == "_reconstruct_persistent_obj":  # source text, class name and state (torch_utils)
            about = mapping(value.args[0]) if value.args else None
            state = mapping(about.get("state")) if about else None
            if about and state is not None:
                return str(about.get("class_name")), state
        made = value.args[0] if value.name.name == "_reconstructor" and value.args else value.name
        state = mapping(value.state)
        if isinstance(made, Name) and state is not None and "_parameters" in state:
            return made.name, state
    raise UnreadableModel(f"{what} is no network; give the file that training wrote")


def arguments(stored: StoredModule) -> dict[str, Any]:
    """The keyword arguments a network was made with, as its file notes them."""
    noted = mapping(stored.attributes.get("_init_kwargs")) or {}
    return {str(key): number(value) for key, value in noted.items()}


def tensor(value: Any, what: str) -> Tensor:
    """Read a tensor.

    Guarantee: its storage holds all its elements, so a small file cannot claim a huge tensor; nothing is copied.

    Raises:
        UnreadableModel: not a tensor, or with a shape its storage cannot hold.
    """
    if isinstance(value, Inert):
        name, args = value.name.name, value.args
        if name in ("_rebuild_parameter", "Parameter", "_rebuild_parameter_with_state") and args:
            return tensor(args[0], what)
        if name == "_rebuild_tensor_v2" and len(args) >= 4:
            return _strided(_flat(args[0], what), args[1], args[2], args[3], what)
        if name == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
            return _array(value.state, what)
    raise UnreadableModel(f"{what} is no tensor; give the file that training wrote")


def _flat(value: Any, what: str) -> Tensor:
    """All elements of a storage."""
    if isinstance(value, Inert) and value.name.name == "_load_from_bytes" and value.args:
        if value.state is None:  # read once, however many tensors share it
            value.state = read_legacy(io.BytesIO(_raw(value.args[0])), what)
        value = value.state
    if not isinstance(value, Storage) or value.flat is None:
        raise UnreadableModel(f"the numbers of {what} are missing; get the file again")
    return value.flat


def _strided(flat: Tensor, offset: Any, size: Any, stride: Any, what: str) -> Tensor:
    shape, steps = _dimensions(size, what), _dimensions(stride, what)
    if len(shape) != len(steps) or type(offset) is not int or offset < 0:
        raise UnreadableModel(f"{what} has an impossible shape {shape}; get the file again")
    elements = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) if elements else -1
    if elements > flat.numel() or last >= flat.numel():
        raise UnreadableModel(f"{what} claims {elements} numbers of the {flat.numel()} there are; get the file again")
    return flat.as_strided(shape, steps, offset)


def _dimensions(value: Any, what: str) -> tuple[int, ...]:
    if isinstance(value, Inert) and value.name.name == "Size" and value.args:
        value = value.args[0]
    if not isinstance(value, list | tuple) or len(value) > _MOST_DIMENSIONS:
        raise UnreadableModel(f"{what} has a shape that cannot be right; get the file again")
    if any(type(n) is not int or not 0 <= n <= _MOST_ELEMENTS for n in value):
        raise UnreadableModel(f"{what} has the shape {str(value)[:80]}, which cannot be right; get the file again")
    return tuple(value)


def _array(state: tuple[Any, ...], what: str) -> Tensor:
    """A NumPy array from its pickled state: version, shape, dtype, column order, bytes."""
    _, size, dtype, columns_first, content = state
    shape, kind, raw = _dimensions(size, what), _array_dtype(dtype), _raw(content)
    if math.prod(shape) * kind.itemsize != len(raw):
        raise UnreadableModel(f"{what} of shape {shape} has {len(raw)} bytes; get the file again")
    flat = torch.frombuffer(bytearray(raw), dtype=kind) if raw else torch.empty(0, dtype=kind)
    return flat.reshape(shape[::-1]).permute(*reversed(range(len(shape)))) if columns_first else flat.reshape(shape)


def _array_dtype(value: Any) -> torch.dtype:
    code = value.args[0] if isinstance(value, Inert) and value.name.name == "dtype" and value.args else None
    if code not in _ARRAYS or (isinstance(value.state, tuple) and len(value.state) > 1 and value.state[1] == ">"):
        raise UnreadableModel(f"numbers of the type {str(code)[:20]!r} cannot be read; save them as float32")
    return _ARRAYS[code]


def _raw(value: Any) -> bytes:
    """Bytes; older protocols write them as a call of ``_codecs.encode`` on latin-1 text."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, Inert) and value.name == Name("_codecs", "encode") and isinstance(value.args[0], str):
        return value.args[0].encode("latin-1")
    raise UnreadableModel("numbers that are no bytes; get the file again")


def read_legacy(file: IO[bytes], what: str) -> Any:
    """Read what ``torch.save`` wrote before torch 1.6, which is also how pickles hold a lone storage.

    Five pickles (magic number, version, about the machine, the value, names of storages), then for each storage its
    number of elements and their bytes.

    Raises:
        UnreadableModel: another kind of file, or cut short.
    """
    storages: dict[str, Storage] = {}
    if read_pickle(file, what, LIMITS) != _LEGACY_MAGIC:
        raise UnreadableModel(f"{what} was not written by torch.save; give the file that training wrote")
    for _ in range(2):
        read_pickle(file, what, LIMITS)
    value = read_pickle(file, what, LIMITS, lambda claim: stored(claim, storages, what))
    keys = read_pickle(file, what, LIMITS)
    for key in keys if isinstance(keys, list) else []:
        storage = storages.get(str(key))
        header = file.read(8)
        if storage is None or len(header) != 8 or struct.unpack("<q", header)[0] != storage.elements:
            raise UnreadableModel(f"a storage of {what} is not what the file says; get the file again")
        fill(storage, file.read(storage.elements * storage.dtype.itemsize), what)
    return value


def stored(claim: Any, storages: dict[str, Storage], what: str) -> Storage:
    """The storage a persistent id names: ``("storage", type, key, place, elements, ...)``.

    Raises:
        UnreadableModel: the id is of another kind or impossible.
    """
    good = isinstance(claim, tuple) and len(claim) >= 5 and claim[0] == "storage" and isinstance(claim[1], Name)
    if not good or claim[1].name not in _STORAGES or type(claim[4]) is not int or not 0 <= claim[4] <= _MOST_ELEMENTS:
        raise UnreadableModel(f"{what} points to something that is no tensor; get the file again")
    dtype = _STORAGES[claim[1].name]
    found = storages.setdefault(str(claim[2]), Storage(dtype, claim[4]))
    if (found.dtype, found.elements) != (dtype, claim[4]):
        raise UnreadableModel(f"{what} describes a storage twice and differently; get the file again")
    return found


def fill(storage: Storage, content: bytes, what: str) -> None:
    """Give a storage its bytes.

    Raises:
        UnreadableModel: not as many as it claims.
    """
    expected = storage.elements * storage.dtype.itemsize
    if len(content) != expected:
        raise UnreadableModel(f"{what} is cut short: {len(content)} bytes instead of {expected}; get the file again")
    empty = torch.empty(0, dtype=storage.dtype)
    storage.flat = torch.frombuffer(bytearray(content), dtype=storage.dtype) if content else empty
