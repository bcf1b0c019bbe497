"""``plgl simulate privacy``: what does epsilon cost, for how many people, with which method?

A cell is one strategy with one budget on one crowd. Crowds, newcomers and their questions are the same for all
strategies, budgets and participations of a repeat, so differences are paired.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from common.errors import SettingError
from simulations.invented_crowd import Habits
from simulations.lab import privacy_findings
from simulations.lab.frames import Value, strict
from simulations.lab.grid import Cell
from simulations.lab.lab_run import LabRun
from simulations.lab.scene import Scene, check_axis
from simulations.lab.sweep import carry_out_all
from simulations.lab.trial import Trial, takes_budget
from simulations.run_folder import RunFolder

COMMAND = "simulate privacy"


@dataclass(frozen=True, kw_only=True)
class PrivacyGrid(Scene):
    """Settings of the experiment, besides those of ``Scene``; every tuple is an axis of the grid.

    Attributes:
        epsilons: budgets over all rounds together; infinity for no noise.
        people: who take part.
        participations: rounds, everybody in each; 0 for as many as suit each strategy.
        shared: how much people have in common, 0 (nothing) to 1 (archetypes only).
        archetypes: of the population.
    """

    epsilons: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, math.inf)
    people: tuple[int, ...] = (300, 1_000, 5_000)
    participations: tuple[int, ...] = (0,)
    shared: tuple[float, ...] = (0.9,)
    archetypes: int = 5

    def _check_axes(self) -> None:
        for name in ("epsilons", "people", "participations", "shared"):
            check_axis(name, getattr(self, name))
        if min(self.participations) < 0:
            raise SettingError(
                f"participations={min(self.participations)} must be >= 1, or 0 for what suits a strategy"
            )
        if min(self.people) < 1:
            raise SettingError(f"people={min(self.people)} must be >= 1; try 1000")

    def cells(self) -> list[Cell]:
        """All points of the grid, small crowds first; one cell for all budgets where a strategy takes none."""
        found = []
        for repeat, people, shared, participations, strategy in product(
            range(self.repeats), sorted(self.people), self.shared, self.participations, self.strategies
        ):
            for epsilon in self.epsilons if takes_budget(strategy) else (math.inf,):
                axes: dict[str, Value] = {
                    "strategy": strategy,
                    "shared": shared,
                    "people": people,
                    "participations": participations,
                    "epsilon": epsilon,
                    "repeat": repeat,
                }
                found.append(Cell(axes=axes, seeds=self.seeds(repeat)))
        return found

    def trial(self, cell: Cell) -> Trial:
        """What is tried in a cell."""
        axes: Any = cell.axes
        return self.trial_of(
            cell,
            strategy=axes["strategy"],
            epsilon=axes["epsilon"],
            people=axes["people"],
            participations=axes["participations"],
            population=self.law(shared=axes["shared"], archetypes=self.archetypes),
            habits=Habits(),
        )


def run(grid: PrivacyGrid, out: str | Path = "plgl-privacy", *, jobs: int = 1, quiet: bool = False) -> LabRun:
    """Compute what is not computed yet, and write tables and report.

    Args:
        grid: what to compute.
        out: folder of the run; the same grid goes on in it.
        jobs: processes.
        quiet: print no progress.

    Raises:
        SettingError: a setting is outside its range, or a budget cannot be kept.
        FolderError: the folder is not ours, or holds a run with other settings.
    """
    settings = strict({**asdict(grid), "items": grid.pack()})
    with RunFolder.open(out, COMMAND, settings, seeds=[grid.seed]) as folder:
        outcomes, seconds = carry_out_all(grid, folder, jobs=jobs, quiet=quiet)
        report = privacy_findings.report(grid, outcomes, settings, seconds)
        report.write(folder)
        folder.finish()
        return LabRun.of(folder.folder, report)
