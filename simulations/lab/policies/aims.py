"""What was aimed at on every generator, and what was reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from simulations.lab.bands import Band, band
from simulations.lab.grid import Cell
from simulations.lab.policies.grid import TOY

Rows = Sequence[Mapping[str, Any]]
Releases = Sequence[tuple[Cell, Mapping[str, Any]]]
"""What crowds taught, with the cells."""
HEADSTART, AIMED_EPSILON = 0.05, 2.0  # how far everybody's policy is to lie above the generator, at which budget
OVERSHOOT = 1.2  # of the drift limit, at which cheating is to be stopped
_RANGES = {
    **dict.fromkeys(("percentile", "loved", "precision", "recall"), (0.0, 1.0)),
    **dict.fromkeys(("diversity", "frechet"), (0.0, math.inf)),
}


class Streams:
    """Streams of one generator, by method.

    Attributes:
        generator: its name.
    """

    def __init__(self, generator: str, rows: Rows) -> None:
        """Take the rows that are about it."""
        self.generator = generator
        self._by: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            if row.get("method") and row["generator"] == generator:
                self._by.setdefault(str(row["method"]), []).append(row)

    @property
    def methods(self) -> list[str]:
        """In the order they were given."""
        return list(self._by)

    def rows(self, method: str) -> list[Mapping[str, Any]]:
        """One for each person."""
        return self._by[method]

    def values(self, method: str, measure: str) -> list[list[float]]:
        """For each repeat those of its people."""
        repeats = sorted({row["repeat"] for row in self._by[method]})
        return [[row[measure] for row in self._by[method] if row["repeat"] == at] for at in repeats]

    def band(self, method: str, measure: str) -> Band:
        """Mean with its band, cut to what the measure can be."""
        found, (low, high) = band(self.values(method, measure)), _RANGES.get(measure, (-math.inf, math.inf))
        # a NaN, where one person has no band, comes through both
        return Band(found.mean, max(found.low, low), min(found.high, high))

    def mean(self, method: str, measure: str) -> float:
        """Mean over everybody."""
        return float(np.mean([row[measure] for row in self._by[method]]))

    def percentile(self, method: str) -> float:
        """Mean percentile of a method's items, by the true taste of who sees them."""
        return self.mean(method, "percentile")

    def ratio(self, one: str, other: str, measure: str) -> float:
        """Mean of one method over that of another."""
        return self.mean(one, measure) / max(1e-12, self.mean(other, measure))

    def seconds(self, method: str) -> float:
        """Processor seconds for an item: to choose and to draw it."""
        return self.mean(method, "seconds_per_item") + self.mean(method, "seconds_to_draw")


def aims(streams: Streams) -> list[dict[str, Any]]:
    """What was asked of the streams of a generator, and what was reached, where the methods it needs were tried.

    Nothing was asked of the toy: a person who loves all S-curves alike cannot be shown more than the 87th percentile.
    """
    if streams.generator == TOY:
        return []
    asked: list[tuple[set[str], str, Callable[[], float], float, bool]] = [
        ({"policy"}, "policy: mean percentile at least", lambda: streams.percentile("policy"), 0.9, True),
        ({"policy", "base"}, "policy: share of the generator's diversity at least",
         lambda: streams.ratio("policy", "base", "diversity"), 0.7, True),
        ({"policy", "best-of-n"}, "policy: Fréchet distance over that of best-of-n at most",
         lambda: streams.ratio("policy", "best-of-n", "frechet"), 2.0, False),
        ({"policy", "search"}, "policy: items a second over those of search at least",
         lambda: streams.ratio("search", "policy", "seconds_per_item"), 50.0, True),
        ({"policy", "distilled"}, "distilled: share of the policy's utility at least",
         lambda: streams.ratio("distilled", "policy", "utility"), 0.95, True),
        ({"policy", "distilled"}, "distilled: share of the policy's numbers at most",
         lambda: streams.ratio("distilled", "policy", "parameters"), 0.2, False),
    ]  # fmt: skip
    have = set(streams.methods)
    found = []
    for needs, aim, value, limit, above in asked:
        if needs <= have:
            reached = value()
            met = (reached >= limit) == above
            found.append({"generator": streams.generator, "aim": aim, "reached": reached, "limit": limit, "met": met})
    return found


def aim_of_crowds(releases: Releases) -> list[dict[str, Any]]:
    """How far the first items of newcomers lie above the generator's own, which are at a half by definition."""
    found = []
    for generator in dict.fromkeys(str(cell.axes["generator"]) for cell, _ in releases):
        gains = gained(releases, generator).get(AIMED_EPSILON)
        if gains is not None:
            mean = band(gains).mean
            aim = f"everybody's policy, epsilon {AIMED_EPSILON:g}: percentile of newcomers above the generator at least"
            where = {"generator": generator, "aim": aim}
            found.append({**where, "reached": mean, "limit": HEADSTART, "met": mean >= HEADSTART})
    return found


def gained(releases: Releases, generator: str) -> dict[float, list[list[float]]]:
    """Percentile of each newcomer less a half, by budget, then repeat."""
    found: dict[float, list[list[float]]] = {}
    for cell, values in releases:
        if cell.axes["generator"] == generator:
            each = [value - 0.5 for value in values["newcomers"]]
            found.setdefault(float(str(cell.axes["epsilon"])), []).append(each)
    return found


def aim_of_guard(hacking: Rows) -> list[dict[str, Any]]:
    """Where the guard stopped those who cheated; nothing where nobody did."""
    if not hacking:
        return []
    drift = max(row["drift"] for row in hacking)
    aim = "cheating: drift when stopped, over the limit, at most"
    where = {"generator": hacking[0]["generator"], "aim": aim}
    return [{**where, "reached": drift, "limit": OVERSHOOT, "met": drift <= OVERSHOOT}]
