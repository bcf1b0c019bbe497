"""Membership: was this ordinary person among those a published prior was learned from?

The likelihood-ratio attack (Carlini et al. 2022, arXiv 2112.03570) in its strongest form here: the attacker knows the
person's ratings, the number of people and the population, of which it has as many shadow people as it wants, and
undoes the M-step. One release with the whole budget, which costs as much privacy as several that share it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.special import ndtr, ndtri  # type: ignore[import-untyped]
from torch import Tensor

from client.contribution import CHUNK_PEOPLE, updates_of
from client.likelihood import Evidence
from common import update
from common.errors import SettingError
from common.prior import PopulationPrior
from common.privacy.accounting import noise_sigma_squared
from common.privacy.fixed_point import SCALE, dequantise
from common.privacy.settings import PrivacySettings
from server.population import next_covariance
from simulations.audits import bounds
from simulations.audits.builds import Build, Noise
from simulations.audits.canaries import flat_prior, ordinary
from simulations.audits.pipeline import check_private, claimed_mu, summands
from simulations.audits.verdict import Level, Verdict

STEP = 1.0
FALSE_POSITIVES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True, kw_only=True)
class Membership:
    """Settings of the attack.

    Attributes:
        people: n, in the release.
        parameters: p of the tastes.
        ratings: of each person.
        trials: releases with the person in question, and as many without.
        shadows: people the attacker makes up to learn the population from; trials draw from others.
    """

    people: int = 100
    parameters: int = 9
    ratings: int = 20
    trials: int = 2_000
    shadows: int = 1_500

    def __post_init__(self) -> None:
        if self.people < 2:
            raise SettingError(f"people={self.people} must be >= 2; try 100")
        if self.trials < 20:
            raise SettingError(f"trials={self.trials} are too few for a curve; take at least 20, better 2000")
        if self.shadows < 4 * update.length(self.parameters):
            raise SettingError(
                f"shadows={self.shadows} are too few for the covariance of {update.length(self.parameters)} numbers; "
                f"take at least {4 * update.length(self.parameters)}"
            )

    def promise(self, settings: PrivacySettings) -> PrivacySettings:
        """One release with the whole budget to this many people."""
        return PrivacySettings(
            epsilon=settings.epsilon,
            delta=settings.delta,
            participations=1,
            norm_bound=settings.norm_bound,
            expected_people=self.people,
            minimum_people=1,
        )


@dataclass(frozen=True)
class Curve:
    """How well the attacker told the two worlds apart.

    Attributes:
        absent: ``(trials,)`` log likelihood ratios of releases without the person.
        present: with the person.
    """

    absent: Tensor
    present: Tensor

    def true_positives(self, false_positive: float) -> float:
        """Share of members found at a threshold that this share of non-members passes."""
        threshold = self.absent.quantile(1 - false_positive)
        return float((self.present > threshold).double().mean())

    @property
    def auc(self) -> float:
        """Area under the curve; one half is a blind guess."""
        order = torch.cat([self.absent, self.present]).argsort().argsort().double()
        n = self.present.numel()
        return float((order[self.absent.numel() :].sum() - n * (n - 1) / 2) / (n * self.absent.numel()))

    @property
    def advantage(self) -> float:
        """Largest difference between true and false positive rate."""
        thresholds = torch.cat([self.absent, self.present]).sort().values
        below = torch.searchsorted(self.absent.sort().values, thresholds, right=True) / self.absent.numel()
        missed = torch.searchsorted(self.present.sort().values, thresholds, right=True) / self.present.numel()
        return float((below - missed).max())


def largest_true_positives(false_positive: float, mu: float) -> float:
    """What mu-GDP allows: ``Phi(Phi^-1(FPR) + mu)`` (Dong et al. 2022, equation 6)."""
    return float(ndtr(ndtri(false_positive) + mu))


def largest_auc(mu: float) -> float:
    """Area under that curve, ``Phi(mu / sqrt 2)``."""
    return float(ndtr(mu / math.sqrt(2)))


def largest_advantage(mu: float) -> float:
    """``2 Phi(mu / 2) - 1``."""
    return float(2 * ndtr(mu / 2) - 1)


def audit(
    build: Build, settings: PrivacySettings, who: Membership, noise: Noise, level: Level, generator: torch.Generator
) -> Verdict:
    """Bounds on epsilon from a membership attack; far below the claim where people are ordinary, as they should be."""
    check_private(settings)
    found = attack(build, settings, who, noise, generator)
    promised = who.promise(settings)
    mu = claimed_mu(promised, update.length(who.parameters))
    reach = bounds.from_scores(found.absent, found.present, level.confidence)
    strict = bounds.from_scores(found.absent, found.present, level.strict)
    interval = reach.epsilon(settings.delta)
    return Verdict(
        audit="membership",
        claim=settings.epsilon,
        lower=interval.lower,
        upper=interval.upper,
        flagged=bounds.epsilon_of(strict.lower, settings.delta) > settings.epsilon,
        detail={
            "auc": found.auc,
            "auc_allowed": largest_auc(mu),
            "advantage": found.advantage,
            "advantage_allowed": largest_advantage(mu),
            "mu_claimed": mu,
            **{f"found_at_{rate:g}": found.true_positives(rate) for rate in FALSE_POSITIVES},
        },
    )


def attack(
    build: Build, settings: PrivacySettings, who: Membership, noise: Noise | None, generator: torch.Generator
) -> Curve:
    """The attack itself, also on a release without noise.

    Args:
        build: the functions under audit.
        settings: the promise; an infinite epsilon adds no noise.
        who: sizes.
        noise: what the build asks for its noise; ``None`` for no noise at all.
        generator: of people and of who is drawn.
    """
    promised, prior = who.promise(settings), flat_prior(who.parameters)
    made = _population(who.shadows + 2 * _pool(who), who, prior, settings.norm_bound, build, generator)
    shadow, rest = made[: who.shadows], made[who.shadows :]
    people, targets = rest[: _pool(who)], rest[_pool(who) :]
    numbers = update.length(who.parameters)
    variance = noise_sigma_squared(promised, numbers) if settings.private and noise is not None else None
    source = build.noise(noise) if noise is not None else None
    ratio = _likelihood_ratio(shadow, who.people, 0.0 if variance is None else float(variance))
    scores = []
    for members in (0, 1):
        chosen = targets[torch.randint(_pool(who), (who.trials,), generator=generator)]
        totals = _totals(people, who.people - members, who.trials, generator) + members * chosen
        if variance is not None and source is not None:
            totals = totals + source(totals.numel(), variance).reshape(totals.shape)
        seen = what_a_prior_shows(dequantise(totals, SCALE) / who.people, who.parameters, STEP)
        scores.append(ratio(seen * who.people * SCALE, chosen.double()))
    return Curve(*scores)


def undo(published: PopulationPrior, before: PopulationPrior, step: float) -> Tensor:
    """``(D,)`` noisy mean update that led from one prior to the next; exact where no eigenvalue was bounded."""
    whiten = before.whitener()
    t = whiten @ (published.mean - before.mean) / step
    change = (whiten @ published.covariance @ whiten - torch.eye(before.parameters, dtype=torch.float64)) / step
    return torch.cat([t, update.svec(change + torch.outer(t, t))])


def what_a_prior_shows(means: Tensor, parameters: int, step: float) -> Tensor:
    """What ``undo`` finds in the priors made from many mean updates, without making them.

    Args:
        means: ``(trials, D)`` float64 noisy mean updates.
        parameters: p.
        step: of the M-step.

    Returns:
        ``(trials, D)``: the same numbers, except where the prior before made ``server.population.CONDITION`` matter.
    """
    t, u = update.decode(means, parameters)
    outer, eye = t.unsqueeze(-1) * t.unsqueeze(-2), torch.eye(parameters, dtype=means.dtype)
    factor = next_covariance(eye, u - outer, step)  # whitened: the square root before is the identity
    return torch.cat([t, update.svec((factor - eye) / step + outer)], dim=-1)


def _population(
    count: int, who: Membership, prior: PopulationPrior, norm_bound: float, build: Build, generator: torch.Generator
) -> Tensor:
    """``(count, D)`` int64 what ordinary people add to a sum."""
    evidence: Evidence = ordinary(count, who.parameters, who.ratings, generator)
    parts = [updates_of(part, prior) for part in evidence.chunks(CHUNK_PEOPLE)]
    return summands(torch.cat(parts), torch.ones(count, dtype=torch.int64), norm_bound, build)


def _pool(who: Membership) -> int:
    return max(500, 4 * who.people)


def _totals(people: Tensor, count: int, trials: int, generator: torch.Generator) -> Tensor:
    """``(trials, D)`` sums of ``count`` people each, drawn without replacement within a trial."""
    totals = []
    for _ in range(trials):
        drawn = torch.randperm(people.shape[0], generator=generator)[:count]
        totals.append(people[drawn].sum(0))
    return torch.stack(totals)


def _likelihood_ratio(shadow: Tensor, people: int, variance: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Log likelihood ratio of normal laws with and without a person u: ``u' S^-1 (y - n m) - ...``, up to the mean's
    shift by the person who was there instead."""
    rows = shadow.double()
    mean, spread = rows.mean(0), torch.cov(rows.T)
    ridge = 1e-9 * float(spread.diagonal().mean())  # a population that never moves in some direction has no inverse
    eye = torch.eye(rows.shape[1], dtype=torch.float64)
    with_person = torch.cholesky_inverse(torch.linalg.cholesky((people - 1) * spread + (variance + ridge) * eye))
    without = torch.cholesky_inverse(torch.linalg.cholesky(people * spread + (variance + ridge) * eye))

    def ratio(totals: Tensor, target: Tensor) -> Tensor:
        there = totals - (people - 1) * mean - target
        not_there = totals - people * mean
        return (((not_there @ without) * not_there).sum(-1) - ((there @ with_person) * there).sum(-1)) / 2

    return ratio
