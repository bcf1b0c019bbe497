"""Random numbers that belong to a place, not to an order: person 712,345 has the same ones whoever asks, and when.

A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the number at a counter
is a hash of that counter and a key. The hash is the output function of SplitMix64 (Steele, Lea & Flood 2014, "Fast
splittable pseudorandom number generators", figure 17), whose sequence for consecutive counters passes BigCrush. It is
integer arithmetic only, so a CPU and a GPU draw the same bits. For invented people, never for privacy noise.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = (
    value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)  # as signed integers: torch has no unsigned multiplication, and modulo 2^64 it is the same
_SLOTS = 2**20  # numbers one row can ask for under one purpose


def bits(seed: int, purpose: str, rows: Tensor, columns: int) -> Tensor:
    """``(rows, columns)`` int64, 64 independent fair bits each.

    Guarantee: an entry depends on ``seed``, ``purpose``, its row number and its column only.

    Args:
        seed: of the whole experiment.
        purpose: what the numbers are for; other purposes get independent numbers.
        rows: ``(rows,)`` int64 row numbers, below 2^43, e.g. people.
        columns: numbers for each row, below 2^20.
    """
    digest = hashlib.sha256(f"plgl {seed} {purpose}".encode()).digest()
    key = int.from_bytes(digest[:8], "little", signed=True)
    columns_there = torch.arange(columns, dtype=torch.int64, device=rows.device)
    x = (rows[:, None] * _SLOTS + columns_there).mul_(_GOLDEN).add_(key)
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        x.bitwise_xor_(_shifted(x, shift)).mul_(factor)
    x.bitwise_xor_(_shifted(x, 31))
    return x


def uniforms(seed: int, purpose: str, rows: Tensor, columns: int) -> Tensor:
    """``(rows, columns)`` float32 uniform on [0, 1), multiples of 2^-24; see ``bits``."""
    return uniform(bits(seed, purpose, rows, columns))


def uniform(random: Tensor) -> Tensor:
    """Float32 uniform on [0, 1) from the upper 24 of 64 bits; the lower 40 stay free for ``below``."""
    return _shifted(random, 40).to(torch.float32) * 2.0**-24


def below(random: Tensor, limit: int) -> Tensor:
    """Int64 uniform on 0 .. limit - 1 from the lower 40 of 64 bits; uneven by at most ``limit`` / 2^40."""
    return (random & (2**40 - 1)) % limit


def normals(seed: int, purpose: str, rows: Tensor, columns: int) -> Tensor:
    """``(rows, columns)`` float32 standard normal (Box & Muller 1958), two from each 64 bits; see ``bits``."""
    random = bits(seed, purpose, rows, (columns + 1) // 2)
    radius = (-2.0 * torch.log1p(-uniform(random))).sqrt_()  # at most 5.8: beyond it lies 1 in 10^8
    angle = (random & (2**24 - 1)).to(torch.float32) * (2 * math.pi * 2.0**-24)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :columns]


def _shifted(x: Tensor, places: int) -> Tensor:
    """Logical right shift; torch's own copies the sign bit."""
    shifted: Tensor = (x >> places) & ((1 << (64 - places)) - 1)
    return shifted
