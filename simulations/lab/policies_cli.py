"""``plgl simulate policies``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from simulations.lab.cli import AsJson, Jobs, Out, Seed, Set, show


def policies(
    out: Out = Path("plgl-policies"),
    methods: Annotated[str, typer.Option(help="Ways to make a stream, e.g. base,policy; all without.")] = "",
    generator: Annotated[str, typer.Option(help="Generator pack: a name or a folder.")] = "art",
    people: Annotated[int, typer.Option(help="People of each panel.")] = 8,
    level: Annotated[float, typer.Option(help="0 safe to 1 surprising.")] = 0.3,
    repeats: Annotated[int, typer.Option(help="Independent panels; bands are over them.")] = 3,
    seed: Seed = 0,
    sets: Set = [],  # noqa: B006
    jobs: Jobs = 1,
    as_json: AsJson = False,
) -> None:
    """Endless streams after a few answers: the generator alone, best of many, search, policies, and how they compare.

    True utility, items loved, diversity, Fréchet distance, precision, recall, held-out reward and pace of each; and a
    learner without a guard that is caught cheating. The same command goes on after any interruption.
    """
    import torch

    from simulations.lab import policies as experiment
    from simulations.lab.assignments import assigned

    given = [f"generator={generator}", f"people={people}", f"level={level}", f"repeats={repeats}", f"seed={seed}"]
    given += [f"methods={methods}"] if methods else []
    grid = assigned([*given, *sets], experiment.PolicyGrid())
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # many small matrices: more threads only wait for each other, long on a busy machine
    show(experiment.run(grid, out, jobs=jobs), as_json)
