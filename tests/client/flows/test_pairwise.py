"""The pairwise loss on the smallest flow there is."""

import pytest
import torch
from torch import Tensor

from client.flows.model import FlowModel
from client.flows.pairwise import PairSettings, contrast
from common.errors import RewardError, SettingError
from tests.client.flows.lines import NOISE, line_model, rare, trained_line

SETTINGS = PairSettings(steps=120, learning_rate=4e-3, strength=0.5, anchor=0.5)
RARE, COMMON = torch.full((3, 1), 2.0), torch.full((3, 1), -1.0)


@pytest.fixture(scope="module")
def base() -> FlowModel:
    return line_model(trained_line())


def taught(base: FlowModel, winners: Tensor, losers: Tensor, settings: PairSettings = SETTINGS) -> FlowModel:
    return contrast(base, winners, losers, base.draw(NOISE[:256]), settings, torch.Generator().manual_seed(1))


def test_what_was_picked_is_drawn_more_often_and_what_was_not_less(base: FlowModel) -> None:
    before, weights = rare(base), {k: v.clone() for k, v in base.velocity.state_dict().items()}
    assert rare(taught(base, RARE, COMMON)) > 1.3 * before
    assert rare(taught(base, COMMON, RARE)) < 0.8 * before
    assert all(torch.equal(v, weights[k]) for k, v in base.velocity.state_dict().items())


def test_pairs_of_the_same_sample_teach_nothing(base: FlowModel) -> None:
    assert abs(rare(taught(base, RARE, RARE)) - rare(base)) < 0.15 * rare(base)


def test_samples_stay_where_samples_are(base: FlowModel) -> None:
    drawn = taught(base, RARE, COMMON).draw(NOISE)
    near = torch.minimum((drawn - 2).abs(), (drawn + 1).abs())
    assert float(near.median()) < 0.3


def test_progress_is_told_and_the_same_seed_teaches_the_same(base: FlowModel) -> None:
    told: list[int] = []
    settings, anchors = PairSettings(steps=3), base.draw(NOISE[:20])
    once = contrast(base, RARE, COMMON, anchors, settings, torch.Generator().manual_seed(1), told.append)
    again = contrast(base, RARE, COMMON, anchors, settings, torch.Generator().manual_seed(1))
    assert told == [1, 2, 3]
    assert all(torch.equal(v, again.velocity.state_dict()[k]) for k, v in once.velocity.state_dict().items())


def test_nothing_to_learn_from_and_broken_numbers_are_refused(base: FlowModel) -> None:
    with pytest.raises(RewardError, match="pick at least one"):
        taught(base, RARE[:0], COMMON[:0])
    with pytest.raises(SettingError, match="do not fit"):
        taught(base, RARE, COMMON[:2])
    with pytest.raises(SettingError, match="lost its way"):
        taught(base, RARE * torch.nan, COMMON)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"pairs": 0}, {"anchors": -1}, {"strength": 0.0}, {"anchor": -1.0}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        PairSettings(**wrong)  # type: ignore[arg-type]


def test_teaching_goes_on_from_what_was_taught_before(base: FlowModel) -> None:
    anchors = base.draw(NOISE[:256])
    once = taught(base, RARE, COMMON)
    weights = {k: v.clone() for k, v in once.velocity.state_dict().items()}
    held = PairSettings(steps=1, learning_rate=1e-9, anchors=0)
    again = contrast(base, RARE, COMMON, anchors, held, torch.Generator().manual_seed(1), student=once)
    assert rare(again) == pytest.approx(rare(once), rel=0.02)
    assert rare(again) > 1.2 * rare(base)
    assert all(torch.equal(v, weights[k]) for k, v in once.velocity.state_dict().items())
