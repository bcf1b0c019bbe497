"""The report of a cold-start run: one page that opens anywhere, its plots and sheets, its numbers as JSON and CSV.

``results`` is one object everywhere: what the run computed, what ``results.json`` holds, what ``--json`` prints.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from common.errors import SettingError
from simulations import contact_sheet, curves_plot
from simulations.contact_sheet import ContactSheet, Row
from simulations.curves_plot import LIKELIHOOD, PERCENTILE, Measure, Style, ordinal
from simulations.page import claims, render
from simulations.run_folder import RunFolder, plain

__all__ = ["ContactSheet", "Row", "headline", "results_text", "terminal_table", "write_report"]

FORMAT = "plgl-cold-start-1"
_EARLY = 5  # ratings the headline speaks of
_LINES = ("percentile", "low", "high", "log_likelihood", "log_likelihood_low", "log_likelihood_high")
_COLUMNS = ("method", "epsilon", "ratings", "percentile", "low", "high", "log_likelihood", "ll_low", "ll_high")


def write_report(folder: RunFolder, results: dict[str, Any], sheets: Sequence[ContactSheet] = ()) -> Path:
    """Write the page and everything beside it; each file is whole or absent, the page comes last.

    Args:
        folder: of the run.
        results: of format ``plgl-cold-start-1``; percentiles in 0 .. 1, bands at 95 %.
        sheets: what some people were shown and recommended.

    Returns:
        The path of ``report.html``.

    Raises:
        SettingError: ``results`` has another format, or a curve whose lists differ in length.
        StorageError: the disk refuses a write.
    """
    results = plain(results)
    check(results)
    looks = curves_plot.styles(results["curves"], _hero(results))
    folder.write("results.json", results_text(results).encode())
    folder.write("results.csv", results_csv(results).encode())
    plots = {
        "percentile": _write_plots(folder, "curves-percentile", results, PERCENTILE, looks),
        "likelihood": _write_plots(folder, "curves-likelihood", results, LIKELIHOOD, looks),
    }
    drawn = [_write_sheet(folder, index, sheet) for index, sheet in enumerate(sheets, start=1)]
    return folder.write("report.html", _page(results, looks, plots, drawn).encode())


def check(results: dict[str, Any]) -> None:
    """Refuse results that cannot be drawn.

    Raises:
        SettingError: another format, no curve, or a curve whose lists differ in length.
    """
    if results.get("format") != FORMAT:
        raise SettingError(f"results have format {results.get('format')!r}; expected {FORMAT!r}")
    if not results["curves"]:
        raise SettingError("results hold no curve; run at least one method")
    for curve in results["curves"]:
        lengths = {key: len(curve[key]) for key in ("ratings", *_LINES)}
        if len(set(lengths.values())) != 1 or not curve["ratings"]:
            raise SettingError(f"curve {curve['method']!r} has lists of different or no length: {lengths}")


def results_text(results: dict[str, Any]) -> str:
    """The results as strict JSON, as ``results.json`` holds them and ``--json`` prints them."""
    return json.dumps(plain(results), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def results_csv(results: dict[str, Any]) -> str:
    """One line per method and number of ratings; epsilon is empty where a method is not private."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for curve in results["curves"]:
        for values in zip(curve["ratings"], *(curve[key] for key in _LINES), strict=True):
            writer.writerow([curve["method"], curve["epsilon"], *values])
    return buffer.getvalue()


def headline(results: dict[str, Any]) -> str:
    """The main finding in one sentence, made from the numbers.

    It is about the private method of the smallest epsilon (without one, about the method best early on), after 5
    ratings or the nearest number there is. An entry of ``worth`` for them says what the same takes without a prior.
    """
    curve = _curve(results, _hero(results))
    count, value = _early(curve)
    who = "the private prior" if curve["epsilon"] is not None else f"“{curve['label']}”"
    strength = "" if curve["epsilon"] is None else f" (ε\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{curve['epsilon']:g})"
    plural = "rating" if count == 1 else "ratings"
    said = (
        f"After {count} {plural}, people with {who}{strength} see pictures at the {_rank(value)} percentile "
        "of their own taste"
    )
    entry = _worth(results, curve["method"], count)
    if entry is None:
        return f"{said}."
    if entry["equals"] is None:
        most = max(_curve(results, entry["without"])["ratings"])
        return f"{said}; without it, {most} ratings do not get them there."
    return f"{said}; without it, that takes {entry['equals']:.0f} ratings."


