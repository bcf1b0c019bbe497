"""Mechanisms whose noise cancels over rounds. For research: float64 noise has gaps that exact integer noise has not.

The independent rows Z are exact discrete Gaussians on a grid 256 times finer than the integers of a sum; from there on
it is floating-point arithmetic. Adding the rounded result to an integer sum is the same as rounding the noised sum.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn.functional import pad

from common.errors import SettingError
from common.privacy import accounting, correlated, fixed_point, sampled
from common.privacy.correlated import BandedStream, Blt, BltStream, Participation, Stream
from common.privacy.noise import Randomness, discrete_gaussian, system_randomness
from common.privacy.sampled import Sampling, SamplingSettings
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from common.version import version
from simulations.cohorts import Draw
from simulations.mechanisms import check_released, check_round

_FINER = 2**8


class _Rows:
    """Correlated noise of one training, one row a round, in order."""

    def __init__(self, stream: Stream, randomness: Randomness) -> None:
        self._stream, self._randomness = stream, randomness
        self._given, self._numbers = 0, 0

    def next(self, sigma: float, numbers: int, round: int) -> Tensor:
        """``(numbers,)`` int64 of round ``round``, whose row of Z has standard deviation ``sigma`` steps."""
        if round != self._given + 1 or (self._given and numbers != self._numbers):
            raise SettingError(
                f"noise for round {round} with {numbers} numbers cannot follow round {self._given}: correlated noise "
                "is given once, in order, for vectors of one length; make a new mechanism for another training"
            )
        self._given, self._numbers = round, numbers
        z = discrete_gaussian(numbers, Fraction(math.ceil((sigma * _FINER) ** 2)), self._randomness)
        return self._stream.next(z.double() / _FINER).round().to(torch.int64)


class BandedNoise:
    """Banded matrix factorisation with secret sampling inside groups. One object is one training.

    Person i is in group ``i % bands``; group ``(round - 1) % bands`` is asked, each of its people with the same
    probability. So a person's rounds are ``bands`` apart, their columns of C do not overlap, and the training is
    accounted as ``rounds / bands`` Poisson-sampled Gaussian releases of column norm 1 (Choquette-Choo et al. 2023,
    arXiv 2306.08153, theorem 4).

    Args:
        settings: the promise; ``sampling`` must be Poisson. ``cohort`` is the expected cohort of each round.
        bands: coefficients of C and groups of people; about 10 for 500 rounds.
        randomness: source of the draws and of the noise.

    Raises:
        SettingError: other sampling, or groups smaller than a cohort.
    """

    def __init__(self, settings: SamplingSettings, bands: int = 10, randomness: Randomness = system_randomness) -> None:
        check_bands(settings, bands)
        self.settings, self.bands = settings, bands
        self.rounds, self.norm_bound, self.denominator = settings.rounds, settings.norm_bound, float(settings.cohort)
        # One group as a training of its own; where groups differ by one person the smaller sets the chance of all.
        self.group = dataclasses.replace(settings, people=settings.people // bands, rounds=-(-settings.rounds // bands))
        self._draw = Draw(randomness)
        self._randomness = randomness

    @functools.cached_property
    def _rows(self) -> _Rows:
        return _Rows(BandedStream(self.coefficients), self._randomness)

    @property
    def coefficients(self) -> tuple[float, ...]:
        """``bands`` coefficients of C, column norm 1."""
        return correlated.optimise_banded(self.settings.rounds, self.bands)

    @property
    def prefix_rms(self) -> float:
        """Noise of the prefix sums, root mean square over rounds, in units of ``norm_bound``."""
        coefficients = torch.tensor(self.coefficients, dtype=torch.float64)
        error = correlated.prefix_rms(pad(coefficients, (0, self.rounds - self.bands)))
        return float(error) * sampled.noise_multiplier(self.group)

    def takes_part(self, first: int, last: int, round: int) -> Tensor | None:
        """``(last - first,)`` bool, on the CPU."""
        check_round(round, self.rounds)
        eligible = torch.arange(first, last) % self.bands == (round - 1) % self.bands
        return eligible & self._draw.poisson(first, last, round, Fraction(self.group.cohort, self.group.people))

    def noise(self, numbers: int, round: int) -> Tensor | None:
        """``(numbers,)`` int64; once for each round, in order."""
        check_round(round, self.rounds)
        return self._rows.next(math.sqrt(sampled.noise_sigma_squared(self.group, numbers)), numbers, round)

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """The claim; ``noise_multiplier`` is that of the independent rows before they are correlated."""
        check_released(rounds, self.rounds)
        if rounds == 0:
            return PrivacyStatement.public()
        return dataclasses.replace(
            sampled.statement(self.group, numbers, rounds),
            mechanism=_described(f"banded Toeplitz factorisation, {self.bands} bands"),
            sampling=f"{sampled.describe(self.group)} of one of {self.bands} groups, asked in turn",
        )


class BltNoise:
    """Buffered linear Toeplitz noise: everybody takes part every ``separation``-th round, and nothing is secret.

    Args:
        settings: the promise; ``participations`` is how often one person takes part, ``expected_people`` is everybody.
        rounds: of the training.
        separation: rounds from one participation of a person to the next.
        buffers: of the BLT.
        randomness: source of the noise.

    Raises:
        SettingError: nothing is promised, or nobody would be left for the last rounds.
    """

    def __init__(
        self,
        settings: PrivacySettings,
        *,
        rounds: int,
        separation: int,
        buffers: int = 2,
        randomness: Randomness = system_randomness,
    ) -> None:
        if not settings.private:
            raise SettingError("epsilon=inf needs no correlated noise; ask for a finite epsilon")
        self.participation = turns(settings, rounds, separation)
        self.settings, self.rounds, self.norm_bound = settings, rounds, settings.norm_bound
        self.denominator = settings.expected_people / separation
        self.buffers, self._randomness = buffers, randomness

    @functools.cached_property
    def blt(self) -> Blt:
        """The factorisation, optimised when it is first needed."""
        return correlated.optimise_blt(self.participation, self.buffers)

    @functools.cached_property
    def _rows(self) -> _Rows:
        return _Rows(BltStream(self.blt), self._randomness)

    @functools.cached_property
    def sensitivity(self) -> float:
        """Of C times the rounds' sums to one person, in units of ``norm_bound``."""
        return float(correlated.sensitivity(self.blt.coefficients(self.rounds), self.participation))

    @property
    def prefix_rms(self) -> float:
        """Noise of the prefix sums, root mean square over rounds, in units of ``norm_bound``."""
        z = accounting.noise_multiplier(self.settings.epsilon, self.settings.delta)
        return float(correlated.prefix_rms(self.blt.coefficients(self.rounds))) * self.sensitivity * z

    def takes_part(self, first: int, last: int, round: int) -> Tensor | None:
        """``(last - first,)`` bool, on the CPU: person i in round ``i % separation + 1`` and every separation-th."""
        check_round(round, self.rounds)
        separation = self.participation.separation
        return torch.arange(first, last) % separation == (round - 1) % separation

    def noise(self, numbers: int, round: int) -> Tensor | None:
        """``(numbers,)`` int64; once for each round, in order."""
        check_round(round, self.rounds)
        return self._rows.next(self._sigma(numbers), numbers, round)

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """The claim: all rounds are one release, so ``sensitivity`` and ``noise_multiplier`` are those of C."""
        check_released(rounds, self.rounds)
        if rounds == 0:
            return PrivacyStatement.public()
        bound = fixed_point.sensitivity(self.norm_bound, numbers) * self.sensitivity
        z = self._sigma(numbers) / bound
        return PrivacyStatement(
            unit="one enrolled person: all ratings, all rounds",
            adjacency="one person's contributions replaced by zeros",
            mechanism=_described(f"buffered linear Toeplitz factorisation, {len(self.blt.theta)} buffers"),
            trust="central: the server sees the exact sum before it adds noise",
            sensitivity=bound / fixed_point.SCALE,
            noise_multiplier=z,
            participations=self.participation.times,
            epsilon=self.settings.epsilon,
            delta=self.settings.delta,
            rho=accounting.zcdp(z),
            sampling=f"no amplification claimed; {self.participation.separation} rounds between two of a person",
            accountant=f"plgl analytic Gaussian {version()}",
        )

    def _sigma(self, numbers: int) -> float:
        z = accounting.noise_multiplier(self.settings.epsilon, self.settings.delta)
        return math.sqrt(accounting.integer_variance(z, self.norm_bound, numbers)) * self.sensitivity


