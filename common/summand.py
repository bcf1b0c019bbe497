"""What one member adds to the sum of a round: its clipped update, and whether it was clipped.

The second is one more number, 0 or ``FLAG``, under the same noise, because nothing may leave beside the sum. Its cost
is one unit of norm: at C = 8 the noise grows by less than one per cent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common import update
from common.privacy.clip import clip

FLAG = 1.0


def length(parameters: int) -> int:
    """Numbers of a summand of a taste with ``parameters`` weights."""
    return update.length(parameters) + 1


def norm_bound(update_bound: float) -> float:
    """L2 bound of a summand whose update is clipped to ``update_bound``."""
    return math.hypot(update_bound, FLAG) * (1 + 2**-50)


def encode(updates: Tensor, update_bound: float) -> Tensor:
    """Clip updates and append the flag.

    Args:
        updates: ``(people, D)`` floating point.
        update_bound: L2 bound of an update.

    Returns:
        ``(people, D + 1)`` float64, rows of norm at most ``norm_bound(update_bound)``.
    """
    clipped = clip(updates.double(), update_bound)
    was_clipped = (clipped != updates.double()).any(-1, keepdim=True)
    return torch.cat([clipped, was_clipped.double() * FLAG], dim=-1)


def decode(mean: Tensor) -> tuple[Tensor, float]:
    """Split a mean summand into the mean update ``(D,)`` and the fraction clipped, noisy: perhaps outside 0 to 1."""
    return mean[..., :-1], float(mean[..., -1]) / FLAG
