"""What a comparison of streams came to: one table over every generator and method, and what each generator shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from common.privacy.statement import PrivacyStatement
from simulations.lab.bands import Band, band
from simulations.lab.lab_report import Cell, Line, Panel, Picture, Plot, Report, Section, Table
from simulations.lab.policies.aims import Releases, Rows, Streams, aim_of_crowds, aim_of_guard, aims, gained
from simulations.lab.policies.cheating import section_on
from simulations.lab.policies.crowds import FIRST
from simulations.lab.policies.evaluation import MEASURES, frames
from simulations.lab.policies.grid import FETCHED, METHODS, TOY, PolicyGrid, serves
from simulations.lab.policies.sheets import slug

_HERO = "policy"


def report(
    grid: PolicyGrid,
    rows: Rows,
    releases: Releases,
    settings: Mapping[str, Any],
    seconds: Mapping[str, float],
    pictures: Mapping[str, Sequence[Picture]],
) -> Report:
    """The report of a comparison.

    Args:
        grid: what was compared.
        rows: of streams and of cheating, each with its axes.
        releases: what crowds taught, with the cells.
        settings: of the run.
        seconds: its stages took.
        pictures: contact sheets by generator.
    """
    every = [Streams(generator, rows) for generator in grid.generators]
    hacking = [row for row in rows if row.get("part") == "hacking"]
    asked = [aim for streams in every for aim in aims(streams)]
    asked += aim_of_crowds(releases) + aim_of_guard(hacking)
    sections = [_section(grid, streams, pictures.get(streams.generator, ())) for streams in every]
    if releases:
        sections.append(_crowds(grid, releases))
    if asked:
        sections.append(Section(title="What was aimed at", parts=[_aimed(asked)]))
    if hacking:
        sections.append(section_on(hacking))
    return Report(
        experiment="policies",
        title="Streams",
        headline=headline(every),
        about="Invented people answered A or B questions of an ordinary session on their own taste. Each method made a "
        "stream from the same sessions, and its items were judged by the people's true utilities and by answers that "
        "no method heard.",
        sections=sections,
        settings=settings,
        frames=frames(every, releases, asked, hacking),
        statements=_statements(releases),
        limits=_limits(grid),
        seconds=seconds,
    )


def headline(every: Sequence[Streams]) -> str:
    """The main finding: the policy of each generator, or what came out best where there is none."""
    found = ", ".join(_said(streams) for streams in every)
    return f"Mean percentile of what people are shown, from the generator alone to a stream: {found}."


def _said(streams: Streams) -> str:
    methods = streams.methods
    best = _HERO if _HERO in methods and streams.generator != TOY else max(methods, key=streams.percentile)
    alone = f"{streams.percentile('base'):.2f} → " if "base" in methods and best != "base" else ""
    return f"{streams.generator} {alone}{streams.percentile(best):.2f} ({best})"


def _section(grid: PolicyGrid, streams: Streams, pictures: Sequence[Picture]) -> Section:
    costs, kinds = _costs(streams), _kinds(streams, grid)
    toy = streams.generator == TOY
    lead = (
        f"{grid.items} shapes of each stream; {grid.repeats * grid.people} invented people who love S-curves picked "
        f"the best of four {grid.picks} times each. Utility in standard deviations over the flow's own shapes; loved: "
        "shapes of that kind; what the judge sees of a shape stands for picture features."
        if toy
        else f"{grid.items} items of each stream at level {grid.level:g}, after {grid.answers} A or B answers; "
        f"{grid.repeats} panels of {grid.people} invented people ({', '.join(grid.kinds)}). Utility in standard "
        "deviations of the person over the generator's own items; loved: among their best hundredth; held out: reward "
        "by a model of answers that no method heard; Fréchet: distance to the generator's own items."
    )
    if any(name.startswith("federated") for name in streams.methods):
        lead += (
            f" Federated: everybody's policy, taught by {grid.crowd:,} others with {grid.ratings} answers each, before "
            "any answer of the person it is shown to; more newcomers judge it below."
        )
    parts: list[Plot | Table | Picture | str] = [_table(streams), _plot(streams), costs]
    return Section(title=streams.generator, lead=lead, parts=[*parts, *([] if toy else [kinds]), *pictures])


def _table(streams: Streams) -> Table:
    rows: list[list[Any]] = [
        [
            method,
            *(_shown(streams.band(method, measure)) for measure in MEASURES),
            f"{1000 * streams.seconds(method):,.3g}",
        ]
        for method in streams.methods
    ]
    heroes = [at for at, method in enumerate(streams.methods) if method == _HERO]
    columns = ["method", *MEASURES.values(), "ms"]
    title = f"Streams of {streams.generator}; ms: of the processor, to choose and draw an item"
    return Table(title=title, columns=columns, rows=rows, hero_rows=heroes)


def _shown(value: Band, form: str = ".2f") -> Cell:
    spread = "" if value.low != value.low else f"{value.low:{form}}–{value.high:{form}}"
    return Cell(f"{value.mean:{form}}".replace("-", "−"), spread.replace("-", "−"))


def _plot(streams: Streams) -> Plot:
    """Each method as a point: what people think of it, and how varied it is."""
    lines = [
        Line(
            label=method,
            x=[streams.mean(method, "diversity")],
            y=[streams.mean(method, "percentile")],
            hero=method == _HERO,
            joined=False,
        )
        for method in streams.methods
    ]
    return Plot(
        name=f"{slug(streams.generator)}-streams",
        title="Mean percentile of what is shown, by the true taste of who sees it",
        x_label="diversity (the generator's own: 1)",
        x_scale="linear",
        percentile=True,
        named=True,
        panels=[Panel(lines=lines)],
        alt=f"Percentile and diversity of the streams of {streams.generator}",
    )


def _costs(streams: Streams) -> Table:
    rows: list[list[Any]] = []
    for method in streams.methods:
        stopped = sum(bool(row["note"]) for row in streams.rows(method))
        rows.append(
            [
                method,
                *(f"{1000 * streams.mean(method, name):,.3g}" for name in ("seconds_per_item", "seconds_to_draw")),
                streams.mean(method, "seconds_to_learn"),
                int(max(row["parameters"] for row in streams.rows(method))),
                f"{streams.mean(method, 'extreme'):.1%}",
                f"{stopped} of {len(streams.rows(method))}",
            ]
        )
    columns = ["method", "ms to choose", "ms to draw", "seconds to learn", "numbers learned", "extreme items",
               "stopped by the guard"]  # fmt: skip
    return Table(title=f"What the streams of {streams.generator} cost", columns=columns, rows=rows, folded=True)


def _kinds(streams: Streams, grid: PolicyGrid) -> Table:
    rows: list[list[Any]] = []
    for method in streams.methods:
        means: list[float | None] = []
        for at, _ in enumerate(grid.kinds):
            mine = [row["percentile"] for row in streams.rows(method) if row["person"] % len(grid.kinds) == at]
            means.append(float(np.mean(mine)) if mine else None)
        rows.append([method, *means])
    title = f"Mean percentile on {streams.generator} by kind of person"
    return Table(title=title, columns=["method", *grid.kinds], rows=rows, folded=True)


def _crowds(grid: PolicyGrid, releases: Releases) -> Section:
    """What everybody's policy is to many who said nothing: those who test are too few to tell."""
    rows: list[list[Any]] = []
    for generator in grid.packs:
        for epsilon, gains in gained(releases, generator).items():
            better = np.mean([value > 0 for repeat in gains for value in repeat])
            rows.append([generator, epsilon, _shown(band(gains), ".3f"), f"{better:.0%}"])
    lead = (
        f"{grid.newcomers} newcomers of the same population, who neither taught nor test, looked at the first {FIRST} "
        "items before any answer. The generator's own items lie at the 50th percentile of everybody's taste."
    )
    columns = ["generator", "ε", "percentile above the generator, of 1", "newcomers better off"]
    table = Table(title="First items of newcomers", columns=columns, rows=rows)
    return Section(title="Everybody's policy", lead=lead, parts=[table])


