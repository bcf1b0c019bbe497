"""How much privacy a release costs: the Gaussian mechanism in closed form, composed over participations.

A person who takes part in ``k`` releases with noise multiplier ``z`` is protected like one release of a Gaussian
mechanism with ``mu = sqrt(k) / z``, also when a release depends on earlier ones (Dong, Roth & Su 2022, "Gaussian
differential privacy", arXiv 1905.02383, Corollary 3.3). Its exact trade-off is Theorem 8 of Balle & Wang
2018 ("Improving the Gaussian mechanism for differential privacy")::

    delta(epsilon) = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu)

No amplification by sampling is ever claimed: nobody can enforce or check random sampling on other people's devices.
"""

from __future__ import annotations

import math
from fractions import Fraction

from scipy.optimize import brentq  # type: ignore[import-untyped]
from scipy.special import erfcx, ndtr  # type: ignore[import-untyped]

from common.errors import SettingError
from common.privacy import fixed_point
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from common.version import version

SMALLEST_SIGMA = 1_000
"""Integer steps. Less noise than this is not accounted for here."""

# Root finding stops at about 1e-13; results are moved by this much to the side that protects more.
_ROOT_MARGIN = 1e-9

# The formulas above are for continuous noise, the noise added is discrete. For integers the exact delta is the same
# difference of two tails with sums for integrals (Canonne, Kamath & Steinke 2020, Theorem 7). It has no first-order
# error, because the summed function is zero where the sum begins; the relative error is of order (t / sigma)^2 with t
# the threshold in standard deviations. At sigma = 1000 steps it was measured below 2e-6 in delta for delta >= 1e-12
# (the test sums it), and d log(delta) / d log(z) is about -t^2, so 1e-6 more noise covers it. A change along one axis
# is the coarsest lattice, other directions are finer. Nothing is claimed below 1000 steps.
# (rho, the zCDP value, holds for the discrete Gaussian at every sigma: ibid., Theorem 4.)
DISCRETE_MARGIN = 1e-6


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Smallest delta for which a mu-GDP mechanism is (epsilon, delta)-DP (Balle & Wang 2018, Theorem 8).

    Guarantee: relative error about ``1e-15 * max(1, epsilon / mu^2)``, also far in the tail: differences are taken
    between scaled complementary error functions, never between numbers near one. 0 where it underflows (1e-308).

    Args:
        epsilon: >= 0.
        mu: sensitivity divided by the noise's standard deviation, > 0.

    Raises:
        SettingError: an argument is outside its range.
    """
    if not 0 <= epsilon < math.inf:
        raise SettingError(f"epsilon={epsilon} must be >= 0 and finite")
    _check_positive("mu", mu)
    return math.exp(_log_delta(epsilon, mu))


def epsilon(noise_multiplier: float, participations: int, delta: float) -> float:
    """Smallest epsilon of ``participations`` releases at ``delta``, rounded up by 1e-9 relative.

    Args:
        noise_multiplier: noise standard deviation divided by the sensitivity, z > 0.
        participations: releases one person takes part in, k >= 1.
        delta: failure probability, in (0, 1).

    Raises:
        SettingError: an argument is outside its range.
    """
    _check_positive("noise_multiplier", noise_multiplier)
    _check_release(participations, delta)
    mu = math.sqrt(participations) / noise_multiplier
    if _log_delta(0.0, mu) <= math.log(delta):
        return 0.0
    # The zCDP bound (Bun & Steinke 2016, Proposition 1.3) is never below the exact value.
    upper = zcdp(noise_multiplier, participations)
    upper += 2 * math.sqrt(upper * -math.log(delta)) + 1e-12
    root = brentq(lambda e: _log_delta(e, mu) - math.log(delta), 0.0, upper, xtol=1e-14, rtol=1e-13)
    return float(root) * (1 + _ROOT_MARGIN)


def noise_multiplier(epsilon: float, delta: float, participations: int = 1) -> float:
    """Smallest z for which ``participations`` releases are (epsilon, delta)-DP, rounded up by 1e-9 relative.

    Args:
        epsilon: total over all releases, > 0 and finite.
        delta: failure probability, in (0, 1).
        participations: releases one person takes part in, k >= 1.

    Raises:
        SettingError: an argument is outside its range.
    """
    _check_positive("epsilon", epsilon)
    _check_release(participations, delta)

    def excess(log_mu: float) -> float:
        # Far down delta underflows; any finite negative number keeps the sign the search needs.
        return max(_log_delta(epsilon, math.exp(log_mu)), -1e6) - math.log(delta)

    low = high = 0.0
    while excess(low) > 0:
        low -= 1.0
    while excess(high) < 0:
        high += 1.0
    log_mu = float(brentq(excess, low, high, xtol=1e-14, rtol=1e-13)) if low < high else low
    return math.sqrt(participations) / math.exp(log_mu) * (1 + _ROOT_MARGIN)


def zcdp(noise_multiplier: float, participations: int = 1) -> float:
    """Zero-concentrated DP of the releases, rho = k / (2 z^2) (Bun & Steinke 2016, Proposition 1.6 and Lemma 1.7).

    Raises:
        SettingError: ``noise_multiplier`` is not a positive finite number.
    """
    _check_positive("noise_multiplier", noise_multiplier)
    return participations / (2 * noise_multiplier**2)


def noise_sigma_squared(settings: PrivacySettings, numbers: int, scale: int = fixed_point.SCALE) -> Fraction:
    """Variance of the noise to add to an integer sum so that ``settings`` hold, in squared integer steps.

    Guarantee: covers all ``settings.participations`` and the rounding to integers; rounded up to a whole number.

    Args:
        settings: the promise; it must be private.
        numbers: entries of an update.
        scale: integer steps per unit.

    Raises:
        SettingError: nothing is promised, or the noise would be below ``SMALLEST_SIGMA`` steps.
    """
    if not settings.private:
        raise SettingError("epsilon=inf needs no noise; ask for a finite epsilon")
    z = noise_multiplier(settings.epsilon, settings.delta, settings.participations)
    return integer_variance(z, settings.norm_bound, numbers, scale)


def integer_variance(z: float, norm_bound: float, numbers: int, scale: int = fixed_point.SCALE) -> Fraction:
    """Variance in squared integer steps of discrete noise with noise multiplier ``z``, rounded up to a whole number.

    Args:
        z: noise standard deviation over the sensitivity, as calibrated for continuous noise, > 0.
        norm_bound: L2 bound of one person's vector, its rounding not included.
        numbers: entries of the vector.
        scale: integer steps per unit.

    Raises:
        SettingError: the noise would be below ``SMALLEST_SIGMA`` steps.
    """
    sigma = z * (1 + DISCRETE_MARGIN) * fixed_point.sensitivity(norm_bound, numbers, scale)
    if sigma < SMALLEST_SIGMA:
        raise SettingError(
            f"noise of {sigma:.4g} integer steps is below {SMALLEST_SIGMA}, too coarse to be accounted for; "
            f"raise norm_bound={norm_bound} or lower epsilon"
        )
    return Fraction(math.ceil(Fraction(sigma) ** 2))


def statement(settings: PrivacySettings, numbers: int, rounds: int) -> PrivacyStatement:
    """The claim for a prior that ``rounds`` releases under ``settings`` went into, made from what was really used.

    Guarantee: ``epsilon`` covers ``settings.participations`` releases per person even if fewer were made, so the claim
    stays true when the training goes on. The noise multiplier is recomputed from the variance that is drawn.

    Args:
        settings: what the federation promised.
        numbers: entries of an update.
        rounds: releases made; with none the values are public.

    Raises:
        SettingError: ``rounds`` is negative, or the noise cannot be accounted for.
    """
    if rounds < 0:
        raise SettingError(f"rounds={rounds} must be >= 0")
    if rounds == 0:
        return PrivacyStatement.public()
    if not settings.private:
        return PrivacyStatement.not_private(rounds)
    variance = noise_sigma_squared(settings, numbers)
    z = math.sqrt(variance) / fixed_point.sensitivity(settings.norm_bound, numbers)
    return PrivacyStatement(
        unit="one enrolled person: all ratings, all rounds",
        adjacency="add or remove one person",
        mechanism=f"discrete Gaussian on integers, scale {fixed_point.SCALE}",
        trust="central: the server sees the exact sum before it adds noise",
        sensitivity=fixed_point.sensitivity_in_update_units(settings.norm_bound, numbers),
        noise_multiplier=z,
        participations=settings.participations,
        epsilon=settings.epsilon,
        delta=settings.delta,
        rho=zcdp(z, settings.participations),
        sampling="no amplification claimed",
        accountant=f"plgl analytic Gaussian {version()}",
    )


def _log_delta(epsilon: float, mu: float) -> float:
    """``log(gaussian_delta)``, -inf where the two tails agree to the last bit.

    With a = epsilon/mu - mu/2 and b = epsilon/mu + mu/2 the second term e^epsilon Phi(-b) equals phi(a) Phi(-b)/phi(b),
    because b^2 - a^2 = 2 epsilon: the huge factor disappears, and so does the cancellation.
    """
    a, b = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    log_density = -a * a / 2 - math.log(2 * math.pi) / 2
    if a < 0:  # the first tail is above 1/2 and its scaled form would overflow
        return math.log(ndtr(-a) - math.exp(log_density) * _mills(b))
    difference = _mills(a) - _mills(b)
    return log_density + math.log(difference) if difference > 0 else -math.inf


def _mills(x: float) -> float:
    """Mills ratio ``Phi(-x) / phi(x)`` for x >= 0."""
    return math.sqrt(math.pi / 2) * float(erfcx(x / math.sqrt(2)))


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise SettingError(f"{name}={value} must be > 0 and finite; try 1.0")


def _check_release(participations: int, delta: float) -> None:
    if participations < 1:
        raise SettingError(f"participations={participations} must be >= 1; try 4")
    if not 0 < delta < 1:
        raise SettingError(f"delta={delta} must be in (0, 1); try 1e-6")
