"""Shamir's secret sharing (1979) over the prime field of ``2^521 - 1``.

A secret of 32 bytes becomes one share for each holder; any ``threshold`` of them give it back, fewer say nothing about
it. The Lagrange coefficients depend only on who is left, so they are computed once and used for many secrets.

Python integers are not constant-time. The secrets shared here live for one round and are shared inside one process,
where nobody who must not know them can time the arithmetic.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from common.errors import ProtocolError

PRIME = 2**521 - 1
SECRET_BYTES = 32
SHARE_BYTES = 66


def split(secret: bytes, threshold: int, holders: Sequence[int]) -> dict[int, bytes]:
    """Shares of ``secret`` for each holder.

    Args:
        secret: ``(32,)`` bytes.
        threshold: shares that give it back, from 1 to the number of holders.
        holders: different positive numbers, the places at which the polynomial is read.

    Returns:
        ``SHARE_BYTES`` bytes for each holder.

    Raises:
        ProtocolError: an argument is outside its range.
    """
    if len(secret) != SECRET_BYTES:
        raise ProtocolError(f"a secret to be shared has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= threshold <= len(holders) or len(set(holders)) != len(holders) or min(holders) < 1:
        raise ProtocolError(f"cannot share a secret among {len(holders)} holders with threshold {threshold}")
    # 521 random bits each: the prime has as many, so that zero alone is likelier than the rest, by 2^-521
    drawn = os.urandom(SHARE_BYTES * (threshold - 1))
    starts = range(0, len(drawn), SHARE_BYTES)
    coefficients = [int.from_bytes(drawn[start : start + SHARE_BYTES], "big") & PRIME for start in starts]
    constant = int.from_bytes(secret, "big")
    return {holder: _value(coefficients, constant, holder).to_bytes(SHARE_BYTES, "big") for holder in holders}


def coefficients(holders: Sequence[int]) -> dict[int, int]:
    """Lagrange coefficients at zero: the secret is the sum of coefficient times share, mod ``PRIME``.

    Raises:
        ProtocolError: no holder, or one twice.
    """
    if not holders or len(set(holders)) != len(holders):
        raise ProtocolError(f"{len(holders)} shares, not all of different holders, give no secret back")
    product = math.prod(holders) % PRIME
    # prod_j x_j / (x_i prod_{j != i} (x_j - x_i)); places are small, so plain products are faster than reduced ones
    bottoms = [holder * math.prod([other - holder for other in holders if other != holder]) for holder in holders]
    return {holder: product * inverse % PRIME for holder, inverse in zip(holders, _inverses(bottoms), strict=True)}


def combine(shares: Mapping[int, bytes], weights: Mapping[int, int]) -> bytes:
    """The secret behind exactly the shares whose coefficients are given.

    Raises:
        ProtocolError: a share is missing or malformed, or what comes out is no 32-byte secret. That it is the right
            one is for the caller to check.
    """
    total = 0
    for holder, weight in weights.items():
        share = shares.get(holder)
        if share is None or len(share) != SHARE_BYTES:
            raise ProtocolError("a share is missing or has another size")
        total += weight * int.from_bytes(share, "big")
    total %= PRIME
    if total.bit_length() > 8 * SECRET_BYTES:
        raise ProtocolError("the shares do not belong to one secret; one of them is false")
    return total.to_bytes(SECRET_BYTES, "big")


def _inverses(values: Sequence[int]) -> list[int]:
    """Inverses mod ``PRIME`` for the price of one (Montgomery's trick): of the whole product, then divided out."""
    before = [1]
    for value in values:
        before.append(before[-1] * value % PRIME)
    left, found = pow(before[-1], -1, PRIME), []
    for value, product in zip(reversed(values), reversed(before[:-1]), strict=True):
        found.append(left * product % PRIME)
        left = left * value % PRIME
    return found[::-1]


def _value(coefficients: Sequence[int], constant: int, x: int) -> int:
    value = 0
    for coefficient in coefficients:  # Horner's rule; places are small, so one reduction at the end is the fastest
        value = value * x + coefficient
    return (value * x + constant) % PRIME
