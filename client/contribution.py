"""What a node contributes to a round: its people's clipped, rounded updates, already added up."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from client.fit import laplace
from client.likelihood import Evidence
from common import summand, update
from common.prior import PopulationPrior
from common.privacy.clip import clip
from common.privacy.fixed_point import quantise

CHUNK_PEOPLE = 256
"""People fitted together: keeps a call within some tens of megabytes; has no effect on the result beyond rounding."""


def contribution(
    evidence: Evidence, prior: PopulationPrior, norm_bound: float, scale: int, *, chunk_people: int = CHUNK_PEOPLE
) -> Tensor:
    """Sum over people of their updates in integer steps: fit, encode, clip, round, add.

    Guarantee: adding or removing one person moves the sum by at most ``sensitivity(norm_bound, D, scale)`` in L2
    norm. Integer addition does not depend on the order, so any split of the same people over nodes gives the same
    total, up to updates that lie within rounding of a half step. Nobody gives zeros; so does a person without
    ratings. Work is in float64 whatever the dtype of the features.

    Args:
        evidence: what the people of this node said; features ``(people, t, m, p)``.
        prior: what they start from, with p weights.
        norm_bound: L2 bound of one person's update, > 0.
        scale: integer steps per unit, a power of two.
        chunk_people: people fitted together.

    Returns:
        ``(D,)`` int64 on the CPU, ``D = p + p (p + 1) / 2``.

    Raises:
        SettingError: the features do not fit the prior or are not finite, or a setting is outside its range.
    """
    total = torch.zeros(update.length(prior.parameters), dtype=torch.int64)
    for part in evidence.chunks(chunk_people):
        steps = quantise(clip(updates_of(part, prior), norm_bound), scale)
        total += steps.sum(0).cpu()
    return total


def updates_of(evidence: Evidence, prior: PopulationPrior) -> Tensor:
    """``(people, D)`` float64: each person's update before it is clipped. Never leaves a device in this form."""
    exact = dataclasses.replace(evidence, features=evidence.features.double(), weight=evidence.weight.double())
    fit = laplace(exact, prior.mean, prior.covariance, prior.thresholds)
    return update.encode(fit.mean, fit.covariance, prior)


def summand_of(evidence: Evidence, prior: PopulationPrior, update_bound: float) -> Tensor:
    """``(people, D + 1)`` float64: what each person adds to a round, before rounding and noise (``common.summand``)."""
    return summand.encode(updates_of(evidence, prior), update_bound)
