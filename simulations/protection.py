"""What protects a training, chosen by name, the same for any strategy.

=============  =============================================  ====================================================
name           who is asked in a round                        what is claimed
=============  =============================================  ====================================================
``everyone``   everybody                                      nothing for sampling
``poisson``    each person with the same secret chance        amplification by Poisson sampling
``truncated``  the same, cut at random to 1.2 cohorts         the same, paid for the cut
``banded``     the same within one of ``bands`` groups        amplification, and noise that cancels over rounds
``blt``        each person every ``separation``-th round      noise that cancels over rounds; nothing is secret
=============  =============================================  ====================================================

There is no name for a cohort of fixed size: it is not Poisson sampling, however similar the numbers look, and its own
accounting (``common.privacy.sampled``, without replacement) asks for twice the sensitivity.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from common.errors import SettingError
from common.privacy.noise import Randomness, system_randomness
from common.privacy.sampled import Sampling, SamplingSettings
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from simulations.correlated_mechanisms import BandedNoise, BltNoise, check_bands, turns
from simulations.mechanisms import Everyone, Mechanism, Sampled, check_released, check_round

EVERYONE = "everyone"
MECHANISMS = (EVERYONE, "poisson", "truncated", "banded", "blt")
_SHARE = 10  # of the people in a cohort where no number is given: one in so many


@dataclass(frozen=True, kw_only=True)
class Protection:
    """A mechanism and its shape; a promise makes it whole.

    Attributes:
        mechanism: one of ``MECHANISMS``.
        cohort: expected people in a round of poisson, truncated and banded; 0 for a tenth of all.
        bands: groups that are asked in turn, and coefficients of the noise; banded only.
        separation: rounds from one participation of a person to the next; blt only.
    """

    mechanism: str = EVERYONE
    cohort: int = 0
    bands: int = 4
    separation: int = 4

    def __post_init__(self) -> None:
        if self.mechanism not in MECHANISMS:
            raise SettingError(
                f"mechanism={self.mechanism!r} must be one of {', '.join(MECHANISMS)}; cohorts of a fixed size are not "
                "among them, because they cannot be accounted for as Poisson sampling"
            )
        for name, least in (("cohort", 0), ("bands", 1), ("separation", 1)):
            if getattr(self, name) < least:
                raise SettingError(f"{name}={getattr(self, name)} must be >= {least}")

    def asked(self, people: int) -> float:
        """Expected people in a round."""
        if self.mechanism == EVERYONE:
            return people
        return people / self.separation if self.mechanism == "blt" else self._expected(people)

    def check(self, promise: PrivacySettings) -> None:
        """Raise what ``arranged`` would raise about the shape, before anything is accounted for."""
        if self.mechanism == "blt":
            turns(self._every(_finite(promise)), promise.participations, self.separation)
        elif self.mechanism != EVERYONE:
            sampling = self._sampling(_finite(promise))
            if self.mechanism == "banded":
                check_bands(sampling, self.bands)

    def arranged(self, promise: PrivacySettings, randomness: Randomness = system_randomness) -> Mechanism:
        """The mechanism that keeps a promise.

        Args:
            promise: ``participations`` is the number of rounds of the training, ``expected_people`` everybody who can
                be asked. Without a finite epsilon the same people are asked, no noise is added and nothing is claimed.
            randomness: source of draws and noise.

        Raises:
            SettingError: there are too few people or rounds for the shape.
        """
        if self.mechanism == EVERYONE:
            return Everyone(promise, randomness)
        made = self._made(_finite(promise), randomness)
        return made if promise.private else WithoutNoise(made)

    def _made(self, promise: PrivacySettings, randomness: Randomness) -> Mechanism:
        if self.mechanism == "blt":
            every, rounds = self._every(promise), promise.participations
            return BltNoise(every, rounds=rounds, separation=self.separation, randomness=randomness)
        if self.mechanism == "banded":
            return BandedNoise(self._sampling(promise), self.bands, randomness)
        return Sampled(self._sampling(promise), randomness)

    def _sampling(self, promise: PrivacySettings) -> SamplingSettings:
        people, cohort = promise.expected_people, self._expected(promise.expected_people)
        truncated = self.mechanism == "truncated"
        return SamplingSettings(
            epsilon=promise.epsilon,
            delta=promise.delta,
            people=people,
            cohort=cohort,
            rounds=promise.participations,
            norm_bound=promise.norm_bound,
            sampling=Sampling.TRUNCATED if truncated else Sampling.POISSON,
            cap=min(people, -(-6 * cohort // 5)) if truncated else None,
        )

    def _every(self, promise: PrivacySettings) -> PrivacySettings:
        """The promise to somebody who is asked every ``separation``-th round."""
        return dataclasses.replace(promise, participations=-(-promise.participations // self.separation))

    def _expected(self, people: int) -> int:
        return self.cohort or max(1, people // _SHARE)


def _finite(promise: PrivacySettings) -> PrivacySettings:
    """A promise that can be accounted for, to decide who is asked; its noise is never drawn where none was asked."""
    return promise if promise.private else dataclasses.replace(promise, epsilon=1.0)


class WithoutNoise:
    """The people another mechanism asks, and no noise: what its noise costs is measured against this.

    Args:
        inner: decides who takes part, and the divisor.
    """

    def __init__(self, inner: Mechanism) -> None:
        self._inner = inner
        self.rounds, self.norm_bound, self.denominator = inner.rounds, inner.norm_bound, inner.denominator

    def takes_part(self, first: int, last: int, round: int) -> Tensor | None:
        """As the other mechanism."""
        return self._inner.takes_part(first, last, round)

    def noise(self, numbers: int, round: int) -> Tensor | None:
        """``None``: there is none."""
        check_round(round, self.rounds)
        return None

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """Not private, or public where nothing was released yet."""
        check_released(rounds, self.rounds)
        return PrivacyStatement.not_private(rounds) if rounds else PrivacyStatement.public()