def _aimed(asked: Iterable[Mapping[str, Any]]) -> Table:
    rows = [[aim["aim"], aim["generator"], aim["reached"], aim["limit"], aim["met"]] for aim in asked]
    return Table(title="Aims", columns=["aim", "on", "reached", "limit", "met"], rows=rows)


def _statements(releases: Releases) -> dict[str, PrivacyStatement]:
    """The claim for each release, of which all repeats have the same."""
    return {
        f"{cell.axes['generator']}, epsilon {cell.axes['epsilon']:g}": PrivacyStatement.from_json(values["statement"])
        for cell, values in releases
    }


def _limits(grid: PolicyGrid) -> list[str]:
    found = [
        "People are invented; their tastes are functions of pictures that no method sees.",
        "Fréchet distance, precision and recall are on principal components of picture features, "
        f"from {grid.items} items: small differences are sampling.",
        "Seconds are processor time on a machine that did other work too. An item is chosen, then drawn as large as it "
        "is shown; best-of-n on the toy has to draw what it rejects.",
    ]
    if FETCHED not in grid.generators:
        found.append(
            f"{FETCHED.capitalize()} are not in the table: they are not installed, or were not asked for. "
            f"plgl generator add {FETCHED} fetches them, then name a new folder."
        )
    left = [name for name in METHODS if name not in grid.methods]
    if left:
        found.append(f"Not tried: {', '.join(left)}; policy-ppo needs stable-baselines3 (plgl[rl]).")
    for generator in grid.generators:
        if other := [name for name in grid.methods if not serves(name, generator)]:
            found.append(f"{generator} has no {', '.join(other)}: they are made for another kind of generator.")
    return found
