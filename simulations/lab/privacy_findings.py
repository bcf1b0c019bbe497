"""What a privacy grid came to: curves, paired differences, the loss to the prior without noise, and why.

Everything said in words here is computed from the numbers beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.privacy.statement import PrivacyStatement
from simulations.curves_plot import ordinal
from simulations.lab import mechanism_findings
from simulations.lab.bands import Band, band, bands_over, differences_over, within
from simulations.lab.frames import Frame
from simulations.lab.lab_report import Cell, Line, Panel, Plot, Report, Section, Table
from simulations.lab.sweep import Outcome
from simulations.lab.trial import takes_budget, takes_mechanism
from simulations.lab.words import (
    BANDS,
    INVENTED,
    PERCENTILE,
    TUNING,
    asked,
    budget,
    difference,
    label,
    own_answers,
    percentile,
    points,
    stage_seconds,
)
from simulations.protection import EVERYONE
from simulations.strategies import strategy as strategy_of

if TYPE_CHECKING:
    from simulations.lab.privacy import PrivacyGrid

GOAL = 0.005  # of the loss to the prior without noise, in percentile / 100
_NOTHING = 0.01  # a gain below this is called nothing


class Point(NamedTuple):
    """Where in the grid, the budget apart."""

    shared: float
    people: int
    participations: int
    mechanism: str = EVERYONE


Key = tuple[str, Point, float, int]
"""Strategy, point, budget, number of answers."""
Repeats = list[NDArray[np.float64]]
"""For each repeat ``(people,)`` percentiles in 0 .. 1."""


@dataclass(frozen=True)
class Found:
    """All percentiles of a grid, by strategy, point, budget and number of answers."""

    grid: PrivacyGrid
    percentiles: Mapping[Key, Repeats]
    bands: Mapping[Key, Band]

    @classmethod
    def of(cls, grid: PrivacyGrid, outcomes: Sequence[Outcome]) -> Found:
        """Sort the outcomes."""
        found: dict[Key, Repeats] = {}
        for outcome in outcomes:
            axes: Any = outcome.cell.axes
            about = (axes["shared"], axes["people"], axes["participations"])
            point = Point(*about, axes.get("mechanism", EVERYONE))
            for count, values in zip(grid.answers, outcome.values["percentile"], strict=True):
                found.setdefault((axes["strategy"], point, axes["epsilon"], count), []).append(np.array(values))
        bands: dict[Key, Band] = {}
        for shared, count in product(grid.shared, grid.answers):  # the same newcomers with the same answers
            together = {key: values for key, values in found.items() if (key[1][0], key[3]) == (shared, count)}
            bands |= within({key: [repeat.tolist() for repeat in values] for key, values in together.items()})
        return cls(grid, found, bands)

    def points(self) -> list[Point]:
        """All points of the grid, the budget apart."""
        found = list(dict.fromkeys(point for _, point, _, _ in self.percentiles))
        return [point for point in found if point.mechanism in self.grid.mechanism] or found

    def get(self, strategy: str, point: Point, epsilon: float, answers: int) -> Repeats | None:
        """Percentiles of a strategy; one that takes no budget, or no mechanism, has the same at all of them."""
        return self.percentiles.get(_key(strategy, point, epsilon, answers))

    def band(self, strategy: str, point: Point, epsilon: float, answers: int) -> Band:
        """Mean percentile with its band; see ``get``."""
        return self.bands[_key(strategy, point, epsilon, answers)]

    def about(self, point: Point) -> dict[str, Any]:
        """A point as columns of a table; without the mechanism where it is everyone throughout."""
        columns = point._asdict()
        return columns if self.grid.names_mechanism else {k: v for k, v in columns.items() if k != "mechanism"}

    def difference(self, ours: tuple[str, float], other: tuple[str, float], point: Point, answers: int) -> Band | None:
        """Ours minus the other, each a strategy with a budget, person by person; ``None`` where one is missing."""
        return self.gap((*ours, point), (*other, point), answers)

    def gap(self, ours: tuple[str, float, Point], other: tuple[str, float, Point], answers: int) -> Band | None:
        """As ``difference``, each at a point of its own; the newcomers of both must be the same."""
        (mine, spent, here), (theirs, paid, there) = ours, other
        first, second = self.get(mine, here, spent, answers), self.get(theirs, there, paid, answers)
        if first is None or second is None:
            return None
        return band([(a - b).tolist() for a, b in zip(first, second, strict=True)])


def _key(strategy: str, point: Point, epsilon: float, answers: int) -> Key:
    at = point if takes_mechanism(strategy) else point._replace(mechanism=EVERYONE)
    return strategy, at, epsilon if takes_budget(strategy) else math.inf, answers


def report(
    grid: PrivacyGrid, outcomes: Sequence[Outcome], settings: Mapping[str, Any], seconds: Mapping[str, float]
) -> Report:
    """The report of a grid."""
    found = Found.of(grid, outcomes)
    curves, differences, losses = curve_rows(found), list(difference_rows(found)), list(loss_rows(found))
    where = tuple(found.about(found.points()[0]))
    name = ("strategy", *where, "epsilon", "answers")
    frames = {
        "curves": Frame.of(curves, name),
        "differences": Frame.of(differences, ("other", *name[1:])),
        "loss": Frame.of(losses, name),
        "cells": Frame.of(list(cell_rows(grid, outcomes)), (*name, "repeat")),
    }
    hero = label(grid.strategies[0])
    parts: list[Section] = [
        Section(
            title="What a budget costs",
            lead=f"Percentile of their own taste that newcomers are recommended after {own_answers(grid.look)}; "
            f"{bands_over(grid.repeats)}. Methods that take no budget are level lines.",
            parts=[*_pictures(grid, found), _curve_table(grid, found)],
        )
    ]
    if differences:
        parts.append(
            Section(
                title=f"{hero} against the others, newcomer by newcomer",
                lead="The same newcomers with the same answers to the same questions. "
                + differences_over(grid.repeats)
                + ".",
                parts=[_tally_table(grid, differences), *sentences(grid, differences), _difference_table(differences)],
            )
        )
    if losses:
        parts.append(
            Section(
                title="Loss to the same method without noise",
                lead=f"Percentile / 100 that the noise alone costs; the goal for large crowds is below {GOAL}.",
                parts=[_loss_table(grid, losses)],
            )
        )
    if grid.names_mechanism:
        releases = list(mechanism_findings.release_rows(outcomes))
        gaps = list(mechanism_findings.gap_rows(found))
        frames["releases"] = Frame.of(releases, mechanism_findings.RELEASES)
        if gaps:
            frames["mechanisms"] = Frame.of(gaps, name)
        parts.append(mechanism_findings.section(found, releases, gaps))
    parts.append(Section(title="How long newcomers take", parts=_by_answers(grid, found)))
    return Report(
        experiment="privacy",
        title="Privacy and utility",
        headline=headline(grid, found, differences),
        about="Invented people rated pictures; each method learned from them under each budget. Then newcomers, who "
        "never took part, answered a few random questions and were recommended "
        "pictures they had not seen. Their true taste, which no method sees, says how good that was.",
        sections=parts,
        settings=settings,
        frames=frames,
        statements=statements(outcomes),
        limits=[
            INVENTED + " The setting shared says how much these do.",
            PERCENTILE,
            TUNING,
            BANDS,
        ],
        seconds=stage_seconds(seconds),
    )


def curve_rows(found: Found) -> list[dict[str, Any]]:
    """One row per strategy, point, budget and number of answers: percentile with its band."""
    rows = []
    for (strategy, point, epsilon, answers), values in found.percentiles.items():
        b = found.bands[strategy, point, epsilon, answers]
        rows.append({
            "strategy": strategy, **found.about(point), "epsilon": epsilon, "answers": answers,
            "percentile": b.mean, "low": b.low, "high": b.high, "repeats": len(values),
        })  # fmt: skip
    return rows


def cell_rows(grid: PrivacyGrid, outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """One row per cell and number of answers."""
    kept = ("rounds", "numbers", "clipped", "noise", "train_seconds", "seconds")
    for outcome in outcomes:
        for answers, values in zip(grid.answers, outcome.values["percentile"], strict=True):
            about = {key: outcome.values[key] for key in kept}
            yield {
                **outcome.cell.axes, "answers": answers, "percentile": float(np.mean(values)),
                "spread": float(np.std(values)), **about,
            }  # fmt: skip


def difference_rows(found: Found) -> Iterator[dict[str, Any]]:
    """The first strategy minus each other one, at the same budget, with the verdict and why it is not ahead."""
    ours, *others = found.grid.strategies
    for point in found.points():
        for epsilon in found.grid.epsilons if takes_budget(ours) else (math.inf,):
            for answers in found.grid.answers:
                for other in others:
                    b = found.difference((ours, epsilon), (other, epsilon), point, answers)
                    if b is None:
                        continue
                    yield {
                        "other": other, **found.about(point), "epsilon": epsilon, "answers": answers,
                        "difference": b.mean, "low": b.low, "high": b.high, "verdict": b.verdict,
                        "why": "" if b.verdict == "ahead" else why(found, other, point, epsilon, answers, b),
                    }  # fmt: skip


def why(found: Found, other: str, point: Point, epsilon: float, answers: int, there: Band) -> str:
    """Why the first strategy is not ahead of another one somewhere: the first of these that the numbers show."""
    ours = found.grid.strategies[0]
    if not takes_budget(other) and other != "local-only":
        return f"{label(other)} protects nobody"
    loss = found.difference((ours, math.inf), (ours, epsilon), point, answers)
    free = found.difference((ours, math.inf), (other, math.inf), point, answers)
    gain = found.difference((ours, math.inf), ("local-only", math.inf), point, answers)
    if gain is not None and gain.mean < _NOTHING and there.mean > -_NOTHING:
        return f"there is nothing to share: without noise it gains {points(gain.mean)} on learning alone"
    if math.isfinite(epsilon) and loss is not None and loss.mean > max(_NOTHING, -there.mean / 2):
        return f"the noise costs it {points(loss.mean)} here"
    if free is not None and free.high < 0:
        return f"the other is ahead without noise too, by {points(-free.mean)}: its model suits these tastes better"
    alone = found.difference((ours, epsilon), ("local-only", epsilon), point, answers)
    if alone is not None and alone.mean < 0:
        return f"what it learned is worth nothing here: {points(alone.mean)} against learning alone"
    if there.low <= 0 <= there.high:
        return f"the band spans zero: {points(abs(there.mean))} could be chance"
    return "not told by these numbers"


def loss_rows(found: Found) -> Iterator[dict[str, Any]]:
    """What noise costs each strategy: itself without noise minus itself with a budget."""
    grid = found.grid
    if math.inf not in grid.epsilons:
        return
    for strategy in filter(takes_budget, grid.strategies):
        for point in found.points():
            for epsilon in filter(math.isfinite, grid.epsilons):
                for answers in grid.answers:
                    b = found.difference((strategy, math.inf), (strategy, epsilon), point, answers)
                    if b is not None:
                        yield {
                            "strategy": strategy, **found.about(point), "epsilon": epsilon, "answers": answers,
                            "loss": b.mean, "low": b.low, "high": b.high, "below_goal": b.mean < GOAL,
                        }  # fmt: skip


def statements(outcomes: Sequence[Outcome]) -> dict[str, PrivacyStatement]:
    """The claim of each release, once for all repeats."""
    found = {}
    for outcome in outcomes:
        axes: Any = outcome.cell.axes
        name = f"{label(axes['strategy'])}, {axes['people']:,} people, {outcome.values['rounds']} rounds"
        mechanism = axes.get("mechanism", EVERYONE)
        if mechanism != EVERYONE:
            name += f", {asked(mechanism)}"
        if takes_budget(axes["strategy"]):
            name += f", ε = {budget(axes['epsilon'])}"
        found[name] = PrivacyStatement.from_json(outcome.values["statement"])
    return found


def headline(grid: PrivacyGrid, found: Found, differences: Sequence[dict[str, Any]]) -> str:
    """What the smallest budget costs the first strategy in the largest crowd, and where it is ahead."""
    ours = grid.strategies[0]
    finite = [epsilon for epsilon in grid.epsilons if math.isfinite(epsilon)] if takes_budget(ours) else []
    epsilon = min(finite, default=math.inf)
    point = max(found.points(), key=lambda point: (point[1], point[0]))
    b = found.band(ours, point, epsilon, grid.look)
    said = f"With {point.people:,} people{f' and ε = {epsilon:g}' if finite else ''}, {label(ours)}"
    if grid.names_mechanism and takes_mechanism(ours):
        said += f" ({asked(point.mechanism)}, {point.participations or strategy_of(ours).rounds} rounds)"
    said += " shows newcomers the "
    said += f"{ordinal(round(100 * b.mean))} percentile of their taste after {own_answers(grid.look)}"
    loss = found.difference((ours, math.inf), (ours, epsilon), point, grid.look) if finite else None
    if loss is not None:
        said += f", {points(abs(loss.mean))} {'less' if loss.mean >= 0 else 'more'} than without noise"
    rivals = [row for row in differences if takes_budget(row["other"])]
    if rivals:
        ahead = sum(row["verdict"] == "ahead" for row in rivals)
        behind = sum(row["verdict"] == "behind" for row in rivals)
        lower = sum(row["difference"] < 0 for row in rivals)
        said += f"; against the other private methods it is ahead in {ahead} of {len(rivals)} comparisons, "
        said += f"behind in {behind}, and lower in the mean in {lower}"
    return said + "."


def sentences(grid: PrivacyGrid, differences: Sequence[dict[str, Any]]) -> list[str]:
    """One sentence for each other strategy: where the first one is not ahead, and why."""
    found = []
    for other in dict.fromkeys(row["other"] for row in differences):
        rows = [row for row in differences if row["other"] == other]
        short = [row for row in rows if row["verdict"] != "ahead"]
        name = f"{label(grid.strategies[0])} against {label(other)}: "
        if not short:
            found.append(name + f"ahead in all {len(rows)} comparisons.")
            continue
        reasons: dict[str, list[dict[str, Any]]] = {}
        for row in short:
            reasons.setdefault(row["why"].split(":")[0].split(" it ")[0], []).append(row)
        told = "; ".join(f"in {len(rows)}, {_example(rows)}" for rows in reasons.values())
        behind = sum(row["verdict"] == "behind" for row in short)
        found.append(
            name + f"ahead in {len(rows) - len(short)} of {len(rows)}, behind in {behind}, undecided in "
            f"{len(short) - behind}, lower in the mean in {sum(row['difference'] < 0 for row in short)}. "
            f"Not ahead: {told}."
        )
    return found


def _example(rows: Sequence[dict[str, Any]]) -> str:
    """The reason of some rows, told by the largest deficit among them."""
    worst = min(rows, key=lambda row: row["difference"])
    place = f"{worst['people']:,} people, ε = {budget(worst['epsilon'])}, {own_answers(worst['answers'])}"
    if "mechanism" in worst:
        place += f", {asked(worst['mechanism'])}"
    return f"{worst['why']} (furthest: {points(worst['difference'], 1)} at {place})"


def _pictures(grid: PrivacyGrid, found: Found) -> list[Plot]:
    """One plot per mechanism, shared and participations: a panel for each number of people."""
    plots = []
    places = sorted({(point.shared, point.participations) for point in found.points()}, reverse=True)
    every = [(mechanism, *place) for mechanism in grid.mechanism for place in places]
    for at, (mechanism, shared, participations) in enumerate(every):
        about = [f"shared {shared:g}"] if len(grid.shared) > 1 else []
        if grid.names_mechanism:
            about.append(asked(mechanism))
        if len(grid.participations) > 1:
            about.append(f"{participations} participations" if participations else "rounds as suits each")
        panels = [
            Panel(
                title=f"{people:,} people",
                lines=[
                    _line(grid, found, name, Point(shared, people, participations, mechanism))
                    for name in grid.strategies
                ],
            )
            for people in sorted(grid.people)
        ]
        title = f"Percentile of own taste that newcomers are recommended after {own_answers(grid.look)}"
        plots.append(
            Plot(
                name="privacy-utility" if at == 0 else f"privacy-utility-{at + 1}",
                title=title + (f", {', '.join(about)}" if about else ""),
                x_label="ε, all rounds together",
                panels=panels,
                percentile=True,
                chance=0.5,
            )
        )
    return plots


def _line(grid: PrivacyGrid, found: Found, strategy: str, point: Point) -> Line:
    epsilons = sorted(grid.epsilons)
    bands = [found.band(strategy, point, epsilon, grid.look) for epsilon in epsilons]
    return Line(
        label=label(strategy),
        x=epsilons,
        y=[b.mean for b in bands],
        low=[b.low for b in bands],
        high=[b.high for b in bands],
        hero=strategy == grid.strategies[0],
    )


def _by_answers(grid: PrivacyGrid, found: Found) -> list[Plot | Table | str]:
    """Percentile over answers given: the largest crowd, a panel for each budget."""
    point = max(found.points(), key=lambda point: (point[1], point[0]))
    panels = []
    for epsilon in sorted(grid.epsilons):
        lines = []
        for strategy in grid.strategies:
            bands = [found.band(strategy, point, epsilon, count) for count in grid.answers]
            lines.append(
                Line(
                    label=label(strategy), x=grid.answers, y=[b.mean for b in bands], low=[b.low for b in bands],
                    high=[b.high for b in bands], hero=strategy == grid.strategies[0],
                )
            )  # fmt: skip
        panels.append(Panel(title=f"ε = {budget(epsilon)}", lines=lines))
    title = f"Percentile of own taste, {point.people:,} people"
    if grid.names_mechanism:
        title += f", {asked(point.mechanism)}"
    return [
        Plot(
            name="answers", title=title, x_label="own answers of the newcomer", panels=panels, percentile=True,
            chance=0.5,
        )
    ]  # fmt: skip


def _curve_table(grid: PrivacyGrid, found: Found) -> Table:
    rows: list[list[str | Cell | int]] = []
    heroes = []
    for point in found.points():
        for strategy in grid.strategies:
            if not takes_mechanism(strategy) and point.mechanism != found.points()[0].mechanism:
                continue  # the same row again
            if strategy == grid.strategies[0]:
                heroes.append(len(rows))
            cells = [percentile(found.band(strategy, point, epsilon, grid.look)) for epsilon in grid.epsilons]
            rows.append([label(strategy), *_where(grid, point, strategy), *cells])
    columns = ["method", *_where_columns(grid), *(f"ε = {budget(epsilon)}" for epsilon in grid.epsilons)]
    return Table(
        title=f"Percentile of own taste after {own_answers(grid.look)}", columns=columns, rows=rows, hero_rows=heroes
    )


def _tally_table(grid: PrivacyGrid, differences: Sequence[dict[str, Any]]) -> Table:
    """How often ahead, behind, undecided; over all numbers of answers."""
    rows = []
    for other in dict.fromkeys(row["other"] for row in differences):
        mine = [row for row in differences if row["other"] == other]
        tally = [sum(row["verdict"] == verdict for row in mine) for verdict in ("ahead", "not shown", "behind")]
        worst, best = (pick(mine, key=lambda row: row["difference"]) for pick in (min, max))
        rows.append([label(other), *tally, difference(worst), difference(best)])
    columns = ["against", "ahead", "undecided", "behind", "least difference", "largest difference"]
    return Table(title="Comparisons over all crowds, budgets and numbers of answers", columns=columns, rows=rows)


def _difference_table(differences: Sequence[dict[str, Any]]) -> Table:
    rows = [
        [label(row["other"]), row["shared"], row["people"], row["participations"] or "suits",
         *([asked(row["mechanism"])] if "mechanism" in row else []), budget(row["epsilon"]),
         row["answers"], difference(row), row["verdict"], row["why"]]
        for row in differences
    ]  # fmt: skip
    columns = [
        "against",
        "shared",
        "people",
        "participations",
        *(["asked"] if differences and "mechanism" in differences[0] else []),
        "ε",
        "answers",
        "difference",
        "verdict",
        "why not ahead",
    ]
    return Table(title="All differences, in percentile points", columns=columns, rows=rows, folded=True)


def _loss_table(grid: PrivacyGrid, losses: Sequence[dict[str, Any]]) -> Table:
    """The first strategy's loss at the number of answers looked at, and the largest over all of them."""
    rows: list[list[Any]] = []
    for row in losses:
        if row["answers"] != grid.look or row["strategy"] != grid.strategies[0]:
            continue
        same = [r for r in losses if all(r.get(key) == row.get(key) for key in _NAMES)]
        worst = max(same, key=lambda r: r["loss"])
        point = Point(row["shared"], row["people"], row["participations"], row.get("mechanism", EVERYONE))
        rows.append(
            [budget(row["epsilon"]), *_where(grid, point, row["strategy"]), _loss(row), _loss(worst), row["below_goal"]]
        )
    columns = ["ε", *_where_columns(grid), f"after {own_answers(grid.look)}", "largest, any number", f"below {GOAL}"]
    name = label(grid.strategies[0])
    return Table(title=f"Loss of {name} to itself without noise, percentile / 100", columns=columns, rows=rows)


_NAMES = ("strategy", "shared", "people", "participations", "mechanism", "epsilon")


def _where_columns(grid: PrivacyGrid) -> list[str]:
    several = {
        "shared": len(grid.shared) > 1,
        "participations": len(grid.participations) > 1,
        "asked": grid.names_mechanism,
    }
    return ["people", *(name for name, there in several.items() if there)]


def _where(grid: PrivacyGrid, point: Point, strategy: str) -> list[int | str]:
    named: dict[str, int | str] = {
        "people": point.people, "shared": f"{point.shared:g}", "participations": point.participations or "suits",
        "asked": asked(point.mechanism) if takes_mechanism(strategy) else "its own way",
    }  # fmt: skip
    return [named[name] for name in _where_columns(grid)]


def _loss(row: Mapping[str, Any]) -> Cell:
    return Cell(f"{row['loss']:.4f}".replace("-", "−"), f"{row['low']:.4f} … {row['high']:.4f}".replace("-", "−"))
