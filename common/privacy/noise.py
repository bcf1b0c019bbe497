"""Exact discrete Gaussian noise from the operating system's randomness.

Canonne, Kamath & Steinke 2020 ("The discrete Gaussian for differential privacy", arXiv 2004.00010), algorithms 1 to 3,
over whole arrays. No floating-point number takes part in a decision: a coin that shows heads with probability ``n/d``
compares a random 63-bit word with the first 63 bits of ``n/d`` and, in the one case in 2^63 where they agree, goes on
with the next 63 bits. So every probability is the exact rational one, and an array costs little more than its words.

Timing is not constant: how long a call takes depends on the draws it rejected. Nothing here may run where the person
to be protected from can time single calls.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import SettingError

Randomness = Callable[[int], bytes]
"""Gives that many independent uniform bytes. Only tests pass anything but the operating system's."""

system_randomness: Randomness = os.urandom

_BITS = 63
_CANDIDATES = 2**17  # per pass, so that a long call holds tens of megabytes, not gigabytes
_LARGEST_VARIANCE = 2**100  # then a draw outside int64 has probability below e^-4000

_Integers = NDArray[np.object_]  # Python integers of any size
_Flags = NDArray[np.bool_]


def discrete_gaussian(count: int, sigma_squared: Fraction | int, randomness: Randomness = system_randomness) -> Tensor:
    """Independent draws from the discrete Gaussian ``P(x) ~ exp(-x^2 / (2 sigma_squared))`` on all integers.

    Guarantee: the law is exact, not an approximation, given uniform independent bytes. No global random state is read
    or changed, so no seed can repeat a draw. Its standard deviation is at most ``sqrt(sigma_squared)``, and equal to
    it within 1e-6 relative once that is above 1.

    Args:
        count: how many draws, >= 0.
        sigma_squared: variance parameter in squared integer steps, exact.
        randomness: source of bytes.

    Returns:
        ``(count,)`` int64, on the CPU.

    Raises:
        SettingError: ``count`` is negative, ``sigma_squared`` is not in (0, 2^100), or the source ran short.
    """
    if count < 0:
        raise SettingError(f"count={count} must be >= 0")
    if isinstance(sigma_squared, float) or not 0 < sigma_squared < _LARGEST_VARIANCE:
        raise SettingError(f"sigma_squared={sigma_squared} must be an integer or a Fraction in (0, 2^100)")
    coins = _Coins(randomness)
    variance = Fraction(sigma_squared)
    kept: list[NDArray[np.int64]] = []
    missing = count
    while missing > 0:
        # Candidates are independent and the first accepted ones are taken, so the size of a pass changes no law.
        accepted = _gaussian_pass(coins, min(3 * missing + 64, _CANDIDATES), variance)[:missing]
        kept.append(accepted)
        missing -= accepted.size
    return torch.from_numpy(np.concatenate(kept) if kept else np.empty(0, dtype=np.int64))


