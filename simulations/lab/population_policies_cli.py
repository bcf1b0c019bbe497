"""``plgl simulate population-policies``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from simulations.lab.cli import AsJson, Jobs, Out, Seed, Set, show


def population_policies(
    out: Out = Path("plgl-population-policies"),
    epsilon: Annotated[str, typer.Option(help="Budgets, e.g. 1,2,8; inf for no noise.")] = "1,2,8",
    ways: Annotated[str, typer.Option(help="policy-gradient, dp-em, or both.")] = "policy-gradient,dp-em",
    generator: Annotated[str, typer.Option(help="Generator pack: a name or a folder.")] = "art",
    people: Annotated[int, typer.Option(help="People who teach.")] = 2_000,
    levels: Annotated[str, typer.Option(help="0 safe to 1 surprising, e.g. 0.3,0.")] = "0.3,0",
    repeats: Annotated[int, typer.Option(help="Independent crowds; bands are over them.")] = 3,
    seed: Seed = 0,
    sets: Set = [],  # noqa: B006
    jobs: Jobs = 1,
    as_json: AsJson = False,
) -> None:
    """What new people are shown before any rating: streams of policies that many people taught in private.

    By people's own policy gradients, and made of a released prior. Each policy is kept in the folder, with its privacy
    statement; start a stream from one with: plgl stream --population FOLDER/policies/NAME
    """
    import torch

    from simulations.lab import population_policies as experiment
    from simulations.lab.assignments import assigned

    given = [f"epsilon={epsilon}", f"ways={ways}", f"generator={generator}", f"people={people}", f"levels={levels}"]
    given += [f"repeats={repeats}", f"seed={seed}"]
    grid = assigned([*given, *sets], experiment.PopulationPolicyGrid())
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # many small matrices: more threads only wait for each other
    show(experiment.run(grid, out, jobs=jobs), as_json)
