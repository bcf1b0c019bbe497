"""The way from people's answers to published sums, with the functions of a ``Build`` in their places.

With the honest build it gives bit for bit what ``server.rounds.run_rounds`` gives; a test says so. An auditor sees
more of it than the world does: each noised sum, not only the prior made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client.contribution import CHUNK_PEOPLE, updates_of
from client.likelihood import Evidence
from common import update
from common.errors import SettingError
from common.prior import PopulationPrior
from common.privacy.accounting import noise_sigma_squared, statement
from common.privacy.fixed_point import SCALE, dequantise, quantise
from common.privacy.settings import PrivacySettings
from server.population import next_prior
from simulations.audits.builds import Build, Noise


@dataclass(frozen=True)
class Group:
    """People who state the same weight for themselves.

    Attributes:
        evidence: what they said.
        claimed: the weight they state; a build that is honest does not look at it.
    """

    evidence: Evidence
    claimed: int = 1


@dataclass(frozen=True)
class Release:
    """One published sum.

    Attributes:
        number: of the round.
        prior: what people started from.
        total: ``(D,)`` int64, noise included.
    """

    number: int
    prior: PopulationPrior
    total: Tensor


def summands(updates: Tensor, claimed: Tensor, norm_bound: float, build: Build) -> Tensor:
    """What each person adds to a sum.

    Args:
        updates: ``(people, D)`` before clipping.
        claimed: ``(people,)`` int64 weights that people claim for themselves.
        norm_bound: C.
        build: whose clipping and weights.

    Returns:
        ``(people, D)`` int64 steps.
    """
    return quantise(build.clip(updates, norm_bound), SCALE) * build.weights(claimed)[:, None]


def train(
    people: Sequence[Group],
    prior: PopulationPrior,
    settings: PrivacySettings,
    step: float,
    build: Build,
    noise: Noise,
) -> tuple[PopulationPrior, list[Release]]:
    """A whole training, and everything it published.

    Args:
        people: everybody.
        prior: public starting point.
        settings: the promise; it must be private.
        step: learning rate of the M-step.
        build: the functions under audit.
        noise: what the build asks for its noise.
    """
    check_private(settings)
    variance = noise_sigma_squared(settings, update.length(prior.parameters), SCALE)
    source, before = build.noise(noise), prior
    published: list[Release] = []
    for number in build.ledger(settings.participations):
        if published and published[-1].number == number:
            prior = before  # a round that is run again starts where it started
        before = prior
        total = source(update.length(prior.parameters), variance)
        total = total + add_up(people, prior, settings.norm_bound, build)
        published.append(Release(number, prior, total))
        prior = next_prior(prior, dequantise(total, SCALE) / settings.expected_people, step)
    return prior, published


def add_up(people: Sequence[Group], prior: PopulationPrior, norm_bound: float, build: Build) -> Tensor:
    """``(D,)`` int64 exact sum of everybody, before noise."""
    total = torch.zeros(update.length(prior.parameters), dtype=torch.int64)
    for group in people:
        for part in group.evidence.chunks(CHUNK_PEOPLE):
            claimed = torch.full((part.people,), group.claimed)
            total += summands(updates_of(part, prior), claimed, norm_bound, build).sum(0).cpu()
    return total


def claimed_mu(settings: PrivacySettings, numbers: int) -> float:
    """Mu that the statement of these settings claims for all releases one person takes part in."""
    check_private(settings)
    z = statement(settings, numbers, 1).noise_multiplier
    assert z is not None, "a private statement has a noise multiplier"
    return float(settings.participations**0.5) / z


def check_private(settings: PrivacySettings) -> None:
    """Refuse settings that claim nothing.

    Raises:
        SettingError: epsilon is infinite.
    """
    if not settings.private:
        raise SettingError("epsilon=inf claims nothing, so there is nothing to audit; give a finite epsilon, e.g. 2")
