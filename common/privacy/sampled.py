"""What secret sampling of people is worth: the accounting of rounds in which only a random cohort takes part.

Everything here assumes that somebody trusted draws the cohort and that nobody else learns who was in it. A simulator
is that somebody; a real federation has nobody (``common.privacy.accounting`` claims nothing for sampling).

Three ways of drawing a cohort, three different mechanisms, never booked as one another:

===================  ======================================================  =========================================
sampling             a round                                                 accounted by
===================  ======================================================  =========================================
poisson              each person with probability q, independently           privacy loss distributions, add/remove
truncated poisson    the same, then a random subset if more than ``cap``     the same, for a person turned to zeros
without replacement  exactly ``cohort`` people                               Renyi divergences, sensitivity 2 C
===================  ======================================================  =========================================

Privacy loss distributions: Koskela, Jaelkoe & Honkela 2020 (arXiv 1906.03049), Doroshenko et al. 2022 ("Connect the
dots", arXiv 2207.04380). Truncation: Ganesh, McKenna & Suliman 2025 (arXiv 2508.15089). Fixed size: Wang, Balle &
Kasiviswanathan 2019 (arXiv 1808.00087). All three as implemented in ``dp_accounting``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any

from scipy.optimize import brentq  # type: ignore[import-untyped]

from common.errors import SettingError
from common.privacy import accounting, fixed_point
from common.privacy.statement import PrivacyStatement

VALUE_INTERVAL = 1e-3
"""Discretisation of the privacy loss, at most; rounding is to the pessimistic side."""

_TOLERANCE = 2e-5  # relative, of a calibrated noise multiplier; always to the side that protects more


class Sampling(StrEnum):
    """How a cohort is drawn."""

    POISSON = "poisson"
    TRUNCATED = "truncated-poisson"
    WITHOUT_REPLACEMENT = "without-replacement"


class Adjacency(StrEnum):
    """Which two sets of people must look alike."""

    ADD_REMOVE = "add or remove one person"
    ZERO_OUT = "one person's contributions replaced by zeros"
    REPLACE = "replace one person by any other"


_PROVED = {
    Sampling.POISSON: (Adjacency.ADD_REMOVE, Adjacency.ZERO_OUT, Adjacency.REPLACE),
    Sampling.TRUNCATED: (Adjacency.ZERO_OUT,),
    Sampling.WITHOUT_REPLACEMENT: (Adjacency.REPLACE,),
}


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """What is promised when every round asks a secret random cohort.

    Attributes:
        epsilon: total budget over all rounds, finite.
        delta: failure probability of the bound.
        people: N, who can be drawn; public.
        cohort: expected people in a round (exactly that many without replacement); the denominator of the mean.
        rounds: T; a person may be drawn in all of them.
        norm_bound: L2 bound C of one person's vector.
        sampling: how the cohort is drawn.
        adjacency: what is compared; ``None`` takes the first that is proved for this sampling.
        cap: most people in a round, truncated Poisson only; 1.2 cohorts are nearly free.
    """

    epsilon: float = 2.0
    delta: float = 1e-6
    people: int = 100_000
    cohort: int = 1_000
    rounds: int = 500
    norm_bound: float = 1.0
    sampling: Sampling = Sampling.POISSON
    adjacency: Adjacency | None = None
    cap: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise SettingError(f"epsilon={self.epsilon} must be > 0 and finite; try 2.0")
        if not 0 < self.delta < 1:
            raise SettingError(f"delta={self.delta} must be in (0, 1); try 1e-6")
        if not 0 < self.norm_bound < math.inf:
            raise SettingError(f"norm_bound={self.norm_bound} must be > 0 and finite; try 1.0")
        if self.rounds < 1:
            raise SettingError(f"rounds={self.rounds} must be >= 1; try 100")
        if not 1 <= self.cohort <= self.people:
            raise SettingError(f"cohort={self.cohort} must be between 1 and people={self.people}")
        self._check_adjacency()
        self._check_cap()

    def _check_adjacency(self) -> None:
        proved = _PROVED[self.sampling]
        if self.compared not in proved:
            reason = (
                "a cohort of fixed size is not Poisson sampling: one person more or fewer changes who else is drawn"
                if self.sampling is Sampling.WITHOUT_REPLACEMENT
                else "a full cohort lets one person push out another"
            )
            raise SettingError(
                f"{self.sampling} has no proof for '{self.compared}' ({reason}); use '{proved[0]}', or poisson"
            )

    def _check_cap(self) -> None:
        if (self.cap is not None) is not (self.sampling is Sampling.TRUNCATED):
            raise SettingError(
                f"cap={self.cap} with sampling={self.sampling}: a cap is part of {Sampling.TRUNCATED} and only of it"
            )
        if self.cap is not None and not 1 <= self.cap <= self.people:
            raise SettingError(f"cap={self.cap} must be between 1 and people={self.people}; try {6 * self.cohort // 5}")

    @property
    def compared(self) -> Adjacency:
        """The adjacency that is accounted."""
        return self.adjacency or _PROVED[self.sampling][0]

    @property
    def probability(self) -> float:
        """q, the chance of one person to be drawn in one round."""
        return self.cohort / self.people


def epsilon(settings: SamplingSettings, noise_multiplier: float) -> float:
    """Epsilon of all rounds at ``settings.delta``; never below the true one, except for its own rounding.

    Args:
        settings: who is drawn, how often; their ``epsilon`` only sets how finely the loss is discretised.
        noise_multiplier: noise standard deviation over ``norm_bound``, also where adjacency doubles the sensitivity.

    Raises:
        SettingError: ``noise_multiplier`` is not a positive finite number.
    """
    if not 0 < noise_multiplier < math.inf:
        raise SettingError(f"noise_multiplier={noise_multiplier} must be > 0 and finite; try 1.0")
    accountant, event = _accounted(settings, noise_multiplier)
    accountant.compose(event, settings.rounds)
    return float(accountant.get_epsilon(settings.delta))


def noise_multiplier(settings: SamplingSettings) -> float:
    """Smallest noise standard deviation over ``norm_bound`` that keeps the promise, rounded up by 2e-5 relative.

    Raises:
        SettingError: the budget is out of reach of the accountant.
    """
    # Searching takes seconds, and its result is the same for every norm bound.
    return _noise_multiplier(dataclasses.replace(settings, norm_bound=1.0))


@functools.lru_cache(maxsize=256)
def _noise_multiplier(settings: SamplingSettings) -> float:
    return calibrated(lambda z: epsilon(settings, z), settings.epsilon, _guess(settings))


def calibrated(spent: Callable[[float], float], epsilon: float, start: float) -> float:
    """Smallest z with ``spent(z) <= epsilon``, rounded up by 2e-5 relative.

    Args:
        spent: epsilon as a decreasing function of z.
        epsilon: the budget.
        start: a first guess, > 0.

    Raises:
        SettingError: no z within a factor 1000 of ``start`` meets the budget.
    """

    @functools.cache
    def excess(log_z: float) -> float:
        return math.log(max(spent(math.exp(log_z)), 1e-12) / epsilon)

    begin = math.log(start)
    step = 0.25 if excess(begin) > 0 else -0.25
    edge = begin
    while (excess(edge + step) > 0) is (step > 0):
        edge += step
        if abs(edge - begin) > math.log(1000):
            raise SettingError(f"epsilon={epsilon} cannot be met with a noise multiplier near {start:.3g}; try 2.0")
    root: float = brentq(excess, edge, edge + step, xtol=_TOLERANCE / 4)
    while excess(root) > 0:
        root += _TOLERANCE / 2
    return math.exp(root)


def noise_sigma_squared(settings: SamplingSettings, numbers: int, scale: int = fixed_point.SCALE) -> Fraction:
    """Variance of the noise to add to an integer sum so that ``settings`` hold, in squared integer steps.

    Guarantee: as ``accounting.noise_sigma_squared``. That the noise is discrete costs nothing with sampling either:
    rounding a continuous Gaussian is post-processing, and from 1000 steps on the result and the discrete Gaussian of
    a variance larger by 1/12 give every number within 7 standard deviations the same probability to 1e-12 relative.

    Raises:
        SettingError: ``numbers`` is below 1, or the noise would be below ``accounting.SMALLEST_SIGMA`` steps.
    """
    return accounting.integer_variance(noise_multiplier(settings), settings.norm_bound, numbers, scale)


def statement(settings: SamplingSettings, numbers: int, rounds: int) -> PrivacyStatement:
    """The claim for what ``rounds`` of these releases went into; it covers all ``settings.rounds``.

    Raises:
        SettingError: ``rounds`` is negative, or the noise cannot be accounted for.
    """
    if rounds < 0:
        raise SettingError(f"rounds={rounds} must be >= 0")
    if rounds == 0:
        return PrivacyStatement.public()
    bound = fixed_point.sensitivity(settings.norm_bound, numbers)
    return PrivacyStatement(
        unit="one enrolled person: all ratings, all rounds",
        adjacency=str(settings.compared),
        mechanism=f"discrete Gaussian on integers, scale {fixed_point.SCALE}",
        trust="central: who is drawn stays secret, and the exact sum is seen before noise is added to it",
        sensitivity=bound / fixed_point.SCALE,
        noise_multiplier=math.sqrt(noise_sigma_squared(settings, numbers)) / bound,
        participations=settings.rounds,
        epsilon=settings.epsilon,
        delta=settings.delta,
        rho=None,
        sampling=describe(settings),
        accountant=accountant_name(settings),
    )


def describe(settings: SamplingSettings) -> str:
    """The sampling in words, for a statement."""
    n, m = settings.people, settings.cohort
    poisson = f"amplified by secret Poisson sampling, q = {m}/{n}"
    return {
        Sampling.POISSON: poisson,
        Sampling.TRUNCATED: f"{poisson}, cut at random to {settings.cap} people",
        Sampling.WITHOUT_REPLACEMENT: f"amplified by secret sampling of exactly {m} of {n} people; sensitivity doubled",
    }[settings.sampling]


def accountant_name(settings: SamplingSettings) -> str:
    """The accountant in words, for a statement."""
    version = importlib.metadata.version("dp-accounting")
    if settings.sampling is Sampling.WITHOUT_REPLACEMENT:
        return f"dp-accounting {version} RDP"
    return f"dp-accounting {version} PLD, interval {_interval(settings):g}, pessimistic"


def _interval(settings: SamplingSettings) -> float:
    return min(VALUE_INTERVAL, settings.epsilon / 500)


def _guess(settings: SamplingSettings) -> float:
    """Where to look first: sampling shrinks the noise of everybody in every round about q times, not to nothing."""
    everybody = accounting.noise_multiplier(settings.epsilon, settings.delta, settings.rounds)
    return min(everybody, max(0.7, settings.probability * everybody))


def _accounted(settings: SamplingSettings, z: float) -> tuple[Any, Any]:
    """A fresh accountant, and the event of one round."""
    # Loaded only when something is accounted for: it takes a second to import.
    from dp_accounting import NeighboringRelation as Relation  # type: ignore[import-untyped]
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant  # type: ignore[import-untyped]
    from dp_accounting.rdp import RdpAccountant  # type: ignore[import-untyped]

    if settings.sampling is Sampling.WITHOUT_REPLACEMENT:
        # This accountant does not double the sensitivity of a replaced person, so the noise is halved here.
        event = dp_event.SampledWithoutReplacementDpEvent(
            settings.people, settings.cohort, dp_event.GaussianDpEvent(z / 2)
        )
        return RdpAccountant(neighboring_relation=Relation.REPLACE_ONE), event
    relation = {
        Adjacency.ADD_REMOVE: Relation.ADD_OR_REMOVE_ONE,
        Adjacency.ZERO_OUT: Relation.REPLACE_SPECIAL,
        Adjacency.REPLACE: Relation.REPLACE_ONE,  # and this one does double it
    }[settings.compared]
    accountant = PLDAccountant(relation, value_discretization_interval=_interval(settings))
    if settings.sampling is Sampling.POISSON:
        return accountant, dp_event.PoissonSampledDpEvent(settings.probability, dp_event.GaussianDpEvent(z))
    return accountant, dp_event.TruncatedSubsampledGaussianDpEvent(
        settings.people, settings.probability, settings.cap, z
    )
