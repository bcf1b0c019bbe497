"""How a round is made private: who takes part, what noise, which divisor, and the statement that follows.

A mechanism is chosen before the first round and knows all it will do; an engine asks it, and adds nothing of its own.
Rounds are numbered from 1.

==================  =====================================  ==========================================================
mechanism           who takes part in a round              noise on the sum
==================  =====================================  ==========================================================
``Everyone``        everybody                              exact discrete Gaussian, the same as ``server.rounds``
``NoPrivacy``       everybody                              none; the statement says so
``LocalNoise``      everybody                              the sum of everybody's own exact discrete Gaussian
``Sampled``         a secret random cohort                 exact discrete Gaussian, less of it for the secret
``BandedNoise``     a secret random cohort of one group    correlated over rounds, float64, for research only
``BltNoise``        each person every b-th round           the same, nothing claimed for sampling
==================  =====================================  ==========================================================

The last two are in ``simulations.correlated_mechanisms``.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from torch import Tensor

from common.errors import SettingError
from common.privacy import accounting, fixed_point, sampled
from common.privacy.noise import Randomness, discrete_gaussian, system_randomness
from common.privacy.sampled import Sampling, SamplingSettings
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from simulations.cohorts import Draw


class Mechanism(Protocol):
    """A way to release ``rounds`` noised sums of vectors of bounded norm."""

    @property
    def rounds(self) -> int:
        """How many."""

    @property
    def norm_bound(self) -> float:
        """L2 bound C of one person's vector; the engine clips to it."""

    @property
    def denominator(self) -> float:
        """What the noised sum is divided by; fixed beforehand, never counted."""

    def takes_part(self, first: int, last: int, round: int) -> Tensor | None:
        """``(last - first,)`` bool, who of these people takes part; ``None`` for everybody."""

    def noise(self, numbers: int, round: int) -> Tensor | None:
        """``(numbers,)`` int64 in steps of ``common.privacy.fixed_point.SCALE``, to be added to the integer sum."""

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """The claim for what ``rounds`` releases were made into."""


class Everyone:
    """Everybody takes part in every round; nothing is claimed for sampling.

    Guarantee: the same noise variance, denominator and statement as ``server.rounds.run_rounds`` under the same
    settings. Without a finite epsilon no noise is added and the statement says so.

    Args:
        settings: the promise; ``participations`` is the number of rounds, ``expected_people`` the denominator.
        randomness: source of the noise; the operating system unless a test asks for the same numbers twice.
    """

    def __init__(self, settings: PrivacySettings, randomness: Randomness = system_randomness) -> None:
        self.settings = settings
        self.rounds = settings.participations
        self.norm_bound = settings.norm_bound
        self.denominator = float(settings.expected_people)
        self._randomness = randomness

    def takes_part(self, first: int, last: int, round: int) -> Tensor | None:
        """``None``: everybody."""
        check_round(round, self.rounds)
        return None

    def noise(self, numbers: int, round: int) -> Tensor | None:
        """``(numbers,)`` int64 exact discrete Gaussian, fresh at every call; ``None`` where nothing is promised.

        Raises:
            SettingError: the round is not one of the accounted ones, or the noise is too small to be accounted for.
        """
        check_round(round, self.rounds)
        if not self.settings.private:
            return None
        return discrete_gaussian(numbers, accounting.noise_sigma_squared(self.settings, numbers), self._randomness)

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """The statement of ``common.privacy.accounting``: it covers all rounds of the settings, however many ran."""
        check_released(rounds, self.rounds)
        return accounting.statement(self.settings, numbers, rounds)


@dataclass(frozen=True, kw_only=True)
class NoPrivacy:
    """Everybody, no noise: the upper bound that private methods are compared with.

    Attributes:
        rounds: how many.
        norm_bound: L2 bound of one person's vector; large enough it clips nobody.
        people: the denominator.
    """

    rounds: int
    norm_bound: float
    people: int
    denominator: float = field(init=False)

    def __post_init__(self) -> None:
        # The same ranges as a private federation of the same shape.
        PrivacySettings(
            epsilon=float("inf"),
            participations=self.rounds,
            norm_bound=self.norm_bound,
            expected_people=self.people,
            minimum_people=1,
        )
        object.__setattr__(self, "denominator", float(self.people))

    def takes_part(self, first: int, last: int, round: int) -> Tensor | None:
        """``None``: everybody."""
        check_round(round, self.rounds)
        return None

    def noise(self, numbers: int, round: int) -> Tensor | None:
        """``None``: there is none."""
        check_round(round, self.rounds)
        return None

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """Not private, or public where nothing was released yet."""
        check_released(rounds, self.rounds)
        return PrivacyStatement.not_private(rounds) if rounds else PrivacyStatement.public()


