"""``plgl simulate attack``: the attacks as a grid of cells, and whether their controls worked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from common.errors import SettingError
from simulations.attacks import membership, poisoning, reconstruction, sybils
from simulations.attacks.ground import Ground
from simulations.lab.grid import Advance, Cell, compute_all, derived_seed
from simulations.progress import Stages
from simulations.run_folder import RunFolder

KINDS: Mapping[str, ModuleType] = {
    "reconstruction": reconstruction,
    "membership": membership,
    "poisoning": poisoning,
    "sybils": sybils,
}
_WORK = {"reconstruction": 4.0, "membership": 2.0, "poisoning": 3.0, "sybils": 1.0}
_GROUND, _RECONSTRUCTION = Ground(), reconstruction.Reconstruction()
_MEMBERSHIP, _POISONING, _SYBILS = membership.MembershipCurves(), poisoning.Poisoning(), sybils.Sybils()


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """Settings of the experiment.

    Attributes:
        kinds: of ``KINDS``.
        ground: items and people.
        reconstruction: and the others: sizes of each attack.
        membership: see above.
        poisoning: see above.
        sybils: see above.
    """

    kinds: tuple[str, ...] = tuple(KINDS)
    ground: Ground = _GROUND
    reconstruction: reconstruction.Reconstruction = _RECONSTRUCTION
    membership: membership.MembershipCurves = _MEMBERSHIP
    poisoning: poisoning.Poisoning = _POISONING
    sybils: sybils.Sybils = _SYBILS

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise SettingError(f"kind={unknown[0] if unknown else ''!r} must be one of {', '.join(KINDS)}, or all")

    def of(self, kind: str) -> Any:
        """The settings of one kind."""
        return getattr(self, kind)


def quick(settings: AttackSettings) -> AttackSettings:
    """Small sizes of every attack; controls still work."""
    inf = math.inf
    return dataclasses.replace(
        settings,
        ground=dataclasses.replace(settings.ground, latents=40, components=16, pool=300),
        reconstruction=reconstruction.Reconstruction(ratings=(1, 5), cohorts=(1, 20), epsilons=(inf, 1.0), victims=30),
        membership=membership.MembershipCurves(people=(20,), epsilons=(inf, 1.0), trials=300),
        poisoning=poisoning.Poisoning(people=(100,), shares=(0.0, 0.2), epsilons=(inf, 1.0), repeats=1),
        sybils=sybils.Sybils(people=(20,), shares=(0.0, 0.95), epsilons=(1.0,), runs=5_000, ratings=1),
    )


@dataclass(frozen=True)
class Found:
    """What the attacks came to.

    Attributes:
        rows: by kind.
        controls: one sentence per kind whether the attack works where the protection is off.
        problems: controls that did not work, so that nothing follows from the rest.
        seconds: time each cell took.
    """

    rows: dict[str, list[dict[str, Any]]]
    controls: dict[str, str]
    problems: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def run(
    settings: AttackSettings, out: str | Path = "plgl-attack", *, jobs: int = 1, quiet: bool = False
) -> tuple[Found, RunFolder]:
    """Do what is not done yet; the folder stays open for the report.

    Args:
        settings: what to do.
        out: folder of the run.
        jobs: processes.
        quiet: print no progress.
    """
    folder = RunFolder.open(out, "simulate attack", dataclasses.asdict(settings), seeds=[settings.ground.seed])
    cells = _cells(settings)
    try:
        with Stages({cell.label: cell.work for cell in cells}, quiet=quiet) as stages:
            values = compute_all(cells, partial(compute, settings), folder, stages, jobs=jobs)
    except BaseException:
        folder.close()
        raise
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in settings.kinds}
    for cell, found in zip(cells, values, strict=True):
        rows[str(cell.axes["kind"])] += found["rows"]
    controls, problems = judge(rows)
    return Found(rows, controls, problems, stages.seconds), folder


def _cells(settings: AttackSettings) -> list[Cell]:
    return [
        Cell(
            axes={"kind": kind, **point},
            seeds={"ground": derived_seed(settings.ground.seed, kind)},
            work=_WORK[kind],
        )
        for kind in settings.kinds
        for point in KINDS[kind].points(settings.of(kind))
    ]


def compute(settings: AttackSettings, cell: Cell, advance: Advance) -> dict[str, Any]:
    """The rows of a cell."""
    kind = str(cell.axes["kind"])
    point = {name: value for name, value in cell.axes.items() if name != "kind"}
    return {"rows": KINDS[kind].measure(point, settings.of(kind), settings.ground)}


def judge(rows: Mapping[str, list[dict[str, Any]]]) -> tuple[dict[str, str], list[str]]:
    """Whether each attack works where its protection is off, in words, and the controls that failed."""
    controls, problems = {}, []
    for kind, of in rows.items():
        said, works = _CONTROLS[kind](of)
        controls[kind] = said
        if works is False:
            problems.append(f"the {kind} attack failed without protection too, so its failure with it says nothing")
    return controls, problems


def _reconstructed(rows: list[dict[str, Any]]) -> tuple[str, bool | None]:
    open_ = [row for row in rows if row["cohort"] == 1 and math.isinf(row["epsilon"])]
    if not open_:
        return "no control: add 1 to cohorts and inf to epsilons", None
    fewest = min(row["ratings"] for row in open_)
    least = min(row["identified"] for row in open_ if row["ratings"] == fewest)
    after = f"{fewest} rating{'s' if fewest > 1 else ''}"
    said = f"from one bare update after {after}, a rated item is named for at least {least:.0%} of the people"
    return said, least > max(0.3, 5 * open_[0]["chance"])


def _members_found(rows: list[dict[str, Any]]) -> tuple[str, bool | None]:
    open_ = [row for row in rows if math.isinf(row["epsilon"])]
    if not open_:
        return "no control: add inf to epsilons", None
    best = max(open_, key=lambda row: row["auc"])
    return f"without noise and {best['people']} people, the area under the curve is {best['auc']:.2f}", best[
        "auc"
    ] > 0.6


def _promoted(rows: list[dict[str, Any]]) -> tuple[str, bool | None]:
    open_ = [row for row in rows if row["way"] == "replacement" and row["share"] > 0]
    if not open_:
        return "no control: add replacement to ways and a share above 0", None
    least = min(open_, key=lambda row: row["promoted"])
    said = f"unclipped, {least['share']:.0%} of the people put the promoted item above {least['promoted']:.0%} of items"
    return said, least["promoted"] > 0.9


def _exposed(rows: list[dict[str, Any]]) -> tuple[str, bool | None]:
    open_ = [row for row in rows if "identified" in row]
    most = max(open_, key=lambda row: row["share"])
    said = f"without noise, {most['share']:.0%} Sybils name a rated item for {most['identified']:.0%} of victims"
    left_alone = most["people"] - most["sybils"] == 1
    return said, most["identified"] > 0.3 if left_alone else None


_CONTROLS = {
    "reconstruction": _reconstructed,
    "membership": _members_found,
    "poisoning": _promoted,
    "sybils": _exposed,
}
