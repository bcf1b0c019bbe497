"""The settings that change the guarantee. Nothing in here is only about speed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class PrivacySettings:
    """What a federation promises each person before the first round.

    Attributes:
        epsilon: total budget over all rounds; ``inf`` switches the noise off, and the release then says so.
        delta: failure probability of the bound.
        participations: rounds one person may take part in; every started round counts, aborted ones too.
        norm_bound: L2 bound C of one person's update.
        expected_people: fixed denominator of the mean; a number fixed before the round, never counted in it.
        minimum_people: fewer answers than this abort the round.
    """

    epsilon: float = 1.0
    delta: float = 1e-6
    participations: int = 4
    norm_bound: float = 8.0
    expected_people: int = 2_000
    minimum_people: int = 100

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise SettingError(f"epsilon={self.epsilon} must be > 0; try 1.0, or inf for no privacy at all")
        if not 0 < self.delta < 1:
            raise SettingError(f"delta={self.delta} must be in (0, 1); try 1e-6")
        if self.participations < 1:
            raise SettingError(f"participations={self.participations} must be >= 1; try 4")
        if not (0 < self.norm_bound < math.inf):
            raise SettingError(f"norm_bound={self.norm_bound} must be > 0 and finite; try 8.0")
        if self.minimum_people < 1:
            raise SettingError(f"minimum_people={self.minimum_people} must be >= 1; try 100")
        if self.expected_people < self.minimum_people:
            raise SettingError(
                f"expected_people={self.expected_people} is below minimum_people={self.minimum_people}; "
                "enrol more people or lower the minimum cohort"
            )

    @property
    def private(self) -> bool:
        """Whether any noise is added."""
        return math.isfinite(self.epsilon)
