"""How a round is made private: who takes part, what noise, which divisor, and the statement that follows.

A mechanism is chosen before the first round and knows all it will do; an engine asks it, and adds nothing of its own.
Rounds are numbered from 1.

==================  =====================================  ==========================================================
mechanism           who takes part in a round              noise on the sum
==================  =====================================  ==========================================================
``Everyone``        everybody                              exact discrete Gaussian, the same as ``server.rounds``
``NoPrivacy``       everybody                              none; the statement says so
==================  =====================================  ==========================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from common.errors import SettingError
from common.privacy import accounting
from common.privacy.noise import Randomness, discrete_gaussian, system_randomness
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement


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
        _check_round(round, self.rounds)
        return None

    def noise(self, numbers: int, round: int) -> Tensor | None:
        """``(numbers,)`` int64 exact discrete Gaussian, fresh at every call; ``None`` where nothing is promised.

        Raises:
            SettingError: the round is not one of the accounted ones, or the noise is too small to be accounted for.
        """
        _check_round(round, self.rounds)
        if not self.settings.private:
            return None
        return discrete_gaussian(numbers, accounting.noise_sigma_squared(self.settings, numbers), self._randomness)

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """The statement of ``common.privacy.accounting``: it covers all rounds of the settings, however many ran."""
        _check_rounds(rounds, self.rounds)
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
        _check_round(round, self.rounds)
        return None

    def noise(self, numbers: int, round: int) -> Tensor | None:
        """``None``: there is none."""
        _check_round(round, self.rounds)
        return None

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """Not private, or public where nothing was released yet."""
        _check_rounds(rounds, self.rounds)
        return PrivacyStatement.not_private(rounds) if rounds else PrivacyStatement.public()


def _check_round(round: int, rounds: int) -> None:
    if not 1 <= round <= rounds:
        raise SettingError(f"round={round} must be between 1 and {rounds}, the rounds that are accounted for")


def _check_rounds(made: int, rounds: int) -> None:
    if not 0 <= made <= rounds:
        raise SettingError(f"rounds={made} must be between 0 and {rounds}, the rounds that are accounted for")
