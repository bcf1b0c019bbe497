"""``plgl simulate privacy``: what does epsilon cost, for how many people, with which method?

A cell is one strategy with one budget on one crowd, protected by one mechanism. Crowds, newcomers and their questions
are the same for all strategies, budgets, mechanisms and participations of a repeat, so differences are paired.
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
from simulations.lab.trial import Trial, takes_budget, takes_mechanism
from simulations.protection import EVERYONE, Protection
from simulations.run_folder import RunFolder

COMMAND = "simulate privacy"
_SHAPE = ("mechanism", "rounds", "cohort", "bands", "separation")


@dataclass(frozen=True, kw_only=True)
class PrivacyGrid(Scene):
    """Settings of the experiment, besides those of ``Scene``; every tuple is an axis of the grid.

    Attributes:
        epsilons: budgets over all rounds together; infinity for no noise.
        people: who take part.
        participations: rounds, everybody in each where the mechanism asks everyone; 0 for what suits each strategy.
        shared: how much people have in common, 0 (nothing) to 1 (archetypes only).
        archetypes: of the population.
        mechanism: who is asked and what noise is added, some of ``simulations.protection.MECHANISMS``. Strategies that
            protect people themselves, or nobody, ask everyone whatever stands here.
        rounds: of every training, instead of ``participations``, which is a poor name for it where few are asked.
        cohort: expected people in a round of poisson, truncated and banded; 0 for a tenth of the people.
        bands: groups asked in turn, and coefficients of the noise; banded only.
        separation: rounds from one participation of a person to the next; blt only.
    """

    epsilons: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, math.inf)
    people: tuple[int, ...] = (300, 1_000, 5_000)
    participations: tuple[int, ...] = (0,)
    shared: tuple[float, ...] = (0.9,)
    archetypes: int = 5
    mechanism: tuple[str, ...] = (EVERYONE,)
    rounds: int = 0
    cohort: int = 0
    bands: int = 4
    separation: int = 4

    @property
    def names_mechanism(self) -> bool:
        """Whether cells and tables say which mechanism: not where everyone is asked throughout."""
        return self.mechanism != (EVERYONE,)

    def settings(self) -> dict[str, Any]:
        """Everything the numbers depend on; the shape of mechanisms only where there are any."""
        unused = () if self.names_mechanism or self.rounds else _SHAPE
        return {name: value for name, value in asdict(self).items() if name not in unused} | {"items": self.pack()}

    def _check_axes(self) -> None:
        for name in ("epsilons", "people", "participations", "shared", "mechanism"):
            check_axis(name, getattr(self, name))
        if self.rounds < 0:
            raise SettingError(f"rounds={self.rounds} must be >= 1, or 0 for what participations says")
        if self.rounds and self.participations != (0,):
            raise SettingError(
                f"rounds={self.rounds} and participations={','.join(map(str, self.participations))} are two names of "
                "the same thing; give one of them"
            )
        if min(self.participations) < 0:
            raise SettingError(
                f"participations={min(self.participations)} must be >= 1, or 0 for what suits a strategy"
            )
        if min(self.people) < 1:
            raise SettingError(f"people={min(self.people)} must be >= 1; try 1000")

    def cells(self) -> list[Cell]:
        """All points of the grid, small crowds first; one cell for all budgets where a strategy takes none."""
        found = []
        for repeat, people, shared, participations, mechanism, strategy in product(
            range(self.repeats), sorted(self.people), self.shared, self.participations, self.mechanism, self.strategies
        ):
            if not takes_mechanism(strategy):
                if mechanism != self.mechanism[0]:
                    continue  # once is enough
                mechanism = EVERYONE
            named: dict[str, Value] = {"mechanism": mechanism} if self.names_mechanism else {}
            for epsilon in self.epsilons if takes_budget(strategy) else (math.inf,):
                axes: dict[str, Value] = {
                    "strategy": strategy,
                    "shared": shared,
                    "people": people,
                    "participations": self.rounds or participations,
                    **named,
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
            protection=Protection(
                mechanism=axes.get("mechanism", EVERYONE),
                cohort=self.cohort,
                bands=self.bands,
                separation=self.separation,
            ),
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
    settings = strict(grid.settings())
    with RunFolder.open(out, COMMAND, settings, seeds=[grid.seed]) as folder:
        outcomes, seconds = carry_out_all(grid, folder, jobs=jobs, quiet=quiet)
        report = privacy_findings.report(grid, outcomes, settings, seconds)
        report.write(folder)
        folder.finish()
        return LabRun.of(folder.folder, report)
