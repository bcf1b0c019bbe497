"""The report of a comparison of learners: one page that opens anywhere, its plots, its numbers as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from common.errors import SettingError
from simulations import curves_plot
from simulations.curves_plot import Measure, Style
from simulations.run_folder import RunFolder, plain

FORMAT = "plgl-compare-learners-1"
_BANDED = (
    "utility", "utility_low", "utility_high", "percentile", "percentile_low", "percentile_high",
    "best", "loved", "diversity", "extreme", "norm",
)  # fmt: skip
_COLUMNS = ("learner", "feedback", "group", "people", "answers", *_BANDED)

UTILITY = Measure(
    values="utility",
    low="utility_low",
    high="utility_high",
    title="True utility of 8 recommendations, standard deviations of the person's own taste",
    chance=0.0,
    ordinal=False,
)
PERCENTILE = Measure(
    values="percentile",
    low="percentile_low",
    high="percentile_high",
    title="Percentile of own taste that 8 recommendations reach",
    chance=0.5,
    ordinal=True,
)
PLOTS = {"utility": UTILITY, "percentile": PERCENTILE}


def write_report(folder: RunFolder, results: dict[str, Any]) -> Path:
    """Write the page and everything beside it; each file is whole or absent, the page comes last.

    Args:
        folder: of the run.
        results: of format ``plgl-compare-learners-1``.

    Returns:
        The path of ``report.html``.

    Raises:
        SettingError: ``results`` has another format, or no curve.
        StorageError: the disk refuses a write.
    """
    results = plain(results)
    if results.get("format") != FORMAT:
        raise SettingError(f"results have format {results.get('format')!r}; expected {FORMAT!r}")
    if not results["curves"]:
        raise SettingError("results hold no curve; run at least one learner")
    looks = styles(results["curves"])
    folder.write("results.json", results_text(results).encode())
    folder.write("results.csv", results_csv(results).encode())
    plots = {name: _write_plot(folder, name, results["curves"], measure, looks) for name, measure in PLOTS.items()}
    return folder.write("report.html", _page(results, looks, plots).encode())


def styles(curves: Sequence[dict[str, Any]]) -> dict[str, Style]:
    """A style for each learner: ours first; no two share both colour and dashes."""
    ranked = sorted(curves, key=lambda curve: not curve["ours"])
    palette, dashes = curves_plot._PALETTE, curves_plot._DASHES
    found = {}
    for at, curve in enumerate(ranked):
        colour, dark, marker = palette[at % len(palette)]
        dash = dashes[(at + at // len(palette)) % len(dashes)]
        found[curve["method"]] = Style(
            slot=at % len(palette), colour=colour, dark=dark, marker=marker, dashes=dash, hero=bool(curve["ours"])
        )
    return found


def results_text(results: dict[str, Any]) -> str:
    """The results as strict JSON, as ``results.json`` holds them and ``--json`` prints them."""
    return json.dumps(plain(results), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def results_csv(results: dict[str, Any]) -> str:
    """One line per learner, group of people and number of answers; bands and details for everybody together."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for curve in results["curves"]:
        for at, answers in enumerate(curve["ratings"]):
            about = [curve["method"], curve["feedback"], "everybody", curve["people"], answers]
            writer.writerow([*about, *(curve[key][at] for key in _BANDED)])
        for group, part in _groups(curve):
            for at, answers in enumerate(curve["ratings"]):
                about = [curve["method"], curve["feedback"], group, part["people"], answers]
                values = {"utility": part["utility"][at], "percentile": part["percentile"][at]}
                writer.writerow([*about, *(values.get(key, "") for key in _BANDED)])
    return buffer.getvalue()


