"""``plgl simulate attack``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from simulations.attacks.experiment import AttackSettings


def attack(
    kind: Annotated[
        list[str], typer.Option(help="reconstruction, membership, poisoning, sybils, or all; several with commas.")
    ] = ["all"],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder for everything that comes out; resumed if it is there.")] = Path(
        "plgl-attack"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes of every attack.")] = False,
    settings: Annotated[
        list[str], typer.Option("--set", help="A setting of an attack, e.g. --set poisoning.people=100,1000.")
    ] = [],  # noqa: B006
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print results.json to standard output, nothing else.")
    ] = False,
) -> None:
    """What somebody gains who does not keep to the rules, by epsilon and cohort, with and without each protection.

    Settings: reconstruction.(strategies, ratings, cohorts, epsilons, victims), membership.(people, epsilons,
    norm_bound, parameters, ratings, trials), poisoning.(strategies, ways, people, shares, epsilons, ratings, repeats),
    sybils.(people, honest, shares, epsilons, runs, ratings), ground.(latents, components, pool, spread, common, seed).

    Ends with 1 where an attack does not even work without protection: then it shows nothing.
    """
    import os

    import torch

    from simulations.attacks import experiment, findings

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # many small matrices: more threads only wait for each other, long on a busy machine
    chosen = _chosen(kind, settings, quick)
    found, folder = experiment.run(chosen, out, jobs=jobs)
    with folder:
        report = findings.report(chosen, found)
        page = report.write(folder)
        folder.finish()
    if as_json:
        sys.stdout.write(report.to_json())
    else:
        console = Console()
        report.print(console)
        console.print(f"\nreport  {page}", highlight=False, soft_wrap=True)
    if found.problems:
        for problem in found.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise typer.Exit(1)


def _chosen(kinds: list[str], assignments: list[str], quick: bool) -> AttackSettings:
    """Settings from the command line."""
    import dataclasses

    from common.errors import SettingError
    from simulations.attacks import experiment
    from simulations.lab.assignments import assigned

    names = tuple(dict.fromkeys(name.strip() for name in ",".join(kinds).split(",")))
    chosen = experiment.AttackSettings(kinds=tuple(experiment.KINDS) if names == ("all",) else names)
    chosen = experiment.quick(chosen) if quick else chosen
    for assignment in assignments:
        prefix, dot, rest = assignment.partition(".")
        if not dot or "=" in prefix:
            if len(chosen.kinds) != 1:
                raise SettingError(f"--set {assignment!r} must name its attack, e.g. --set poisoning.{assignment}")
            prefix, rest = chosen.kinds[0], assignment
        if prefix not in ("ground", *experiment.KINDS):
            raise SettingError(
                f"--set {assignment!r}: {prefix!r} must be ground or one of {', '.join(experiment.KINDS)}"
            )
        chosen = dataclasses.replace(chosen, **{prefix: assigned([rest], getattr(chosen, prefix))})
    return chosen
