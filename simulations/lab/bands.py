"""Means with their 95 % bands: over repeats where there are several, else over people, and always said which."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.stats import t as student  # type: ignore[import-untyped]

LEVEL = 0.95
K = TypeVar("K", bound=Hashable)


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


def within(cells: Mapping[K, Sequence[Sequence[float]]]) -> dict[K, Band]:
    """Bands of percentiles that are compared with each other: what all cells share in a repeat is taken out.

    Repeats differ in who the people are, and that moves all methods together; a band that held it would hide the
    differences the picture is about (Cousineau 2005; the factor is Morey's, 2008, doi 10.20982/tqmp.04.2.p061).

    Args:
        cells: for each cell its repeats, as ``band`` takes them; percentiles in 0 .. 1, all with as many repeats.

    Returns:
        The mean of each cell with Student's band, cut to 0 .. 1.
    """
    if min(len(repeats) for repeats in cells.values()) < 2:
        return {name: _cut(band(repeats)) for name, repeats in cells.items()}
    means = np.array([[float(np.mean(values)) for values in repeats] for repeats in cells.values()])
    centred = means - means.mean(0) + means.mean()
    count = means.shape[1]
    factor = math.sqrt(len(cells) / (len(cells) - 1)) if len(cells) > 1 else 1.0
    spread = (centred if len(cells) > 1 else means).std(1, ddof=1) * factor
    half = student.ppf(0.5 + LEVEL / 2, count - 1) * spread / math.sqrt(count)
    middle = means.mean(1)
    return {
        name: _cut(Band(float(m), float(m - h), float(m + h))) for name, m, h in zip(cells, middle, half, strict=True)
    }


def _cut(b: Band) -> Band:
    return Band(b.mean, max(b.low, 0.0), min(b.high, 1.0)) if not math.isnan(b.low) else b


def bands_over(repeats: int) -> str:
    """What the bands of percentiles are over, for a page."""
    if repeats > 1:
        return (
            f"95 % bands over {repeats} repeats, each with its own crowd, newcomers and noise; what all methods share "
            "in a repeat is taken out"
        )
    return "95 % bands over the newcomers of one repeat; another crowd or other noise may change more than they show"


def differences_over(repeats: int) -> str:
    """What the bands of differences are over, for a page."""
    return f"95 % bands over {repeats} repeats (Student's t)" if repeats > 1 else bands_over(repeats)
