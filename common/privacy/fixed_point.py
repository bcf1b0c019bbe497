"""Fixed point: updates as integers, so that a sum is exact and noise can be added without floating point.

Noise added to floating-point numbers leaks through the gaps between them (Mironov 2012, "On significance of the least
significant bits for differential privacy"; Haney et al. 2022, arXiv 2207.13793). Integers have no such gaps, and their
sum does not depend on who adds first, so every engine publishes the same prior.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.errors import SettingError, UpdateError

SCALE = 2**12
"""Integer steps per unit of an update."""

# Room for 2^20 people in an int64 sum whatever they send.
_LARGEST = 2.0**42


def quantise(updates: Tensor, scale: int = SCALE) -> Tensor:
    """Round updates to integer steps of ``1 / scale``.

    Guarantee: deterministic (nearest, halves to even), so every engine turns the same update into the same integers;
    no entry moves by more than half a step, and the multiplication itself is exact because ``scale`` is a power of two.

    Args:
        updates: ``(..., numbers)`` clipped updates, floating point.
        scale: steps per unit, a power of two.

    Returns:
        ``(..., numbers)`` int64, same device.

    Raises:
        SettingError: ``scale`` is not a power of two.
        UpdateError: an entry is not finite, or so large that a sum of people could overflow.
    """
    _check(scale)
    steps = (updates.double() * scale).round()
    if not bool((steps.abs() < _LARGEST).all()):  # also False for NaN
        raise UpdateError(f"an update holds NaN or a number beyond {_LARGEST / scale:.3g}; clip before quantising")
    return steps.to(torch.int64)


def dequantise(total: Tensor, scale: int = SCALE) -> Tensor:
    """Integers back to update units, float64; exact below ``2^53`` steps, post-processing for the privacy claim.

    Args:
        total: ``(..., numbers)`` int64, a sum of quantised updates, usually with noise.
        scale: the scale it was quantised with.

    Raises:
        SettingError: ``scale`` is not a power of two.
    """
    _check(scale)
    return total.double() / scale


def sensitivity(norm_bound: float, numbers: int, scale: int = SCALE) -> float:
    """L2 distance in *integer steps* that one person can move the integer sum.

    Guarantee: ``quantise(clip(update, norm_bound), scale)`` has at most this norm, whatever the update. Proof: with
    ``x`` the clipped update in steps and ``e = round(x) - x``, every ``|e_i| <= 1/2``, hence ``|e| <= sqrt(numbers)/2``
    and by the triangle inequality ``|round(x)| <= |x| + |e| <= norm_bound * scale + sqrt(numbers) / 2``. The bound is
    attained when all entries are equal and end on a half, so it cannot be improved for rounding to nearest.
    (Stochastic rounding moves an entry by up to a whole step and would need ``sqrt(numbers)``.)

    Args:
        norm_bound: L2 bound of an update, update units.
        numbers: entries of an update.
        scale: steps per unit, a power of two.

    Raises:
        SettingError: an argument is outside its range.
    """
    _check(scale)
    if not 0 < norm_bound < math.inf:
        raise SettingError(f"norm_bound={norm_bound} must be > 0 and finite; try 8.0")
    if numbers < 1:
        raise SettingError(f"numbers={numbers} must be >= 1; it is the length of an update")
    # The two roundings of this line are covered by the last factor.
    return (norm_bound * scale + math.sqrt(numbers) / 2) * (1 + 2**-50)


def sensitivity_in_update_units(norm_bound: float, numbers: int, scale: int = SCALE) -> float:
    """``sensitivity`` divided by ``scale``: what a statement shows beside the norm bound.

    Raises:
        SettingError: an argument is outside its range.
    """
    return sensitivity(norm_bound, numbers, scale) / scale


def _check(scale: int) -> None:
    # A power of two, or multiplying by it would round before the rounding that is accounted for.
    if scale < 1 or scale & (scale - 1):
        raise SettingError(f"scale={scale} must be a power of two; try {SCALE}")
