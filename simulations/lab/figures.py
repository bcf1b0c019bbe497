"""Line plots of any experiment: panels side by side, one line per method with its band, as SVG and PNG.

The look is that of ``simulations.curves_plot``: colour is never the only sign, the same name has the same style in all
plots of a report, and lines are named at their ends where there is room.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from common.errors import SettingError
from simulations.curves_plot import _DASHES, _PALETTE, FAINT, INK, PAPER, RULE, Style, _wrapped, ordinal, spread

ACROSS = 4  # panels in a row
_NAME = 1.3  # inches that the name of a point takes
_END = 0.245  # share of the width that names at line ends take


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a panel.

    Attributes:
        label: its name; the same name looks the same everywhere in a report.
        x: places; infinity is allowed on a "steps" axis.
        y: values; NaN leaves a gap.
        low: lower ends of its band; ``None`` for no band.
        high: upper ends of its band.
        hero: whether the plot is about this line.
        joined: whether points are joined; single measurements need not be.
        points: whether points are marked; a reference need not be.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    hero: bool = False
    joined: bool = True
    points: bool = True

    def __post_init__(self) -> None:
        lengths = {len(values) for values in (self.x, self.y, self.low, self.high) if values is not None}
        if len(lengths) != 1:
            raise SettingError(f"line {self.label!r} has lists of different length: {sorted(lengths)}")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One drawing area: a title and its lines."""

    lines: Sequence[Line]
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot of one or more panels that share their axes.

    Attributes:
        name: of its files, e.g. ``"utility"``.
        title: what the vertical axis shows, with its unit.
        x_label: what the horizontal axis shows.
        panels: the drawing areas, left to right, four in a row.
        x_scale: "steps" puts all values at even distances, "linear" and "log" where they belong.
        percentile: whether values are percentiles in 0 .. 1, written "80th".
        log_y: whether the vertical axis is logarithmic.
        chance: value of a blind guess, drawn as a dotted line.
        limits: of the vertical axis; fitted to the values without.
        named: whether single points are named beside them, where lines cannot tell them apart.
        own_x: whether each panel has its own steps, because its horizontal axis is about something else.
        alt: what a screen reader says; the title without.
    """

    name: str
    title: str
    x_label: str
    panels: Sequence[Panel]
    x_scale: Literal["steps", "linear", "log"] = "steps"
    percentile: bool = False
    log_y: bool = False
    chance: float | None = None
    limits: tuple[float, float] | None = None
    named: bool = False
    own_x: bool = False
    alt: str = ""

    def __post_init__(self) -> None:
        if not any(line.x for panel in self.panels for line in panel.lines):
            raise SettingError(f"plot {self.name!r} holds no point; give it at least one line")
        places = [x for panel in self.panels for line in panel.lines for x in line.x]
        if self.x_scale != "steps" and not all(math.isfinite(x) and (x > 0 or self.x_scale != "log") for x in places):
            raise SettingError(f"plot {self.name!r} has places that a {self.x_scale} axis cannot show; use steps")

    @property
    def labels(self) -> list[str]:
        """Names of the lines, in order of appearance."""
        return list(dict.fromkeys(line.label for panel in self.panels for line in panel.lines))


def styles(plots: Iterable[Plot]) -> dict[str, Style]:
    """A style for each name in some plots: heroes first, no two with both colour and dashes the same."""
    lines = [line for plot in plots for panel in plot.panels for line in panel.lines]
    heroes = {line.label for line in lines if line.hero}
    ranked = sorted(dict.fromkeys(line.label for line in lines), key=lambda label: label not in heroes)
    found = {}
    for at, label in enumerate(ranked):
        colour, dark, marker = _PALETTE[at % len(_PALETTE)]
        found[label] = Style(
            slot=at % len(_PALETTE),
            colour=colour,
            dark=dark,
            marker=marker,
            dashes=_DASHES[(at + at // len(_PALETTE)) % len(_DASHES)],
            hero=label in heroes,
        )
    return found


def figure(plot: Plot, looks: dict[str, Style], *, narrow: bool = False) -> Figure:
    """Draw a plot.

    Args:
        plot: what to draw.
        looks: style of each name, see ``styles``.
        narrow: for a phone: panels below each other and no names; the page shows a legend instead.

    Returns:
        A figure of its own, known to no window system.
    """
    across = 1 if narrow else _across(len(plot.panels))
    down = -(-len(plot.panels) // across)
    joined = all(line.joined for panel in plot.panels for line in panel.lines)
    named = not narrow and joined and set(plot.labels) == {line.label for line in plot.panels[across - 1].lines}
    legend = not narrow and not named and not plot.named
    width, height = (4.0, 0.9 + 3.3 * down) if narrow else (9.6, (5.2 if across == 1 else 3.9) + 3.1 * (down - 1))
    height += 0.28 * -(-len(plot.labels) // 3) if legend else 0.0
    drawn = Figure(figsize=(width, height), facecolor="none")
    right = 1 - _END if named else 0.985
    foot = (0.62 + (0.28 * -(-len(plot.labels) // 3) if legend else 0.0)) / height
    grid = drawn.add_gridspec(
        down, across, left=0.13 if narrow else 0.066, right=right, top=1 - (0.62 if _titled(plot) else 0.42) / height,
        bottom=foot, wspace=0.10, hspace=0.34,
    )  # fmt: skip
    steps = [_steps([panel] if plot.own_x else plot.panels) for panel in plot.panels]
    axes = [drawn.add_subplot(grid[at // across, at % across]) for at in range(len(plot.panels))]
    limits = plot.limits or _limits(plot)
    for at, (area, panel) in enumerate(zip(axes, plot.panels, strict=True)):
        _frame(area, plot, steps[at], limits, first=at % across == 0, title=panel.title, small=narrow or across > 1)
        for line in sorted(panel.lines, key=lambda line: line.hero):  # the hero on top
            _draw(area, [_place(plot, steps[at], x) for x in line.x], line, looks[line.label])
    _titles(drawn, plot, height, right, narrow)
    if plot.named:
        for area, panel in zip(axes, plot.panels, strict=True):
            _point_names(area, panel, looks)
    if named:
        _end_labels(axes[across - 1], plot, plot.panels[across - 1], steps[across - 1], looks)
    if legend:
        handles = [_handle(looks[label], label) for label in plot.labels]
        drawn.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0.05, 0.0), ncols=3, frameon=False, fontsize=9.5,
            labelcolor=INK, handlelength=3.2, columnspacing=1.6,
        )  # fmt: skip
    return drawn


def _across(panels: int) -> int:
    """Panels in a row: rows as even as they get, so five are three and two."""
    rows = -(-panels // ACROSS)
    return -(-panels // rows)


def _steps(panels: Sequence[Panel]) -> list[float]:
    return sorted({x for panel in panels for line in panel.lines for x in line.x})


def _titled(plot: Plot) -> bool:
    return any(panel.title for panel in plot.panels)


def _place(plot: Plot, steps: list[float], x: float) -> float:
    return float(steps.index(x)) if plot.x_scale == "steps" else float(x)


def _limits(plot: Plot) -> tuple[float, float]:
    values = [
        value
        for panel in plot.panels
        for line in panel.lines
        for part in (line.y, line.low or (), line.high or ())
        for value in part
        if value is not None and math.isfinite(value) and (value > 0 or not plot.log_y)
    ]
    if not values:
        return (0.1, 1.0) if plot.log_y else (0.0, 1.0)
    if plot.log_y:
        return min(values) / 1.3, max(values) * 1.3
    margin = 0.06 * (max(values) - min(values)) or 0.05
    low, high = min(values) - margin, max(values) + margin
    return (max(0.0, low), min(1.0, high)) if plot.percentile else (low, high)


def _frame(
    axes: Axes, plot: Plot, steps: list[float], limits: tuple[float, float], *, first: bool, title: str, small: bool
) -> None:
    axes.set_facecolor("none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    if plot.x_scale == "steps":
        axes.set_xticks(range(len(steps)), [_number(value) for value in steps])
        axes.set_xlim(-0.3, len(steps) - 0.7)
    else:  # set here, because names at line ends ask for places before matplotlib would fit the axis
        axes.set_xscale(plot.x_scale)
        axes.set_xlim(*_wide(steps, plot.x_scale == "log"))
    if plot.log_y:
        axes.set_yscale("log")
    axes.set_ylim(*limits)
    axes.tick_params(axis="both", which="both", length=0, labelcolor=FAINT, labelsize=9.5 if small else 10, pad=5)
    axes.tick_params(axis="y", labelleft=first)
    if plot.percentile:
        axes.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))  # no half percentiles
        axes.yaxis.set_major_formatter(lambda value, _position: ordinal(round(100 * value)))
    axes.grid(axis="y", color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", fontsize=9.5, color=INK, fontweight="bold", pad=7, parse_math=False)
    if plot.chance is not None and limits[0] < plot.chance < limits[1]:
        axes.axhline(plot.chance, color=FAINT, linewidth=1, dashes=(2, 3), zorder=1)


def _wide(places: list[float], log: bool) -> tuple[float, float]:
    """The range of some places with a margin on both sides."""
    low, high = places[0], places[-1]
    if log:
        factor = (high / low) ** 0.04 if high > low else 1.5
        return low / factor, high * factor
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _number(value: float) -> str:
    if math.isinf(value):
        return "∞"
    return f"{value:,.0f}" if value >= 1_000 and value == int(value) else f"{value:g}"


def _draw(axes: Axes, x: list[float], line: Line, look: Style) -> None:
    if line.low is not None and line.high is not None:
        axes.fill_between(
            x, line.low, line.high, color=look.colour, alpha=0.2 if look.hero else 0.1, linewidth=0, zorder=2
        )
    width = (3.0 if look.hero else 1.8) if line.joined else 0.0
    (drawn,) = axes.plot(
        x, line.y, color=look.colour, marker=look.marker if line.points else "", linewidth=width,
        markersize=8 if look.hero else 6, markeredgecolor=PAPER, markeredgewidth=1, zorder=5 if look.hero else 4,
        solid_capstyle="round",
    )  # fmt: skip
    if look.dashes and line.joined:
        drawn.set_dashes(list(look.dashes))


def _titles(drawn: Figure, plot: Plot, height: float, right: float, narrow: bool) -> None:
    """What both axes show: once for all panels."""
    title = plot.title.split(" that ")[0].split(",")[0] if narrow else plot.title
    size = 10 if narrow else 10.5
    drawn.text(0.012, 1 - 0.06 / height, title, ha="left", va="top", color=INK, fontsize=size, parse_math=False)
    bottom = min(area.get_position().y0 for area in drawn.axes)
    middle = ((0.13 if narrow else 0.066) + right) / 2
    drawn.text(
        middle, bottom - 0.36 / height, plot.x_label, ha="center", va="top", color=INK, fontsize=size, parse_math=False
    )


def _end_labels(axes: Axes, plot: Plot, panel: Panel, steps: list[float], looks: dict[str, Style]) -> None:
    """Name each line at its right end, moved apart where lines end close together."""
    ends = {}
    for line in panel.lines:
        there = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None and math.isfinite(y)]
        if there:
            ends[line.label] = (_place(plot, steps, there[-1][0]), there[-1][1])
    labels = {label: _wrapped(label, 28) for label in ends}
    inches = axes.get_position().height * axes.figure.get_figheight()  # type: ignore[union-attr]
    gap = (0.34 if any("\n" in label for label in labels.values()) else 0.2) / inches
    places = [axes.transAxes.inverted().transform(axes.transData.transform(end)) for end in ends.values()]
    heights = spread([float(y) for _, y in places], gap)
    excess = max(0.0, max(heights, default=0.0) + gap / 2 - 1.04)
    for label, (x, y), height in zip(ends, places, heights, strict=True):
        look, at = looks[label], height - excess
        axes.plot(
            [x + 0.02, 1.0, 1.03], [y, at, at], color=look.colour, linewidth=1, clip_on=False, alpha=0.6,
            transform=axes.transAxes,
        )  # fmt: skip
        axes.text(
            1.05, at, labels[label], color=look.colour, fontsize=9.5, fontweight="bold" if look.hero else "normal",
            va="center", linespacing=1.1, clip_on=False, transform=axes.transAxes, parse_math=False,
        )  # fmt: skip


def _point_names(axes: Axes, panel: Panel, looks: dict[str, Style]) -> None:
    """Name each point, on its left where it lies far to the right; names of points that crowd stand in one column."""
    box, inches = axes.get_position(), axes.figure.get_size_inches()  # type: ignore[union-attr]
    gap, wide = 0.17 / float(box.height * inches[1]), _NAME / float(box.width * inches[0])
    lines = [line for line in panel.lines if line.x]
    ends = [axes.transData.transform((line.x[-1], line.y[-1])) for line in lines]
    places = [(float(x), float(y)) for x, y in axes.transAxes.inverted().transform(ends)]
    for crowd in _crowds(places, wide, gap):
        leftward = max(places[at][0] for at in crowd) > 1 - wide
        edge = min(places[at][0] for at in crowd) if leftward else max(places[at][0] for at in crowd)
        column = edge - 0.02 if leftward else edge + 0.02
        for at, y in zip(crowd, spread([places[at][1] for at in crowd], gap), strict=True):
            look = looks[lines[at].label]
            axes.plot(
                [places[at][0], column], [places[at][1], y], color=look.colour, linewidth=0.8, alpha=0.6, zorder=3,
                clip_on=False, transform=axes.transAxes,
            )  # fmt: skip
            axes.text(
                column - 0.004 if leftward else column + 0.004, y, lines[at].label, color=look.colour, fontsize=9,
                va="center", ha="right" if leftward else "left", fontweight="bold" if look.hero else "normal",
                clip_on=False, transform=axes.transAxes, parse_math=False,
            )  # fmt: skip


def _crowds(places: Sequence[tuple[float, float]], wide: float, gap: float) -> list[list[int]]:
    """Points, by number, whose names would touch: nearer than a name is wide and two names are high."""
    crowds: list[list[int]] = []
    for at, (x, y) in enumerate(places):
        near = [
            crowd
            for crowd in crowds
            if any(abs(places[other][0] - x) < wide and abs(places[other][1] - y) < 2 * gap for other in crowd)
        ]
        crowds = [crowd for crowd in crowds if crowd not in near] + [[*(at_ for crowd in near for at_ in crowd), at]]
    return crowds


def _handle(look: Style, label: str) -> Line2D:
    line = Line2D(
        [], [], color=look.colour, marker=look.marker, linewidth=3 if look.hero else 1.8, markersize=7,
        markeredgecolor=PAPER, label=label,
    )  # fmt: skip
    if look.dashes:
        line.set_dashes(list(look.dashes))
    return line
