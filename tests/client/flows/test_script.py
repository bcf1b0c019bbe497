"""On the shipped flow: the share doubles within three picks, shapes stay shapes, random picks do not do it."""

import csv
import io

import pytest
import torch

from client.flows.checkpoint import Checkpoint, open_checkpoint
from client.flows.course import Course, CourseSettings
from client.flows.judge import judge
from client.flows.script import Row, ScriptSettings, preferred, run_script, table
from client.flows.shapes import ROLL, S_CURVE, ShapeSettings, shapes_of
from common.errors import SettingError

COURSE = CourseSettings()


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return open_checkpoint()


@pytest.fixture(scope="module")
def rows(shipped: Checkpoint) -> list[Row]:
    settings = ScriptSettings(injections=2, samples=80, seeds=1, control=False, course=COURSE)
    return run_script(shipped, settings, torch.device("cpu"))


def test_the_share_doubles_and_shapes_stay_shapes(rows: list[Row]) -> None:
    picked = [row for row in rows if row.arm == "picked"]
    assert 0.1 < picked[0].share < 0.4
    assert picked[-1].share >= 2 * picked[0].share
    assert all(row.invalid <= 0.12 for row in picked)
    assert all(row.distance < 0.1 for row in picked)
    assert picked[-1].spread > picked[0].spread / 2  # not one and the same shape


def test_random_picks_do_not_raise_the_share(shipped: Checkpoint, rows: list[Row]) -> None:
    """The same dose of teaching, and more, by somebody without a preference."""
    course = Course(shipped.flow, 64, COURSE, torch.device("cpu"))
    luck = torch.Generator().manual_seed(0)
    course.inject(course.anchors()[torch.randint(192, (32,), generator=luck)])
    share = judge(course.by_b(course.noise(80, 9_000_000_000))).share(S_CURVE)
    assert share - rows[0].share < (rows[1].share - rows[0].share) / 2


def test_a_person_picks_the_best_of_their_kind_or_none() -> None:
    generator = torch.Generator().manual_seed(0)
    clouds = shapes_of(torch.tensor([ROLL, S_CURVE, S_CURVE]), ShapeSettings(), generator)
    clouds[1] += 0.05 * torch.randn(clouds[1].shape, generator=generator)
    assert preferred(clouds, S_CURVE) == 2
    assert preferred(clouds, ROLL) == 0
    assert preferred(clouds[:1], S_CURVE) is None


def test_the_table_holds_every_row(rows: list[Row]) -> None:
    read = list(csv.DictReader(io.StringIO(table(rows).decode())))
    assert [(row["arm"], int(row["injections"])) for row in read] == [(row.arm, row.injections) for row in rows]
    assert float(read[0]["share"]) == rows[0].share


@pytest.mark.parametrize("wrong", [{"injections": 0}, {"seeds": 0}, {"samples": 2}, {"kind": 5}])
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingError):
        ScriptSettings(**wrong)  # type: ignore[arg-type]
