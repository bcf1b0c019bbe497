"""Clip, round, add: what an engine does to a cohort's vectors, at the speed of memory."""

from __future__ import annotations

import torch
from torch import Tensor

from common.privacy.clip import clip
from common.privacy.fixed_point import SCALE, quantise, sensitivity

_MARGIN = 2.0**-20
_EXACT = 2**24  # float32 adds whole numbers below this without rounding


def clipped_sum(updates: Tensor, norm_bound: float, scale: int = SCALE) -> Tensor:
    """The sum of ``quantise(clip(updates))``, in fewer passes over memory where the vectors are float32.

    Guarantee: adding or removing a row moves the sum by at most ``sensitivity(norm_bound, numbers, scale)`` in L2 norm,
    whatever the row; a row with a NaN or an infinity adds nothing. The sum itself is exact. For float32 the entries of
    a row may differ by one step from those of ``quantise(clip(row))`` where they lie within rounding of a half step.

    Proof for float32: the norm is computed in float64 and rows are scaled to a length of at most ``norm_bound (1 -
    2^-20)``. Two roundings follow, of the factor and of each product, each at most ``2^-24`` relative, so the scaled
    row is no longer than ``norm_bound * scale``, and rounding to whole numbers adds at most ``sqrt(numbers) / 2``.

    Args:
        updates: ``(people, numbers)`` floating point.
        norm_bound: L2 bound of one row, > 0.
        scale: integer steps per unit, a power of two.

    Returns:
        ``(numbers,)`` int64, on the device of ``updates``.

    Raises:
        SettingError: ``norm_bound`` or ``scale`` is outside its range.
    """
    people, numbers = updates.shape
    if updates.dtype != torch.float32 or 0 in (people, numbers) or norm_bound * scale * 2 >= _EXACT:
        return quantise(clip(updates, norm_bound), scale).sum(0)
    sensitivity(norm_bound, numbers, scale)  # the same ranges
    length = torch.linalg.vector_norm(updates, dim=-1, dtype=torch.float64)
    broken = ~length.isfinite()
    if bool(broken.any()):
        updates, length = updates.masked_fill(broken[:, None], 0), length.masked_fill(broken, 0)
    bound = norm_bound * (1 - _MARGIN)
    factor = (torch.where(length > bound, bound / length, 1.0) * scale).float()
    steps = (updates * factor[:, None]).round_()
    together = max(1, int(_EXACT / (norm_bound * scale + 1)))  # rows whose float32 sum is exact
    return (
        torch.stack([part.sum(0).long() for part in torch.split(steps, together)]).sum(0)
        if people
        else _nothing(updates)
    )


def _nothing(updates: Tensor) -> Tensor:
    return torch.zeros(updates.shape[1], dtype=torch.int64, device=updates.device)
