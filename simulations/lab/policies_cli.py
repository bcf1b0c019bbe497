"""``plgl simulate policies``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from client.policy import LEVEL
from simulations.lab.cli import AsJson, Jobs, Out, Seed, Set, show


def policies(
    out: Out = Path("plgl-policies"),
    generators: Annotated[
        str,
        typer.Option(
            "--generators",
            "--generator",
            help="Generator packs, each a name or a folder, and toy, e.g. art,toy; all that are there without.",
        ),
    ] = "",
    methods: Annotated[str, typer.Option(help="Ways to make a stream, e.g. base,policy; all without.")] = "",
    people: Annotated[int, typer.Option(help="People of each panel.")] = 4,
    level: Annotated[float, typer.Option(help="0 safe to 1 surprising.")] = LEVEL,
    repeats: Annotated[int, typer.Option(help="Independent panels; bands are over them.")] = 3,
    seed: Seed = 0,
    sets: Set = [],  # noqa: B006
    jobs: Jobs = 1,
    as_json: AsJson = False,
) -> None:
    """Endless streams of every kind in one table: base, best of many, search, policies, distilled, federated, flows.

    True utility, items loved, held-out reward, diversity, Fréchet distance, precision, recall and pace of each, on art,
    avatars, the flow toy, and faces where they were fetched; and a learner without a guard that is caught cheating.
    The same command goes on after any interruption.
    """
    import torch

    from simulations.lab import policies as experiment
    from simulations.lab.assignments import assigned

    given = [f"people={people}", f"level={level}", f"repeats={repeats}", f"seed={seed}"]
    given += [f"generators={generators}"] if generators else []
    given += [f"methods={methods}"] if methods else []
    grid = assigned([*given, *sets], experiment.PolicyGrid())
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # many small matrices: more threads only wait for each other, long on a busy machine
    show(experiment.run(grid, out, jobs=jobs), as_json)
