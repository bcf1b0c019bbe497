"""The one record that leaves a client: statistics of a person's posterior in the prior's whitened coordinates.

With the prior ``w ~ N(mu, Sigma)``, ``R = Sigma^(1/2)``, and a person's posterior mode ``m`` and covariance ``V``::

    t = R^-1 (m - mu)                      (p,)
    U = R^-1 V R^-1 + t t' - I             (p, p)
    update = [t, svec(U)]                  (p + p (p + 1) / 2,)

``svec`` stacks the upper triangle with off-diagonals times sqrt(2), so the L2 norm of the update is the norm of ``t``
and the Frobenius norm of ``U`` together. A person who knows nothing beyond the prior sends zeros. The mean of ``t``
and ``U`` over people are the sufficient statistics of the M-step of a hierarchical Gaussian model (Dempster, Laird &
Rubin 1977; empirical Bayes for random effects, Laird & Ware 1982, eq. 3.2-3.3). The weight of every person is one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.errors import UpdateError
from common.prior import PopulationPrior

VERSION = 1


def length(parameters: int) -> int:
    """Numbers in an update of a taste with ``parameters`` weights: 594 for 33."""
    return parameters + parameters * (parameters + 1) // 2


def encode(mean: Tensor, covariance: Tensor, prior: PopulationPrior) -> Tensor:
    """Posterior statistics of each person, as updates (not yet clipped).

    Args:
        mean: ``(people, p)`` posterior modes.
        covariance: ``(people, p, p)`` posterior covariances.
        prior: the prior these posteriors started from.

    Returns:
        ``(people, p + p (p + 1) / 2)``, dtype and device of ``mean``.
    """
    whiten = prior.whitener().to(mean)
    t = (mean - prior.mean.to(mean)) @ whiten
    u = whiten @ covariance @ whiten + t.unsqueeze(-1) * t.unsqueeze(-2)
    u = u - torch.eye(prior.parameters, dtype=mean.dtype, device=mean.device)
    return torch.cat([t, svec(u)], dim=-1)


def decode(update: Tensor, parameters: int) -> tuple[Tensor, Tensor]:
    """Split a (mean) update into ``t`` ``(..., p)`` and the symmetric ``U`` ``(..., p, p)``.

    Raises:
        UpdateError: the last dimension is not ``length(parameters)``.
    """
    if update.shape[-1] != length(parameters):
        raise UpdateError(
            f"update has {update.shape[-1]} numbers, a taste of {parameters} weights needs {length(parameters)}"
        )
    return update[..., :parameters], unsvec(update[..., parameters:], parameters)


def svec(matrix: Tensor) -> Tensor:
    """Upper triangle of symmetric ``(..., p, p)`` as ``(..., p (p + 1) / 2)`` with the same Euclidean norm."""
    rows, columns, scale = _triangle(matrix.shape[-1], matrix)
    return matrix[..., rows, columns] * scale


def unsvec(vector: Tensor, parameters: int) -> Tensor:
    """The symmetric matrix whose ``svec`` is ``vector``."""
    rows, columns, scale = _triangle(parameters, vector)
    matrix = vector.new_zeros(*vector.shape[:-1], parameters, parameters)
    matrix[..., rows, columns] = vector / scale
    matrix[..., columns, rows] = vector / scale
    return matrix


def _triangle(parameters: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = torch.triu_indices(parameters, parameters, device=like.device)
    # Filled in the caller's dtype: torch.where on Python numbers would round sqrt(2) to float32.
    scale = torch.ones_like(rows, dtype=like.dtype).masked_fill_(rows != columns, math.sqrt(2))
    return rows, columns, scale
