"""One-run audit: many canary people, each in or out by a coin, one whole training, guesses who was in.

Steinke, Nasr & Jagielski 2023 ("Privacy auditing with one (1) training run", arXiv 2305.08846), with their bound and
the tighter one of Mahloujifar et al. 2025 (arXiv 2410.22235). Everything is on the way: answers, fit, update, clip,
integers, sum, noise, prior, next round. The auditor knows the ordinary people, the canaries and the code, and not the
coins and the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from client.contribution import updates_of
from client.likelihood import Evidence
from common import update
from common.errors import SettingError
from common.privacy.accounting import noise_sigma_squared
from common.privacy.settings import PrivacySettings
from simulations.audits import bounds
from simulations.audits.builds import Build, Noise
from simulations.audits.canaries import canaries, flat_prior, ordinary
from simulations.audits.pipeline import Group, Release, add_up, check_private, claimed_mu, summands, train
from simulations.audits.verdict import Level, Verdict

STEP = 1.5
CLAIM = 10  # the weight that canaries state for themselves


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """Settings of the audit.

    Attributes:
        parameters: p of the tastes; there are ``p (p + 3) / 2`` numbers for the canaries to lie in.
        canaries: m, each in with probability 1/2.
        guesses: r, fixed beforehand: the r/2 most and the r/2 least likely ones.
        people: ordinary people around them.
        ratings: of each of these.
    """

    parameters: int = 48
    canaries: int = 600
    guesses: int = 150
    people: int = 60
    ratings: int = 20

    def __post_init__(self) -> None:
        if not 2 <= self.guesses <= self.canaries or self.guesses % 2:
            raise SettingError(
                f"guesses={self.guesses} must be even, from 2 to canaries={self.canaries}; try a quarter"
            )
        numbers = update.length(self.parameters)
        if self.canaries > numbers:
            raise SettingError(
                f"canaries={self.canaries} overlap in updates of {numbers} numbers; take fewer, or more parameters "
                f"than {self.parameters}"
            )

    def promise(self, settings: PrivacySettings) -> PrivacySettings:
        """The same promise for the number of people of this audit."""
        expected = self.canaries // 2 + self.people
        return PrivacySettings(
            epsilon=settings.epsilon,
            delta=settings.delta,
            participations=settings.participations,
            norm_bound=settings.norm_bound,
            expected_people=expected,
            minimum_people=1,
        )


def audit(
    build: Build, settings: PrivacySettings, one: OneRun, noise: Noise, level: Level, generator: torch.Generator
) -> Verdict:
    """Bounds on epsilon from one training.

    Args:
        build: the functions under audit.
        settings: the promise; numbers of people are replaced by those of the audit.
        one: its size.
        noise: what the build asks for its noise.
        level: how sure to be.
        generator: of directions, coins and ordinary people.

    Raises:
        SettingError: even all guesses right would not refute the claim.
    """
    check_private(settings)
    settings = one.promise(settings)
    mu = claimed_mu(settings, update.length(one.parameters))
    check_guesses(one, mu, level)
    inside, scores = play(build, settings, one, noise, generator)
    right = _right(scores, inside, one.guesses)
    found = bounds.from_guesses(one.canaries, one.guesses, right, level.confidence)
    strict = bounds.from_guesses(one.canaries, one.guesses, right, level.strict)
    # the upper bound is on this attack: the two halves as if they were worlds, which takes no account of choosing r
    reach = bounds.from_scores(scores[~inside], scores[inside], level.confidence)
    return Verdict(
        audit="one-run",
        claim=settings.epsilon,
        lower=bounds.epsilon_of(found, settings.delta),
        upper=bounds.epsilon_of(reach.upper, settings.delta),
        flagged=bounds.epsilon_of(strict, settings.delta) > settings.epsilon,
        detail={
            "right": float(right),
            "guesses": float(one.guesses),
            "mu": found,
            "mu_claimed": mu,
            "lower_2023": bounds.epsilon_from_guesses(
                one.canaries, one.guesses, right, settings.delta, level.confidence
            ),
        },
    )


def play(
    build: Build, settings: PrivacySettings, one: OneRun, noise: Noise, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One training with coins.

    Returns:
        ``(m,)`` bool who was in, and ``(m,)`` scores: higher says "in".
    """
    prior = flat_prior(one.parameters)
    known = canaries(one.canaries, one.parameters, generator)
    crowd = ordinary(one.people, one.parameters, one.ratings, generator)
    inside = torch.rand(one.canaries, generator=generator) < 0.5
    # canaries who are out take part with nothing to say, so that nobody is in a different place
    silent = Evidence(known.kind, known.value, known.weight * inside[:, None], known.features, known.shown)
    groups = [Group(silent, CLAIM), Group(crowd)]
    _, published = train(groups, prior, settings, STEP, build, noise)
    return inside, guess_scores(published, known, crowd, settings, build)


def guess_scores(
    published: list[Release], known: Evidence, crowd: Evidence, settings: PrivacySettings, build: Build
) -> Tensor:
    """The best linear estimate of who was in, from all published sums together.

    With the sums ``y = A x + known + noise`` and coins x: ``(A'A / s^2 + 4 I)^-1 A' (y - known - A 1/2) / s^2``.

    Returns:
        ``(m,)`` float64.
    """
    numbers = published[0].total.numel()
    std = math.sqrt(noise_sigma_squared(settings, numbers))
    gram = torch.zeros(known.people, known.people, dtype=torch.float64)
    along = torch.zeros(known.people, dtype=torch.float64)
    claims = torch.full((known.people,), CLAIM)
    for release in published:
        steps = summands(updates_of(known, release.prior), claims, settings.norm_bound, build).double() / std
        rest = release.total - add_up([Group(crowd)], release.prior, settings.norm_bound, build)
        gram += steps @ steps.T
        along += steps @ (rest.double() / std - steps.sum(0) / 2)
    result: Tensor = torch.linalg.solve(gram + 4 * torch.eye(known.people, dtype=torch.float64), along)
    return result


def check_guesses(one: OneRun, mu: float, level: Level) -> None:
    """Refuse an audit whose every guess right would not refute the claim.

    Raises:
        SettingError: see above.
    """
    ceiling = bounds.from_guesses(one.canaries, one.guesses, one.guesses, level.strict)
    if ceiling <= mu:
        raise SettingError(
            f"guesses={one.guesses} about canaries={one.canaries} cannot show more than mu={ceiling:.3g}, and the "
            f"claim is {mu:.3g}; double both"
        )


def _right(scores: Tensor, inside: Tensor, guesses: int) -> int:
    order = scores.argsort()
    half = guesses // 2
    return int((~inside[order[:half]]).sum() + inside[order[-half:]].sum())
