"""What an audit says, in the same words for all of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from common.errors import SettingError

AUDITS = ("monte-carlo", "one-run", "noise", "membership")
SEES = {
    "monte-carlo": "the release of one loud person: clipping, weights, size of the noise, repeated releases",
    "one-run": "one whole training with canaries, from answers to sums: the same, and how the parts are joined",
    "noise": "the noise alone: its size to a per cent, its law, whether rounds share it; no clipping, no weights",
    "membership": "what a published prior tells of an ordinary person: no loud person, so hardly any clipping",
}


@dataclass(frozen=True, kw_only=True)
class Level:
    """How sure an audit has to be.

    Attributes:
        confidence: of the bounds that are printed, each one.
        alpha: most runs, as a share, in which the honest build may be flagged by any of ``audits`` together.
        audits: how many share ``alpha``.
    """

    confidence: float = 0.95
    alpha: float = 0.01
    audits: int = len(AUDITS)

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise SettingError(f"confidence={self.confidence} must be between 0.5 and 1; try 0.95")
        if not 0 < self.alpha <= 0.5:
            raise SettingError(f"alpha={self.alpha} must be in (0, 0.5]; try 0.01")

    @property
    def strict(self) -> float:
        """Confidence at which one audit flags a build, so that all of them together keep to ``alpha``."""
        return 1 - self.alpha / self.audits


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One audit of one build.

    Attributes:
        audit: one of ``AUDITS``.
        claim: epsilon of the statement.
        lower: lower bound on epsilon at the confidence of the level; 0 shows nothing.
        upper: what this attack can reach at most, at the same confidence; no bound on other attacks.
        flagged: whether the claim is refuted at ``Level.strict``.
        detail: other numbers, by name.
    """

    audit: str
    claim: float
    lower: float
    upper: float
    flagged: bool
    detail: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)
