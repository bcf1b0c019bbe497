"""Teaching a flow of pictures in rounds: on a law that is known, with a person who likes red."""

import math
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from client.flows.model import FlowModel
from client.flows.pack_lesson import PackLesson
from client.flows.tuning import WAYS, Descent, Tuner, TuneSettings
from client.flows.tuning_guard import Check, DriftSettings, Watch
from common.errors import Interrupted, RewardError, SettingError
from tests.client.flows.colours import flow, lesson, redness

QUICK = TuneSettings(rounds=4, steps=10, learning_rate=6e-3, drift=DriftSettings(samples=32))


@pytest.fixture(scope="module")
def base() -> FlowModel:
    return flow()


def gain(base: FlowModel, taught: FlowModel) -> float:
    """By how many standard deviations the same noise is redder."""
    noise = base.noise(400, torch.Generator().manual_seed(99))
    before, after = (redness(each.media(each.draw(noise))) for each in (base, taught))
    return float((after.mean() - before.mean()) / before.std())


@pytest.mark.parametrize("by", WAYS)
def test_every_way_draws_more_of_what_was_preferred_and_of_the_contrary_less(base: FlowModel, by: str) -> None:
    found = []
    for sign in (1.0, -1.0):
        tuner = Tuner(base, lesson(base, sign=sign), replace(QUICK, by=by))
        tuner.run()
        assert tuner.kept > 0
        assert tuner.checks[tuner.kept].variety > 0.5
        found.append(gain(base, tuner.flow))
    assert found[0] > 0.25
    assert found[1] < -0.25
    assert gain(base, base) == 0


@pytest.mark.parametrize("by", WAYS)
def test_a_teaching_that_was_stopped_ends_with_the_same_weights(base: FlowModel, by: str) -> None:
    settings, said = TuneSettings(by=by, rounds=3, steps=4, batch=16, drift=DriftSettings(samples=16)), lesson(base)
    whole, first, second = (Tuner(base, said, settings) for _ in range(3))
    whole.run()
    kept: list[tuple[bytes, str | None]] = []

    def stop(check: Check) -> None:
        if check.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"stopped after round 2 of 3; the same command goes on"):
        first.run(stop, lambda: kept.append((safetensors.torch.save(first.state()), first.stopped)))
    content, stopped = kept[-1]
    second.restore(safetensors.torch.load(content), stopped)
    assert len(second.checks) == 3
    second.run()
    assert second.checks == whole.checks
    for one, other in zip(second.flow.velocity.parameters(), whole.flow.velocity.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_original_is_left_as_it_is_and_is_what_there_is_before_a_round_is_good(base: FlowModel) -> None:
    before = [each.clone() for each in base.velocity.parameters()]
    tuner = Tuner(base, lesson(base), TuneSettings(rounds=2, learning_rate=4e-3))
    assert gain(base, tuner.flow) == 0
    tuner.run()
    assert all(torch.equal(a, b) for a, b in zip(before, base.velocity.parameters(), strict=True))


def test_a_flow_that_leaves_the_limits_is_stopped_and_not_kept(base: FlowModel) -> None:
    settings = TuneSettings(by="denoising", rounds=12, learning_rate=2e-2, drift=DriftSettings(distance=0.1))
    tuner = Tuner(base, lesson(base), settings)
    tuner.run()
    assert tuner.stopped is not None
    assert "over the limit of 0.1" in tuner.stopped
    assert tuner.done
    assert tuner.kept < len(tuner.checks) - 1
    assert tuner.checks[-1].distance > 0.1 >= tuner.checks[tuner.kept].distance


def test_a_round_that_goes_too_far_is_taken_back_and_made_again_at_half_the_rate(
    base: FlowModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = TuneSettings(by="pairwise", rounds=3, steps=10, learning_rate=0.04, drift=DriftSettings(distance=0.3))
    tuner = Tuner(base, lesson(base), hasty)
    tuner.run()
    assert tuner.kept > 0
    assert float(tuner.state()["way.rate"]) < 0.04
    assert all(check.distance <= 0.3 for check in tuner.checks[: tuner.kept + 1])
    assert gain(base, tuner.flow) > 0.25
    monkeypatch.setattr(Descent, "gentler", lambda self: False)
    control = Tuner(base, lesson(base), hasty)
    control.run()
    assert control.stopped is not None
    assert "over the limit of 0.3" in control.stopped
    assert len(control.checks) < len(tuner.checks)


def test_likes_alone_teach_injection_without_a_judge_and_not_the_pairwise_loss(base: FlowModel) -> None:
    all_said = lesson(base)
    none = all_said.better[:0]
    liked = PackLesson(all_said.liked, none, none, none, none, 40)
    tuner = Tuner(base, liked, QUICK)
    tuner.run()
    assert math.isnan(tuner.checks[-1].held_out)
    assert gain(base, tuner.flow) > 0.2
    with pytest.raises(RewardError, match="no answer says that one item is better than another"):
        Tuner(base, liked, TuneSettings(by="pairwise"))


def checks(*rows: tuple[float, float]) -> list[Check]:
    return [
        Check(round=i, reward=reward, held_out=held, error=0.01, distance=0.1, variety=1.0)
        for i, (reward, held) in enumerate(rows)
    ]


def test_a_reward_that_rises_alone_is_caught_and_one_that_falls_back_with_it_is_not(base: FlowModel) -> None:
    watch = Watch(base, lesson(base), DriftSettings(patience=2), seed=0)
    cheating = checks((0, 0), (0.5, 0.4), (0.9, 0.2), (1.3, 0.1))
    assert watch.verdict(cheating, 1).stop == "the reward rises, and what held-out answers say of it falls"
    assert watch.verdict(cheating[:3], 1).stop is None  # once may be chance
    swaying = checks((0, 0), (0.5, 0.4), (0.3, 0.2), (0.4, 0.3))
    assert watch.verdict(swaying, 1).stop is None
    honest = checks((0, 0), (0.5, 0.4), (0.9, 0.6))
    assert watch.verdict(honest, 1).keep
    as_good = checks((0, 0), (0.5, 0.4), (0.9, 0.37))
    assert watch.verdict(as_good, 1).keep
    worthless = checks((0, 0), (0.5, -0.1))
    assert not watch.verdict(worthless, 0).keep
    assert not watch.verdict(swaying, 1).keep


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"by": "magic"}, "by='magic' must be one of injection, pairwise, denoising"),
        ({"rounds": 0}, "rounds=0 must be >= 1"),
        ({"steps": 0}, "steps=0"),
        ({"batch": 3}, "batch=3"),
        ({"anchor": -1.0}, "anchor=-1.0"),
        ({"held_out": 1.0}, "held_out=1.0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ],
)
def test_settings_out_of_range_are_refused(said: dict[str, object], why: str) -> None:
    with pytest.raises(SettingError, match=why):
        TuneSettings(**said)  # type: ignore[arg-type]


@pytest.mark.parametrize("said", [{"samples": 8}, {"distance": 0.0}, {"variety": 1.0}, {"patience": 0}])
def test_limits_out_of_range_are_refused(said: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        DriftSettings(**said)  # type: ignore[arg-type]
