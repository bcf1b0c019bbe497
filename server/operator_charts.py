"""The charts of the operator's view: SVG made here, styled by the page's own style sheet, with a sentence for ears."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

WIDTH, HEIGHT = 760, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 2, 14, 34
_MOST = 60


def budget_chart(privacy: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> Markup:
    """Epsilon spent, after the next round and the budget, as one bar.

    Args:
        privacy: of a status.
        rounds: of a status.
    """
    budget, spent = privacy["epsilon_budget"], privacy["epsilon_spent"]
    after = privacy["epsilon_after_next_round"]
    wide = WIDTH - 2 * _RIGHT

    def x(value: float) -> float:
        return float(_RIGHT + wide * min(1.0, value / budget))

    parts = [f'<rect class="track" x="{_RIGHT}" y="34" width="{wide}" height="26" rx="6"/>']
    if after is not None:
        parts.append(f'<rect class="next" x="{_RIGHT}" y="34" width="{x(after) - _RIGHT:.1f}" height="26" rx="6"/>')
    parts.append(f'<rect class="spent" x="{_RIGHT}" y="34" width="{x(spent) - _RIGHT:.1f}" height="26" rx="6"/>')
    parts.append(f'<text x="{_RIGHT}" y="22">spent {spent:.3g}</text>')
    parts.append(f'<text class="end" x="{WIDTH - _RIGHT}" y="22">budget {budget:.3g}</text>')
    after_text = "no round is left" if after is None else f"after the next round {after:.3g}"
    parts.append(f'<text class="middle" x="{WIDTH / 2}" y="22">{after_text}</text>')
    label = f"epsilon: {spent:.3g} spent of {budget:.3g}; {after_text}; {len(rounds)} rounds so far"
    return _svg(parts, label, 72)


def people_chart(rounds: Sequence[Mapping[str, Any]], least: int) -> Markup:
    """Members asked and answered in each of the last rounds; where a count is hidden, the column is hatched.

    Args:
        rounds: of a status.
        least: the minimum cohort, drawn as a line.
    """
    kept = [entry for entry in rounds if entry["asked"] is not None][-_MOST:]
    counts = [entry[name] for entry in kept for name in ("asked", "answered") if isinstance(entry[name], int)]
    top = max([least, *counts]) * 1.1
    wide, tall = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    step = wide / max(8, len(kept))

    def y(value: float) -> float:
        return float(_TOP + tall * (1 - value / top))

    parts = [
        f'<line class="rule" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>',
        f'<text class="end" x="{_LEFT - 8}" y="{y(0) + 4:.1f}">0</text>',
    ]
    for place, entry in enumerate(kept):
        parts += _column(entry, _LEFT + step * place + step * 0.15, step * 0.7, y, least)
        if len(kept) <= 15 or place % 5 == 0:
            middle = _LEFT + step * (place + 0.5)
            parts.append(f'<text class="middle" x="{middle:.1f}" y="{HEIGHT - 10}">{entry["round"]}</text>')
    parts.append(f'<line class="least" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(least):.1f}" y2="{y(least):.1f}"/>')
    parts.append(f'<text class="end" x="{_LEFT - 8}" y="{y(least) + 4:.1f}">{least}</text>')
    if counts and y(least) - y(max(counts)) > 16:
        parts.append(f'<text class="end" x="{_LEFT - 8}" y="{y(max(counts)) + 4:.1f}">{max(counts)}</text>')
    hidden = sum(not isinstance(entry["answered"], int) for entry in kept)
    label = (
        f"members asked and answered in the last {len(kept)} rounds; the minimum is {least}; "
        f"{hidden} rounds were below it and show no number"
    )
    return _svg(parts, label, HEIGHT)


def _column(entry: Mapping[str, Any], x: float, width: float, y: Callable[[float], float], least: int) -> list[str]:
    parts = []
    for name in ("asked", "answered"):
        value = entry[name]
        if isinstance(value, int):
            kind, top = name, y(value)
        elif name == "answered":
            kind, top = "hidden", y(least)  # the height of the line, whatever the number is
        else:
            continue
        size = f'width="{width:.1f}" height="{y(0) - top:.1f}"'
        parts.append(f'<rect class="{kind}" x="{x:.1f}" y="{top:.1f}" {size} rx="2"/>')
    return parts


def _svg(parts: Sequence[str], label: str, height: int) -> Markup:
    """Everything in ``parts`` is made of numbers and fixed words."""
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )
