"""What to ask about: a few samples that stand for all the ways a flow draws at present."""

from __future__ import annotations

import torch
from torch import Tensor

from common.errors import SettingError

_BINS = 24


def shape_distribution(clouds: Tensor) -> Tensor:
    """How far apart the points of each cloud are (D2 of Osada et al. 2002), the same however the cloud is turned.

    Args:
        clouds: ``(n, points, d)``.

    Returns:
        ``(n, 24)``: quantiles of the distances between two points, as shares of their mean.
    """
    n, points, _ = clouds.shape
    rows, columns = torch.triu_indices(points, points, 1, device=clouds.device)
    apart = torch.cdist(clouds, clouds)[:, rows, columns]
    apart = apart / apart.mean(-1, keepdim=True).clamp_min(1e-6)
    levels = (torch.arange(_BINS, device=clouds.device, dtype=apart.dtype) + 0.5) / _BINS
    return torch.quantile(apart, levels, dim=-1).T if n else apart.new_zeros(0, _BINS)


def most_different(clouds: Tensor, count: int) -> Tensor:
    """Choose clouds so that every other one is like one of them.

    The greedy rule for a facility location (Nemhauser et al. 1978): each choice lowers the summed distance from all
    clouds to the nearest chosen one by as much as possible. A single odd cloud is not worth a place, a rare kind is.

    Args:
        clouds: ``(n, points, d)`` finite.
        count: how many, 1 to n.

    Returns:
        ``(count,)`` indices, the most typical first.

    Raises:
        SettingError: more are wanted than there are.
    """
    if not 1 <= count <= len(clouds):
        raise SettingError(f"count={count} must lie between 1 and {len(clouds)}, the number of samples")
    seen = shape_distribution(clouds)
    apart = torch.cdist(seen, seen)
    nearest = apart.new_full((len(clouds),), float(apart.max()) + 1)
    chosen: list[int] = []
    for _ in range(count):
        gain = (nearest - apart).clamp_min(0).sum(-1)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        nearest = torch.minimum(nearest, apart[chosen[-1]])
    return torch.tensor(chosen, device=clouds.device)