class Sampled:
    """A secret random cohort in every round, the noise smaller for it. One object is one training.

    Guarantee: cohorts are drawn exactly as ``settings.sampling`` is accounted, the noise is exact, and the divisor is
    the expected cohort, never the drawn one. Nobody but the object knows who was drawn.

    Args:
        settings: the promise, and how cohorts are drawn; person i is drawn from ``range(settings.people)``.
        randomness: source of the draws and of the noise.
    """

    def __init__(self, settings: SamplingSettings, randomness: Randomness = system_randomness) -> None:
        self.settings = settings
        self.rounds = settings.rounds
        self.norm_bound = settings.norm_bound
        self.denominator = float(settings.cohort)
        self._randomness = randomness
        self._draw = Draw(randomness)

    def takes_part(self, first: int, last: int, round: int) -> Tensor | None:
        """``(last - first,)`` bool, on the CPU; the same for a person in every range that holds them."""
        check_round(round, self.rounds)
        s = self.settings
        chance = Fraction(s.cohort, s.people)
        if s.sampling is Sampling.POISSON:
            return self._draw.poisson(first, last, round, chance)
        if s.sampling is Sampling.TRUNCATED:
            return self._draw.at_most(first, last, round, s.people, chance, s.cap or s.people)
        return self._draw.at_most(first, last, round, s.people, Fraction(1), s.cohort)

    def noise(self, numbers: int, round: int) -> Tensor | None:
        """``(numbers,)`` int64 exact discrete Gaussian, fresh at every call."""
        check_round(round, self.rounds)
        return discrete_gaussian(numbers, sampled.noise_sigma_squared(self.settings, numbers), self._randomness)

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """Names sampling, adjacency and accountant; covers all rounds of the settings, however many ran."""
        check_released(rounds, self.rounds)
        return sampled.statement(self.settings, numbers, rounds)


class LocalNoise:
    """No trusted party: everybody noises their own vector before it leaves, and the noises add up.

    Guarantee: the sum of n discrete Gaussians is drawn as one of n times the variance; the two laws differ by a factor
    of 1 to more than 40,000 decimal places (``common.privacy.promise``). Everybody sends noise, also who has nothing
    to say.

    Args:
        settings: the promise; ``participations`` is the number of rounds, ``expected_people`` the denominator.
        people: how many send something, hence how many noises there are.
        randomness: source of the noise.
    """

    def __init__(self, settings: PrivacySettings, people: int, randomness: Randomness = system_randomness) -> None:
        if not settings.private:
            raise SettingError("epsilon=inf needs no local noise; ask for a finite epsilon")
        if people < 1:
            raise SettingError(f"people={people} must be >= 1")
        self.settings, self.people = settings, people
        self.rounds = settings.participations
        self.norm_bound = settings.norm_bound
        self.denominator = float(settings.expected_people)
        self._randomness = randomness

    def takes_part(self, first: int, last: int, round: int) -> Tensor | None:
        """``None``: everybody."""
        check_round(round, self.rounds)
        return None

    def noise(self, numbers: int, round: int) -> Tensor | None:
        """``(numbers,)`` int64: the sum of everybody's noise, fresh at every call."""
        check_round(round, self.rounds)
        return discrete_gaussian(numbers, self.people * self._variance(numbers), self._randomness)

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """The claim of each person's own message, so the sensitivity is that of replacing all of it."""
        check_released(rounds, self.rounds)
        if rounds == 0:
            return PrivacyStatement.public()
        bound = 2 * fixed_point.sensitivity(self.norm_bound, numbers)
        z = math.sqrt(self._variance(numbers)) / bound
        return dataclasses.replace(
            accounting.statement(self.settings, numbers, rounds),
            adjacency="replace one person's ratings by any others",
            mechanism=f"discrete Gaussian on integers, scale {fixed_point.SCALE}, added by each person",
            trust="local: nobody; each person's vector is noised before it leaves the device",
            sensitivity=bound / fixed_point.SCALE,
            noise_multiplier=z,
            rho=accounting.zcdp(z, self.rounds),
        )

    def _variance(self, numbers: int) -> Fraction:
        # Any two messages of one person must look alike: twice the bound, four times the variance.
        return 4 * accounting.noise_sigma_squared(self.settings, numbers)


def check_round(round: int, rounds: int) -> None:
    """Raise where a round is not one of those that are accounted for."""
    if not 1 <= round <= rounds:
        raise SettingError(f"round={round} must be between 1 and {rounds}, the rounds that are accounted for")


def check_released(made: int, rounds: int) -> None:
    """Raise where more releases were made than are accounted for."""
    if not 0 <= made <= rounds:
        raise SettingError(f"rounds={made} must be between 0 and {rounds}, the rounds that are accounted for")
