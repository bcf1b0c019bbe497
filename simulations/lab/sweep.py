"""Carry out all trials of a scene: what it will take, the items, the cells, the progress."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import SettingError
from simulations.lab.grid import Advance, Cell, compute_all
from simulations.lab.lab_report import Table
from simulations.lab.scene import ABSTRACT, Scene
from simulations.lab.trial import Pace, Trial, carry_out, measure_pace, takes_mechanism, world_at
from simulations.progress import Stages
from simulations.run_folder import RunFolder
from simulations.world import World

ITEMS = "items.safetensors"
_ITEM_SECONDS = 0.005  # to draw a picture and look at it
_LOUD = 1.0  # noise as long as the longest update: little is left to learn from


@dataclass(frozen=True)
class Outcome:
    """A cell and what came out of it."""

    cell: Cell
    values: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a sweep will do, before it does it.

    Attributes:
        cells: with the work each is expected to be, in seconds of one process.
        paces: of each strategy on this machine.
        releases: one row per strategy, mechanism, people, rounds and budget: the claim and its noise.
        seconds: expected for everything, on so many jobs.
    """

    cells: list[Cell]
    paces: dict[str, Pace]
    releases: list[dict[str, Any]]
    seconds: float

    def tables(self) -> list[Table]:
        """For ``--dry-run``."""
        by_strategy: dict[str, list[Cell]] = {}
        for cell in self.cells:
            by_strategy.setdefault(str(cell.axes["strategy"]), []).append(cell)
        work: list[list[Any]] = [
            [name, len(cells), clock(sum(cell.work for cell in cells))] for name, cells in by_strategy.items()
        ]
        rows: list[list[Any]] = [[row[column] for column in _SHORT] for row in self.releases]
        title = "What would be released (z: noise multiplier; noise: on a round's mean, in norm bounds)"
        return [
            Table(title=f"{len(self.cells)} cells", columns=["strategy", "cells", "time on one core"], rows=work),
            Table(title=title, columns=list(_SHORT.values()), rows=rows),
        ]

    def warnings(self) -> list[str]:
        """What will hardly show anything."""
        loud = [row for row in self.releases if row["noise / norm bound"] > _LOUD]
        return [
            f"{row['strategy']} ({row['mechanism']}) with {row['people']:,} people at epsilon {row['epsilon']:g}: "
            "noise on the mean is "
            f"{row['noise / norm bound']:.1f} times as long as an update may be; more people or fewer rounds help"
            for row in loud
        ]


_SHORT = {
    "strategy": "strategy", "mechanism": "mechanism", "people": "people", "rounds": "rounds", "asked each": "asked",
    "epsilon": "ε", "noise multiplier z": "z", "noise / norm bound": "noise",
}  # fmt: skip
"""Columns of a release, and how they are headed where there is little room."""


def plan(scene: Scene, jobs: int = 1) -> Plan:
    """Measure the pace of this machine on a handful of people, and foretell the rest.

    Raises:
        SettingError: a budget cannot be kept with the updates a strategy has.
    """
    world = World.abstract(components=scene.components, latents=24, pool=200, unseen=scene.unseen)
    paces: dict[str, Pace] = {}
    releases: dict[tuple[Any, ...], dict[str, Any]] = {}
    cells = []
    for cell in scene.cells():
        trial = scene.trial(cell)
        if trial.strategy not in paces:
            paces[trial.strategy] = measure_pace(trial, world)
        pace = paces[trial.strategy]
        cells.append(dataclasses.replace(cell, work=pace.seconds(trial)))
        key = (trial.strategy, trial.people, trial.participations, trial.epsilon, trial.protection)
        if key not in releases:
            releases[key] = _release(trial, world, pace)
    work = sum(cell.work for cell in cells)
    longest = max(cell.work for cell in cells)
    return Plan(cells, paces, list(releases.values()), _items_seconds(scene) + max(longest, work / jobs))


def _release(trial: Trial, world: World, pace: Pace) -> dict[str, Any]:
    try:
        statement, noise = trial.claim(world, pace.numbers)
    except SettingError as error:
        raise SettingError(f"{trial.strategy} cannot keep epsilon={trial.epsilon:g}: {error}") from error
    return {
        "strategy": trial.strategy,
        "mechanism": trial.protection.mechanism if takes_mechanism(trial.strategy) else "its own",
        "people": trial.people,
        "rounds": trial.promise().participations,
        "asked each": round(trial.asked),
        "epsilon": statement.epsilon,
        "noise multiplier z": statement.noise_multiplier,
        "noise / norm bound": noise,
    }


def _items_seconds(scene: Scene) -> float:
    return 0.1 if scene.generator == ABSTRACT else _ITEM_SECONDS * (scene.pool + scene.unseen + 1_000)


def clock(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3600:.1f} h"


def carry_out_all(
    scene: Scene, folder: RunFolder, *, jobs: int = 1, quiet: bool = False
) -> tuple[list[Outcome], dict[str, float]]:
    """Compute every cell of a scene that its folder does not hold yet.

    Returns:
        All outcomes, in the order of ``scene.cells()``, and the seconds each stage took.
    """
    there = [folder.cell(cell.name) is not None for cell in scene.cells()]
    cells = scene.cells() if all(there) else plan(scene, jobs).cells
    stages = Stages({"items": _items_seconds(scene), **{cell.label: cell.work for cell in cells}}, quiet=quiet)
    with stages:
        path = folder.path(ITEMS)
        if path.exists():
            stages.skip("items")
        else:
            stages.begin("items")
            total = scene.pool + scene.unseen
            world = scene.world(lambda drawn: stages.advance(drawn / total))
            world.save(path)
            stages.end()
        found = compute_all(cells, partial(_compute, scene, path), folder, stages, jobs=jobs)
    return [Outcome(cell, values) for cell, values in zip(cells, found, strict=True)], stages.seconds


def _compute(scene: Scene, items: Path, cell: Cell, advance: Advance) -> dict[str, Any]:
    return carry_out(scene.trial(cell), world_at(items), advance)
