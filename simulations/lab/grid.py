"""A grid of cells: each computed once, saved at once, found again by the same command after any kind of end.

A cell is one point of an experiment, e.g. one strategy with one budget, one crowd and one seed. Its seeds are derived
from the master seed and what they are for, so a cell has the same ones in any grid that holds it, and they are written
beside its values.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from common.errors import FolderError, SettingError
from simulations.lab.frames import Value
from simulations.progress import Stages
from simulations.run_folder import RunFolder

Advance = Callable[[float], None]
Compute = Callable[["Cell", Advance], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of an experiment.

    Attributes:
        axes: where it lies, e.g. ``{"strategy": "dp-em", "people": 300, "repeat": 0}``.
        seeds: what its random parts start from, by what they are for.
        work: seconds it is expected to take; only for progress.
    """

    axes: Mapping[str, Value]
    seeds: Mapping[str, int] = field(default_factory=dict)
    work: float = 1.0

    @property
    def name(self) -> str:
        """For files: ``strategy=dp-em.people=300.repeat=0``."""
        return ".".join(f"{key}={_written(value)}" for key, value in self.axes.items())

    @property
    def label(self) -> str:
        """For people: ``strategy dp-em, people 300, repeat 0``."""
        shown = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in self.axes.items()}
        return ", ".join(f"{key} {value}" for key, value in shown.items())


def derived_seed(master: int, *purpose: Value) -> int:
    """A seed for one purpose: 62 bits of SHA-256 over the master seed and the purpose.

    Guarantee: the same arguments give the same number on every machine, others an unrelated one.
    """
    text = "\x1f".join(["plgl", str(master), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 2


def compute_all(
    cells: Sequence[Cell], compute: Compute, folder: RunFolder, stages: Stages, *, jobs: int = 1
) -> list[dict[str, Any]]:
    """Values of all cells: read where an earlier run saved them, computed and saved at once where not.

    Guarantee: killed at any moment, the same call goes on with the cells that were not finished. Workers end with the
    process that started them.

    Args:
        cells: with different names.
        compute: gives the values of a cell, anything JSON holds; told where to report shares of its work (0 to 1).
            With ``jobs`` > 1 it must be picklable: a function of a module, or ``functools.partial`` of one.
        folder: of the run.
        stages: progress; holds one stage for each ``Cell.label``.
        jobs: processes. Each computes one cell at a time.

    Returns:
        One dictionary per cell, in the order of ``cells``.

    Raises:
        SettingError: two cells have the same name, or ``jobs`` < 1.
        FolderError: a saved cell was made with other seeds.
    """
    if jobs < 1:
        raise SettingError(f"jobs={jobs} must be >= 1; try 2")
    names = [cell.name for cell in cells]
    if len(set(names)) != len(names):
        raise SettingError(f"{len(names) - len(set(names))} cells are there twice; give each value of an axis once")
    found = {cell.name: _saved(folder, cell) for cell in cells}
    for cell in cells:
        if found[cell.name] is not None:
            stages.skip(cell.label)
    missing = [cell for cell in cells if found[cell.name] is None]
    finished = _in_workers if jobs > 1 and len(missing) > 1 else _one_by_one

    def keep(cell: Cell, values: dict[str, Any]) -> None:
        folder.save_cell(cell.name, {"axes": dict(cell.axes), "seeds": dict(cell.seeds), "values": values})
        found[cell.name] = values

    finished(missing, compute, stages, keep, jobs)
    return [values for name in names if (values := found[name]) is not None]


def _saved(folder: RunFolder, cell: Cell) -> dict[str, Any] | None:
    there = folder.cell(cell.name)
    if there is None or not {"seeds", "values"} <= there.keys():
        return None
    if there["seeds"] != dict(cell.seeds):
        raise FolderError(f"cell {cell.name} in {folder.folder} was made with other seeds; choose another --out")
    values: dict[str, Any] = there["values"]
    return values


Keep = Callable[[Cell, dict[str, Any]], None]


def _one_by_one(cells: Sequence[Cell], compute: Compute, stages: Stages, keep: Keep, jobs: int) -> None:
    for cell in cells:
        stages.begin(cell.label)
        keep(cell, compute(cell, stages.advance))
    stages.end()


def _in_workers(cells: Sequence[Cell], compute: Compute, stages: Stages, keep: Keep, jobs: int) -> None:
    """The largest cells first, so that no long one is left to the end; each is saved as it comes in."""
    # Fresh processes, not forks: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    stages.begin(f"{len(cells)} cells in {jobs} processes")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as pool:
        waiting: dict[Future[dict[str, Any]], Cell] = {
            pool.submit(_work, compute, cell): cell for cell in sorted(cells, key=lambda cell: -cell.work)
        }
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    cell = waiting.pop(future)
                    keep(cell, future.result())
                    stages.finish(cell.label)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    stages.end()


def _work(compute: Compute, cell: Cell) -> dict[str, Any]:
    return compute(cell, lambda _: None)


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches everybody; the first process tells about it
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker was started by somebody"

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)  # nobody is left to save what would be computed

    threading.Thread(target=end_with_parent, daemon=True).start()


def _written(value: Value) -> str:
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)
