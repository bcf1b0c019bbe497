"""What a population sweep came to: one panel for each thing that was varied, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from common.privacy.statement import PrivacyStatement
from simulations.lab.bands import Band, band, bands_over, differences_over, within
from simulations.lab.frames import Frame
from simulations.lab.lab_report import Cell, Line, Panel, Plot, Report, Section, Table
from simulations.lab.sweep import Outcome
from simulations.lab.words import (
    BANDS,
    INVENTED,
    PERCENTILE,
    TUNING,
    budget,
    difference,
    label,
    listed,
    own_answers,
    percentile,
    points,
    stage_seconds,
)

if TYPE_CHECKING:
    from simulations.lab.population import PopulationGrid

NAMES = {
    "shared": "taste in common",
    "archetypes": "number of archetypes",
    "drift": "drift, radians a round",
    "drop_out": "chance to be away",
    "unequal": "inequality of activity",
}
Place = tuple[Any, ...]
Repeats = list[list[float]]


class Found:
    """Percentiles of a sweep, by strategy, place and number of answers: one list of people for each repeat."""

    def __init__(self, grid: PopulationGrid, outcomes: Sequence[Outcome]) -> None:
        self.grid = grid
        self._values: dict[tuple[str, Place, int], Repeats] = {}
        for outcome in outcomes:
            axes: Any = outcome.cell.axes
            for count, values in zip(grid.answers, outcome.values["percentile"], strict=True):
                key = (axes["strategy"], self._place(axes), count)
                self._values.setdefault(key, []).append(values)
        self._bands: dict[tuple[str, Place, int], Band] = {}
        for count in grid.answers:
            self._bands |= within({key: values for key, values in self._values.items() if key[2] == count})

    def _place(self, axes: Mapping[str, Any]) -> Place:
        return tuple(axes[name] for name in self.grid.AXES)

    def band(self, strategy: str, place: Mapping[str, Any], answers: int) -> Band:
        """Mean percentile with its band."""
        return self._bands[strategy, self._place(place), answers]

    def minus(self, ours: str, here: Mapping[str, Any], other: str, there: Mapping[str, Any], answers: int) -> Band:
        """One strategy at one place minus another (or the same) at another (or the same), newcomer by newcomer."""
        first = self._values[ours, self._place(here), answers]
        second = self._values[other, self._place(there), answers]
        return band([(np.array(a) - np.array(b)).tolist() for a, b in zip(first, second, strict=True)])


def report(
    grid: PopulationGrid, outcomes: Sequence[Outcome], settings: Mapping[str, Any], seconds: Mapping[str, float]
) -> Report:
    """The report of a sweep."""
    found = Found(grid, outcomes)
    differences = list(difference_rows(found))
    frames = {
        "curves": Frame.of(list(curve_rows(found)), ("strategy", *grid.AXES, "answers")),
        "differences": Frame.of(differences, ("other", *grid.AXES, "answers")),
        "cells": Frame.of(list(cell_rows(grid, outcomes)), ("strategy", *grid.AXES, "answers", "repeat")),
    }
    lead = (
        f"Percentile of their own taste that newcomers are recommended after {own_answers(grid.look)}; "
        f"{grid.people:,} people, ε = {budget(grid.epsilon)}; {bands_over(grid.repeats)}."
    )
    parts: list[Plot | Table | str] = [_picture(found), _table(found), *costs(found)]
    sections = [Section(title="One thing at a time", lead=lead, parts=parts)]
    if differences:
        sections.append(
            Section(
                title=f"{label(grid.strategies[0])} against the others",
                lead="The same newcomers with the same answers to the same questions; "
                f"{differences_over(grid.repeats)}.",
                parts=[_difference_table(found, differences)],
            )
        )
    return Report(
        experiment="population",
        title="Populations",
        headline=headline(found, differences),
        about="Invented people rated pictures and each method learned from them. One thing about the people was "
        "changed at a time; newcomers of the same kind then answered a few random questions and were recommended "
        "something.",
        sections=sections,
        settings=settings,
        frames=frames,
        statements=_statements(outcomes),
        limits=[
            INVENTED,
            PERCENTILE,
            "Tastes that drift are those of the last round when newcomers are met; everybody drifts with their "
            "archetype, nobody on their own.",
            "Drop-outs and few answers are independent of taste here; in life those who leave may like other things.",
            TUNING,
            BANDS,
        ],
        seconds=stage_seconds(seconds),
    )


def curve_rows(found: Found) -> Iterator[dict[str, Any]]:
    """One row per strategy, place and number of answers."""
    grid = found.grid
    for strategy in grid.strategies:
        for place in grid.places():
            for answers in grid.answers:
                b = found.band(strategy, place, answers)
                about = {"strategy": strategy, **place, "answers": answers}
                yield {**about, "percentile": b.mean, "low": b.low, "high": b.high, "repeats": grid.repeats}


def cell_rows(grid: PopulationGrid, outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """One row per cell and number of answers."""
    for outcome in outcomes:
        for answers, values in zip(grid.answers, outcome.values["percentile"], strict=True):
            kept = {key: outcome.values[key] for key in ("rounds", "numbers", "clipped", "noise", "seconds")}
            yield {**outcome.cell.axes, "answers": answers, "percentile": float(np.mean(values)), **kept}


def difference_rows(found: Found) -> Iterator[dict[str, Any]]:
    """The first strategy minus each other one at the same place."""
    grid = found.grid
    ours, *others = grid.strategies
    for other in others:
        for place in grid.places():
            for answers in grid.answers:
                b = found.minus(ours, place, other, place, answers)
                about = {"other": other, **place, "answers": answers}
                yield {**about, "difference": b.mean, "low": b.low, "high": b.high, "verdict": b.verdict}


def costs(found: Found) -> list[str]:
    """One sentence for each thing that was varied: what its furthest value does to the first strategy."""
    grid, ours = found.grid, found.grid.strategies[0]
    told = []
    for axis in grid.AXES:
        changes = {
            value: found.minus(ours, grid.base | {axis: value}, ours, grid.base, grid.look)
            for value in getattr(grid, axis)[1:]
        }
        if changes:
            value, b = max(changes.items(), key=lambda entry: abs(entry[1].mean))
            shown = "" if b.verdict != "not shown" else ", which could be chance"
            told.append(
                f"{NAMES[axis].capitalize()}: {value:g} instead of {grid.base[axis]:g} changes {label(ours)} by "
                f"{points(b.mean)}{shown}."
            )
    return told


def headline(found: Found, differences: Sequence[dict[str, Any]]) -> str:
    """What costs the first strategy most, and where it is not ahead."""
    grid, ours = found.grid, found.grid.strategies[0]
    changes = [
        (axis, value, found.minus(ours, grid.base | {axis: value}, ours, grid.base, grid.look))
        for axis in grid.AXES
        for value in getattr(grid, axis)[1:]
    ]
    if not changes:
        return f"{label(ours)} reaches {points(found.band(ours, grid.base, grid.look).mean, 1)}; nothing was varied."
    axis, value, b = min(changes, key=lambda change: change[2].mean)
    said = f"{label(ours)} loses most, {points(-b.mean, 1)}, where {NAMES[axis]} is {value:g}"
    there = [row for row in differences if row["answers"] == grid.look]
    behind = list(dict.fromkeys(label(row["other"]) for row in there if row["verdict"] == "behind"))
    if not there:
        return said + "."
    where = sum(row["verdict"] == "behind" for row in there)
    rest = f"it is behind {listed(behind)} at {where} of {len(there)} places" if behind else "it is behind nowhere"
    return f"{said}; after {own_answers(grid.look)} {rest}."


def _picture(found: Found) -> Plot:
    grid = found.grid
    panels = []
    for axis in grid.AXES:
        values = sorted(getattr(grid, axis))
        if len(values) < 2:
            continue
        lines = []
        for strategy in grid.strategies:
            bands = [found.band(strategy, grid.base | {axis: value}, grid.look) for value in values]
            lines.append(
                Line(
                    label=label(strategy), x=values, y=[b.mean for b in bands], low=[b.low for b in bands],
                    high=[b.high for b in bands], hero=strategy == grid.strategies[0],
                )
            )  # fmt: skip
        panels.append(Panel(title=NAMES[axis], lines=lines))
    if not panels:
        panels = [Panel(lines=[Line(label=label(s), x=[0], y=[_level(found, s)]) for s in grid.strategies])]
    title = f"Percentile of own taste that newcomers are recommended after {own_answers(grid.look)}"
    return Plot(
        name="population", title=title, x_label="what is varied", panels=panels, percentile=True, chance=0.5,
        own_x=True,
    )  # fmt: skip


def _level(found: Found, strategy: str) -> float:
    return found.band(strategy, found.grid.base, found.grid.look).mean


def _table(found: Found) -> Table:
    grid = found.grid
    rows: list[list[str | Cell]] = []
    for place in grid.places():
        cells = [percentile(found.band(strategy, place, grid.look)) for strategy in grid.strategies]
        rows.append([_change(grid, place), *cells])
    title = f"Percentile of own taste after {own_answers(grid.look)}"
    return Table(title=title, columns=["changed", *map(label, grid.strategies)], rows=rows, hero_rows=(0,))


def _difference_table(found: Found, differences: Sequence[dict[str, Any]]) -> Table:
    grid = found.grid
    rows: list[list[str | Cell]] = []
    for place in grid.places():
        there = [row for row in differences if all(row[name] == value for name, value in place.items())]
        cells = [
            next(difference(row) for row in there if row["other"] == other and row["answers"] == answers)
            for other in grid.strategies[1:]
            for answers in {0: 0, grid.look: 0}
            if answers in grid.answers
        ]
        rows.append([_change(grid, place), *cells])
    counts = [answers for answers in {0: 0, grid.look: 0} if answers in grid.answers]
    heads = [f"{label(other)}, {own_answers(count)}" for other in grid.strategies[1:] for count in counts]
    return Table(title="Difference in percentile points", columns=["changed", *heads], rows=rows)


def _change(grid: PopulationGrid, place: Mapping[str, Any]) -> str:
    changed = [f"{NAMES[name]} {value:g}" for name, value in place.items() if value != grid.base[name]]
    return changed[0] if changed else "nothing (base)"


def _statements(outcomes: Sequence[Outcome]) -> dict[str, PrivacyStatement]:
    found = {}
    for outcome in outcomes:
        name = f"{label(str(outcome.cell.axes['strategy']))}, {outcome.values['rounds']} rounds"
        found[name] = PrivacyStatement.from_json(outcome.values["statement"])
    return found
