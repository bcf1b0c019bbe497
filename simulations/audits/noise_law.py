"""Tests of the noise alone: its variance, its law, and that no two rounds share it.

What they see: a noise of 0.98 of its size at 1e5 draws. What they cannot see: anything that happens before the noise.
"""

from __future__ import annotations

import math

import torch
from scipy import stats  # type: ignore[import-untyped]
from scipy.special import ndtr  # type: ignore[import-untyped]
from torch import Tensor

from common.errors import SettingError
from common.privacy.accounting import noise_sigma_squared
from common.privacy.settings import PrivacySettings
from simulations.audits import bounds
from simulations.audits.builds import Build, Noise
from simulations.audits.pipeline import check_private, claimed_mu
from simulations.audits.verdict import Level, Verdict

FEWEST_DRAWS = 1_000
_TESTS = 4


def audit(build: Build, settings: PrivacySettings, numbers: int, draws: int, noise: Noise, level: Level) -> Verdict:
    """Chi-square test of the variance, Kolmogorov-Smirnov against the normal law, correlation between two rounds.

    The bound on epsilon is that of a noise of the size found: the confidence limits of its standard deviation.

    Args:
        build: the functions under audit.
        settings: the promise.
        numbers: entries D of an update.
        draws: from each of two rounds, in releases of nobody.
        noise: what the build asks for its noise.
        level: how sure to be.

    Raises:
        SettingError: too few draws for a law to be tested.
    """
    check_private(settings)
    if draws < FEWEST_DRAWS:
        raise SettingError(f"draws={draws} are too few to test a law; take at least {FEWEST_DRAWS}")
    variance, source = noise_sigma_squared(settings, numbers), build.noise(noise)
    rounds = torch.stack([source(draws, variance) for _ in range(2)]).double() / math.sqrt(variance)
    p_values = {
        "p_variance": min(1.0, *(2 * _variance_p_value(row) for row in rounds)),
        "p_law": min(1.0, *(2 * float(stats.kstest(row.numpy(), ndtr, method="asymp").pvalue) for row in rounds)),
        "p_correlation": _correlation_p_value(rounds),
        "p_mean": _mean_p_value(rounds),
    }
    ratio = float(rounds.square().mean().sqrt())
    low, high = _ratio_limits(ratio, draws, level.confidence)
    mu = claimed_mu(settings, numbers)
    return Verdict(
        audit="noise",
        claim=settings.epsilon,
        lower=bounds.epsilon_of(mu / high, settings.delta),
        upper=bounds.epsilon_of(mu / low, settings.delta),
        flagged=_TESTS * min(p_values.values()) < 1 - level.strict,
        detail={"ratio": ratio, **p_values},
    )


def _variance_p_value(row: Tensor) -> float:
    """Two-sided, of the mean being zero and the variance one: the sum of squares is chi-square."""
    found = stats.chi2(row.numel()).cdf(float(row.square().sum()))
    return float(2 * min(found, 1 - found))


def _correlation_p_value(rounds: Tensor) -> float:
    """Independent rounds have a correlation that is normal with standard deviation n^-1/2."""
    correlation = float((rounds[0] * rounds[1]).mean() / rounds.square().mean())
    return float(2 * stats.norm.sf(abs(correlation) * math.sqrt(rounds.shape[1])))


def _mean_p_value(rounds: Tensor) -> float:
    return float(2 * stats.norm.sf(abs(float(rounds.mean() / rounds.std())) * math.sqrt(rounds.numel())))


def _ratio_limits(ratio: float, draws: int, confidence: float) -> tuple[float, float]:
    """One-sided limits, from one round's worth of draws: valid also where the second round repeats the first."""
    square = ratio**2 * draws
    law = stats.chi2(draws)
    return math.sqrt(square / law.ppf(confidence)), math.sqrt(square / law.ppf(1 - confidence))
