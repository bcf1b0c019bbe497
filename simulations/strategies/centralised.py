"""The population prior without privacy: EM on everybody, nobody clipped, until it stands still. The upper bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from simulations.mechanisms import Mechanism, NoPrivacy
from simulations.strategies.base import Strategy, Task
from simulations.strategies.dp_em import DpEm


@dataclass(frozen=True, kw_only=True)
class Centralised(DpEm):
    """DP-EM without the DP, with enough rounds to converge. It runs without noise and says that it is not private.

    Attributes:
        norm_bound: so large that no update is clipped.
        rounds: over-relaxed EM steps; 24 more moved the cold start of invented people by 0.001 at most.
    """

    norm_bound: float = 2.0**15
    rounds: int = 16
    name: ClassVar[str] = "centralised"
    label: ClassVar[str] = "Centralised, not private"

    def keeping(self, settings: PrivacySettings, task: Task) -> tuple[Strategy, Mechanism]:
        """No promise is kept: everybody's answers are used as they are."""
        return self, NoPrivacy(rounds=self.rounds, norm_bound=self.norm_bound, people=settings.expected_people)

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """Not private."""
        return PrivacyStatement.not_private(rounds) if rounds else PrivacyStatement.public()
