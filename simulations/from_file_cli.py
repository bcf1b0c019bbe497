"""``plgl simulate from-file``: cold start of the people in a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from common.errors import SettingError

T = TypeVar("T")


def from_file(
    file: Annotated[Path | None, typer.Argument(help="Answers as .csv, or .parquet with the parquet extra.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything that comes out; resumed if it is there.")] = Path(
        "plgl-from-file"
    ),
    example: Annotated[
        Path | None, typer.Option(help="Write an example of such a file here (invented people), and stop.")
    ] = None,
    epsilon: Annotated[list[str], typer.Option(help="Privacy budgets to compare, e.g. 0.5,1,2.")] = ["1"],  # noqa: B006
    delta: Annotated[float, typer.Option(help="Failure probability of each budget.")] = 1e-6,
    participations: Annotated[int, typer.Option(help="Rounds; the most one person takes part in.")] = 4,
    norm_bound: Annotated[float, typer.Option(help="Clip norm of one person's update.")] = 4.0,
    minimum_people: Annotated[int, typer.Option(help="Fewer people to learn from are refused.")] = 100,
    step: Annotated[float, typer.Option(help="Learning rate of the server.")] = 2.0,
    spread: Annotated[float, typer.Option(help="Log-odds scores differ by about this much before any answer.")] = 1.5,
    new_share: Annotated[float, typer.Option(help="Share of the people who are met, not learned from.")] = 0.25,
    most_new: Annotated[int, typer.Option(help="At most so many of them.")] = 2_000,
    points: Annotated[str, typer.Option(help="Own answers to look after, e.g. 0,1,2,5,10; chosen by itself.")] = "",
    engine: Annotated[str, typer.Option(help="batched, direct, inline, or ray (simulation extra).")] = "batched",
    nodes: Annotated[int, typer.Option(help="Simulated devices; each holds many people.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the first division. Privacy noise never has a seed.")] = 0,
    repeats: Annotated[int, typer.Option(help="Divisions of the people into known and new.")] = 4,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print results.json to standard output, nothing else.")
    ] = False,
) -> None:
    """Learn a private prior from some real people, then meet the others: how well are their later answers foretold?

    The file has one row for each item somebody was shown. Columns: person; item or feature.NAME columns; kind (best,
    worst, choice, like, stars); question (rows shown together); chosen (1 or 0); value (of a like 1 or 0, of stars
    1 to 5); alternatives (rows a question must have, optional); order (optional). See --example.
    """
    import torch

    from simulations.choice_example import example as made
    from simulations.choice_example import write_example
    from simulations.choice_file import read
    from simulations.from_file import Experiment, FromFile
    from simulations.from_file_report import about, report
    from simulations.run_folder import RunFolder

    if example is not None:
        write_example(example, made())
        typer.echo(f"wrote {example}; next: plgl simulate from-file {example}")
        return
    if file is None:
        raise SettingError("give a file of answers, or --example FILE to get one to look at")
    settings = FromFile(
        epsilons=_numbers(",".join(epsilon), float, "epsilon"),
        delta=delta,
        participations=participations,
        norm_bound=norm_bound,
        minimum_people=minimum_people,
        step=step,
        spread=spread,
        new_share=new_share,
        most_new=most_new,
        points=_numbers(points, int, "points"),
        engine=engine,
        nodes=nodes,
        seed=seed,
        repeats=repeats,
    )
    answers = read(file)
    Experiment(settings, answers, None)  # refuses what cannot work before any folder is made
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # many small matrices: more threads only wait for each other, long on a busy machine
    seeds = range(seed, seed + repeats)
    with RunFolder.open(out, "simulate from-file", about(settings, answers), seeds=seeds) as folder:
        experiment = Experiment(settings, answers, folder)
        found = report(experiment, experiment.run())
        page = found.write(folder)
        folder.finish()
        if as_json:
            sys.stdout.write(found.to_json())
            return
        console = Console()
        found.print(console)
        console.print(f"\nreport  {page}", highlight=False, soft_wrap=True)


def _numbers(text: str, kind: Callable[[str], T], name: str) -> tuple[T, ...]:
    """Numbers from ``0.5,1,2``; none from nothing."""
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingError(f"{name}={text!r} must be numbers with commas between; try 1,2,5") from error