def terminal_table(results: dict[str, Any]) -> Table:
    """The percentiles as a table for a terminal: methods down, ratings across, each with its 95 % band below it."""
    counts = sorted({count for curve in results["curves"] for count in curve["ratings"]})
    table = Table(
        title="percentile of own taste, by ratings given",
        caption="0 .. 100, 50 is chance; 95 % bands below",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("method", overflow="fold")
    for count in counts:
        table.add_column(str(count), justify="right", no_wrap=True)
    hero = _hero(results)
    for curve in results["curves"]:
        cells = {count: _cell(curve, index, PERCENTILE) for index, count in enumerate(curve["ratings"])}
        row = [
            Text.assemble((cells[count]["value"], "bold"), "\n", (cells[count]["band"], "dim"))
            if count in cells
            else ""
            for count in counts
        ]
        table.add_row(Text(curve["label"], style="bold cyan" if curve["method"] == hero else ""), *row)
    return table


def _hero(results: dict[str, Any]) -> str:
    """The method the report is about."""
    private = [curve for curve in results["curves"] if curve["epsilon"] is not None]
    if private:
        return str(min(private, key=lambda curve: curve["epsilon"])["method"])
    return str(max(results["curves"], key=lambda curve: _early(curve)[1] or 0.0)["method"])


def _curve(results: dict[str, Any], method: str) -> dict[str, Any]:
    found = next((curve for curve in results["curves"] if curve["method"] == method), None)
    if found is None:
        raise SettingError(f"results hold no curve of method {method!r}; name one of theirs")
    return dict(found)


def _early(curve: dict[str, Any]) -> tuple[int, float | None]:
    """The number of ratings nearest to 5, and the percentile there."""
    index = min(range(len(curve["ratings"])), key=lambda index: abs(curve["ratings"][index] - _EARLY))
    return curve["ratings"][index], curve["percentile"][index]


def _worth(results: dict[str, Any], method: str, count: int) -> dict[str, Any] | None:
    entries = results.get("worth", [])
    return next((entry for entry in entries if entry["with"] == method and entry["ratings"] == count), None)


def _rank(value: float | None) -> str:
    """A percentile as people say it; never the 100th, which nobody can reach."""
    return "(unknown)" if value is None else ordinal(min(99, round(100 * value)))


def _cell(curve: dict[str, Any], index: int, measure: Measure) -> dict[str, str]:
    """A number and its band, as written in a table."""
    value, low, high = (curve[key][index] for key in (measure.values, measure.low, measure.high))

    def write(number: float | None) -> str:
        if number is None:
            return "–"
        return f"{100 * number:.0f}" if measure.ordinal else f"{number:.3f}".replace("-", "−")

    separator = "–" if measure.ordinal else " … "
    return {"value": write(value), "band": f"{write(low)}{separator}{write(high)}"}


def _write_plots(
    folder: RunFolder, name: str, results: dict[str, Any], measure: Measure, looks: dict[str, Style]
) -> dict[str, Markup]:
    """Write a plot as PNG and SVG; return it for the page, once for wide windows and once for narrow ones."""
    curves, hero = results["curves"], _hero(results)
    worth = _worth(results, hero, _early(_curve(results, hero))[0]) if measure.ordinal else None
    wide = curves_plot.curves_figure(curves, measure, looks, worth=worth)
    svg = curves_plot.as_svg(wide, name)
    folder.write(f"{name}.svg", svg.encode())
    folder.write(f"{name}.png", curves_plot.as_png(wide))
    narrow = curves_plot.as_svg(curves_plot.curves_figure(curves, measure, looks, narrow=True), f"{name}-narrow")
    said = f"Line plot: {measure.title}, by ratings given. The table of numbers holds the same values."
    return {
        "wide": Markup(curves_plot.for_page(svg, looks, said)),
        "narrow": Markup(curves_plot.for_page(narrow, looks, said)),
    }


def _write_sheet(folder: RunFolder, index: int, sheet: ContactSheet) -> dict[str, Any]:
    """Write a sheet as PNG; return it for the page, with a narrower one for phones."""
    wide = contact_sheet.draw_sheet(sheet, columns=10, cell=128, text=22)
    narrow = contact_sheet.draw_sheet(sheet, columns=5, cell=128, text=27)
    name, content = f"sheet-{index}.png", contact_sheet.as_png(wide)
    folder.write(name, content)
    return {
        "title": sheet.title,
        "person": sheet.person,
        "alt": sheet.description,
        "name": name,
        "wide": f"data:image/png;base64,{base64.b64encode(content).decode()}",
        "narrow": f"data:image/jpeg;base64,{base64.b64encode(contact_sheet.as_jpeg(narrow)).decode()}",
        "size": wide.size,
    }


def _table(results: dict[str, Any], measure: Measure, looks: dict[str, Style]) -> dict[str, Any]:
    counts = sorted({count for curve in results["curves"] for count in curve["ratings"]})
    rows = []
    for curve in results["curves"]:
        cells = {count: _cell(curve, index, measure) for index, count in enumerate(curve["ratings"])}
        rows.append({
            "label": curve["label"],
            "swatch": Markup(curves_plot.swatch(looks[curve["method"]])),
            "hero": looks[curve["method"]].hero,
            "cells": [cells.get(count) for count in counts],
        })  # fmt: skip
    return {"counts": counts, "rows": rows}


def _worth_rows(results: dict[str, Any], looks: dict[str, Style]) -> list[dict[str, Any]]:
    """Each entry of ``worth`` with the lengths of its two bars, in per cent of the longest."""
    labels = {curve["method"]: curve["label"] for curve in results["curves"]}
    most = max((count for curve in results["curves"] for count in curve["ratings"]), default=1) or 1
    longest = max([most, *(entry["equals"] or 0 for entry in results.get("worth", []))])
    return [
        {
            **entry,
            "with_label": labels.get(entry["with"], entry["with"]),
            "without_label": labels.get(entry["without"], entry["without"]),
            "with_slot": looks[entry["with"]].slot if entry["with"] in looks else 0,
            "without_slot": looks[entry["without"]].slot if entry["without"] in looks else 0,
            "with_width": 100 * entry["ratings"] / longest,
            "without_width": 100 if entry["equals"] is None else 100 * entry["equals"] / longest,
            "equals_text": f"more than {most}" if entry["equals"] is None else f"{entry['equals']:.0f}",
        }
        for entry in results.get("worth", [])
    ]


def _page(
    results: dict[str, Any], looks: dict[str, Style], plots: dict[str, dict[str, Markup]], sheets: list[dict[str, Any]]
) -> str:
    rounds = results.get("federation", {}).get("rounds", [])
    return render(
        "report.html",
        results=results,
        headline=headline(results),
        looks={look.slot: look for look in looks.values()}.values(),
        plots=plots,
        percentile=_table(results, PERCENTILE, looks),
        likelihood=_table(results, LIKELIHOOD, looks),
        worth=_worth_rows(results, looks),
        privacy=[{**entry, "claims": claims(entry["statement"])} for entry in results.get("privacy", [])],
        sheets=sheets,
        rounds=rounds,
        asked=sum(entry["asked"] for entry in rounds),
        answered=sum(entry["answered"] for entry in rounds),
        engine=results.get("federation", {}).get("engine", ""),
        total_seconds=sum(results.get("seconds", {}).values()),
    )
