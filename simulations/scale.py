"""``plgl simulate scale``: a private prior from a million invented people on one machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def scale(
    out: Annotated[Path, typer.Option(help="Folder for everything that comes out; resumed if it is there.")] = Path(
        "plgl-scale"
    ),
    people: Annotated[int, typer.Option(help="Who take part.")] = 1_000_000,
    ratings: Annotated[int, typer.Option(help="Answers of each of them.")] = 30,
    components: Annotated[int, typer.Option(help="Features of the latent map to use.")] = 32,
    rounds: Annotated[int, typer.Option(help="Releases; everybody takes part in each.")] = 4,
    epsilon: Annotated[float, typer.Option(help="Privacy budget over all rounds; inf for none.")] = 1.0,
    delta: Annotated[float, typer.Option(help="Failure probability of the budget.")] = 1e-6,
    norm_bound: Annotated[float, typer.Option(help="Clip norm of one person's update.")] = 6.0,
    step: Annotated[float, typer.Option(help="Learning rate of the server.")] = 2.0,
    feedback: Annotated[str, typer.Option(help="like, choice, stars, best or worst.")] = "like",
    generator: Annotated[str, typer.Option(help="Generator pack, or abstract for items without pictures.")] = "art",
    pool: Annotated[int, typer.Option(help="Items that questions are about.")] = 4_000,
    unseen: Annotated[int, typer.Option(help="Items to recommend from.")] = 2_000,
    new_people: Annotated[int, typer.Option(help="Newcomers to try the prior on.")] = 500,
    shared: Annotated[float, typer.Option(help="How much people have in common, 0 to 1.")] = 0.9,
    archetypes: Annotated[int, typer.Option(help="Archetypes of invented people.")] = 5,
    precision: Annotated[str, typer.Option(help="float32 or float64, of people's fits.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    chunk: Annotated[int, typer.Option(help="People worked on together; 0 for what suits the device.")] = 0,
    threads: Annotated[int, typer.Option(help="Chunks at the same time on a CPU; 0 for one on each core.")] = 0,
    seed: Annotated[int, typer.Option(help="Of items and people. Privacy noise never has a seed.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print results.json to standard output, nothing else.")
    ] = False,
) -> None:
    """Train a private prior on very many invented people, made up as they are needed, in little memory.

    Says people per second and the share of the machine's limits reached. The prior is kept after each round: the same
    command goes on after any interruption, and noise is never drawn twice for a round.
    """
    from dataclasses import asdict

    from rich.console import Console

    from simulations.batched import Speed
    from simulations.machine import chosen_device
    from simulations.run_folder import RunFolder
    from simulations.scale_report import report
    from simulations.scale_run import Scale, run

    settings = Scale(
        people=people,
        ratings=ratings,
        components=components,
        rounds=rounds,
        epsilon=epsilon,
        delta=delta,
        norm_bound=norm_bound,
        step=step,
        feedback=feedback,
        generator=generator,
        pool=pool,
        unseen=unseen,
        new_people=new_people,
        shared=shared,
        archetypes=archetypes,
        precision=precision,
        seed=seed,
    )
    on = chosen_device(device)
    speed = Speed(chunk=chunk, threads=1 if on.type != "cpu" else threads or os.cpu_count() or 1)
    with RunFolder.open(out, "simulate scale", asdict(settings), seeds=[seed]) as folder:
        page = report(settings, run(settings, folder, on, speed))
        path = page.write(folder)
        folder.finish()
        if as_json:
            sys.stdout.write(page.to_json())
            return
        console = Console()
        page.print(console)
        console.print(f"\nreport  {path}", highlight=False, soft_wrap=True)
