"""What the terms of a federation mean in numbers: bounds, noise and the statement, the same for members and server.

Both sides compute these from the terms; neither believes the other.

Distributed trust: each member adds a discrete Gaussian sized so that ``honest_people`` of them together give the whole
noise (Kairouz, Liu & Steinke 2021, arXiv 2102.06387). A sum of discrete Gaussians is not one, but its distribution
differs by a factor of at most ``exp(10 n exp(-2 pi^2 s^2 / 2))`` (ibid., theorem 5), with s the standard deviation of
a share in steps; at s >= 100 that is 1 to more than 40,000 decimal places, so it is accounted as one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from common import summand
from common.errors import SettingError
from common.privacy.accounting import DISCRETE_MARGIN, SMALLEST_SIGMA, noise_multiplier, zcdp
from common.privacy.fixed_point import SCALE, random_sensitivity
from common.privacy.statement import PrivacyStatement
from common.terms import Rule, Terms, Trust
from common.version import version

SMALLEST_SHARE = 100
"""Integer steps: least standard deviation of one member's share of the noise."""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """The numbers behind the terms.

    Attributes:
        numbers: entries of what a member adds to the sum.
        norm_bound: L2 bound of it before quantisation, update units.
        sensitivity: L2 distance one member can move the released quantity by, integer steps, rounding included.
        total_variance: of the noise in a release, squared integer steps; with distributed trust at the smallest
            accepted number of honest survivors, with local trust in each member's vector.
        share_variance: of the noise each member adds; 0 with central trust.
        noise_multiplier: what is accounted: square root of ``total_variance`` over ``sensitivity``.
    """

    numbers: int
    norm_bound: float
    sensitivity: float
    total_variance: Fraction
    share_variance: Fraction
    noise_multiplier: float

    def noise_std(self, answered: int, trust: Trust) -> float:
        """Standard deviation of the noise in a sum of ``answered`` members, update units; more answers, more noise."""
        variance = self.total_variance if trust is Trust.CENTRAL else answered * self.share_variance
        return math.sqrt(variance) / SCALE


def promise(terms: Terms) -> Promise:
    """The numbers behind ``terms``.

    Raises:
        SettingError: so little noise would be added that it is not accounted for.
    """
    numbers = summand.length(terms.parameters)
    norm_bound = summand.norm_bound(terms.settings.norm_bound)
    one = random_sensitivity(norm_bound, numbers)
    # Without a trusted party each message is a release of its own: any two answers of a person must look alike.
    sensitivity = 2 * one if terms.trust is Trust.LOCAL else one * rule_factor(terms)
    settings = terms.settings
    z = noise_multiplier(settings.epsilon, settings.delta, settings.participations)
    sigma = z * (1 + DISCRETE_MARGIN) * sensitivity
    total = Fraction(math.ceil(Fraction(sigma) ** 2))
    share = {
        Trust.CENTRAL: Fraction(0),
        Trust.DISTRIBUTED: Fraction(math.ceil(total / terms.honest_people)),
        Trust.LOCAL: total,
    }[terms.trust]
    if sigma < SMALLEST_SIGMA or (share and share < SMALLEST_SHARE**2):
        raise SettingError(
            f"noise of {sigma:.4g} integer steps, {math.sqrt(share):.4g} a member, is too coarse to be accounted for "
            f"(at least {SMALLEST_SIGMA} and {SMALLEST_SHARE}); lower epsilon={settings.epsilon}"
        )
    return Promise(
        numbers=numbers,
        norm_bound=norm_bound,
        sensitivity=sensitivity,
        total_variance=total,
        share_variance=share,
        noise_multiplier=math.sqrt(total) / sensitivity,
    )


def rule_factor(terms: Terms) -> int:
    """How many times its own norm one person, added or removed, can move what the rule gives before it is divided.

    A trimmed sum moves no further than a plain one; the sum of the rows that Krum chooses can change altogether. The
    proofs are in ``server.robust``, which is tested to say the same.
    """
    people = terms.settings.expected_people
    if terms.rule is Rule.KRUM:
        return 2
    if terms.rule is Rule.MULTI_KRUM:
        chosen = people - terms.malicious - 2
        return min(2 * chosen, 2 * min(chosen, people - chosen) + 1)
    return 1


_TRUST = {
    Trust.CENTRAL: "central: the server sees each update before it adds noise to their sum",
    Trust.DISTRIBUTED: (
        "distributed: the server reads only a masked sum with the members' noise in it; at least {honest} of the "
        "members who answer must be honest"
    ),
    Trust.LOCAL: "local: nobody; each member's update is noised before it leaves the device",
}


def statement_of(terms: Terms, rounds: int) -> PrivacyStatement:
    """The claim for a prior that ``rounds`` releases under ``terms`` went into.

    Guarantee: ``epsilon`` covers all the participations a member may have, however many were made.

    Raises:
        SettingError: ``rounds`` is negative, or the noise cannot be accounted for.
    """
    if rounds < 0:
        raise SettingError(f"rounds={rounds} must be >= 0")
    if rounds == 0:
        return PrivacyStatement.public()
    kept, settings = promise(terms), terms.settings
    noise = {
        Trust.CENTRAL: "discrete Gaussian added by the server",
        Trust.DISTRIBUTED: "sum of the members' discrete Gaussians",
        Trust.LOCAL: "discrete Gaussian added by each member",
    }[terms.trust]
    return PrivacyStatement(
        unit="one enrolled person: all ratings, all rounds",
        adjacency=(
            "replace one person's ratings by any others" if terms.trust is Trust.LOCAL else "add or remove one person"
        ),
        mechanism=f"{noise} on integers, scale {SCALE}, stochastic rounding, {terms.rule}",
        trust=_TRUST[terms.trust].format(honest=terms.honest_people),
        sensitivity=kept.sensitivity / SCALE,
        noise_multiplier=kept.noise_multiplier,
        participations=settings.participations,
        epsilon=settings.epsilon,
        delta=settings.delta,
        rho=zcdp(kept.noise_multiplier, settings.participations),
        sampling="no amplification claimed",
        accountant=f"plgl analytic Gaussian {version()}",
    )
