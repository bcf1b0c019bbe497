from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common import wire
from common.errors import UpdateError


@dataclass(frozen=True)
class Plain:
    label: str
    count: int
    size: float
    body: bytes
    members: tuple[int, ...]


@dataclass(frozen=True)
class Numbers:
    table: NDArray[np.float64]


PLAIN = Plain("a", 3, 0.5, b"xyz", (1, 2))
WIRE: dict[str, Any] = {"version": 1, "label": "a", "count": 3, "size": 0.5, "body": b"xyz", "members": [1, 2]}


def test_a_record_is_flat_and_comes_back() -> None:
    assert wire.flatten(PLAIN) == WIRE
    assert Plain(**wire.unflatten(Plain, WIRE)) == PLAIN


def test_arrays_travel_little_endian_whatever_they_were() -> None:
    table = np.arange(6, dtype=">f8").reshape(2, 3).T
    flat = wire.flatten(Numbers(table))
    assert flat["table.dtype"] == "<f8"
    assert flat["table.shape"] == [3, 2]
    assert (wire.array(flat, "table", "<f8", (3, 2)) == table).all()
    for dtype, shape in [("<f4", (3, 2)), ("<f8", (2, 3)), ("<i8", (3, 2))]:
        with pytest.raises(UpdateError, match="table is declared as"):
            wire.array(flat, "table", dtype, shape)
    with pytest.raises(UpdateError, match="needs 48 bytes"):
        wire.array({**flat, "table": bytes(47)}, "table", "<f8", (3, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "message version 2 is not 1; update the older side"),
        ({"version": True}, "message version True is not 1"),
        ({"label": 5}, "label must be text of at most 128 characters"),
        ({"label": "x" * 129}, "label must be text of at most 128 characters"),
        ({"count": True}, "count must be a whole number"),
        ({"count": 3.0}, "count must be a whole number"),
        ({"size": 1}, "size must be a real number"),
        ({"body": "xyz"}, "body must be at most 16777216 bytes"),
        ({"body": bytes(16 * 2**20 + 1)}, "body must be at most 16777216 bytes"),
        ({"members": (1, 2)}, "members must be a list of at most 100000 whole numbers"),
        ({"members": [1, True]}, "members must be a list"),
        ({"members": [1, 2.0]}, "members must be a list"),
        ({"members": [0] * 100_001}, "members must be a list"),
        ({"more": 1}, "missing or unknown fields: more"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UpdateError, match=message):
        wire.unflatten(Plain, {**WIRE, **changes})


def test_a_missing_field_is_named() -> None:
    for name in WIRE:
        with pytest.raises(UpdateError, match="message version None" if name == "version" else f"fields: {name}"):
            wire.unflatten(Plain, {key: value for key, value in WIRE.items() if key != name})