def _gaussian_pass(coins: _Coins, candidates: int, variance: Fraction) -> NDArray[np.int64]:
    """Algorithm 3: discrete Laplace draws of scale t, each kept with probability exp(-(|y| - s^2/t)^2 / (2 s^2))."""
    a, b = variance.numerator, variance.denominator
    t = math.isqrt(a // b) + 1
    y = _laplace_pass(coins, candidates, t)
    # (|y| - a/(bt))^2 / (2a/b) as one fraction; the numerator passes 64 bits, hence Python integers.
    distance = np.abs(y).astype(object) * (b * t) - a
    return y[coins.exp_minus(distance * distance, 2 * a * b * t * t)]


def _laplace_pass(coins: _Coins, candidates: int, t: int) -> NDArray[np.int64]:
    """Algorithm 2: discrete Laplace of scale t, with probability proportional to exp(-|y| / t)."""
    u = coins.below(t, candidates)
    u = u[coins.exp_minus(u.astype(object), t)]
    magnitude = u + t * coins.geometric(u.size)
    negative = (coins.words(u.size) & np.uint64(1)).astype(bool)
    # Zero would be counted twice, once with each sign.
    once: _Flags = ~negative | (magnitude > 0)
    return np.where(negative, -magnitude, magnitude)[once]


class _Coins:
    """Biased coins with exactly the probability asked for, many at a time."""

    def __init__(self, randomness: Randomness) -> None:
        self._randomness = randomness

    def words(self, count: int) -> NDArray[np.uint64]:
        """``(count,)`` uniform on 0 .. 2^63 - 1."""
        raw = self._randomness(8 * count)
        if len(raw) != 8 * count:
            raise SettingError(f"the source of randomness gave {len(raw)} of {8 * count} bytes; use os.urandom")
        words: NDArray[np.uint64] = np.frombuffer(raw, dtype="<u8") >> np.uint64(64 - _BITS)
        return words

    def below(self, limit: int, attempts: int) -> NDArray[np.int64]:
        """Uniform on 0 .. limit - 1; as many as ``attempts`` words gave, at least half of them on average."""
        drawn = self.words(attempts) >> np.uint64(_BITS - max(1, (limit - 1).bit_length()))
        return drawn[drawn < np.uint64(limit)].astype(np.int64)

    def chance(self, numerators: _Integers, denominator: int, leading: NDArray[np.uint64] | None = None) -> _Flags:
        """Heads with probability ``numerators / denominator``, each in [0, 1].

        ``leading`` holds the first 63 bits of each fraction where the caller has them already.
        """
        if leading is None:
            leading = self.leading(numerators, denominator)
        words = self.words(leading.size)
        heads = words < leading
        for tie in np.flatnonzero(words == leading):
            rest = (int(numerators[tie]) << _BITS) % denominator
            heads[tie] = self.chance(np.array([rest], dtype=object), denominator)[0]
        return heads

    @staticmethod
    def leading(numerators: _Integers, denominator: int) -> NDArray[np.uint64]:
        """First 63 bits of ``numerators / denominator``; one itself is 2^63, above every word."""
        bits: NDArray[np.uint64] = ((numerators << _BITS) // denominator).astype(np.uint64)
        return bits

    def exp_minus(self, numerators: _Integers, denominator: int) -> _Flags:
        """Algorithm 1: heads with probability ``exp(-numerators / denominator)``, the fractions >= 0."""
        heads = np.zeros(numerators.size, dtype=bool)
        alive = np.arange(numerators.size)
        # exp(-g) = exp(-1)^floor(g) exp(-(g - floor(g))): one coin for each factor, all must show heads.
        whole = (numerators // denominator).astype(np.int64)
        while (due := whole[alive] > 0).any():
            survived = np.ones(alive.size, dtype=bool)
            survived[due] = self._exp_minus_one(int(due.sum()))
            whole[alive] -= due
            alive = alive[survived]
        heads[alive] = self._exp_minus_fraction(numerators[alive] % denominator, denominator)
        return heads

    def geometric(self, count: int) -> NDArray[np.int64]:
        """How many exp(-1) coins in a row show heads."""
        runs = np.zeros(count, dtype=np.int64)
        alive = np.arange(count)
        while alive.size:
            alive = alive[self._exp_minus_one(alive.size)]
            runs[alive] += 1
        return runs

    def _one_in(self, toss: int, count: int) -> _Flags:
        ones = np.ones(count, dtype=object)
        return self.chance(ones, toss, np.full(count, 2**_BITS // toss, dtype=np.uint64))

    def _exp_minus_one(self, count: int) -> _Flags:
        return self._exp_minus_fraction(np.ones(count, dtype=object), 1)

    def _exp_minus_fraction(self, numerators: _Integers, denominator: int) -> _Flags:
        """Algorithm 1 for g in [0, 1]: toss coins of g/1, g/2, g/3, ... until tails; heads if that was an odd one."""
        heads = np.zeros(numerators.size, dtype=bool)
        alive = np.arange(numerators.size)
        leading = self.leading(numerators, denominator)
        toss = 1
        while alive.size:
            # g/k as two coins, g and 1/k, so that the bits of g are worked out once.
            again = self.chance(numerators[alive], denominator, leading[alive])
            again &= self._one_in(toss, alive.size)
            heads[alive[~again]] = toss % 2 == 1
            alive = alive[again]
            toss += 1
        return heads
