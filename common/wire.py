"""Flat records: the only form in which anything travels. Plain numbers, text, bytes and lists of whole numbers.

A record is a frozen dataclass; reading one checks that every field is there, no other is, and each has its exact type.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UpdateError

VERSION = 1

Wire = dict[str, int | float | str | bytes | list[int]]
"""The flat form of a record; every transport can carry it."""

LONGEST_TEXT = 128
LARGEST_BYTES = 16 * 2**20
LONGEST_LIST = 100_000


def flatten(record: Any) -> Wire:
    """The flat form of a dataclass, its version included; arrays as little-endian bytes with dtype and shape."""
    flat: Wire = {"version": VERSION}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray):
            little = value.astype(value.dtype.newbyteorder("<"), order="C", copy=False)
            flat[field.name] = little.tobytes()
            flat[f"{field.name}.dtype"] = little.dtype.str
            flat[f"{field.name}.shape"] = list(value.shape)
        else:
            flat[field.name] = list(value) if isinstance(value, tuple) else value
    return flat


def unflatten(record: Any, values: Mapping[str, object]) -> dict[str, Any]:
    """The fields of a dataclass without arrays, each checked; give them to its constructor.

    Raises:
        UpdateError: a field is missing, unknown, of another type or over its size, or the version is not ours.
    """
    check_fields(record, values)
    return {field.name: _READERS[str(field.type)](values, field.name) for field in dataclasses.fields(record)}


def check_fields(record: Any, values: Mapping[str, object]) -> None:
    """Check the version and the set of fields.

    Raises:
        UpdateError: a field is missing or unknown, or the version is not ours.
    """
    version = values.get("version")
    if type(version) is not int or version != VERSION:
        raise UpdateError(f"message version {str(version)[:20]} is not {VERSION}; update the older side")
    expected = {"version"}
    for field in dataclasses.fields(record):
        array = str(field.type).startswith("NDArray")
        expected |= {field.name, f"{field.name}.dtype", f"{field.name}.shape"} if array else {field.name}
    if set(values) != expected:
        wrong = sorted(str(name)[:40] for name in set(values) ^ expected)
        raise UpdateError(f"message with missing or unknown fields: {', '.join(wrong[:8])}")


def array(values: Mapping[str, object], name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array of exactly this little-endian dtype and shape.

    Raises:
        UpdateError: it is declared otherwise, or has another number of bytes.
    """
    declared = values[f"{name}.dtype"], values[f"{name}.shape"]
    if declared != (dtype, list(shape)):
        raise UpdateError(f"{name} is declared as {str(declared)[:60]}, not as {dtype} of shape {list(shape)}")
    raw, size = values[name], np.dtype(dtype).itemsize * math.prod(shape)
    if not isinstance(raw, bytes) or len(raw) != size:
        raise UpdateError(f"{name} of shape {list(shape)} needs {size} bytes")
    return np.frombuffer(raw, dtype=dtype).reshape(shape).astype(np.dtype(dtype).newbyteorder("="))


def text(values: Mapping[str, object], name: str) -> str:
    """Text of at most ``LONGEST_TEXT`` characters, else ``UpdateError``."""
    value = values[name]
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise UpdateError(f"{name} must be text of at most {LONGEST_TEXT} characters")
    return value


def whole(values: Mapping[str, object], name: str) -> int:
    """A whole number, else ``UpdateError``."""
    value = values[name]
    if type(value) is not int:  # a bool is an int to isinstance
        raise UpdateError(f"{name} must be a whole number")
    return value


def real(values: Mapping[str, object], name: str) -> float:
    """A real number, else ``UpdateError``."""
    value = values[name]
    if type(value) is not float:
        raise UpdateError(f"{name} must be a real number")
    return value


def raw(values: Mapping[str, object], name: str) -> bytes:
    """At most ``LARGEST_BYTES`` bytes, else ``UpdateError``."""
    value = values[name]
    if not isinstance(value, bytes) or len(value) > LARGEST_BYTES:
        raise UpdateError(f"{name} must be at most {LARGEST_BYTES} bytes")
    return value


def numbers(values: Mapping[str, object], name: str) -> tuple[int, ...]:
    """At most ``LONGEST_LIST`` whole numbers, else ``UpdateError``."""
    value = values[name]
    if not isinstance(value, list) or len(value) > LONGEST_LIST or any(type(each) is not int for each in value):
        raise UpdateError(f"{name} must be a list of at most {LONGEST_LIST} whole numbers")
    return tuple(value)


_READERS = {"str": text, "int": whole, "float": real, "bytes": raw, "tuple[int, ...]": numbers}
