"""The numbers of the comparison as tables: the evaluation, and what it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simulations.lab.frames import Frame
from simulations.lab.grid import Cell
from simulations.lab.policies.aims import Releases, Rows, Streams

MEASURES = {
    "utility": "utility",
    "percentile": "percentile",
    "loved": "loved",
    "held_out": "held out",
    "diversity": "diversity",
    "frechet": "Fréchet",
    "precision": "precision",
    "recall": "recall",
}
"""What the table shows, beside the time; each is a mean over people with its band."""
_NUMBERS = (*MEASURES, "extreme", "seconds_per_item", "seconds_to_draw", "seconds_to_learn", "parameters")
_RELEASE = ("generator", "epsilon", "repeat")


def frames(
    every: Sequence[Streams], releases: Releases, asked: Sequence[dict[str, Any]], hacking: Rows
) -> dict[str, Frame]:
    """All tables by name; "evaluation" has a row for each generator and method.

    Args:
        every: streams of each generator.
        releases: what crowds taught.
        asked: aims, and what was reached.
        hacking: learners without a guard.
    """
    people = [
        {name: value for name, value in row.items() if name != "shown"}
        for streams in every
        for method in streams.methods
        for row in streams.rows(method)
    ]
    table = [_means(streams, method) for streams in every for method in streams.methods]
    rounds = [{"repeat": row["repeat"], "person": row["person"], **each} for row in hacking for each in row["rounds"]]
    found = {
        "evaluation": Frame.of(table, ("generator", "method")),
        "streams": Frame.of(people, ("generator", "method", "repeat", "person")),
    }
    if releases:
        found["crowds"] = Frame.of([_release(cell, values) for cell, values in releases], _RELEASE)
    if asked:
        found["aims"] = Frame.of(asked, ("generator", "aim"))
    if rounds:
        found["cheating"] = Frame.of(rounds, ("repeat", "person", "round"))
    return found


def _release(cell: Cell, values: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: values[name] for name in ("clipped", "divergence", "seconds")}
    axes = {name: cell.axes[name] for name in _RELEASE}
    return {**axes, "newcomers": float(np.mean(values["newcomers"])), **told}


def _means(streams: Streams, method: str) -> dict[str, Any]:
    """Means over everybody, and the ends of the bands of what the table shows."""
    found: dict[str, Any] = {"generator": streams.generator, "method": method, "people": len(streams.rows(method))}
    found |= {name: streams.mean(method, name) for name in _NUMBERS}
    for name in MEASURES:
        value = streams.band(method, name)
        found |= {f"{name}_low": value.low, f"{name}_high": value.high}
    return found
