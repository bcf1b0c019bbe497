"""``plgl simulate diff``: two runs of the same experiment, row by row: what differs in their settings and results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import SettingError
from simulations.lab.figures import Line, Panel, Plot
from simulations.lab.frames import Frame
from simulations.lab.lab_report import Cell, Report, Section, Table
from simulations.lab.lab_run import LabRun
from simulations.run_folder import RunFolder

COMMAND = "simulate diff"
_SHOWN = 25  # rows of the page's table; the CSV holds all
_PREFERRED = ("curves", "bounds", "cells")
_AUXILIARY = ("low", "high", "repeats", "seconds")
_ABSENT = "(not there)"


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common, and where they differ.

    Attributes:
        first: one run; second: the other.
        second: see above.
        table: name of the table that was compared.
        measure: its first measure, which the picture is about.
        settings: ``(name, there, here)`` of each setting that differs.
        rows: one per row that both have: keys, both values, their difference.
        only_first: rows that only the first has; only_second: likewise.
        only_second: see above.
    """

    first: LabRun
    second: LabRun
    table: str
    measure: str
    settings: list[tuple[str, Any, Any]]
    rows: Frame
    only_first: int
    only_second: int

    @property
    def changed(self) -> list[dict[str, Any]]:
        """Rows whose values differ, the largest difference first."""
        rows = [row for row in self.rows.records() if row["difference"] not in (0, None)]
        return sorted(rows, key=lambda row: -abs(row["difference"]))


def compare(first: str | Path, second: str | Path, *, table: str = "", measure: str = "") -> Comparison:
    """Compare two finished runs.

    Args:
        first: folder of a run; second: of another one.
        second: see above.
        table: the table to compare; "curves" where there is one, else the first that both have.
        measure: its column to compare; the first number that is no key without.

    Raises:
        FolderError: a folder holds no finished run.
        SettingError: they are of different experiments, or have no such table, measure or row in common.
    """
    one, two = LabRun.load(first), LabRun.load(second)
    if one.command != two.command:
        raise SettingError(f"{one.folder} is of {one.command}, {two.folder} of {two.command}; compare runs of one kind")
    name = table or _common_table(one, two)
    a, b = _named(one, name), _named(two, name)
    if a.keys != b.keys or not a.keys:
        raise SettingError(f"table {name!r} has rows named by {a.keys} there and {b.keys} here; choose another --table")
    column = measure or _first_measure(a, b)
    for run, frame in ((one, a), (two, b)):
        if column not in frame.measures:
            raise SettingError(
                f"table {name!r} of {run.folder} has no measure {column!r}; it has {', '.join(frame.measures)}"
            )
    rows, only_first, only_second = _paired(a, b, column)
    if not rows:
        raise SettingError(f"the two runs have no row of {name!r} in common; their grids do not overlap")
    changed = _changed_settings(one.settings, two.settings)
    return Comparison(one, two, name, column, changed, Frame.of(rows, a.keys), only_first, only_second)


def run(
    first: str | Path, second: str | Path, out: str | Path = "plgl-diff", *, table: str = "", measure: str = ""
) -> LabRun:
    """Compare two runs and write a report; arguments and errors as for ``compare``."""
    found = compare(first, second, table=table, measure=measure)
    settings = {
        "first": str(Path(first).resolve()), "second": str(Path(second).resolve()), "table": found.table,
        "measure": found.measure,
    }  # fmt: skip
    with RunFolder.open(out, COMMAND, settings) as folder:
        written = report(found, settings)
        written.write(folder)
        folder.finish()
        return LabRun.of(folder.folder, written)


def report(found: Comparison, settings: Mapping[str, Any]) -> Report:
    """The report of a comparison."""
    setting_rows: list[list[Any]] = [[name, _text(there), _text(here)] for name, there, here in found.settings]
    parts: list[Plot | Table | str] = []
    if setting_rows:
        columns = ["setting", found.first.folder.name + " (first)", found.second.folder.name + " (second)"]
        parts.append(Table(title="Settings that differ", columns=columns, rows=setting_rows))
    else:
        parts.append("All settings are the same: what differs below is chance, above all the noise of the mechanisms.")
    values: list[Plot | Table | str] = [_picture(found), _table(found)]
    if found.only_first or found.only_second:
        values.append(
            f"{found.only_first} rows are in the first run only, {found.only_second} in the second only; they are left "
            "out."
        )
    return Report(
        experiment="diff",
        title="Two runs compared",
        headline=headline(found),
        about=f"First: {found.first.headline} Second: {found.second.headline}",
        sections=[
            Section(title="What was set differently", parts=parts),
            Section(
                title=f"What came out differently: {found.measure}",
                lead=f"Table “{found.table}”, rows that both have, paired by {', '.join(found.rows.keys)}.",
                parts=values,
            ),
        ],
        settings=settings,
        frames={"differences": found.rows},
        limits=["Differences between runs with different noise are chance in part; bands of each run say how much."],
    )


