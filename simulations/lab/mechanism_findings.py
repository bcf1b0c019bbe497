"""What asking some people, or noise that cancels over rounds, made of a privacy grid: releases, curves, differences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from common.privacy.statement import PrivacyStatement
from simulations.lab.bands import bands_over
from simulations.lab.lab_report import Line, Panel, Plot, Section, Table
from simulations.lab.sweep import Outcome
from simulations.lab.trial import takes_budget, takes_mechanism
from simulations.lab.words import asked, budget, difference, label, own_answers

if TYPE_CHECKING:
    from simulations.lab.privacy_findings import Found, Point

RELEASES = ("strategy", "mechanism", "shared", "people", "participations", "epsilon")
"""What names a row of ``release_rows``."""


def release_rows(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """One row per release, once for all repeats: what was claimed, by whom, and the noise it took."""
    for outcome in outcomes:
        axes: Any = outcome.cell.axes
        if axes["repeat"] or not takes_mechanism(axes["strategy"]):
            continue
        said = PrivacyStatement.from_json(outcome.values["statement"])
        yield {
            **{name: axes[name] for name in RELEASES}, "rounds": outcome.values["rounds"],
            "noise": outcome.values["noise"], "noise_multiplier": said.noise_multiplier, "delta": said.delta,
            "charged": said.participations, "adjacency": said.adjacency, "noise_law": said.mechanism,
            "sampling": said.sampling, "accountant": said.accountant,
        }  # fmt: skip


def gap_rows(found: Found) -> Iterator[dict[str, Any]]:
    """Each mechanism minus the first one of the grid, same strategy and budget, newcomer by newcomer."""
    base, *others = found.grid.mechanism
    for point in found.points():
        if point.mechanism not in others:
            continue
        for strategy in filter(takes_mechanism, found.grid.strategies):
            for epsilon in found.grid.epsilons if takes_budget(strategy) else (math.inf,):
                for answers in found.grid.answers:
                    first = point._replace(mechanism=base)
                    b = found.gap((strategy, epsilon, point), (strategy, epsilon, first), answers)
                    if b is not None:
                        yield {
                            "strategy": strategy, **found.about(point), "epsilon": epsilon, "answers": answers,
                            "against": base, "difference": b.mean, "low": b.low, "high": b.high, "verdict": b.verdict,
                        }  # fmt: skip


def section(found: Found, releases: Sequence[dict[str, Any]], gaps: Sequence[dict[str, Any]]) -> Section:
    """Curves of each method, a line for each mechanism, with what each of them claims."""
    parts: list[Plot | Table | str] = []
    shown = [name for name in found.grid.strategies if takes_mechanism(name)]
    if shown:
        parts.append(_picture(found, shown))
    if gaps:
        parts.append(_gap_table(found, gaps))
    if releases:
        parts.append(_release_table(releases))
    return Section(
        title="Who is asked, and how the noise is made",
        lead="The same people and the same rounds under each mechanism; " + bands_over(found.grid.repeats) + ". "
        "Noise is the expected length of the noise on a round's mean, in clip norms; correlated noise counts as the "
        "independent noise that leaves as much in the sums over rounds. A cohort is smaller than the crowd, so "
        "sampling saves work before it saves noise.",
        parts=parts,
    )


def _picture(found: Found, strategies: Sequence[str]) -> Plot:
    """A panel for each method in the largest crowd."""
    place = max(found.points(), key=lambda point: (point.people, point.shared))
    panels = [
        Panel(
            title=label(name),
            lines=[_line(found, name, place._replace(mechanism=mechanism)) for mechanism in found.grid.mechanism],
        )
        for name in strategies
    ]
    return Plot(
        name="mechanisms",
        title=f"Percentile of own taste after {own_answers(found.grid.look)}, {place.people:,} people",
        x_label="ε, all rounds together",
        panels=panels,
        percentile=True,
        chance=0.5,
    )


def _line(found: Found, strategy: str, point: Point) -> Line:
    epsilons = sorted(found.grid.epsilons)
    bands = [found.band(strategy, point, epsilon, found.grid.look) for epsilon in epsilons]
    return Line(
        label=asked(point.mechanism),
        x=epsilons,
        y=[b.mean for b in bands],
        low=[b.low for b in bands],
        high=[b.high for b in bands],
        hero=point.mechanism == found.grid.mechanism[0],
    )


def _gap_table(found: Found, gaps: Sequence[dict[str, Any]]) -> Table:
    rows: list[list[Any]] = [
        [label(row["strategy"]), asked(row["mechanism"]), f"{row['shared']:g}", row["people"],
         row["participations"] or "suits", budget(row["epsilon"]), difference(row), row["verdict"]]
        for row in gaps
        if row["answers"] == found.grid.look
    ]  # fmt: skip
    columns = ["method", "asked", "shared", "people", "rounds", "ε", "difference", "verdict"]
    title = f"Against {asked(found.grid.mechanism[0])}, after {own_answers(found.grid.look)}, percentile points"
    return Table(title=title, columns=columns, rows=rows)


def _release_table(releases: Sequence[dict[str, Any]]) -> Table:
    rows: list[list[Any]] = [
        [label(row["strategy"]), asked(row["mechanism"]), row["people"], row["rounds"], budget(row["epsilon"]),
         f"{row['noise']:.3g}", row["sampling"], row["accountant"]]
        for row in releases
    ]  # fmt: skip
    columns = ["method", "asked", "people", "rounds", "ε", "noise", "sampling", "accountant"]
    return Table(title="What was claimed", columns=columns, rows=rows, folded=True)
