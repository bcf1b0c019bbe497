"""Monte-Carlo audit of a release: the same release many times, with one loud person and without.

The person's update is ten times longer than the norm bound and claims a weight of ten; the attacker knows everybody
else, and reads the one coordinate that tells most. The other coordinates carry independent noise only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.errors import SettingError
from common.privacy.accounting import noise_sigma_squared
from common.privacy.settings import PrivacySettings
from simulations.audits import bounds
from simulations.audits.builds import Build, Noise
from simulations.audits.pipeline import check_private, claimed_mu, summands
from simulations.audits.verdict import Level, Verdict

LOUD = 10


def audit(build: Build, settings: PrivacySettings, numbers: int, runs: int, noise: Noise, level: Level) -> Verdict:
    """Bounds on the epsilon of all releases that one person is charged for.

    Args:
        build: the functions under audit.
        settings: the promise.
        numbers: entries D of an update.
        runs: trainings with the person, and as many without.
        noise: what the build asks for its noise.
        level: how sure to be.

    Raises:
        SettingError: so few runs that even an attacker who is always right would not refute the claim.
    """
    check_private(settings)
    check_runs(runs, claimed_mu(settings, numbers), level)
    absent = scores(build, settings, numbers, runs, 0, noise)
    present = scores(build, settings, numbers, runs, 1, noise)
    mu = bounds.from_scores(absent, present, level.confidence)
    strict = bounds.from_scores(absent, present, level.strict)
    found, delta = mu.epsilon(settings.delta), settings.delta
    return Verdict(
        audit="monte-carlo",
        claim=settings.epsilon,
        lower=found.lower,
        upper=found.upper,
        flagged=bounds.epsilon_of(strict.lower, delta) > settings.epsilon,
        detail={"mu": mu.lower, "mu_claimed": claimed_mu(settings, numbers), "runs": float(runs)},
    )


def scores(build: Build, settings: PrivacySettings, numbers: int, runs: int, people: int, noise: Noise) -> Tensor:
    """``(runs,)`` mean over the releases of each run of the coordinate that the loud person moves, in steps.

    Args:
        build: the functions under audit.
        settings: the promise.
        numbers: entries of an update.
        runs: independent trainings.
        people: 1 with the loud person, 0 without.
        noise: what the build asks for its noise.
    """
    loud = torch.zeros(people, numbers, dtype=torch.float64)
    loud[:, 0] = LOUD * settings.norm_bound
    moved = summands(loud, torch.full((people,), LOUD), settings.norm_bound, build).sum(0)[0]
    variance, source = noise_sigma_squared(settings, numbers), build.noise(noise)
    total, rounds = torch.zeros(runs, dtype=torch.float64), build.ledger(settings.participations)
    for _ in rounds:
        total += (source(runs, variance) + moved).double()
    return total / len(rounds)


def check_runs(runs: int, mu: float, level: Level) -> None:
    """Refuse a number of runs that cannot refute the claim.

    Raises:
        SettingError: see above; it says how many are needed.
    """
    most = max(0.0, bounds.most_from_scores(runs, level.strict))
    if most <= mu:
        raise SettingError(
            f"runs={runs} cannot show more than mu={most:.3g} at confidence {level.strict:.6g}, and the claim is "
            f"{mu:.3g}; take at least {bounds.runs_needed(mu, level.strict)}"
        )
