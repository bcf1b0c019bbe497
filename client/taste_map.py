"""A map of what somebody rated: items that look alike lie near each other."""

from __future__ import annotations

import torch
from torch import Tensor

from client.classifiers.base import Points


def places(points: Points, scale: Tensor) -> Tensor:
    """Places ``(n, 2)`` of items in the unit square: principal components of their features (Pearson 1901).

    Guarantee: one item, or several that are the same, lie at 0; each axis that varies is filled from 0 to 1.

    Args:
        points: the items.
        scale: ``(k,)`` how much each feature counts.
    """
    centred = points.features[:, :-1] * scale.to(points.features)
    centred = centred - centred.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    flat = centred.new_zeros(len(points), 2)
    flat[:, : min(2, len(axes))] = centred @ axes[:2].T
    low, high = flat.amin(0), flat.amax(0)
    return (flat - low) / (high - low).clamp(min=1e-9)
