"""Commands of the lab: ``plgl simulate privacy``, ``population`` and ``diff``.

All of them take ``--set key=value`` for every field of their settings, and say with ``--dry-run`` what they would do.
Heavy libraries are imported when a command runs, so that help stays quick.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulations.lab.lab_run import LabRun
    from simulations.lab.scene import Scene

Set = Annotated[
    list[str],
    typer.Option("--set", help="Any setting as key=value, e.g. --set people=300,1000; repeatable. See --dry-run."),
]
Out = Annotated[Path, typer.Option(help="Folder for everything that comes out; resumed if it is there.")]
Repeats = Annotated[int, typer.Option(help="Independent crowds; bands are over them.")]
Seed = Annotated[int, typer.Option(help="Master seed; all others are derived. Privacy noise never has one.")]
Jobs = Annotated[int, typer.Option(help="Processes; each computes one cell at a time.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show settings, cells, time and budgets; compute nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print results.json to standard output, nothing else.")]


def privacy(
    out: Out = Path("plgl-privacy"),
    epsilon: Annotated[str, typer.Option(help="Budgets, e.g. 0.5,1,2,inf.")] = "",
    people: Annotated[str, typer.Option(help="How many take part, e.g. 300,1000,100000.")] = "",
    participations: Annotated[str, typer.Option(help="Rounds, e.g. 1,4,16; 0 for what suits each method.")] = "",
    strategy: Annotated[str, typer.Option(help="Methods, e.g. dp-em,fedrep; the first is the one compared.")] = "",
    shared: Annotated[str, typer.Option(help="How much people have in common, e.g. 1,0.9,0.5,0.")] = "",
    mechanism: Annotated[
        str, typer.Option(help="Who is asked: everyone,poisson,truncated,banded,blt; see also --set rounds=100.")
    ] = "",
    repeats: Repeats = 3,
    seed: Seed = 0,
    sets: Set = [],  # noqa: B006
    jobs: Jobs = 1,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """What does a privacy budget cost, for how many people, with which method? Draws utility over epsilon.

    Without options, a grid of five methods, six budgets and three sizes of crowd. Every cell is saved when it is done:
    the same command goes on after any interruption.
    """
    from simulations.lab import privacy as experiment
    from simulations.lab.assignments import assigned

    axes = {
        "epsilons": epsilon, "people": people, "participations": participations, "strategies": strategy,
        "shared": shared, "mechanism": mechanism, "repeats": str(repeats), "seed": str(seed),
    }  # fmt: skip
    given = [f"{name}={text}" for name, text in axes.items() if text]
    grid = assigned([*given, *sets], experiment.PrivacyGrid())
    _carry_out(grid, lambda: experiment.run(grid, out, jobs=jobs), jobs, dry_run, as_json)


def population(
    out: Out = Path("plgl-population"),
    epsilon: Annotated[float, typer.Option(help="Budget of every trial.")] = 1.0,
    people: Annotated[int, typer.Option(help="How many take part.")] = 2_000,
    strategy: Annotated[str, typer.Option(help="Methods, e.g. dp-em,local-only; the first is compared.")] = "",
    repeats: Repeats = 3,
    seed: Seed = 0,
    sets: Set = [],  # noqa: B006
    jobs: Jobs = 1,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Who people are and what they do: archetypes, common tastes, drift, drop-outs, unequal activity.

    One of them is varied at a time around a base, the first value of each: --set drift=0,0.1,0.3 and so on.
    """
    from simulations.lab import population as experiment
    from simulations.lab.assignments import assigned

    axes = {
        "epsilon": str(epsilon), "people": str(people), "strategies": strategy, "repeats": str(repeats),
        "seed": str(seed),
    }  # fmt: skip
    given = [f"{name}={text}" for name, text in axes.items() if text]
    grid = assigned([*given, *sets], experiment.PopulationGrid())
    _carry_out(grid, lambda: experiment.run(grid, out, jobs=jobs), jobs, dry_run, as_json)


def diff(
    first: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    second: Annotated[Path, typer.Argument(help="Folder of another run of the same experiment.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("plgl-diff"),
    table: Annotated[str, typer.Option(help="Table to compare; curves without.")] = "",
    measure: Annotated[str, typer.Option(help="Column to compare; the first measure without.")] = "",
    as_json: AsJson = False,
) -> None:
    """Compare two runs: settings that differ, values that differ, paired row by row."""
    from simulations.lab import compare_runs

    show(compare_runs.run(first, second, out, table=table, measure=measure), as_json)


def _carry_out(scene: Scene, run: Callable[[], LabRun], jobs: int, dry_run: bool, as_json: bool) -> None:
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # many small matrices: more threads only wait for each other, long on a busy machine
    if dry_run:
        _foretell(scene, jobs, as_json)
    else:
        show(run(), as_json)


def _foretell(scene: Scene, jobs: int, as_json: bool) -> None:
    """What a run would do, for a terminal or as JSON."""
    from dataclasses import asdict

    from simulations.lab.frames import strict_json
    from simulations.lab.lab_report import on_terminal, settings_table
    from simulations.lab.sweep import clock, plan

    scene.pack()  # refuses a generator that is not there
    found = plan(scene, jobs)
    if as_json:
        cells = [{**cell.axes, "seeds": cell.seeds, "seconds": round(cell.work, 3)} for cell in found.cells]
        about = {"cells": cells, "releases": found.releases, "seconds": round(found.seconds, 1)}
        sys.stdout.write(strict_json({"settings": asdict(scene), **about}))
        return
    console = Console()
    for table in [settings_table(asdict(scene)), *found.tables()]:
        console.print(on_terminal(table))
    for warning in found.warnings():
        console.print(warning, style="yellow", highlight=False, markup=False)
    many = f"{jobs} processes" if jobs > 1 else "one process"
    console.print(f"about {clock(found.seconds)} with {many} on this machine, with cores of their own", highlight=False)


def show(run: LabRun, as_json: bool) -> None:
    """Print what a finished run found: its tables and where the report is, or its ``results.json`` and nothing else."""
    if as_json:
        sys.stdout.write((run.folder / "results.json").read_text(encoding="utf-8"))
        return
    console = Console()
    for line in run.tables:
        console.print(line)
    console.print(run.headline, highlight=False, markup=False)
    console.print(f"\nreport  {run.page}", highlight=False, soft_wrap=True)
