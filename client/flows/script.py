"""The toy without a person: how the share of a kind rises with each injection, over seeds and against random picks."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from csv import DictWriter
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from client.flows.checkpoint import Checkpoint
from client.flows.course import Course, CourseSettings
from client.flows.judge import Verdicts, judge
from client.flows.shapes import KINDS, S_CURVE, ShapeSettings, sample_shapes
from common.errors import SettingError

Arm = Literal["picked", "control"]
_PATIENCE = 20  # sets of proposals somebody looks at before they take the least bad one


@dataclass(frozen=True, kw_only=True)
class ScriptSettings:
    """What the script measures.

    Attributes:
        injections: of each arm, >= 1.
        samples: shapes judged after each, the same noises for A and every B, >= 16.
        seeds: arms of each sort, >= 1.
        control: whether arms are run too of somebody without a preference, who picks 32 random samples of A each time
            (as many as there are candidates): more teaching than one pick gives, and by chance alone.
        kind: what the person of the script likes.
        course: how B is taught; its seed is the first.
    """

    injections: int = 3
    samples: int = 192
    seeds: int = 3
    control: bool = True
    kind: int = S_CURVE
    course: CourseSettings = field(default_factory=CourseSettings)

    def __post_init__(self) -> None:
        if self.injections < 1 or self.seeds < 1 or self.samples < 16:
            raise SettingError(
                f"injections={self.injections} and seeds={self.seeds} must be >= 1 and samples={self.samples} >= 16; "
                "try 3, 3 and 192"
            )
        if self.kind not in range(len(KINDS)):
            raise SettingError(f"kind={self.kind} must be one of 0 ({KINDS[0]}) and 1 ({KINDS[1]})")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement.

    Attributes:
        arm: ``picked`` for one preferred sample each time, ``control`` for many random ones.
        seed: of the arm.
        injections: so far; 0 is A.
        share: of valid shapes of the kind among all samples.
        invalid: share of samples that are no shape.
        distance: median distance to the nearer curve, as a share of the size of the shape.
        spread: standard deviation of the angle of the shapes of the kind, degrees; 0 would be one shape over and over.
        asked: sets of proposals that were shown for this injection.
    """

    arm: Arm
    seed: int
    injections: int
    share: float
    invalid: float
    distance: float
    spread: float
    asked: int


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How far the judge can be believed, on true shapes whose kind is known and on noise.

    Attributes:
        error: share of true shapes whose kind it gets wrong or calls invalid.
        noise: share of plain noise it takes for a shape.
        distance: median distance of true shapes, which is not 0 because they are made of few points.
        shapes: how many of each were tried.
    """

    error: float
    noise: float
    distance: float
    shapes: int


def trust(settings: ShapeSettings, shapes: int, seed: int = 0) -> Trust:
    """Try the judge on ``shapes`` true shapes of both kinds alike, and on as much noise."""
    generator = torch.Generator().manual_seed(seed)
    clouds, kinds = sample_shapes(shapes, replace(settings, s_curves=0.5), generator)
    found = judge(clouds)
    noise = judge(torch.randn(clouds.shape, generator=generator))
    right = found.valid & (found.kind == kinds)
    return Trust(
        error=float((~right).double().mean()),
        noise=1 - noise.invalid,
        distance=float(found.distance.median()),
        shapes=shapes,
    )


def run_script(
    checkpoint: Checkpoint,
    settings: ScriptSettings,
    device: torch.device,
    report: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Run all arms.

    Args:
        checkpoint: A, on ``device``.
        settings: what to measure.
        device: where.
        report: called with each row as it is there.

    Returns:
        ``arms * seeds * (injections + 1)`` rows.
    """
    rows: list[Row] = []
    arms: tuple[Arm, ...] = ("picked", "control") if settings.control else ("picked",)
    for seed in range(settings.course.seed, settings.course.seed + settings.seeds):
        course = Course(checkpoint.flow, checkpoint.settings.shapes.points, replace(settings.course, seed=seed), device)
        noise = course.noise(settings.samples, 9_000_000_000 + seed)
        before = judge(course.by_a(noise))
        for arm in arms:
            course.restore(checkpoint.flow, course.picks[:0])
            for row in _arm(course, arm, seed, noise, before, settings):
                rows.append(row)
                if report is not None:
                    report(row)
    return rows


def preferred(proposals: Tensor, kind: int) -> int | None:
    """What somebody who likes a kind picks: the best shape of that kind, None where there is none.

    Args:
        proposals: ``(n, points, 3)``.
        kind: `client.flows.shapes.ROLL` or `S_CURVE`.
    """
    found = judge(proposals)
    fits = found.valid & (found.kind == kind)
    return int(found.distance.masked_fill(~fits, torch.inf).argmin()) if bool(fits.any()) else None


def table(rows: Sequence[Any]) -> bytes:
    """Rows of one record, at least one, as CSV."""
    file = io.StringIO()
    writer = DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return file.getvalue().encode()


def mean_share(rows: Sequence[Row], arm: Arm, injections: int) -> float:
    """Mean share over the seeds of an arm; NaN where it was not run."""
    found = [row.share for row in rows if row.arm == arm and row.injections == injections]
    return sum(found) / len(found) if found else float("nan")


def _arm(course: Course, arm: Arm, seed: int, noise: Tensor, before: Verdicts, settings: ScriptSettings) -> list[Row]:
    rows = [_row(before, arm, seed, 0, 0, settings.kind)]
    luck = torch.Generator().manual_seed(seed)
    for count in range(1, settings.injections + 1):
        pick, asked = _pick(course, arm, settings.kind, luck)
        course.inject(pick)
        rows.append(_row(judge(course.by_b(noise)), arm, seed, count, asked, settings.kind))
    return rows


def _pick(course: Course, arm: Arm, kind: int, luck: torch.Generator) -> tuple[Tensor, int]:
    """What is picked, and after how many sets of proposals."""
    if arm == "control":
        # not of the proposals: those are chosen to differ, so a rare kind is more than its share among them
        anchors = course.anchors()
        return anchors[torch.randint(len(anchors), (course.settings.candidates,), generator=luck)], 1
    proposals = course.propose()
    for asked in range(1, _PATIENCE):
        if (index := preferred(proposals, kind)) is not None:
            return proposals[index], asked
        proposals = course.propose()
    return proposals[0], _PATIENCE


def _row(found: Verdicts, arm: Arm, seed: int, injections: int, asked: int, kind: int) -> Row:
    angles = found.turn[found.valid & (found.kind == kind)].double()
    return Row(
        arm=arm,
        seed=seed,
        injections=injections,
        share=found.share(kind),
        invalid=found.invalid,
        distance=float(found.distance.median()),
        spread=float(torch.rad2deg(angles.std(correction=0))) if len(angles) else 0.0,
        asked=asked,
    )
