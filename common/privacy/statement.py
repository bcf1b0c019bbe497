"""The line that stands beside every release: what is protected, from whom, and how far.

A prior without a statement cannot be saved or loaded, so a claim can never be lost on the way.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from common.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class PrivacyStatement:
    """A differential-privacy claim, complete enough to be checked by somebody else.

    Guarantee: a statement whose ``epsilon`` is finite names its mechanism, sensitivity, noise and accountant;
    anything less raises when it is made. ``epsilon`` covers *all* releases the published values depend on.

    Attributes:
        unit: who is protected, e.g. ``"one enrolled person: all ratings, all rounds"``.
        adjacency: which two data sets are compared, e.g. ``"add or remove one person"``.
        mechanism: name of the noise, or ``"none"``.
        trust: who sees values before the noise is added.
        sensitivity: L2 norm one person can move the sum by, in update units, rounding to integers included.
        noise_multiplier: noise standard deviation divided by ``sensitivity`` (z).
        participations: releases one person is charged for, aborted rounds included.
        epsilon: bound at ``delta``; ``inf`` where nothing is claimed, 0 where no person's data were used.
        delta: failure probability of the bound.
        rho: zero-concentrated DP of the same releases, ``participations / (2 z^2)``.
        sampling: what is claimed about amplification by sampling.
        accountant: name and version of the accountant that computed ``epsilon``.
    """

    unit: str
    adjacency: str
    mechanism: str
    trust: str
    sensitivity: float | None
    noise_multiplier: float | None
    participations: int
    epsilon: float
    delta: float
    rho: float | None
    sampling: str
    accountant: str

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise SettingError(f"epsilon={self.epsilon} must be >= 0; use inf where nothing is claimed")
        if 0 < self.epsilon < math.inf and not (
            self.sensitivity and self.noise_multiplier and self.accountant and 0 < self.delta < 1
        ):
            raise SettingError("a finite epsilon needs sensitivity, noise_multiplier, delta in (0, 1) and accountant")

    @classmethod
    def public(cls) -> PrivacyStatement:
        """The statement of values no person's data went into."""
        return cls._bare("no person's data were used", 0.0)

    @classmethod
    def not_private(cls, participations: int) -> PrivacyStatement:
        """The statement of values released without noise: it claims nothing."""
        return dataclasses.replace(
            cls._bare("everybody who sees the release", math.inf), unit="nobody", participations=participations
        )

    @classmethod
    def _bare(cls, trust: str, epsilon: float) -> PrivacyStatement:
        return cls(
            unit="one enrolled person: all ratings, all rounds",
            adjacency="add or remove one person",
            mechanism="none",
            trust=trust,
            sensitivity=None,
            noise_multiplier=None,
            participations=0,
            epsilon=epsilon,
            delta=0.0,
            rho=None,
            sampling="no amplification claimed",
            accountant="none",
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite epsilon becomes ``None`` (JSON has no infinity)."""
        values = dataclasses.asdict(self)
        values["epsilon"] = None if math.isinf(self.epsilon) else self.epsilon
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> PrivacyStatement:
        """The statement that ``to_json`` wrote.

        Raises:
            SettingError: a field is missing, unknown, or makes the claim incomplete.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if set(values) != known:
            raise SettingError(f"privacy statement has fields {sorted(values)}; expected {sorted(known)}")
        return cls(**{**values, "epsilon": math.inf if values["epsilon"] is None else values["epsilon"]})

    def __str__(self) -> str:
        if self.epsilon == 0:
            return "public: no person's data were used"
        if math.isinf(self.epsilon):
            return "NOT PRIVATE: no noise was added"
        return (
            f"({self.epsilon:.3g}, {self.delta:.1g})-DP for {self.unit}; {self.adjacency}; {self.mechanism}, "
            f"z = {self.noise_multiplier:.4g}, sensitivity {self.sensitivity:.4g}, "
            f"at most {self.participations} participations; {self.sampling}; {self.accountant}"
        )