def headline(found: Comparison) -> str:
    """How many rows differ, by how much at most, and on average."""
    rows, changed = len(found.rows), found.changed
    if not changed:
        return f"All {rows} rows that both runs have hold the same {found.measure}."
    numbers = [value for value in found.rows.columns["difference"] if value is not None]
    mean = sum(numbers) / len(numbers)
    top = changed[0]
    where = ", ".join(f"{key} {_text(top[key])}" for key in found.rows.keys)
    return (
        f"{len(changed)} of {rows} rows differ in {found.measure}: by {mean:+.4g} on average, most at {where} "
        f"({top['first']:.4g} and {top['second']:.4g})."
    ).replace("+-", "-")


def _common_table(one: LabRun, two: LabRun) -> str:
    common = [name for name in one.frames if name in two.frames and one.frames[name].keys]
    if not common:
        raise SettingError(f"{one.folder} and {two.folder} have no table in common")
    return next((name for name in _PREFERRED if name in common), common[0])


def _named(run: LabRun, name: str) -> Frame:
    if name not in run.frames:
        raise SettingError(f"{run.folder} has no table {name!r}; it has {', '.join(run.frames)}")
    return run.frames[name]


def _first_measure(a: Frame, b: Frame) -> str:
    for name in a.measures:
        numbers = [value for value in a.columns[name] if value is not None]
        if name in b.measures and name not in _AUXILIARY and numbers and all(map(_is_number, numbers)):
            return name
    raise SettingError("the table has no number to compare; choose another --table")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _paired(a: Frame, b: Frame, column: str) -> tuple[list[dict[str, Any]], int, int]:
    there = dict(zip(b.names(), b.columns[column], strict=True))
    rows, unpaired = [], 0
    for name, value in zip(a.names(), a.columns[column], strict=True):
        if name not in there:
            unpaired += 1
            continue
        other = there.pop(name)
        gap = other - value if _is_number(value) and _is_number(other) else None
        gap = None if gap is None or not math.isfinite(gap) else gap
        rows.append({**dict(zip(a.keys, name, strict=True)), "first": value, "second": other, "difference": gap})
    return rows, unpaired, len(there)


def _changed_settings(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    return [
        (name, one.get(name, _ABSENT), two.get(name, _ABSENT))
        for name in sorted({*one, *two})
        if one.get(name, _ABSENT) != two.get(name, _ABSENT)
    ]


def _picture(found: Comparison) -> Plot:
    """Second over first, a point for each row, and the line where both are equal."""
    by_group: dict[str, list[tuple[float, float]]] = {}
    key = found.rows.keys[0]
    for row in found.rows.records():
        if row["difference"] is not None:
            by_group.setdefault(_text(row[key]), []).append((row["first"], row["second"]))
    every = [value for pairs in by_group.values() for pair in pairs for value in pair] or [0.0, 1.0]
    same = [min(every), max(every)]
    lines = [
        Line(label=name, x=[x for x, _ in pairs], y=[y for _, y in pairs], joined=False)
        for name, pairs in by_group.items()
    ]
    lines.append(Line(label="no difference", x=same, y=same, points=False))
    return Plot(
        name="paired",
        title=f"{found.measure} of the second run",
        x_label=f"{found.measure} of the first run",
        panels=[Panel(lines=lines)],
        x_scale="linear",
    )


def _table(found: Comparison) -> Table:
    rows: list[list[Any]] = [
        [" · ".join(f"{key} {_text(row[key])}" for key in found.rows.keys), row["first"], row["second"],
         Cell(f"{row['difference']:+.4g}".replace("-", "−"))]
        for row in found.changed[:_SHOWN]
    ]  # fmt: skip
    title = f"The {len(rows)} largest of {len(found.changed)} differences" if rows else "No row differs"
    return Table(title=title, columns=["row", "first", "second", "second − first"], rows=rows)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
