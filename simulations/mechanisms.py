"""How a round is made private: who takes part, what noise, which divisor, and the statement that follows.

A mechanism is chosen before the first round and knows all it will do; an engine asks it, and adds nothing of its own.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from common.privacy.statement import PrivacyStatement


class Mechanism(Protocol):
    """A way to release ``rounds`` noised sums of vectors of bounded norm.

    Attributes:
        rounds: how many.
        norm_bound: L2 bound C of one person's vector; the engine clips to it.
        denominator: what the noised sum is divided by; fixed beforehand, never counted.
    """

    rounds: int
    norm_bound: float
    denominator: float

    def takes_part(self, first: int, last: int, round: int) -> Tensor | None:
        """``(last - first,)`` bool, who of these people takes part; ``None`` for everybody."""

    def noise(self, numbers: int, round: int) -> Tensor | None:
        """``(numbers,)`` int64 in steps of ``common.privacy.fixed_point.SCALE``, to be added to the integer sum."""

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """The claim for what ``rounds`` releases were made into."""
