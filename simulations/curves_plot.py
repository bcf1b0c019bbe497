"""The plots of the cold-start report: one line per method over the ratings given, as SVG and PNG.

Colour is never the only sign: each method has its own marker and line style, and a label at its end. The colours are
from a colour-blind safe set (Okabe and Ito 2008), darkened for contrast; a page shows its own for a dark background.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, RULE, PAPER = "#1c1e24", "#5b6070", "#e3e4e8", "#fefefd"
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.2, 1.8), (6, 2, 1.2, 2), (3, 1.6), (8, 3), (2, 1, 5, 1))


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a method is drawn, in the plots, the tables and the legend.

    Attributes:
        slot: place in the palette; the page names its colour ``--series-<slot>``.
        colour: on a light background, ``#rrggbb``.
        dark: the same on a dark background.
        marker: matplotlib's letter for it.
        dashes: lengths of line and gap in line widths; empty for a whole line.
        hero: whether the report is about this line.
    """

    slot: int
    colour: str
    dark: str
    marker: str
    dashes: tuple[float, ...]
    hero: bool


_PALETTE = (
    ("#0a5fa5", "#6db8ff", "o"),
    ("#b8470a", "#ff9b63", "s"),
    ("#007a5a", "#45d3a3", "^"),
    ("#96397c", "#ea9fd6", "D"),
    ("#6b7080", "#a6acba", "v"),
    ("#8a6400", "#e8bb4a", "P"),
    ("#3d6f80", "#8fd0e2", "X"),
)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One thing a curve measures: names of its values and how its axis reads.

    Attributes:
        values: key of the line in a curve, e.g. ``"percentile"``.
        low: key of the lower end of its band.
        high: key of the upper end.
        title: what the axis shows.
        chance: value of a blind guess, drawn as a line; ``None`` for none.
        ordinal: whether values are percentiles in 0 .. 1, written "80th".
    """

    values: str
    low: str
    high: str
    title: str
    chance: float | None
    ordinal: bool


PERCENTILE = Measure(
    values="percentile",
    low="low",
    high="high",
    title="Percentile of own taste that the recommended pictures reach",
    chance=0.5,
    ordinal=True,
)
LIKELIHOOD = Measure(
    values="log_likelihood",
    low="log_likelihood_low",
    high="log_likelihood_high",
    title="Log-likelihood of ratings not yet seen, nats per rating (higher is better)",
    chance=None,
    ordinal=False,
)


def ordinal(number: int) -> str:
    """``1`` as ``"1st"``, ``12`` as ``"12th"``, ``83`` as ``"83rd"``."""
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def styles(curves: Sequence[dict[str, Any]], hero: str | None) -> dict[str, Style]:
    """A style for each method: the hero first, then the other private ones, then the rest in their order."""
    ranked = sorted(curves, key=lambda curve: (curve["method"] != hero, curve["epsilon"] is None))
    found = {}
    for slot, curve in enumerate(ranked):
        colour, dark, marker = _PALETTE[slot % len(_PALETTE)]
        found[curve["method"]] = Style(
            slot=slot % len(_PALETTE),
            colour=colour,
            dark=dark,
            marker=marker,
            dashes=_DASHES[slot % len(_DASHES)],
            hero=curve["method"] == hero,
        )
    return found


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Move numbers apart until neighbours are at least ``gap`` from each other, as little as possible.

    Args:
        wanted: ``(n,)`` places, in any order.
        gap: least distance, >= 0.

    Returns:
        ``(n,)`` in the order of ``wanted``. Numbers that crowd form a group around their mean.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    groups: list[list[int]] = [[index] for index in order]

    def middle(group: list[int]) -> float:
        return sum(wanted[index] for index in group) / len(group)

    def crowd(low: list[int], high: list[int]) -> bool:
        return middle(high) - middle(low) < gap * (len(low) + len(high)) / 2 - 1e-12

    while (at := next((n for n, pair in enumerate(pairwise(groups)) if crowd(*pair)), None)) is not None:
        groups[at : at + 2] = [groups[at] + groups[at + 1]]
    places = [0.0] * len(wanted)
    for group in groups:
        for rank, index in enumerate(group):
            places[index] = middle(group) + gap * (rank - (len(group) - 1) / 2)
    return places


def curves_figure(
    curves: Sequence[dict[str, Any]],
    measure: Measure,
    looks: dict[str, Style],
    *,
    narrow: bool = False,
    worth: dict[str, Any] | None = None,
) -> Figure:
    """Draw one line with its confidence band per method.

    Args:
        curves: as in ``results.json``; each has its own ``ratings``.
        measure: which of their values.
        looks: style of each method.
        narrow: for a phone: no labels at the ends, the page shows a legend instead.
        worth: an entry of ``results["worth"]`` to mark in the plot, where it has a number.

    Returns:
        A figure of its own, known to no window system.
    """
    keys = (measure.values, measure.low, measure.high)
    curves = [{**curve, **{key: [_number(value) for value in curve[key]] for key in keys}} for curve in curves]
    figure = Figure(figsize=(4.0, 4.3) if narrow else (9.6, 5.2), facecolor="none")
    axes = figure.add_axes((0.13, 0.115, 0.85, 0.80) if narrow else (0.062, 0.105, 0.675, 0.815))
    ticks = sorted({count for curve in curves for count in curve["ratings"]})
    place = {count: float(position) for position, count in enumerate(ticks)}
    _frame(axes, ticks, narrow)
    for curve in sorted(curves, key=lambda curve: looks[curve["method"]].hero):  # the hero on top
        _line(axes, [place[count] for count in curve["ratings"]], curve, measure, looks[curve["method"]])
    low, high = _limits(curves, measure)
    axes.set_ylim(low, high)
    if measure.ordinal:
        axes.yaxis.set_major_formatter(lambda value, _position: ordinal(round(100 * value)))
    if measure.chance is not None and low < measure.chance < high:
        axes.axhline(measure.chance, color=FAINT, linewidth=1, dashes=(2, 3), zorder=1)
        axes.annotate(
            "chance", (len(ticks) - 1, measure.chance), (0, -4), textcoords="offset points", ha="right", va="top",
            color=FAINT, fontsize=9,
        )  # fmt: skip
    if worth is not None and not narrow:
        _mark_worth(axes, curves, place, worth, measure)
    title = measure.title.split(" that ")[0].split(",")[0] if narrow else measure.title
    axes.annotate(
        title, (0, 1), (-38 if narrow else -40, 12), xycoords="axes fraction", textcoords="offset points",
        ha="left", va="bottom", color=INK, fontsize=10 if narrow else 10.5, annotation_clip=False, parse_math=False,
    )  # fmt: skip
    if not narrow:
        _end_labels(axes, curves, place, measure, looks)
    return figure


def _number(value: float | None) -> float:
    """A value that was not computed leaves a gap in its line."""
    return math.nan if value is None else float(value)


def _frame(axes: Axes, ticks: list[int], narrow: bool) -> None:
    axes.set_facecolor("none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.set_xticks(range(len(ticks)), [str(count) for count in ticks])
    axes.set_xlim(-0.25, len(ticks) - 0.75)
    axes.set_xlabel("ratings the new person has given", color=INK, fontsize=10 if narrow else 10.5, labelpad=6)
    axes.tick_params(axis="both", length=0, labelcolor=FAINT, labelsize=9.5 if narrow else 10, pad=6)
    axes.grid(axis="y", color=RULE, linewidth=1)
    axes.set_axisbelow(True)


def _line(axes: Axes, x: list[float], curve: dict[str, Any], measure: Measure, look: Style) -> None:
    axes.fill_between(
        x, curve[measure.low], curve[measure.high], color=look.colour, alpha=0.2 if look.hero else 0.1, linewidth=0,
        zorder=2,
    )  # fmt: skip
    (line,) = axes.plot(
        x, curve[measure.values], color=look.colour, marker=look.marker, linewidth=3 if look.hero else 1.8,
        markersize=9 if look.hero else 7, markeredgecolor=PAPER, markeredgewidth=1.2, zorder=5 if look.hero else 4,
        solid_capstyle="round",
    )  # fmt: skip
    if look.dashes:
        line.set_dashes(list(look.dashes))


def _limits(curves: Sequence[dict[str, Any]], measure: Measure) -> tuple[float, float]:
    keys = (measure.values, measure.low, measure.high)
    values = [value for curve in curves for key in keys for value in curve[key] if math.isfinite(value)]
    if not values:
        return 0.0, 1.0
    margin = 0.05 * (max(values) - min(values)) or 0.05
    low, high = min(values) - margin, max(values) + margin
    if not measure.ordinal:
        return low, high
    return max(0.0, min(low, 0.46)), min(1.0, high)


def _mark_worth(
    axes: Axes, curves: Sequence[dict[str, Any]], place: dict[int, float], worth: dict[str, Any], measure: Measure
) -> None:
    """A level line from the method with a prior to the place where the one without reaches the same value."""
    by_method = {curve["method"]: curve for curve in curves}
    with_prior, without = by_method.get(worth["with"]), by_method.get(worth["without"])
    if with_prior is None or without is None or not worth["equals"] or worth["ratings"] not in with_prior["ratings"]:
        return
    level = with_prior[measure.values][with_prior["ratings"].index(worth["ratings"])]
    start = place[worth["ratings"]]
    points = [(place[count], value) for count, value in zip(without["ratings"], without[measure.values], strict=True)]
    end = next(
        (x0 + (x1 - x0) * (level - y0) / (y1 - y0) for (x0, y0), (x1, y1) in pairwise(points) if y0 < level <= y1), None
    )
    if end is None or end - start < 0.4:
        return
    arrow = {"arrowstyle": "<|-|>", "color": INK, "linewidth": 1.2, "shrinkA": 7, "shrinkB": 2, "mutation_scale": 9}
    axes.annotate("", (end, level), (start, level), arrowprops=arrow, zorder=6)
    axes.plot([end, end], [axes.get_ylim()[0], level], color=INK, linewidth=1, dashes=(1, 2.5), zorder=3)
    axes.annotate(
        f"{worth['equals']:.0f} ratings without", (end, axes.get_ylim()[0]), (5, 5), textcoords="offset points",
        ha="left", va="bottom", color=INK, fontsize=9.5,
    )  # fmt: skip


def _end_labels(
    axes: Axes, curves: Sequence[dict[str, Any]], place: dict[int, float], measure: Measure, looks: dict[str, Style]
) -> None:
    """Name each line at its right end, moved apart where lines end close together."""
    low, high = axes.get_ylim()
    curves = [curve for curve in curves if math.isfinite(curve[measure.values][-1])]
    ends = [curve[measure.values][-1] for curve in curves]
    labels = [_wrapped(curve["label"], 30) for curve in curves]
    gap = (high - low) * (0.064 if all("\n" not in label for label in labels) else 0.088)
    heights = spread(ends, gap)
    excess = max(0.0, max(heights, default=low) + gap / 2 - high)  # a label never leaves the figure at the top
    heights = [y - excess for y in heights]
    for curve, label, end, y in zip(curves, labels, ends, heights, strict=True):
        look = looks[curve["method"]]
        x = place[curve["ratings"][-1]]
        axes.plot([x + 0.12, x + 0.34, x + 0.4], [end, y, y], color=look.colour, linewidth=1, clip_on=False, alpha=0.7)
        axes.text(
            x + 0.46, y, label, color=look.colour, fontsize=10, fontweight="bold" if look.hero else "normal",
            va="center", linespacing=1.1, clip_on=False, parse_math=False,
        )  # fmt: skip


def _wrapped(text: str, width: int) -> str:
    """At most two lines, broken at the blank that makes them most equal."""
    blanks = [at for at, letter in enumerate(text) if letter == " "]
    if len(text) <= width or not blanks:
        return text
    at = min(blanks, key=lambda at: abs(at - len(text) / 2))
    return f"{text[:at]}\n{text[at + 1 :]}"


def as_svg(figure: Figure, salt: str) -> str:
    """The figure as SVG, text as text, the same bytes each time.

    Args:
        figure: what ``curves_figure`` made.
        salt: differs between figures of one page, so that their ids do.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r'<g id="[^"]+"', "<g", text)  # the same names in every figure
    return re.sub(r"font: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font: \1system-ui, 'Segoe UI', Roboto, sans-serif", text)


