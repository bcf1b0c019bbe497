"""The shipped flow taught in each way, with little of each: ``plgl simulate flows`` measures them in full."""

from dataclasses import replace

import pytest
import torch

from client.flows.checkpoint import Checkpoint, open_checkpoint
from client.flows.comparison import METHODS, ComparisonSettings, Row, compare, lesson_of, mean_of
from client.flows.denoising import DenoisingSettings
from client.flows.judge import judge
from client.flows.model import of_checkpoint
from client.flows.pairwise import PairSettings
from client.flows.shapes import ROLL, S_CURVE, shapes_of
from client.flows.teaching import TeachSettings
from common.errors import RewardError, SettingError

CPU = torch.device("cpu")
SMALL = ComparisonSettings(
    picks=4, samples=48, seeds=1, teach=TeachSettings(steps=30), pairs=PairSettings(steps=25, anchors=24),
    denoising=DenoisingSettings(iterations=3, noises=20),
)  # fmt: skip


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return open_checkpoint()


@pytest.fixture(scope="module")
def rows(shipped: Checkpoint) -> dict[str, Row]:
    return {row.method: row for row in compare(shipped, SMALL, CPU)}


def test_every_way_of_teaching_raises_what_is_loved(rows: dict[str, Row]) -> None:
    assert list(rows) == list(METHODS)
    base = rows["base"]
    assert rows["injection"].loved > 1.25 * base.loved
    assert rows["pairwise"].loved > 1.25 * base.loved
    for method in ("injection", "pairwise", "denoising"):  # so few iterations of the last raise the reward first
        assert rows[method].reward > base.reward + 0.03, method
        assert rows[method].invalid < 0.25, method
        assert rows[method].spread > 0.4 * base.spread, method
        assert rows[method].teaching_seconds > 0, method


def test_all_methods_get_the_same_answers_of_what_is_loved(shipped: Checkpoint) -> None:
    base = of_checkpoint(shipped)
    first, again = lesson_of(base, SMALL, 0, CPU), lesson_of(base, replace(SMALL, picks=1), 0, CPU)
    assert torch.equal(first.answers.shown[:1], again.answers.shown)
    assert len(first.answers) == SMALL.picks
    found = judge(first.answers.winners)
    assert bool((found.valid & (found.kind == S_CURVE)).all())
    true = shapes_of(
        torch.tensor([ROLL, S_CURVE]).repeat(40), shipped.settings.shapes, torch.Generator().manual_seed(0)
    )
    reward = first.reward(true)
    assert float(reward[1::2].mean()) > float(reward[::2].mean()) + 0.2


def test_somebody_who_never_finds_what_they_love_is_told(shipped: Checkpoint) -> None:
    class Noise(torch.nn.Module):
        def forward(self, place: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(place)

    with pytest.raises(RewardError, match="found 0 of 1 picks"):
        lesson_of(of_checkpoint(shipped).moved(Noise()), replace(SMALL, picks=1), 0, CPU)


def test_means_and_settings(rows: dict[str, Row]) -> None:
    both = [rows["base"], replace(rows["base"], seed=1, loved=0.0)]
    assert mean_of(both, "base", "loved") == pytest.approx(rows["base"].loved / 2)
    assert mean_of(both, "nobody", "loved") != mean_of(both, "nobody", "loved")
    with pytest.raises(SettingError, match="'magic' is unknown; known: base"):
        ComparisonSettings(methods=("magic",))
    with pytest.raises(SettingError, match="picks=0"):
        ComparisonSettings(picks=0)
