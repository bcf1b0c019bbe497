"""The comparison as a run: what is computed in which order, kept, gone on with, and reported."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from client.flows.checkpoint import open_checkpoint
from client.generators.manifest import Manifest
from client.generators.pack import GeneratorPack
from common.errors import SettingError
from simulations.lab.frames import strict
from simulations.lab.grid import Advance, Cell, compute_all
from simulations.lab.lab_run import LabRun
from simulations.lab.policies import crowds, findings, hacking, latents, toy
from simulations.lab.policies.grid import TOY, PolicyGrid
from simulations.lab.policies.listening import Heard, interview, who
from simulations.lab.policies.sheets import sheets
from simulations.progress import Stages
from simulations.run_folder import RunFolder
from simulations.streams import STREAMS, stream

COMMAND = "simulate policies"


def run(grid: PolicyGrid, out: str | Path = "plgl-policies", *, jobs: int = 1, quiet: bool = False) -> LabRun:
    """Compute what is not computed yet, and write tables, contact sheets and report.

    Args:
        grid: what to compare.
        out: folder; a run with the same settings is gone on with.
        jobs: processes.
        quiet: no progress.

    Raises:
        SettingError: a method needs something that is not installed, or a generator makes no pictures.
        PackError: there is no such generator, or it is damaged.
        FolderError: the folder holds something else.
    """
    for method in grid.methods:
        if method in STREAMS:
            stream(method)  # refuses what cannot be imported
    settings = strict({**asdict(grid), "packs": [_named(generator) for generator in grid.generators]})
    before, cells = grid.preparations(), grid.cells()
    with RunFolder.open(out, COMMAND, settings, seeds=[grid.seed]) as folder:
        stages = Stages({cell.label: cell.work for cell in [*before, *cells]}, quiet=quiet)
        place = str(folder.folder)
        with stages:
            prepared = compute_all(before, partial(_prepare, grid, place), folder, stages, jobs=jobs)
            ready = dict(zip((cell.name for cell in before), prepared, strict=True))
            heard = {who(cell): ready[cell.name]["events"] for cell in before if cell.axes["part"] == "answers"}
            found = compute_all(cells, partial(_compute, grid, place, heard), folder, stages, jobs=jobs)
        rows = [{**cell.axes, **values} for cell, values in zip(cells, found, strict=True)]
        releases = [(cell, ready[cell.name]) for cell in before if cell.axes["part"] == "crowd"]
        report = findings.report(grid, rows, releases, settings, stages.seconds, sheets(grid, rows))
        report.write(folder)
        folder.finish()
        return LabRun.of(folder.folder, report)


def _named(generator: str) -> str:
    if generator == TOY:
        return f"{TOY} {open_checkpoint().fingerprint}"
    pack = GeneratorPack.open(generator)
    check_pictures(pack.manifest)
    return f"{pack.name} {pack.version} {pack.hash}"


def check_pictures(manifest: Manifest) -> None:
    """Refuse a generator of something else than pictures, which are all that these people look at.

    Raises:
        SettingError: it makes something else.
    """
    made = manifest.output
    if made.kind != "image":
        raise SettingError(
            f"generators={manifest.name} makes {made.kind} of shape {made.shape}; the people of this experiment look "
            "at pictures; leave it out"
        )


def _prepare(grid: PolicyGrid, folder: str, cell: Cell, advance: Advance) -> dict[str, Any]:
    prepare = crowds.release if cell.axes["part"] == "crowd" else interview
    return prepare(grid, folder, cell, advance)


def _compute(grid: PolicyGrid, folder: str, heard: Heard, cell: Cell, advance: Advance) -> dict[str, Any]:
    if cell.axes.get("part") == "hacking":
        return hacking.caught(grid, folder, heard, cell, advance)
    if cell.axes["generator"] == TOY:
        return toy.streamed(grid, folder, cell, advance)
    return latents.streamed(grid, folder, heard, cell, advance)
