"""What a run of attacks found, as a report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from simulations.attacks.experiment import AttackSettings, Found
from simulations.lab.frames import Frame
from simulations.lab.lab_report import Line, Panel, Plot, Report, Section, Table

KEYS = {
    "reconstruction": ("strategy", "ratings", "cohort", "epsilon"),
    "membership": ("people", "epsilon"),
    "poisoning": ("strategy", "way", "people", "share", "epsilon"),
    "sybils": ("people", "share", "epsilon"),
}
LIMITS = (
    "An attack that fails shows that this attack fails; only the statement of a release bounds all of them.",
    "Items and people are invented; the latent map is linear and orthonormal, which is the easiest one to undo.",
    "Noise is normal, of the size of the exact noise that ships. Attacks on the exact noise are a matter of the audit.",
    "The epsilon of a row is the budget of all rounds; reconstruction sees the first of them.",
)


def report(settings: AttackSettings, found: Found) -> Report:
    """The report of a finished run."""
    return Report(
        experiment="attack",
        title="Attacks: what somebody gains who does not keep to the rules",
        headline=headline(found),
        about="Each attack by budget and cohort, beside the same attack where the protection is off.",
        sections=[_SECTIONS[kind](rows, found.controls[kind]) for kind, rows in found.rows.items()],
        settings=dataclasses.asdict(settings),
        frames={kind: Frame.of(rows, KEYS[kind]) for kind, rows in found.rows.items()},
        limits=LIMITS,
        seconds=found.seconds,
    )


def headline(found: Found) -> str:
    """One sentence."""
    if found.problems:
        return "The run shows nothing: " + "; ".join(found.problems) + "."
    return "Without protection: " + "; ".join(found.controls.values()) + "."


def _table(title: str, rows: list[dict[str, Any]], columns: dict[str, str], *, folded: bool = False) -> Table:
    cells = [[row.get(name) for name in columns] for row in rows]
    return Table(title=title, columns=list(columns.values()), rows=cells, folded=folded)


def _across(title: str, rows: list[dict[str, Any]], keys: dict[str, str], over: str, value: str) -> Table:
    """One measure, with the values of one key as columns."""
    places = sorted({row[over] for row in rows})
    found: dict[tuple[Any, ...], dict[Any, Any]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), {})[row[over]] = f"{row[value]:.2f}"
    cells = [[*names, *(values.get(place) for place in places)] for names, values in found.items()]
    return Table(title=title, columns=[*keys.values(), *(f"{place:g}" for place in places)], rows=cells)


def _lines(
    rows: list[dict[str, Any]], x: str, y: str, label: Callable[[dict[str, Any]], str], hero: str = ""
) -> list[Line]:
    labels = dict.fromkeys(label(row) for row in rows)
    lines = []
    for name in labels:
        mine = sorted((row for row in rows if label(row) == name), key=lambda row: float(row[x]))
        lines.append(Line(label=name, x=[row[x] for row in mine], y=[row[y] for row in mine], hero=name == hero))
    return lines


def _budget(row: dict[str, Any]) -> str:
    return "no noise, no clip" if math.isinf(row["epsilon"]) else f"epsilon {row['epsilon']:g}"


def _noise(row: dict[str, Any]) -> str:
    return "no noise" if math.isinf(row["epsilon"]) else f"epsilon {row['epsilon']:g}"


def _reconstruction(rows: list[dict[str, Any]], control: str) -> Section:
    panels = [
        Panel(
            title=f"{name}, {ratings} rating{'s' if ratings > 1 else ''}",
            lines=_lines(
                [row for row in rows if row["strategy"] == name and row["ratings"] == ratings],
                "cohort",
                "identified",
                _budget,
            ),
        )
        for name in dict.fromkeys(row["strategy"] for row in rows)
        for ratings in dict.fromkeys(row["ratings"] for row in rows)
    ]
    columns = {
        "strategy": "strategy",
        "ratings": "ratings",
        "cohort": "people in the sum",
        "epsilon": "epsilon",
        "identified": "rated item named",
        "chance": "by chance",
        "cosine": "cosine to a rated item",
        "blind_cosine": "to others",
    }
    plot = Plot(
        name="reconstruction",
        title="Share of people of whom a rated item is named",
        x_label="people in the sum that the attacker sees (1: no secure aggregation)",
        panels=panels,
        limits=(0.0, 1.03),
    )
    return Section(
        title="Reconstruction of what somebody rated",
        lead=f"Control: {control}.",
        parts=[
            plot,
            _across(
                "Share of people of whom a rated item is named, by people in the sum",
                rows,
                {"strategy": "strategy", "ratings": "ratings", "epsilon": "epsilon"},
                "cohort",
                "identified",
            ),
            _table("All numbers on reconstruction", rows, columns, folded=True),
        ],
    )


def _membership(rows: list[dict[str, Any]], control: str) -> Section:
    lines = _lines(rows, "epsilon", "auc", lambda row: f"{row['people']:,} people")
    first = min((row["people"] for row in rows), default=0)
    allowed = _lines(
        [row for row in rows if row["people"] == first],
        "epsilon",
        "auc_allowed",
        lambda row: "most that epsilon allows",
    )
    columns = {
        "people": "people",
        "epsilon": "epsilon",
        "auc": "AUC",
        "auc_allowed": "allowed",
        "advantage": "advantage",
        "advantage_allowed": "allowed ",
        "found": "found at 1 % false alarms",
        "found_allowed": "allowed  ",
    }
    plot = Plot(
        name="membership",
        title="Area under the curve of the membership attack",
        x_label="epsilon",
        panels=[Panel(lines=[*lines, *allowed])],
        chance=0.5,
        limits=(0.45, 1.0),
    )
    return Section(
        title="Membership in a release", lead=f"Control: {control}.", parts=[plot, _table("Membership", rows, columns)]
    )


def _poisoning(rows: list[dict[str, Any]], control: str) -> Section:
    names = {"answers": "made-up answers", "vector": "longest vector", "replacement": "model replacement, no clip"}
    panels = [
        Panel(
            title=f"{name}, {people:,} people",
            lines=_lines(
                [row for row in rows if row["strategy"] == name and row["people"] == people],
                "share",
                "promoted",
                lambda row: f"{names[row['way']]}, {_noise(row)}",
            ),
        )
        for name in dict.fromkeys(row["strategy"] for row in rows)
        for people in dict.fromkeys(row["people"] for row in rows)
    ]
    columns = {
        "strategy": "strategy",
        "way": "way",
        "people": "people",
        "share": "malicious",
        "epsilon": "epsilon",
        "promoted": "promoted item above",
        "promoted_error": "standard error",
        "shift": "shift / (m C / n)",
        "liked": "honest taste",
    }
    plot = Plot(
        name="poisoning",
        title="Share of items below the promoted one, for a newcomer",
        x_label="malicious members, as a share",
        panels=panels,
        chance=0.5,
        limits=(0.0, 1.03),
    )
    across = _across(
        "Share of items below the promoted one, by share of malicious members",
        rows,
        {"strategy": "strategy", "way": "way", "people": "people", "epsilon": "epsilon"},
        "share",
        "promoted",
    )
    full = _table("All numbers on poisoning", rows, columns, folded=True)
    return Section(title="Poisoning", lead=f"Control: {control}.", parts=[plot, across, full])


def _sybils(rows: list[dict[str, Any]], control: str) -> Section:
    noisy = [row for row in rows if "effective" in row]
    panels = [
        Panel(
            title=f"{people:,} people answer",
            lines=[
                *_lines(
                    [row for row in noisy if row["people"] == people],
                    "share",
                    "effective",
                    lambda row: f"terms say {row['epsilon']:g}",
                ),
                *_lines(
                    [row for row in noisy if row["people"] == people],
                    "share",
                    "measured",
                    lambda row: f"terms say {row['epsilon']:g}, measured at least",
                ),
            ],
        )
        for people in dict.fromkeys(row["people"] for row in noisy)
    ]
    columns = {
        "people": "people",
        "sybils": "Sybils",
        "epsilon": "epsilon of the terms",
        "effective": "epsilon left",
        "measured": "measured at least",
        "identified": "rated item named",
    }
    plot = Plot(
        name="sybils",
        title="Epsilon that is left when Sybils add no noise",
        x_label="Sybils among those who answer, as a share",
        panels=panels,
        log_y=True,
    )
    return Section(title="Sybils", lead=f"Control: {control}.", parts=[plot, _table("Sybils", rows, columns)])


_SECTIONS = {
    "reconstruction": _reconstruction,
    "membership": _membership,
    "poisoning": _poisoning,
    "sybils": _sybils,
}
