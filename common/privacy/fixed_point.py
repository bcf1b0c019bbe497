"""Fixed point: updates as integers, so that a sum is exact and noise can be added without floating point.

Noise added to floating-point numbers leaks through the gaps between them (Mironov 2012, "On significance of the least
significant bits for differential privacy"; Haney et al. 2022, arXiv 2207.13793). Integers have no such gaps, and their
sum does not depend on who adds first, so every engine publishes the same prior.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from common.errors import SettingError, UpdateError
from common.privacy.noise import Randomness, system_randomness

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


def quantise_at_random(
    updates: Tensor, norm_bound: float, scale: int = SCALE, randomness: Randomness = system_randomness
) -> Tensor:
    """Round each entry up or down at random, so that its expectation is kept, and the norm within a bound.

    Conditional stochastic rounding (Kairouz, Liu & Steinke 2021, "The distributed discrete Gaussian mechanism",
    arXiv 2102.06387, section 4.1): a row is rounded again until its norm is within ``random_sensitivity``; one attempt
    suffices with probability at least 1 - exp(-1/2).

    Guarantee: no row's L2 norm is above ``random_sensitivity(norm_bound, numbers, scale)``; no entry moves by a whole
    step. The bias of the repetition is below a step.

    Args:
        updates: ``(..., numbers)`` of norm at most ``norm_bound``, floating point.
        norm_bound: L2 bound of a row.
        scale: steps per unit, a power of two.
        randomness: source of the coins.

    Returns:
        ``(..., numbers)`` int64, on the CPU.

    Raises:
        SettingError: ``scale`` is not a power of two.
        UpdateError: a row is longer than ``norm_bound`` or not finite.
    """
    _check(scale)
    rows = updates.detach().double().cpu().reshape(-1, updates.shape[-1]) * scale
    if not bool((torch.linalg.vector_norm(rows, dim=-1) <= norm_bound * scale * (1 + 1e-9)).all()):  # also for NaN
        raise UpdateError(f"an update is longer than norm_bound={norm_bound} or holds NaN; clip before quantising")
    bound = random_sensitivity(norm_bound, updates.shape[-1], scale)
    below = rows.floor()
    chance = (rows - below).numpy()
    result = torch.zeros_like(rows, dtype=torch.int64)
    left = torch.arange(rows.shape[0])
    while left.numel():
        wanted = chance[left.numpy()]
        words = np.frombuffer(randomness(8 * wanted.size), dtype="<u8").reshape(wanted.shape) >> np.uint64(11)
        coins = words.astype(np.float64) * 2.0**-53 < wanted
        steps = below[left].to(torch.int64) + torch.from_numpy(coins).to(torch.int64)
        # Integers squared in float64: the margin of the bound covers the rounding.
        inside = torch.linalg.vector_norm(steps.double(), dim=-1) <= bound * (1 - 2**-48)
        result[left[inside]] = steps[inside]
        left = left[~inside]
    return result.reshape(updates.shape)


def random_sensitivity(norm_bound: float, numbers: int, scale: int = SCALE) -> float:
    """L2 norm in integer steps that ``quantise_at_random`` never exceeds: the quantisation-inflated norm.

    Kairouz et al. 2021, equation of section 4.1 with beta = exp(-1/2): the square is at most the smaller of
    ``(s C + sqrt(D))^2`` and ``s^2 C^2 + D/4 + s C + sqrt(D)/2``.

    Args:
        norm_bound: L2 bound C of an update, update units.
        numbers: entries D of an update.
        scale: steps s per unit, a power of two.

    Raises:
        SettingError: an argument is outside its range.
    """
    sensitivity(norm_bound, numbers, scale)  # the same ranges
    length = norm_bound * scale
    always, nearly = (length + math.sqrt(numbers)) ** 2, length**2 + numbers / 4 + length + math.sqrt(numbers) / 2
    return math.sqrt(min(always, nearly)) * (1 + 2**-46)


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