def check_bands(settings: SamplingSettings, bands: int) -> None:
    """Raise where ``BandedNoise`` has no proof, too few rounds or too few people."""
    if settings.sampling is not Sampling.POISSON:
        raise SettingError(f"sampling={settings.sampling} has no proof for banded noise; use {Sampling.POISSON}")
    if not 1 <= bands <= settings.rounds:
        raise SettingError(f"bands={bands} must be between 1 and rounds={settings.rounds}; try 10")
    if settings.people < bands * settings.cohort:
        raise SettingError(
            f"{settings.people} people in bands={bands} groups are fewer than cohort={settings.cohort} each; "
            f"use at most {settings.people // settings.cohort} bands"
        )


def turns(settings: PrivacySettings, rounds: int, separation: int) -> Participation:
    """How often people take part under ``BltNoise``; raises where there are too few rounds, turns or people."""
    participation = Participation(rounds=rounds, separation=separation, most=settings.participations)
    if separation * settings.participations < rounds:
        raise SettingError(
            f"rounds={rounds} are more than separation={separation} times participations="
            f"{settings.participations}, so nobody would be left for the last ones; raise one of the two"
        )
    if settings.expected_people < separation:
        raise SettingError(f"separation={separation} must be at most expected_people={settings.expected_people}")
    return participation


def _described(factorisation: str) -> str:
    return (
        f"Gaussian in float64 (for research, not exact), correlated over rounds by a {factorisation}, "
        f"rounded to integers, scale {fixed_point.SCALE}"
    )
