"""Means with their 95 % bands: over repeats where there are several, else over people, and always said which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student  # type: ignore[import-untyped]

LEVEL = 0.95


@dataclass(frozen=True)
class Band:
    """A mean with the ends of its 95 % band."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``"ahead"`` or ``"behind"`` where the band does not span zero, else ``"not shown"``."""
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "not shown"


def band(repeats: Sequence[Sequence[float]]) -> Band:
    """The mean over repeats with Student's band.

    With one repeat the band is over its people: it then leaves out what another crowd or other noise would change.

    Args:
        repeats: for each repeat the values of its people; paired differences where two methods are compared.
    """
    means = [float(np.mean(values)) for values in repeats]
    values = means if len(means) > 1 else list(repeats[0])
    middle = float(np.mean(values))
    if len(values) < 2:
        return Band(middle, math.nan, math.nan)
    half = float(student.ppf(0.5 + LEVEL / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Band(middle, middle - half, middle + half)


def bands_over(repeats: int) -> str:
    """What the bands are over, for a page."""
    if repeats > 1:
        return f"95 % bands over {repeats} repeats, each with its own crowd, newcomers and noise (Student's t)"
    return "95 % bands over the newcomers of one repeat; another crowd or other noise may change more than they show"
