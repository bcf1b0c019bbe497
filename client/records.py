"""Events as bytes, before they are sealed: the record format of a store and of an export, version 1.

A record is a head of 14 bytes (time, lengths), the shape of the latent, the kind, the body as JSON, the latent as
little-endian float32, and zeros up to a length that says little.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from client.journal import Event
from client.vault import OVERHEAD
from common.errors import DamagedStore, SettingError

UNIT = 256  # sealed records are a multiple of this many bytes
_HEAD = struct.Struct("<dBBI")  # seconds since 1970, length of the kind, dimensions of the latent, length of the body
_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def pack(events: Sequence[Event], now: float = 0.0) -> list[bytes]:
    """One record for each event; its number is not in it, for sealing binds it.

    Args:
        events: of any kinds.
        now: time of those that have none.

    Raises:
        SettingError: a body is not JSON, or a kind is longer than 255 bytes.
    """
    latents = _bytes_of([event.latent for event in events if event.latent is not None])
    records, start = [], 0
    for event in events:
        kind, body = event.kind.encode(), _body(event)
        if event.latent is None:
            dimensions, sizes, length = 255, b"", 0  # a latent of no dimensions is one number
        else:
            dimensions, sizes, length = _shape(event.latent.shape)
        head = _HEAD.pack(event.at or now, len(kind), dimensions, len(body))
        padding = bytes(-(_HEAD.size + len(sizes) + len(kind) + len(body) + length + OVERHEAD) % UNIT)
        records.append(b"".join((head, sizes, kind, body, latents[start : start + length], padding)))
        start += length
    return records


@lru_cache
def _shape(shape: tuple[int, ...]) -> tuple[int, bytes, int]:
    """Number of dimensions, the sizes as bytes, and how many bytes such a latent takes."""
    return len(shape), struct.pack(f"<{len(shape)}I", *shape), 4 * math.prod(shape)


def _body(event: Event) -> bytes:
    if len(event.kind.encode()) > 255:
        raise SettingError("the kind of an event must be at most 255 bytes long")
    try:
        return _json(event.body).encode()
    except (TypeError, ValueError, RecursionError):
        raise SettingError(f"the body of an event of kind {event.kind!r} must be JSON") from None


def _bytes_of(latents: Sequence[Tensor]) -> memoryview:
    """Latents of any shapes, one after the other; one copy instead of one for each."""
    if not latents:
        return memoryview(b"")
    near = [latent if latent.is_cpu else latent.cpu() for latent in latents]
    alike = len({latent.shape for latent in near}) == 1
    flat = (torch.stack(near) if alike else torch.cat([latent.reshape(-1) for latent in near])).detach()
    numbers = flat.to(torch.float32).reshape(-1).numpy()
    if not numbers.size:
        return memoryview(b"")
    return (numbers if sys.byteorder == "little" else numbers.byteswap()).data.cast("B")


def unpack(rows: Iterable[tuple[int, bytes]]) -> list[Event]:
    """Events with their numbers from records; the latents are views of one tensor.

    Raises:
        DamagedStore: a record is not one.
    """
    heads: list[tuple[str, tuple[int, ...] | None, int, float]] = []
    bodies: list[bytes] = []
    parts: list[bytes] = []
    for number, record in rows:
        try:
            at, kind_length, dimensions, body_length = _HEAD.unpack_from(record)
            start = _HEAD.size + (0 if dimensions == 255 else 4 * dimensions)
            shape = None if dimensions == 255 else _sizes(record[_HEAD.size : start])
            middle = start + kind_length
            end = middle + body_length
            heads.append((record[start:middle].decode(), shape, number, at))
        except (struct.error, ValueError) as error:
            raise DamagedStore(f"record {number} cannot be read; take a backup of the store") from error
        bodies.append(record[middle:end])
        if shape is not None:
            parts.append(record[end : end + _shape(shape)[2]])
    try:  # one call for all of them is several times faster than one for each
        said = json.loads(b"[" + b",".join(bodies) + b"]")
        if not all(isinstance(body, dict) for body in said):
            raise ValueError("a body must be an object")
        latents = iter(_latents(parts, [shape for _, shape, _, _ in heads if shape is not None]))
        return [
            Event(kind, body, None if shape is None else next(latents), number, at)
            for (kind, shape, number, at), body in zip(heads, said, strict=True)
        ]
    except (ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise DamagedStore("a record is too short or no JSON; take a backup of the store") from error


@lru_cache
def _sizes(content: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(content) // 4}I", content)


def _latents(parts: Sequence[bytes], shapes: Sequence[tuple[int, ...]]) -> Sequence[Tensor]:
    content = bytearray().join(parts)
    flat = torch.frombuffer(content, dtype=torch.float32) if content else torch.empty(0)
    if sys.byteorder != "little":
        flat = torch.from_numpy(flat.numpy().byteswap())
    if len(set(shapes)) == 1:
        return flat.view(len(shapes), *shapes[0]).unbind()
    pieces = torch.split(flat, [math.prod(shape) for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
