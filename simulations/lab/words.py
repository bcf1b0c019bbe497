"""How numbers of the lab read: percentiles, differences in percentile points, budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from simulations.lab.bands import Band
from simulations.lab.lab_report import Cell
from simulations.strategies import strategy

INVENTED = (
    "The people are invented: real ones share more or less than these, and where they share nothing no prior is worth "
    "anything."
)
PERCENTILE = (
    "Percentile of own taste: the true utility of what is recommended, ranked among unseen pictures; 50 is chance. "
    "No method sees true utilities."
)
TUNING = (
    "Each method has its own settings, chosen on invented people like these; somebody who knows one of them well may "
    "make it better."
)
BANDS = "Bands do not cover other generators, other laws of taste, or choices made while this was written."


def label(name: str) -> str:
    """A strategy's name for people."""
    return strategy(name).label


def asked(mechanism: str) -> str:
    """A mechanism for people."""
    return {
        "everyone": "everybody asked",
        "poisson": "Poisson cohorts",
        "truncated": "capped Poisson cohorts",
        "banded": "banded noise",
        "blt": "BLT noise",
    }[mechanism]


def budget(epsilon: float) -> str:
    """``0.5`` or ``∞``."""
    return "∞" if math.isinf(epsilon) else f"{epsilon:g}"


def own_answers(count: int) -> str:
    """``5 own answers``."""
    return f"{count} own answer{'' if count == 1 else 's'}"


def points(value: float, digits: int = 2) -> str:
    """A difference of percentiles in 0 .. 1 as percentile points."""
    return f"{100 * value:.{digits}f} percentile points".replace("-", "−")


def percentile(b: Band) -> Cell:
    """A percentile with its band, for a table."""
    return Cell(f"{100 * b.mean:.1f}", "" if math.isnan(b.low) else f"{100 * b.low:.1f}–{100 * b.high:.1f}")


def difference(row: Mapping[str, Any]) -> Cell:
    """A row's ``difference`` with its band, in percentile points."""
    text = f"{100 * row['low']:+.1f} … {100 * row['high']:+.1f}"
    return Cell(*(part.replace("-", "−") for part in (f"{100 * row['difference']:+.1f}", text)))


def stage_seconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Time by stage, all cells together."""
    cells = sum(value for name, value in seconds.items() if name.startswith("strategy "))
    others = {name: value for name, value in seconds.items() if not name.startswith("strategy ")}
    return others | ({"cells": round(cells, 2)} if cells else {})


def listed(values: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(values[:-1]), values[-1]] if len(values) > 1 else values)
