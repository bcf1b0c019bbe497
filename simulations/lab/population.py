"""``plgl simulate population``: how much does it matter who people are, how much they differ, and what they do?

One thing is varied at a time around a base: archetypes, what people share, drift of tastes, drop-outs, unequal
activity. So each panel of the picture answers one question, and the base is a point in all of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from common.errors import SettingError
from simulations.invented_crowd import Habits
from simulations.lab import population_findings
from simulations.lab.frames import Value, strict
from simulations.lab.grid import Cell
from simulations.lab.lab_run import LabRun
from simulations.lab.scene import Scene, check_axis
from simulations.lab.sweep import carry_out_all
from simulations.lab.trial import Trial
from simulations.run_folder import RunFolder

COMMAND = "simulate population"


@dataclass(frozen=True, kw_only=True)
class PopulationGrid(Scene):
    """Settings of the experiment, besides those of ``Scene``. The first value of each axis is that of the base.

    Attributes:
        epsilon: budget over all rounds together; infinity for no noise.
        people: who take part.
        participations: rounds, everybody in each; 0 for as many as suit each strategy.
        shared: how much people have in common, 1 (archetypes only) to 0 (nothing).
        archetypes: how many there are.
        drift: radians by which the archetypes turn from one round to the next; newcomers are met after the last.
        drop_out: chance that somebody says nothing in a round.
        unequal: 0, everybody gives all ratings; 1, any number is as likely as any other; 3, a few give most.
    """

    strategies: tuple[str, ...] = ("dp-em", "dp-em-mixture", "fedavg-logistic", "local-only")
    epsilon: float = 1.0
    people: int = 2_000
    participations: int = 0
    shared: tuple[float, ...] = (0.9, 1.0, 0.6, 0.3, 0.0)
    archetypes: tuple[int, ...] = (5, 1, 2, 20)
    drift: tuple[float, ...] = (0.0, 0.1, 0.3)
    drop_out: tuple[float, ...] = (0.0, 0.3, 0.6)
    unequal: tuple[float, ...] = (0.0, 1.0, 3.0)

    AXES: ClassVar[tuple[str, ...]] = ("shared", "archetypes", "drift", "drop_out", "unequal")

    def _check_axes(self) -> None:
        for name in self.AXES:
            check_axis(name, getattr(self, name))
        if self.participations < 0:
            raise SettingError(f"participations={self.participations} must be >= 1, or 0 for what suits a strategy")
        if self.people < 1:
            raise SettingError(f"people={self.people} must be >= 1; try 2000")

    @property
    def base(self) -> dict[str, Any]:
        """The point around which one thing at a time is varied."""
        return {name: getattr(self, name)[0] for name in self.AXES}

    def places(self) -> list[dict[str, Any]]:
        """The base, then each point that differs from it in one thing."""
        varied = [self.base | {name: value} for name in self.AXES for value in getattr(self, name)[1:]]
        return [self.base, *varied]

    def cells(self) -> list[Cell]:
        """All points of the grid."""
        found = []
        for repeat, place, strategy in product(range(self.repeats), self.places(), self.strategies):
            axes: dict[str, Value] = {"strategy": strategy, **place, "repeat": repeat}
            found.append(Cell(axes=axes, seeds=self.seeds(repeat)))
        return found

    def trial(self, cell: Cell) -> Trial:
        """What is tried in a cell."""
        axes: Any = cell.axes
        return self.trial_of(
            cell,
            strategy=axes["strategy"],
            epsilon=self.epsilon,
            people=self.people,
            participations=self.participations,
            population=self.law(shared=axes["shared"], archetypes=axes["archetypes"]),
            habits=Habits(**{name: axes[name] for name in ("drift", "drop_out", "unequal")}),
        )


def run(grid: PopulationGrid, out: str | Path = "plgl-population", *, jobs: int = 1, quiet: bool = False) -> LabRun:
    """Compute what is not computed yet, and write tables and report; arguments and errors as for ``privacy.run``."""
    settings = strict({**asdict(grid), "items": grid.pack()})
    with RunFolder.open(out, COMMAND, settings, seeds=[grid.seed]) as folder:
        outcomes, seconds = carry_out_all(grid, folder, jobs=jobs, quiet=quiet)
        report = population_findings.report(grid, outcomes, settings, seconds)
        report.write(folder)
        folder.finish()
        return LabRun.of(folder.folder, report)
