"""The report of ``plgl simulate from-file``: how well later answers of real people are foretold, method by method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from simulations.choice_file import ChoiceFile
from simulations.from_file import Experiment, FromFile, Method, methods, statements
from simulations.lab.bands import Band, band
from simulations.lab.frames import Frame
from simulations.lab.lab_report import Cell, Line, Panel, Plot, Report, Section, Table

_MEASURES = {"right": "later answers foretold", "log_likelihood": "log likelihood of a later answer, nats"}


def about(settings: FromFile, file: ChoiceFile) -> dict[str, Any]:
    """Everything a run depends on: the settings, and which answers."""
    return {**asdict(settings), "file": file.path.name, "sha256": file.sha256}


def report(experiment: Experiment, cells: list[dict[str, Any]]) -> Report:
    """The report of a finished experiment.

    Args:
        experiment: that gave the cells.
        cells: what ``Experiment.run`` returned.
    """
    settings, file = experiment.settings, experiment.file
    rows = list(_rows(experiment, cells))
    met = sum(division.new.numel() for division in experiment.divisions.values())
    known = next(iter(experiment.divisions.values())).known.numel()
    return Report(
        experiment="from-file",
        title=f"Cold start of the people in {file.path.name}",
        headline=_headline(experiment, rows),
        about=(
            f"{len(file.people):,} people gave {int(file.given.sum()):,} answers about {len(file.table):,} items with "
            f"{experiment.features.shape[1] - 1} features. {known:,} of them taught the priors, the others were met: "
            f"{met:,} meetings in {settings.repeats} divisions. Judged are the answers a person gave after their first "
            f"{experiment.points[-1]}."
        ),
        sections=[
            Section(
                title="What is foretold after how many own answers",
                lead=f"A blind guess is right {experiment.guessing:.0%} of the time. {_bands_over(settings)}.",
                parts=[
                    _plot(experiment, rows, "right"),
                    _table(experiment, rows, "right"),
                    _plot(experiment, rows, "log_likelihood"),
                    _table(experiment, rows, "log_likelihood"),
                ],
            )
        ],
        settings=about(settings, file),
        frames={"curves": Frame.of(rows, ("method", "answers")), "divisions": Frame.of(_divisions(experiment))},
        statements=statements(cells, settings),
        limits=[
            "The questions are those of the file. A session that chooses its questions needs fewer of them.",
            "Curves marked not private publish what was learned without noise; they are upper bounds, not an offer.",
            "Items and their features are taken as public: features are standardised over the items of the file.",
        ],
    )


def _rows(experiment: Experiment, cells: list[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    rows = []
    for method in methods(experiment.settings):
        mine = [cell for cell in cells if cell["method"] == method.name]
        for at, answers in enumerate(experiment.points):
            row: dict[str, Any] = {"method": method.name, "answers": answers, "epsilon": method.epsilon}
            for measure in _MEASURES:
                found = _band(mine, measure, at)
                row |= {measure: found.mean, f"{measure}_low": found.low, f"{measure}_high": found.high}
            rows.append(row)
    return rows


def _band(cells: list[dict[str, Any]], measure: str, at: int) -> Band:
    repeats = [[person[at] for person in cell[measure] if not math.isnan(person[at])] for cell in cells]
    kept = [values for values in repeats if values]
    return band(kept) if kept else Band(math.nan, math.nan, math.nan)


def _bands_over(settings: FromFile) -> str:
    if settings.repeats > 1:
        return (
            f"95 % bands over {settings.repeats} divisions of the same people, each with its own noise (Student's t); "
            "divisions share people, so other people may change more than the bands show"
        )
    return "95 % bands over the people met in one division; other noise may change more than they show"


def _divisions(experiment: Experiment) -> list[dict[str, Any]]:
    return [
        {"seed": seed, "known": division.known.numel(), "new": division.new.numel()}
        for seed, division in experiment.divisions.items()
    ]


def _plot(experiment: Experiment, rows: Sequence[dict[str, Any]], measure: str) -> Plot:
    lines = []
    for method in methods(experiment.settings):
        mine = [row for row in rows if row["method"] == method.name]
        lines.append(
            Line(
                label=method.label,
                x=[row["answers"] for row in mine],
                y=[row[measure] for row in mine],
                low=[row[f"{measure}_low"] for row in mine],
                high=[row[f"{measure}_high"] for row in mine],
                hero=method == _hero(experiment),
            )
        )
    return Plot(
        name=measure.replace("_", "-"),
        title=_MEASURES[measure],
        x_label="own answers",
        panels=[Panel(lines=lines)],
        chance=experiment.guessing if measure == "right" else None,
    )


def _table(experiment: Experiment, rows: Sequence[dict[str, Any]], measure: str) -> Table:
    chosen = methods(experiment.settings)
    body: list[list[str | Cell]] = []
    for method in chosen:
        mine = [row for row in rows if row["method"] == method.name]
        body.append([method.label, *(_cell(row, measure) for row in mine)])
    heads = [f"after {answers}" for answers in experiment.points]
    return Table(
        title=_MEASURES[measure],
        columns=["method", *heads],
        rows=body,
        hero_rows=[at for at, method in enumerate(chosen) if method == _hero(experiment)],
        folded=measure != "right",
    )


def _cell(row: dict[str, Any], measure: str) -> Cell:
    numbers = [row[measure], row[f"{measure}_low"], row[f"{measure}_high"]]
    value, low, high = (f"{100 * x:.1f} %" if measure == "right" else f"{x:.3f}" for x in numbers)
    return Cell(value, f"{low} – {high}")


def _hero(experiment: Experiment) -> Method:
    """The method the report is about: the smallest budget."""
    chosen = methods(experiment.settings)
    private = [method for method in chosen if method.epsilon is not None and math.isfinite(method.epsilon)]
    return min(private, key=lambda method: method.epsilon or math.inf) if private else chosen[-1]


def _headline(experiment: Experiment, rows: Sequence[dict[str, Any]]) -> str:
    answers = min(experiment.points, key=lambda point: (abs(point - 1), point))
    right = {row["method"]: row["right"] for row in rows if row["answers"] == answers}
    hero = _hero(experiment)
    counted = f"{answers} own answer{'' if answers == 1 else 's'}"
    return (
        f"After {counted}, {100 * right[hero.name]:.0f} % of later answers are foretold by {hero.label}; "
        f"by own answers only {100 * right['own-only']:.0f} %, without privacy {100 * right['not-private']:.0f} %, "
        f"by a blind guess {100 * experiment.guessing:.0f} %"
    )
