"""The toy as pictures: sheets of shapes, the same noises before and after, and how the share of a kind rises."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from client.flows.drawing import REACH, Drawing

INK, FAINT, RULE, PAPER = "#1c1e24", "#5b6070", "#e3e4e8", "#fefefd"
TAUGHT, CONTROL = "#c2185b", "#6b7080"
_SIDE, _HEAD, _CAPTION = 1.9, 0.62, 0.30  # inches
_DPI = 160


def fill_sheet(figure: Figure, rows: Sequence[tuple[str, Drawing]], title: str, picked: int | None = None) -> None:
    """Draw rows of shapes on a figure, which takes the size it needs.

    Args:
        figure: emptied first.
        rows: a name and the shapes of each row; one row wraps after four where it has no name.
        title: above all.
        picked: index in the first row of a shape to frame.
    """
    figure.clear()
    named = any(name for name, _ in rows)
    across = max(len(drawing.captions) for _, drawing in rows)
    left = 0.62 if named else 0.12
    width = left + across * _SIDE + 0.12
    height = _HEAD + len(rows) * (_SIDE + _CAPTION) + 0.08
    figure.set_size_inches(width, height)
    figure.set_facecolor(PAPER)
    figure.text(left / width, 1 - 0.36 / height, title, color=INK, fontsize=13, fontweight="bold", parse_math=False)
    for row, (name, drawing) in enumerate(rows):
        bottom = height - _HEAD - (row + 1) * _SIDE - row * _CAPTION
        if name:
            figure.text(
                0.30 / width, (bottom + _SIDE / 2) / height, name, color=INK, fontsize=12, fontweight="bold",
                ha="center", va="center", rotation=90, parse_math=False,
            )  # fmt: skip
        for index in range(len(drawing.captions)):
            place = ((left + index * _SIDE) / width, bottom / height, _SIDE / width, _SIDE / height)
            axes = figure.add_axes(place)
            _shape(axes, drawing, index, framed=row == 0 and index == picked)


def sheet(rows: Sequence[tuple[str, Drawing]], title: str, picked: int | None = None) -> Figure:
    """See `fill_sheet`, on a new figure."""
    figure = Figure()
    fill_sheet(figure, rows, title, picked)
    return figure


def share_figure(rows: Sequence[dict[str, Any]], kind: str) -> Figure:
    """The share of a kind after each injection, of picks and of the control, one thin line per seed.

    Args:
        rows: as `client.flows.script` gives them.
        kind: what was picked, for the title.
    """
    figure = Figure(figsize=(7.2, 4.3), facecolor=PAPER)
    axes = figure.add_axes((0.085, 0.125, 0.735, 0.745))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelcolor=FAINT, labelsize=10, pad=6)
    axes.grid(axis="y", color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    ends = [_arm(axes, rows, arm, colour, marker) for arm, colour, marker in _ARMS]
    counts = sorted({int(row["injections"]) for row in rows})
    axes.set_xticks(counts, ["before"] + [str(count) for count in counts[1:]])
    axes.set_xlabel("injections", color=INK, fontsize=10.5, labelpad=6)
    axes.yaxis.set_major_formatter(lambda value, _position: f"{100 * value:.0f} %")
    top = max([float(row["share"]) for row in rows] + [0.1])
    axes.set_ylim(0, 1.12 * top)
    axes.set_xlim(-0.15, counts[-1] + 0.1)
    start = [float(row["share"]) for row in rows if row["injections"] == 0]
    double = 2 * sum(start) / len(start)
    if double < 1.1 * top:
        axes.axhline(double, color=FAINT, linewidth=1, dashes=(2, 3), zorder=1)
        axes.annotate(
            "twice the share before", (0, double), (0, 4), textcoords="offset points", color=FAINT, fontsize=9
        )
    for (label, colour, _), value in zip(_LABELS, ends, strict=True):
        if value is not None:
            axes.annotate(
                label, (counts[-1], value), (12, 0), textcoords="offset points", va="center", color=colour,
                fontsize=10, fontweight="bold", annotation_clip=False,
            )  # fmt: skip
    figure.text(0.03, 0.925, f"Share of valid {kind}s drawn", color=INK, fontsize=13, fontweight="bold")
    return figure


_ARMS = (("control", CONTROL, "s"), ("picked", TAUGHT, "o"))
_LABELS = (("random picks", CONTROL, "s"), ("preferred picks", TAUGHT, "o"))


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG file, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def _shape(axes: Axes, drawing: Drawing, index: int, *, framed: bool) -> None:
    order = drawing.depth[index].argsort()
    x, y = drawing.places[index][order].unbind(-1)
    near = drawing.depth[index][order]
    colours = drawing.colours[index][order]
    colours = torch.lerp(torch.ones_like(colours), colours, (0.45 + 0.55 * near)[:, None])  # what is far fades
    axes.scatter(x, y, s=9 + 22 * near, c=colours.numpy(), linewidths=0.4, edgecolors=PAPER)
    axes.set_xlim(-REACH, REACH)
    axes.set_ylim(-REACH, REACH)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("none")
    for spine in axes.spines.values():
        spine.set_visible(framed)
        spine.set_color(TAUGHT)
        spine.set_linewidth(2.2)
    axes.set_xlabel(drawing.captions[index], color=INK if framed else FAINT, fontsize=9.5, labelpad=4, parse_math=False)


def _arm(axes: Axes, rows: Sequence[dict[str, Any]], arm: str, colour: str, marker: str) -> float | None:
    """Draw one arm; its mean at the end, None where it was not run."""
    own = [row for row in rows if row["arm"] == arm]
    if not own:
        return None
    counts = sorted({int(row["injections"]) for row in own})
    for seed in sorted({row["seed"] for row in own}):
        line = {row["injections"]: float(row["share"]) for row in own if row["seed"] == seed}
        axes.plot(list(line), list(line.values()), color=colour, alpha=0.35, linewidth=1.1)
    values = {count: [float(row["share"]) for row in own if row["injections"] == count] for count in counts}
    mean = [sum(values[count]) / len(values[count]) for count in counts]
    axes.plot(
        counts, mean, color=colour, marker=marker, linewidth=3, markersize=9, markeredgecolor=PAPER,
        markeredgewidth=1.3, zorder=5, solid_capstyle="round",
    )  # fmt: skip
    return mean[-1]
