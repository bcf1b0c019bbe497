"""``plgl simulate audit``: every audit of every build, again and again, and the power of each audit beside it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binom  # type: ignore[import-untyped]

from common import update
from common.errors import SettingError
from common.privacy.noise import system_randomness
from common.privacy.settings import PrivacySettings
from simulations.audits import membership, monte_carlo, noise_law, one_run
from simulations.audits.builds import BUILDS, Build, Noise, effects, exact_noise, repeatable, rounded_normal
from simulations.audits.pipeline import check_private, claimed_mu
from simulations.audits.verdict import AUDITS, Level, Verdict
from simulations.lab.frames import Value
from simulations.lab.grid import Advance, Cell, compute_all, derived_seed
from simulations.progress import Stages
from simulations.run_folder import RunFolder

FOUND = 0.95  # share of the runs in which a broken build must be flagged


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """Settings of the experiment; every field changes the result.

    Attributes:
        epsilons: claims to audit; delta: their failure probability.
        delta: see above.
        participations: rounds one person is charged for.
        norm_bound: clip norm C.
        builds: names of ``simulations.audits.builds.BUILDS``.
        repeats: runs of each audit of each build.
        runs: trainings with and without the loud person, Monte-Carlo.
        draws: of the noise, for its law.
        parameters: p in the one-run audit; canaries and guesses: its m and r.
        canaries: see above.
        guesses: see above.
        members: people in a release under membership attack; trials: such releases.
        trials: see above.
        power_repeats: runs of each audit of each build with a fault of a known size; 0 for none.
        confidence: of the bounds; alpha: most runs in which all audits together may flag the honest build.
        alpha: see above.
        seed: of people, canaries and coins.
        noise_seed: of the noise too, to get the same numbers twice; the operating system's randomness without.
    """

    epsilons: tuple[float, ...] = (2.0,)
    delta: float = 1e-6
    participations: int = 2
    norm_bound: float = 8.0
    builds: tuple[str, ...] = tuple(build.name for build in BUILDS)
    repeats: int = 20
    runs: int = 100_000
    draws: int = 50_000
    parameters: int = 48
    canaries: int = 600
    guesses: int = 150
    members: int = 100
    trials: int = 1_000
    power_repeats: int = 10
    confidence: float = 0.95
    alpha: float = 0.01
    seed: int = 0
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        if not self.epsilons or len(set(self.epsilons)) != len(self.epsilons):
            raise SettingError(f"epsilons={self.epsilons} must be one or more different numbers; try 2")
        if self.repeats < 1 or self.power_repeats < 0:
            raise SettingError(f"repeats={self.repeats} must be >= 1 and power_repeats={self.power_repeats} >= 0")
        unknown = sorted(set(self.builds) - {build.name for build in BUILDS})
        if unknown or not self.builds:
            raise SettingError(f"build {unknown[0] if unknown else ''!r} must be one of {', '.join(_names(BUILDS))}")
        for epsilon in self.epsilons:
            promise = self.promise(epsilon)
            check_private(promise)
            monte_carlo.check_runs(self.runs, claimed_mu(promise, self.numbers), self.level)
            one_run.check_guesses(self.one_run, claimed_mu(promise, self.numbers), self.level)
        if self.draws < noise_law.FEWEST_DRAWS:
            raise SettingError(f"draws={self.draws} are too few to test a law; take at least {noise_law.FEWEST_DRAWS}")
        self.membership  # noqa: B018 - refuses its sizes before anything runs

    @property
    def level(self) -> Level:
        """How sure the audits have to be."""
        return Level(confidence=self.confidence, alpha=self.alpha)

    @property
    def numbers(self) -> int:
        """Entries of an update."""
        return update.length(self.parameters)

    @property
    def one_run(self) -> one_run.OneRun:
        """Sizes of the one-run audit."""
        return one_run.OneRun(parameters=self.parameters, canaries=self.canaries, guesses=self.guesses)

    @property
    def membership(self) -> membership.Membership:
        """Sizes of the membership attack."""
        return membership.Membership(people=self.members, trials=self.trials)

    def promise(self, epsilon: float) -> PrivacySettings:
        """The claim under audit."""
        return PrivacySettings(
            epsilon=epsilon, delta=self.delta, participations=self.participations, norm_bound=self.norm_bound
        )

    def allowed(self) -> int:
        """Runs of the honest build that may be flagged by chance: more has probability below 0.002 at ``alpha``."""
        return int(binom.ppf(0.998, self.repeats, self.alpha))


def quick(settings: AuditSettings) -> AuditSettings:
    """A small version that still finds every broken build: one weak claim, which takes few runs to refute."""
    return dataclasses.replace(
        settings,
        epsilons=(4.0,),
        repeats=2,
        runs=10_000,
        draws=10_000,
        parameters=24,
        canaries=200,
        guesses=80,
        trials=200,
        power_repeats=0,
    )


@dataclass(frozen=True)
class Found:
    """All verdicts of a run.

    Attributes:
        verdicts: one row per claim, build, repeat and audit.
        power: one row per claim, fault and audit.
        problems: what must not be: the honest build flagged too often, or a broken one missed.
        seconds: time each cell took.
    """

    verdicts: list[dict[str, Any]]
    power: list[dict[str, Any]]
    problems: list[str]
    seconds: dict[str, float]


def carry_out(settings: AuditSettings, folder: RunFolder, *, jobs: int = 1, quiet: bool = False) -> Found:
    """Do what is not done yet; what is finished is kept.

    Args:
        settings: what to do.
        folder: of the run.
        jobs: processes.
        quiet: print no progress.
    """
    cells = _cells(settings)
    with Stages({cell.label: cell.work for cell in cells}, quiet=quiet) as stages:
        values = compute_all(cells, partial(compute, settings), folder, stages, jobs=jobs)
    verdicts: list[dict[str, Any]] = []
    power: list[dict[str, Any]] = []
    for cell, found in zip(cells, values, strict=True):
        for row in found["rows"]:
            (power if "fault" in cell.axes else verdicts).append({**cell.axes, **row})
    return Found(verdicts, power, problems(settings, verdicts), stages.seconds)


def _cells(settings: AuditSettings) -> list[Cell]:
    cells = []
    for epsilon in settings.epsilons:
        for name in settings.builds:
            for repeat in range(settings.repeats):
                axes: dict[str, Value] = {"epsilon": epsilon, "build": name, "repeat": repeat}
                cells.append(Cell(axes=axes, seeds=_seeds(settings, epsilon, name, repeat), work=7))
        for build in effects() if settings.power_repeats else ():
            fault: dict[str, Value] = {"epsilon": epsilon, "fault": build.name}
            cells.append(Cell(axes=fault, seeds=_seeds(settings, epsilon, build.name, -1), work=20))
    return cells


def _seeds(settings: AuditSettings, *purpose: float | str) -> dict[str, int]:
    seeds = {"people": derived_seed(settings.seed, "people", *purpose)}
    if settings.noise_seed is not None:
        seeds["noise"] = derived_seed(settings.noise_seed, "noise", *purpose)
    return seeds


def compute(settings: AuditSettings, cell: Cell, advance: Advance) -> dict[str, Any]:
    """The verdicts of a cell, or how often each audit flagged a fault."""
    generator = torch.Generator().manual_seed(cell.seeds["people"])
    promise = settings.promise(float(str(cell.axes["epsilon"])))
    if "fault" in cell.axes:
        build = _named(effects(), str(cell.axes["fault"]))
        return {"rows": _power(settings, build, promise, generator, advance)}
    noise = exact_noise(repeatable(cell.seeds["noise"]) if "noise" in cell.seeds else system_randomness)
    verdicts = audits(_named(BUILDS, str(cell.axes["build"])), settings, promise, noise, generator)
    return {"rows": [_row(verdict) for verdict in verdicts]}


def audits(
    build: Build, settings: AuditSettings, promise: PrivacySettings, noise: Noise, generator: torch.Generator
) -> list[Verdict]:
    """All audits of one build, once.

    Args:
        build: the functions under audit.
        settings: sizes.
        promise: the claim.
        noise: what the build asks for its noise.
        generator: of people, canaries and coins.
    """
    level = settings.level
    return [
        monte_carlo.audit(build, promise, settings.numbers, settings.runs, noise, level),
        one_run.audit(build, promise, settings.one_run, noise, level, generator),
        noise_law.audit(build, promise, settings.numbers, settings.draws, noise, level),
        membership.audit(build, promise, settings.membership, noise, level, generator),
    ]


def _power(
    settings: AuditSettings, build: Build, promise: PrivacySettings, generator: torch.Generator, advance: Advance
) -> list[dict[str, Any]]:
    flagged = dict.fromkeys(AUDITS, 0)
    for _ in range(settings.power_repeats):
        for verdict in audits(build, settings, promise, rounded_normal(generator), generator):
            flagged[verdict.audit] += verdict.flagged
        advance(1 / settings.power_repeats)
    return [
        {"audit": audit, "label": build.label, "flagged": count, "runs": settings.power_repeats}
        for audit, count in flagged.items()
    ]


def _row(verdict: Verdict) -> dict[str, Any]:
    values = verdict.to_json()
    return {**{key: values[key] for key in ("audit", "claim", "lower", "upper", "flagged")}, **values["detail"]}


def problems(settings: AuditSettings, verdicts: Sequence[dict[str, Any]]) -> list[str]:
    """What must not be, in words; nothing where the audits do their work and the honest build passes."""
    found = []
    for epsilon in settings.epsilons:
        for name in settings.builds:
            count = flagged_runs([row for row in verdicts if row["build"] == name and row["epsilon"] == epsilon])
            if not _named(BUILDS, name).broken:
                if count > settings.allowed():
                    found.append(
                        f"the build as it ships was flagged in {count} of {settings.repeats} runs at epsilon "
                        f"{epsilon:g}; chance explains {settings.allowed()}"
                    )
            elif count < math.ceil(FOUND * settings.repeats):
                found.append(
                    f"the broken build {name} was missed in {settings.repeats - count} of {settings.repeats} runs at "
                    f"epsilon {epsilon:g}; take more --runs"
                )
    return found


def flagged_runs(rows: Sequence[dict[str, Any]]) -> int:
    """Runs in which at least one audit flagged the build."""
    return len({row["repeat"] for row in rows if row["flagged"]})


def run(
    settings: AuditSettings, out: str | Path = "plgl-audit", *, jobs: int = 1, quiet: bool = False
) -> tuple[Found, RunFolder]:
    """Carry out and keep the folder open for the report; see ``simulations.audits.cli``."""
    folder = RunFolder.open(out, "simulate audit", dataclasses.asdict(settings), seeds=[settings.seed])
    try:
        return carry_out(settings, folder, jobs=jobs, quiet=quiet), folder
    except BaseException:
        folder.close()
        raise


def _named(builds: Sequence[Build], name: str) -> Build:
    return next(build for build in builds if build.name == name)


def _names(builds: Sequence[Build]) -> list[str]:
    return [build.name for build in builds]