def for_page(svg: str, looks: dict[str, Style], description: str) -> str:
    """An SVG as part of a page: sized by the page, in the page's colours, read out as ``description``.

    Args:
        svg: what ``as_svg`` gave.
        looks: the styles it was drawn with.
        description: what a screen reader says; plain text.
    """
    names = {INK: "ink", FAINT: "faint", RULE: "rule", PAPER: "card"}
    names |= {look.colour: f"series-{look.slot}" for look in looks.values()}
    for colour, name in names.items():
        svg = svg.replace(colour, f"var(--{name}, {colour})")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height|version|xmlns(?::\w+)?)="[^"]*"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    safe = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{safe}"', 1).replace("xlink:href", "href")


def as_png(figure: Figure) -> bytes:
    """The figure as PNG on a white background, 200 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


_SHAPES = {
    "o": '<circle cx="17" cy="7" r="4.2"/>',
    "s": '<rect x="13.2" y="3.2" width="7.6" height="7.6"/>',
    "^": '<path d="M17 2.4l4.6 8.2h-9.2z"/>',
    "v": '<path d="M17 11.6l4.6-8.2h-9.2z"/>',
    "D": '<path d="M17 1.8l5.2 5.2-5.2 5.2-5.2-5.2z"/>',
    "X": '<path d="M14.5 2l2.5 2.5L19.5 2l2.5 2.5L19.5 7l2.5 2.5-2.5 2.5L17 9.5 14.5 12 12 9.5 14.5 7 12 4.5z"/>',
    "P": '<path d="M15.2 2h3.6v3.2H22v3.6h-3.2V12h-3.6V8.800H12V5.200h3.2z"/>',
}  # fmt: skip


def swatch(look: Style) -> str:
    """The sign of a method for tables and legends: a piece of its line with its marker, as SVG of 34 x 14."""
    width = 3 if look.hero else 1.8
    dashes = f' stroke-dasharray="{" ".join(f"{length * width:g}" for length in look.dashes)}"' if look.dashes else ""
    return (
        f'<svg class="swatch" viewBox="0 0 34 14" aria-hidden="true" style="color:var(--series-{look.slot})">'
        f'<path d="M0 7h34" stroke="currentColor" stroke-width="{width}"{dashes}/>'
        f'<g fill="currentColor" stroke="var(--card)" stroke-width="1.2">{_SHAPES[look.marker]}</g></svg>'
    )
