import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.errors import FolderError, PlglError, SettingError
from simulations.lab.grid import Advance, Cell, compute_all, derived_seed
from simulations.progress import Stages
from simulations.run_folder import RunFolder


def grid(seed: int = 0, count: int = 4) -> list[Cell]:
    seeds = {"crowd": derived_seed(seed, "crowd", 0)}
    return [Cell(axes={"strategy": "dp-em", "epsilon": 0.5, "n": n}, seeds=seeds) for n in range(count)]


def computed(log: Path, cell: Cell, advance: Advance) -> dict[str, Any]:
    """Notes that it ran, and fails where the log says so."""
    if (log.parent / "fail").exists() and cell.axes["n"] == 2:
        raise PlglError("no room; free some space")
    with log.open("a") as file:
        file.write(f"{cell.axes['n']}\n")
    return {"square": int(cell.axes["n"] or 0) ** 2, "third": 1 / 3}


def run(folder: Path, cells: list[Cell], *, jobs: int = 1) -> list[dict[str, Any]]:
    with RunFolder.open(folder, "test", {}) as opened:
        stages = Stages({cell.label: 1.0 for cell in cells}, quiet=True)
        with stages:
            return compute_all(cells, partial(computed, folder.parent / "log"), opened, stages, jobs=jobs)


def done(tmp_path: Path) -> list[str]:
    log = tmp_path / "log"
    return sorted(log.read_text().split()) if log.exists() else []


def test_every_cell_is_computed_once_and_saved_with_its_axes_and_seeds(tmp_path: Path) -> None:
    first = run(tmp_path / "run", grid())
    assert [values["square"] for values in first] == [0, 1, 4, 9]
    assert run(tmp_path / "run", grid()) == first
    assert done(tmp_path) == ["0", "1", "2", "3"]
    saved = json.loads((tmp_path / "run" / "cells" / "strategy=dp-em.epsilon=0.5.n=2.json").read_text())
    assert saved["axes"] == {"strategy": "dp-em", "epsilon": 0.5, "n": 2}
    assert saved["seeds"] == {"crowd": derived_seed(0, "crowd", 0)}
    assert saved["values"]["third"] == 1 / 3


def test_what_was_finished_before_a_failure_is_kept(tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with pytest.raises(PlglError, match="no room"):
        run(tmp_path / "run", grid())
    (tmp_path / "fail").unlink()
    run(tmp_path / "run", grid())
    assert done(tmp_path) == ["0", "1", "2", "3"]


def test_a_damaged_cell_is_computed_again(tmp_path: Path) -> None:
    run(tmp_path / "run", grid())
    (tmp_path / "run" / "cells" / "strategy=dp-em.epsilon=0.5.n=1.json").write_text("{")
    assert run(tmp_path / "run", grid())[1]["square"] == 1
    assert done(tmp_path) == ["0", "1", "1", "2", "3"]


def test_cells_of_other_seeds_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "run", grid())
    with pytest.raises(FolderError, match="other seeds"):
        run(tmp_path / "run", grid(seed=1))


def test_the_same_cell_twice_and_no_process_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="1 cells are there twice"):
        run(tmp_path / "run", [*grid(count=2), grid()[0]])
    with pytest.raises(SettingError, match="jobs=0"):
        run(tmp_path / "run", grid(), jobs=0)


def test_several_processes_give_what_one_gives(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert run(tmp_path / "a" / "run", grid(), jobs=2) == run(tmp_path / "b" / "run", grid())
    assert done(tmp_path / "a") == ["0", "1", "2", "3"]


def test_seeds_depend_on_master_and_purpose_only() -> None:
    assert derived_seed(0, "crowd", 1) == derived_seed(0, "crowd", 1)
    found = {derived_seed(master, purpose, n) for master in (0, 1) for purpose in ("crowd", "public") for n in (0, 1)}
    assert len(found) == 8
    assert all(0 <= seed < 2**62 for seed in found)
    assert derived_seed(0, "crowd", 0) == 2564588753438743981  # written runs rely on it


SLOW = """
import sys, time
from functools import partial
from pathlib import Path
from simulations.lab.grid import Cell, compute_all
from simulations.progress import Stages
from simulations.run_folder import RunFolder

def slow(cell, advance):
    if cell.axes["n"] == 2:
        Path(sys.argv[1], "waiting").touch()
        time.sleep(60)
    return {"n": cell.axes["n"]}

cells = [Cell(axes={"n": n}) for n in range(4)]
with RunFolder.open(Path(sys.argv[1], "run"), "test", {}) as folder:
    with Stages({cell.label: 1.0 for cell in cells}, quiet=True) as stages:
        compute_all(cells, slow, folder, stages)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 here")
def test_a_run_killed_without_warning_goes_on_with_the_cells_it_had_not_finished(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path)], cwd=root, env={**os.environ, "PYTHONPATH": root}
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "waiting").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()
    there = sorted(path.name for path in (tmp_path / "run" / "cells").iterdir())
    assert there == ["n=0.json", "n=1.json"]
    again: list[int] = []

    def quick(cell: Cell, advance: Advance) -> dict[str, Any]:
        again.append(int(cell.axes["n"] or 0))
        return {"n": cell.axes["n"]}

    cells = [Cell(axes={"n": n}) for n in range(4)]
    with (
        RunFolder.open(tmp_path / "run", "test", {}) as folder,
        Stages({cell.label: 1.0 for cell in cells}, quiet=True) as stages,
    ):
        found = compute_all(cells, quick, folder, stages)
    assert again == [2, 3]
    assert [values["n"] for values in found] == [0, 1, 2, 3]
