"""Clipping: the bound on what one person can do to a sum.

Every later claim rests on this bound, so it is kept as a statement about the numbers that leave, not about the
arithmetic that made them: the norm in exact arithmetic of the rounded result is at most the bound.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.errors import SettingError, UpdateError


def clip(updates: Tensor, norm_bound: float) -> Tensor:
    """Scale each update down to a norm bound (flat clipping, McMahan et al. 2018, arXiv 1710.06963).

    Guarantee: each row's L2 norm is at most ``norm_bound``, rounding included, and its direction is kept. Rows well
    inside the bound come back bit for bit. A row with a NaN or an infinity comes back as zeros, so one broken client
    cannot spoil the sum; a row of zeros stays zeros. Rows do not touch each other.

    Args:
        updates: ``(..., numbers)`` floating point, one update per row.
        norm_bound: L2 bound, > 0. It is the sensitivity of the sum when one person is added or removed.

    Returns:
        ``(..., numbers)``, same dtype and device as ``updates``.

    Raises:
        SettingError: ``norm_bound`` is not a positive finite number.
        UpdateError: ``updates`` is not floating point or has no dimension.
    """
    if not 0 < norm_bound < math.inf:
        raise SettingError(f"norm_bound={norm_bound} must be > 0 and finite; try 8.0")
    if updates.ndim == 0 or not updates.is_floating_point():
        raise UpdateError(f"updates of {updates.dtype} and shape {tuple(updates.shape)} must be rows of real numbers")
    if updates.shape[-1] == 0:
        return updates.clone()
    summing = (updates.shape[-1] + 16) * torch.finfo(torch.float64).eps  # relative error of a norm, with room
    finite = updates.isfinite().all(-1, keepdim=True)
    rows = torch.where(finite, updates, 0).double()
    # Divided by the largest entry first: the square of 1e200 is infinite although the row can be clipped.
    largest = rows.abs().amax(-1, keepdim=True)
    unit = rows / torch.where(largest > 0, largest, 1)
    length = torch.linalg.vector_norm(unit, dim=-1, keepdim=True)
    inside = length <= norm_bound * (1 - summing) / largest
    # Aimed below the bound by what the cast back to the caller's dtype may add.
    target = norm_bound * (1 - summing - torch.finfo(updates.dtype).eps)
    clipped = torch.where(inside, rows, unit * (target / torch.where(length > 0, length, 1))).to(updates.dtype)
    # Below the smallest normal number rounding is no longer relative; such a row says nothing, so it says zero.
    safe = torch.linalg.vector_norm(clipped.double(), dim=-1, keepdim=True) <= norm_bound * (1 - summing / 4)
    return torch.where(safe, clipped, 0)
