"""``plgl simulate audit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def audit(
    out: Annotated[Path, typer.Option(help="Folder for everything that comes out; resumed if it is there.")] = Path(
        "plgl-audit"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="A small version: one claim, two runs, no power table.")
    ] = False,
    settings: Annotated[
        list[str], typer.Option("--set", help="A setting, e.g. --set epsilons=1,2,4 --set repeats=20; listed above.")
    ] = [],  # noqa: B006
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print results.json to standard output, nothing else.")
    ] = False,
) -> None:
    """Attack the shipped build and broken ones: does the epsilon of the statement hold, and would we notice if not?

    Settings: epsilons, delta, participations, norm_bound, builds, repeats, runs, draws, parameters, canaries, guesses,
    members, trials, power_repeats, confidence, alpha, seed, noise_seed.

    Ends with 1 where the shipped build is flagged more often than chance explains, or a broken one is missed.
    """
    import os

    import torch

    from simulations.audits import experiment, findings
    from simulations.lab.assignments import assigned

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # many small matrices: more threads only wait for each other, long on a busy machine
    chosen = experiment.AuditSettings()
    chosen = assigned(settings, experiment.quick(chosen) if quick else chosen)
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
