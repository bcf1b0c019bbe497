"""What an experiment on population policies came to: a table of what newcomers see first, and what was aimed at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.privacy.statement import PrivacyStatement
from simulations.lab.bands import Band, band
from simulations.lab.frames import Frame
from simulations.lab.lab_report import Cell, Report, Section, Table

if TYPE_CHECKING:
    from simulations.lab.population_policies import PopulationPolicyGrid

AIM, AIM_EPSILON = 0.05, 2.0
"""How far above the generator the first items should lie, and at which budget."""

Rows = Sequence[Mapping[str, Any]]


def report(grid: PopulationPolicyGrid, rows: Rows, settings: Mapping[str, Any], seconds: Mapping[str, float]) -> Report:
    """The report."""
    frame = _frame(grid, rows)
    look = f"{grid.levels[0]:g}"
    claims = {
        f"{row['way']}, epsilon {row['epsilon']:g}": PrivacyStatement.from_json(row["statement"])
        for row in rows
        if row["repeat"] == 0 and row["statement"]["epsilon"] != 0
    }
    section = Section(
        title="The first items new people see",
        lead=f"{grid.people:,} people with {grid.ratings} answers each taught; {grid.new_people} newcomers looked at "
        f"the first {grid.first} items of a stream before any rating of theirs. Percentile: of an item among the "
        f"generator's own, by the newcomer's true taste. Bands are over {grid.repeats} crowds.",
        parts=[_table(rows, f"{level:g}") for level in grid.levels],
    )
    return Report(
        experiment="population-policies",
        title="Streams for new people",
        headline=headline(rows, look),
        about="People of invented tastes answered questions; what they taught was released under a budget. "
        "A policy was made of each release alone, so its privacy is that of the release.",
        sections=[section],
        settings=settings,
        frames={"streams": frame},
        statements=claims,
        limits=[
            "People are invented; their tastes are functions of pictures that no method sees.",
            "How much a newcomer gains depends on how much people have in common: see the setting shared.",
        ],
        seconds=seconds,
    )


def _frame(grid: PopulationPolicyGrid, rows: Rows) -> Frame:
    records = [
        {
            "way": row["way"],
            "epsilon": row["epsilon"],
            "level": level,
            "repeat": row["repeat"],
            "percentile": sum(row["levels"][f"{level:g}"]["percentile"]) / grid.new_people,
            "better off": _better(row["levels"][f"{level:g}"]["percentile"]),
            "diversity": row["levels"][f"{level:g}"]["diversity"],
            "divergence": row["divergence"],
            "clipped": row["clipped"],
            "seconds": row["seconds"],
        }
        for row in rows
        for level in grid.levels
    ]
    return Frame.of(records, keys=["way", "epsilon", "level", "repeat"])


def _better(percentile: Sequence[float]) -> float:
    return sum(value > 0.5 for value in percentile) / len(percentile)


def _table(rows: Rows, level: str) -> Table:
    from simulations.lab.population_policies import gained

    gains, shown = gained(rows, level), []
    for key in dict.fromkeys((row["way"], row["epsilon"]) for row in rows):
        mine = [row for row in rows if (row["way"], row["epsilon"]) == key]
        seen = [row["levels"][level] for row in mine]
        percentile = band([each["percentile"] for each in seen])
        gain = band(gains[key]) if key in gains else None
        diversity = sum(each["diversity"] for each in seen) / len(seen)
        better = sum(_better(each["percentile"]) for each in seen) / len(seen)
        name = key[0] if key not in gains else f"{key[0]}, ε {key[1]:g}"
        shown.append([name, _shown(percentile), None if gain is None else _shown(gain), f"{better:.0%}", diversity])
    heroes = [at for at, row in enumerate(shown) if row[0] == f"policy-gradient, ε {AIM_EPSILON:g}"]
    return Table(
        title=f"At level {level}",
        columns=["stream", "percentile", "above the generator", "newcomers better off", "diversity"],
        rows=[[*row[:4], f"{row[4]:.2f}"] for row in shown],
        hero_rows=heroes,
    )


def _shown(value: Band) -> Cell:
    spread = "" if value.low != value.low else f"{value.low:.3f}–{value.high:.3f}"
    return Cell(f"{value.mean:.3f}".replace("-", "−"), spread.replace("-", "−"))


def headline(rows: Rows, level: str) -> str:
    """The main finding."""
    from simulations.lab.population_policies import gained

    gains = gained(rows, level)
    told = []
    for (way, epsilon), repeats in gains.items():
        if epsilon == AIM_EPSILON or len(gains) == 1:
            found = band(repeats)
            verdict = "at least" if found.mean >= AIM else "less than"
            told.append(f"{way} at epsilon {epsilon:g}: {found.mean:+.3f} ({verdict} the {AIM} aimed at)")
    which = "; ".join(told) or "no budget of epsilon 2 was tried"
    return f"First items of newcomers, mean percentile above the generator's own: {which}."