def _groups(curve: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    kinds = [(f"kind {part['kind']}", part) for part in curve["by_kind"]]
    return [*kinds, *((f"generator {part['generator']}", part) for part in curve["by_generator"])]


def headline(results: dict[str, Any]) -> str:
    """The main finding in one sentence: ours against the best other learner at the second number of answers."""
    rows = [row for row in results["differences"] if row["learner"].startswith("session")]
    if not rows:
        return "No competitor ran, so there is nothing to compare with."
    counts = sorted({row["answers"] for row in rows})
    at = counts[min(1, len(counts) - 1)]
    row = next(row for row in rows if row["answers"] == at)
    gap, label = row["utility"], _labels(results)
    verdict = "ahead of" if gap["low"] > 0 else ("behind" if gap["high"] < 0 else "not distinguishable from")
    return (
        f"After {at} answers {label[row['learner']]} is {verdict} the best other learner, {label[row['best']]}: "
        f"{gap['mean']:+.2f} standard deviations (95 % band {gap['low']:+.2f} to {gap['high']:+.2f})."
    )


def losses(results: dict[str, Any]) -> list[str]:
    """Where the best other learner is ahead of ours in the mean, one line each; all bands are told."""
    label = _labels(results)
    return [
        f"{label[row['learner']]} is behind {label[row['best']]} after {row['answers']} answers: "
        f"{row['utility']['mean']:+.2f} sd ({row['utility']['low']:+.2f} to {row['utility']['high']:+.2f})"
        for row in results["differences"]
        if row["utility"]["mean"] < 0
    ]


def _labels(results: dict[str, Any]) -> dict[str, str]:
    return {curve["method"]: curve["label"] for curve in results["curves"]}


def terminal_tables(results: dict[str, Any]) -> list[Table]:
    """Utility and percentile by answers given, and what the score does not show."""
    counts = results["curves"][0]["ratings"]
    score = _table("true utility in standard deviations, and percentile of own taste, by answers given")
    score.caption = "95 % bands of the utility below; 0 sd and the 50th percentile are chance"
    for column in [*map(str, counts), "to 90th"]:
        score.add_column(column, justify="right", no_wrap=True)
    beside = _table("beside it, after the last answer")
    for column in ("varied", "unreal", "off shell", "late", "ms", "s/8"):
        beside.add_column(column, justify="right", no_wrap=True)
    for curve in results["curves"]:
        name = Text(curve["label"], style="bold cyan" if curve["ours"] else "")
        score.add_row(name, *(_cell(curve, at) for at in range(len(counts))), curve["to_90th_text"])
        beside.add_row(
            name,
            f"{curve['diversity'][-1]:.2f}",
            f"{100 * max(curve['extreme']):.1f} %",
            f"{curve['norm'][-1]:.1f}",
            f"{100 * curve['shown_late']:.0f}",
            f"{curve['milliseconds_per_answer']:.0f}",
            f"{curve['seconds_per_recommendation']:.2f}",
        )
    return [score, beside]


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("learner", overflow="fold")
    return table


def _cell(curve: dict[str, Any], at: int) -> Text:
    value = f"{curve['utility'][at]:.2f} {100 * curve['percentile'][at]:3.0f}"
    return Text.assemble(
        (value, "bold"), "\n", (f"{curve['utility_low'][at]:.1f}–{curve['utility_high'][at]:.1f}", "dim")
    )


def _write_plot(
    folder: RunFolder, name: str, curves: Sequence[dict[str, Any]], measure: Measure, looks: dict[str, Style]
) -> dict[str, Markup]:
    wide = curves_plot.curves_figure(curves, measure, looks)
    svg = curves_plot.as_svg(wide, name)
    folder.write(f"{name}.svg", svg.encode())
    folder.write(f"{name}.png", curves_plot.as_png(wide))
    narrow = curves_plot.as_svg(curves_plot.curves_figure(curves, measure, looks, narrow=True), f"{name}-narrow")
    said = f"Line plot: {measure.title}, by answers given. The table of numbers holds the same values."
    return {
        "wide": Markup(curves_plot.for_page(svg, looks, said)),
        "narrow": Markup(curves_plot.for_page(narrow, looks, said)),
    }


def _page(results: dict[str, Any], looks: dict[str, Style], plots: dict[str, dict[str, Markup]]) -> str:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for curve in results["curves"]:
        for group, part in _groups(curve):
            groups.setdefault(group, []).append((curve, part))
    return templates.get_template("learners.html").render(
        results=results,
        headline=headline(results),
        losses=losses(results),
        looks={look.slot: look for look in looks.values()}.values(),
        swatches={method: Markup(curves_plot.swatch(look)) for method, look in looks.items()},
        labels=_labels(results),
        plots=plots,
        groups=groups,
        counts=results["curves"][0]["ratings"],
        total_seconds=sum(results["seconds"].values()),
    )
