"""What a comparison of streams came to: a row per method, what was aimed at, and a learner that was caught cheating."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simulations.lab.bands import Band, band
from simulations.lab.frames import Frame
from simulations.lab.lab_report import Cell, Line, Panel, Plot, Report, Section, Table

if TYPE_CHECKING:
    from simulations.lab.policies import PolicyGrid

MEASURES = {
    "utility": "true utility",
    "percentile": "percentile",
    "loved": "loved",
    "held_out": "held-out reward",
    "diversity": "diversity",
    "frechet": "Fréchet distance",
    "precision": "precision",
    "recall": "recall",
    "extreme": "extreme",
}
CHEATED = {"reward": "reward", "held_out": "held-out", "utility": "true utility", "diversity": "diversity",
           "extreme": "extreme"}  # fmt: skip
Rows = Sequence[Mapping[str, Any]]


class Found:
    """Streams, by method."""

    def __init__(self, rows: Rows) -> None:
        self._by: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            if row.get("method"):
                self._by.setdefault(str(row["method"]), []).append(row)
        self.hacking = [row for row in rows if row.get("part") == "hacking"]

    @property
    def methods(self) -> list[str]:
        """In the order they were given."""
        return list(self._by)

    def rows(self, method: str) -> list[Mapping[str, Any]]:
        """One for each person."""
        return self._by[method]

    def values(self, method: str, measure: str) -> list[list[float]]:
        """For each repeat those of its people."""
        repeats = sorted({row["repeat"] for row in self._by[method]})
        return [[row[measure] for row in self._by[method] if row["repeat"] == at] for at in repeats]

    def band(self, method: str, measure: str) -> Band:
        """Mean with its band."""
        return band(self.values(method, measure))

    def ratio(self, one: str, other: str, measure: str) -> float:
        """Mean of one method over that of another."""
        return self.band(one, measure).mean / max(1e-12, self.band(other, measure).mean)


def report(
    grid: PolicyGrid, rows: Rows, settings: Mapping[str, Any], seconds: Mapping[str, float], sheets: Sequence[str]
) -> Report:
    """The report of a comparison."""
    found = Found(rows)
    asked = aims(found)
    sections = [
        Section(
            title="What people are shown",
            lead=f"{grid.items} items of each stream at level {grid.level:g}, after {grid.answers} A or B answers; "
            f"{grid.repeats} panels of {grid.people} invented people ({', '.join(grid.kinds)}). Utility in standard "
            "deviations of the person over the generator's own items; loved: among their best hundredth.",
            parts=[_measures(found), _paces(found)],
        )
    ]
    if asked:
        rows_of: list[list[Any]] = [[row["aim"], row["reached"], row["limit"], row["met"]] for row in asked]
        table = Table(title="Aims", columns=["aim", "reached", "limit", "met"], rows=rows_of)
        sections.append(Section(title="What was aimed at", parts=[table, _kinds(found, grid)]))
    if found.hacking:
        sections.append(_hacking(found))
    if sheets:
        text = f"Contact sheets of some people, one row for each method: {', '.join(sheets)}."
        sections.append(Section(title="Pictures", parts=[text]))
    return Report(
        experiment="policies",
        title="Streams",
        headline=headline(found),
        about="Invented people answered A or B questions of an ordinary session on their own taste. Each method made a "
        "stream from the same sessions, and its items were judged by the people's true utilities and by answers that "
        "no method heard.",
        sections=sections,
        settings=settings,
        frames=_frames(found, asked),
        limits=[
            "People are invented; their tastes are functions of pictures that no method sees.",
            "Fréchet distance, precision and recall are on principal components of picture features, "
            f"from {grid.items} items: small differences are sampling.",
            "Seconds are processor time of one thread, without drawing, on a machine that did other work too.",
        ],
        seconds=seconds,
    )


def headline(found: Found) -> str:
    """The main finding."""
    best = "policy" if "policy" in found.methods else found.methods[-1]
    said = f"{best}: mean percentile {found.band(best, 'percentile').mean:.2f}"
    if "base" in found.methods and best != "base":
        kept = found.ratio(best, "base", "diversity")
        said += f" (the generator alone {found.band('base', 'percentile').mean:.2f}), {kept:.0%} of its diversity"
    if "search" in found.methods and best != "search":
        said += f", {1 / max(1e-12, found.ratio(best, 'search', 'seconds_per_item')):,.0f} times as quick as search"
    return said + "."


def _measures(found: Found) -> Table:
    rows: list[list[Any]] = [
        [method, *(_shown(found.band(method, measure)) for measure in MEASURES)] for method in found.methods
    ]
    heroes = [at for at, method in enumerate(found.methods) if method.startswith("policy")]
    return Table(title="Streams", columns=["method", *MEASURES.values()], rows=rows, hero_rows=heroes)


def _shown(value: Band) -> Cell:
    spread = "" if value.low != value.low else f"{value.low:.2f}–{value.high:.2f}"
    return Cell(f"{value.mean:.2f}".replace("-", "−"), spread.replace("-", "−"))


def _paces(found: Found) -> Table:
    rows: list[list[Any]] = []
    for method in found.methods:
        each = found.band(method, "seconds_per_item").mean
        stopped = sum(bool(row["note"]) for row in found.rows(method))
        learned = found.band(method, "seconds_to_learn").mean
        size = int(max(row["parameters"] for row in found.rows(method)))
        rows.append([method, f"{1 / max(each, 1e-9):,.0f}", learned, size, f"{stopped} of {len(found.rows(method))}"])
    columns = ["method", "items a second", "seconds to learn", "numbers learned", "stopped by the guard"]
    return Table(title="What they cost, without drawing", columns=columns, rows=rows)


def aims(found: Found) -> list[dict[str, Any]]:
    """What was asked of streams, and what was reached."""
    have = set(found.methods)
    asked: list[tuple[set[str], str, Callable[[], float], float, bool]] = [
        ({"policy"}, "policy: mean percentile at least", lambda: found.band("policy", "percentile").mean, 0.9, True),
        ({"policy", "base"}, "policy: share of the generator's diversity at least",
         lambda: found.ratio("policy", "base", "diversity"), 0.7, True),
        ({"policy", "best-of-n"}, "policy: Fréchet distance over that of best-of-n at most",
         lambda: found.ratio("policy", "best-of-n", "frechet"), 2.0, False),
        ({"policy", "search"}, "policy: items a second over those of search at least",
         lambda: found.ratio("search", "policy", "seconds_per_item"), 50.0, True),
        ({"policy", "distilled"}, "distilled: share of the policy's utility at least",
         lambda: found.ratio("distilled", "policy", "utility"), 0.95, True),
        ({"policy", "distilled"}, "distilled: share of the policy's numbers at most",
         lambda: found.ratio("distilled", "policy", "parameters"), 0.2, False),
    ]  # fmt: skip
    rows = []
    for needs, aim, value, limit, above in asked:
        if needs <= have:
            reached = value()
            rows.append({"aim": aim, "reached": reached, "limit": limit, "met": (reached >= limit) == above})
    if found.hacking:
        drift = max(row["drift"] for row in found.hacking)
        aim = "cheating: drift when stopped, over the limit, at most"
        rows.append({"aim": aim, "reached": drift, "limit": 1.2, "met": drift <= 1.2})
    return rows


def _kinds(found: Found, grid: PolicyGrid) -> Table:
    columns = ["method", *grid.kinds]
    rows: list[list[Any]] = []
    for method in found.methods:
        means = []
        for at, _ in enumerate(grid.kinds):
            mine = [row["percentile"] for row in found.rows(method) if row["person"] % len(grid.kinds) == at]
            means.append(float(np.mean(mine)) if mine else None)
        rows.append([method, *means])
    return Table(title="Mean percentile by kind of person", columns=columns, rows=rows)


def _hacking(found: Found) -> Section:
    rows: list[list[Any]] = []
    for row in found.hacking:
        kept, last = row["kept"], row["rounds"][-1]
        pairs = [f"{_number(kept.get(name)):.2f} / {_number(last.get(name)):.2f}" for name in CHEATED]
        who = f"panel {row['repeat'] + 1}, person {row['person'] + 1}"
        rows.append([who, kept["round"], row["drift"], *pairs, row["stopped"] or "not stopped"])
    columns = ["person", "round kept", "drift when stopped, over limit"]
    columns += [f"{name}, kept / without guard" for name in CHEATED.values()] + ["why"]
    first = found.hacking[0]
    rounds = [float(each["round"]) for each in first["rounds"]]
    named = {"reward learned from": "reward", "held-out": "held_out", "true utility": "utility"}
    lines = [
        Line(
            label=label,
            x=rounds,
            y=[_number(each.get(name)) for each in first["rounds"]],
            hero=name == "utility",
            points=False,
        )
        for label, name in named.items()
    ]
    plot = Plot(
        name="cheating",
        title="Standard deviations above the generator's own items",
        x_label="rounds without a guard",
        x_scale="linear",
        panels=[Panel(lines=lines, title="one person")],
        alt="Reward, held-out reward and true utility of a learner without a guard",
    )
    return Section(
        title="A learner without a guard, and when the guard would have stopped it",
        lead="Logistic regression on latents as the only judge, and next to no price for leaving the generator's law.",
        parts=[plot, Table(title="Caught", columns=columns, rows=rows)],
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _frames(found: Found, asked: Sequence[dict[str, Any]]) -> dict[str, Frame]:
    left_out = ("shown",)
    people = [
        {name: value for name, value in row.items() if name not in left_out}
        for method in found.methods
        for row in found.rows(method)
    ]
    rounds = [
        {"repeat": row["repeat"], "person": row["person"], **each} for row in found.hacking for each in row["rounds"]
    ]
    frames = {"streams": Frame.of(people, ("method", "repeat", "person"))}
    if asked:
        frames["aims"] = Frame.of(asked, ("aim",))
    if rounds:
        frames["cheating"] = Frame.of(rounds, ("repeat", "person", "round"))
    return frames
