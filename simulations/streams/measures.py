"""How alike two sets of items are, on an embedding that no learner sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import SettingError

NEIGHBOURS = 5


def frechet(one: Tensor, other: Tensor) -> float:
    """Frechet distance of Gaussians fitted to two sets of features, squared as usual (Heusel et al. 2017, eq. 6).

    Args:
        one: ``(n, f)``, n > 1.
        other: ``(m, f)``, m > 1.
    """
    centre_a, root_a = _gaussian(one)
    centre_b, root_b = _gaussian(other)
    # trace of (A B)^(1/2) is the sum of the singular values of A^(1/2) B^(1/2)
    shared = torch.linalg.svdvals(root_a.T @ root_b).sum()
    squared = (centre_a - centre_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * shared
    return float(squared.clamp(min=0))


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Centre ``(f,)`` and a factor ``(f, f)`` of the covariance."""
    if features.ndim != 2 or len(features) < 2:
        raise SettingError(f"features of shape {tuple(features.shape)} should be (n, f) with n > 1")
    value, vectors = torch.linalg.eigh(features.double().T.cov())
    return features.double().mean(0), vectors * value.clamp(min=0).sqrt()


@dataclass(frozen=True)
class Coverage:
    """Precision and recall of generated items (Kynkaanniemi et al. 2019, eq. 1-2).

    Attributes:
        precision: share of them that lie among the real ones.
        recall: share of the real ones that lie among them.
    """

    precision: float
    recall: float


def coverage(made: Tensor, real: Tensor, neighbours: int = NEIGHBOURS) -> Coverage:
    """How much of either set lies within the neighbourhoods of the other.

    Args:
        made: ``(n, f)``; real: ``(m, f)``, each of more than ``neighbours`` items.
        real: see above.
        neighbours: the ball around an item reaches to its so manyth neighbour.
    """
    return Coverage(_within(made, real, neighbours), _within(real, made, neighbours))


def _within(items: Tensor, centres: Tensor, neighbours: int) -> float:
    if len(centres) <= neighbours:
        raise SettingError(f"{len(centres)} items are too few for {neighbours} neighbours")
    reach = torch.cdist(centres, centres).kthvalue(neighbours + 1, dim=1).values  # the nearest is itself
    return float((torch.cdist(items, centres) <= reach).any(1).double().mean())
