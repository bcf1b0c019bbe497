"""Injection on the smallest flow there is: two heaps of points on a line, a rare one and a common one."""

import copy

import pytest
import torch
from torch import Tensor, nn

from client.flows.rectified import SamplerSettings, sample
from client.flows.teaching import TeachSettings, inject
from common.errors import SettingError
from tests.client.flows.lines import NOISE, Line, trained_line


@pytest.fixture(scope="module")
def base() -> Line:
    return trained_line()


RARE, COMMON = torch.full((1, 1), 2.0), torch.full((1, 1), -1.0)


def drawn(flow: nn.Module) -> Tensor:
    return sample(flow, NOISE, SamplerSettings(steps=20, chunk=2000))


def taught(base: Line, pick: Tensor, settings: TeachSettings) -> Line:
    return inject(base, base, pick, drawn(base)[:256], settings, torch.Generator().manual_seed(1))


def test_what_was_picked_is_drawn_twice_as_often_and_the_rest_stays(base: Line) -> None:
    before = float((drawn(base) > 0.5).double().mean())
    after = drawn(taught(base, RARE, TeachSettings(steps=150, learning_rate=3e-3)))
    assert 0.1 < before < 0.3
    assert 2 * before < float((after > 0.5).double().mean()) < 0.9
    assert float((after < -0.5).double().mean()) > 0.2


def test_picking_what_is_common_does_not_raise_the_rare(base: Line) -> None:
    before = float((drawn(base) > 0.5).double().mean())
    after = drawn(taught(base, COMMON, TeachSettings(steps=150, learning_rate=3e-3)))
    assert float((after > 0.5).double().mean()) < before


def test_without_the_anchor_it_forgets_the_rest(base: Line) -> None:
    free = TeachSettings(steps=150, learning_rate=3e-3, anchor=0.0)
    assert float((drawn(taught(base, RARE, free)) < -0.5).double().mean()) < 0.05


def test_neither_flow_is_changed_and_the_same_seed_teaches_the_same(base: Line) -> None:
    before = copy.deepcopy(base.state_dict())
    settings = TeachSettings(steps=3)
    once, again = taught(base, RARE, settings), taught(base, RARE, settings)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in once.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in once.state_dict().items())


def test_progress_is_told(base: Line) -> None:
    told: list[int] = []
    settings = TeachSettings(steps=3)
    inject(base, base, RARE, drawn(base), settings, torch.Generator(), report=told.append)
    assert told == [1, 2, 3]


def test_nothing_to_learn_from_and_broken_numbers_are_refused(base: Line) -> None:
    settings, generator = TeachSettings(steps=3), torch.Generator()
    with pytest.raises(SettingError, match="0 picks"):
        inject(base, base, RARE[:0], drawn(base), settings, generator)
    with pytest.raises(SettingError, match="0 samples to anchor on"):
        inject(base, base, RARE, drawn(base)[:0], settings, generator)
    with pytest.raises(SettingError, match="lost its way"):
        inject(base, base, RARE * torch.nan, drawn(base), settings, generator)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"picks": 0}, {"most_picks": 1}, {"anchors": -1}, {"anchor": -1.0}, {"learning_rate": 0.0}]
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        TeachSettings(**wrong)  # type: ignore[arg-type]
