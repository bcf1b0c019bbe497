"""Noisy mean update -> next prior: the M-step of the hierarchical model. Post-processing, so it costs no privacy."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from common import update
from common.errors import SettingError
from common.prior import PopulationPrior

EIGENVALUE_FLOOR = 0.02  # in units of the previous covariance: one round never forgets more than 98 % of a direction
EIGENVALUE_CEILING = 50.0  # nor does it make a direction more than 50 times as wide
CONDITION = 1e9  # widest over narrowest direction of a prior, at most: far beyond tastes, well within float64


def next_prior(prior: PopulationPrior, mean_update: Tensor, step: float = 1.0) -> PopulationPrior:
    """Move the prior towards the statistics of the people who answered.

    With ``mean_update = [t, svec(U)]`` in the whitened coordinates of ``common.update`` and ``R = Sigma^(1/2)``::

        mean'       = mean + step R t
        covariance' = R (I + step (U - t t')) R

    At ``step = 1`` and without noise or clipping this is the exact M-step of EM for a Gaussian population (Laird &
    Ware 1982, eq. 3.2-3.3); a step of 1.5 to 2 is over-relaxed EM (Salakhutdinov & Roweis 2003, eq. 6) and makes up
    for the shrinkage that clipping and few rounds leave.

    Guarantee: the result is a valid prior whatever the numbers, also after many rounds of nothing but noise:
    eigenvalues of the factor are kept between ``EIGENVALUE_FLOOR`` and ``EIGENVALUE_CEILING``, and the covariance's
    within ``CONDITION`` of its largest.

    Args:
        prior: what the people started from.
        mean_update: ``(p + p (p + 1) / 2,)`` noisy sum divided by the expected number of people.
        step: learning rate eta, > 0.

    Raises:
        SettingError: ``step`` is not positive.
        UpdateError: ``mean_update`` has the wrong length.
    """
    if not step > 0:
        raise SettingError(f"step={step} must be > 0; try 1.5")
    t, u = update.decode(mean_update.to(torch.float64), prior.parameters)
    root = prior.root()
    return dataclasses.replace(
        prior,
        mean=prior.mean + step * root @ t,
        covariance=next_covariance(root, u - torch.outer(t, t), step),
        rounds=prior.rounds + 1,
    )


def next_covariance(root: Tensor, change: Tensor, step: float) -> Tensor:
    """``R (I + step change) R`` with the bounds that keep any prior valid, for one population or for several at once.

    Guarantee: as for ``next_prior``, each matrix by itself.

    Args:
        root: ``(..., p, p)`` symmetric square roots R of the covariances before.
        change: ``(..., p, p)`` symmetric; leading dimensions as those of ``root``, or broadcast against them.
        step: learning rate eta.
    """
    identity = torch.eye(change.shape[-1], dtype=change.dtype, device=change.device)
    values, vectors = torch.linalg.eigh(identity + step * change)
    factor = (vectors * values.clamp(EIGENVALUE_FLOOR, EIGENVALUE_CEILING).unsqueeze(-2)) @ vectors.mT
    return _well_conditioned(root @ factor @ root)


def _well_conditioned(covariance: Tensor) -> Tensor:
    """The nearest symmetric matrix whose eigenvalues lie within ``CONDITION`` of the largest; most are as they were."""
    covariance = (covariance + covariance.mT) / 2
    values, vectors = torch.linalg.eigh(covariance)
    least = values[..., -1:] / CONDITION
    narrow = (values[..., :1] < least).unsqueeze(-1)
    if not bool(narrow.any()):
        return covariance
    raised = (vectors * torch.maximum(values, least).unsqueeze(-2)) @ vectors.mT
    return torch.where(narrow, (raised + raised.mT) / 2, covariance)
