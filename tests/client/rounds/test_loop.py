"""Whole rounds, small: 24 pixels, few pairs. Numbers at full size stand in the README."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import chi2  # type: ignore[import-untyped]
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.rounds.loop import Rounds, Stages, State, make_user
from client.rounds.settings import RoundsSettings
from client.rounds.stages import FILTERS, PAIRINGS, SAMPLERS
from client.rounds.user import TargetUser, User
from common.errors import SettingError

PACK = GeneratorPack.open("art")
QUICK = RoundsSettings(rounds=3, pairs=3, candidates=12, size=24, epochs=4, stopping="limit")
ALPHA = 1e-4


def target(seed: int) -> Tensor:
    return PACK.generate(PACK.latents.sample(1, torch.Generator().manual_seed(1000 + seed)), 24)[0]


@pytest.fixture(scope="module")
def user() -> User:
    return make_user(PACK, target(0), QUICK)


def finished(user: User, settings: RoundsSettings, state: State | None = None) -> State:
    rounds = Rounds(PACK, user, settings, state=state)
    for _ in rounds.run():
        pass
    return rounds.state


def same(first: State, second: State) -> bool:
    tensors = (
        (first.destination, second.destination), (first.favourite, second.favourite), (first.path, second.path),
        (first.memory.a, second.memory.a), (first.memory.b, second.memory.b),
        (first.memory.answer, second.memory.answer),
        *((value, second.weights[name]) for name, value in first.weights.items()),
    )  # fmt: skip
    return first.rows == second.rows and all(torch.equal(a, b) for a, b in tensors)


def test_the_seed_decides_everything(user: User) -> None:
    first = finished(user, QUICK)
    assert same(first, finished(user, QUICK))
    assert not same(first, finished(user, replace(QUICK, seed=1)))


@pytest.mark.parametrize("after", [1, 2])
def test_resumed_rounds_end_as_uninterrupted_ones(user: User, after: int) -> None:
    half = finished(user, replace(QUICK, rounds=after))
    assert half.round == after
    assert same(finished(user, QUICK), finished(user, QUICK, half))


@pytest.mark.parametrize(
    "change",
    [{"sampling": name} for name in SAMPLERS]
    + [{"filtering": name} for name in FILTERS]
    + [{"pairing": name} for name in PAIRINGS]
    + [{"reward": "linear"}, {"inputs": "latents"}, {"inputs": "both"}, {"candidates": 6}, {"pairs": 1}],
)
def test_any_stages_give_whole_rounds(user: User, change: dict[str, str]) -> None:
    settings = replace(QUICK, rounds=2, epochs=2, **change)  # type: ignore[arg-type]
    state = finished(user, settings)
    assert state.round == 2
    assert state.path.shape == (3, 24)
    assert torch.allclose(state.path.norm(dim=1), torch.tensor(PACK.latents.radius))
    for row in state.rows:
        assert settings.pairs <= row.questions <= settings.pairs + 2
        assert row.a + row.b + row.both + row.neither == row.questions
        assert all(math.isfinite(value) for value in (row.loss, row.reward_mean, row.reward_destination, row.distance))
        assert row.reward_mean <= row.reward_best
    assert len(state.memory) == sum(row.questions for row in state.rows)


def test_the_favourite_never_gets_worse_for_a_sure_user(user: User) -> None:
    state = finished(user, replace(QUICK, rounds=6))
    distances = [row.distance_favourite for row in state.rows]
    assert distances == sorted(distances, reverse=True)
    start = float(user.eye.distance(PACK.generate(state.path[:1], 24)))
    assert distances[-1] < start


def test_rounds_stop_when_the_rule_says_so(user: User) -> None:
    start = finished(user, replace(QUICK, rounds=1)).rows[0].distance_favourite
    state = finished(user, replace(QUICK, stopping="distance", distance=min(1.0, start)))
    assert state.round == 1


def test_stages_may_be_anything_callable(user: User) -> None:
    drawn: list[torch.Size] = []

    def brightness(latents: Tensor, pictures: Tensor) -> Tensor:
        drawn.append(pictures.shape)
        return pictures.mean((1, 2, 3))

    settings = replace(QUICK, filtering="realism", rounds=1)
    Rounds(PACK, user, settings, Stages.of(settings, brightness)).step()
    assert drawn == [(12, 3, 24, 24)]


def test_what_was_shown_is_what_was_answered(user: User) -> None:
    rounds = Rounds(PACK, user, QUICK)
    shown = rounds.step()
    assert torch.equal(shown.answer, rounds.state.memory.answer)
    assert torch.equal(shown.a, rounds.draw(rounds.state.memory.a))
    assert isinstance(user, TargetUser)  # without noise, so the generator given here does not matter
    assert torch.equal(user.compare(shown.a, shown.b, torch.Generator()), shown.answer)


def chance_of_luck(kind: str) -> float:
    """The p-value (Fisher 1925) of ending as near to five targets as rounds do, against picking a random picture."""
    statistic, targets, others = 0.0, 5, 200
    for i in range(targets):
        settings = replace(QUICK, user=kind, seed=i, rounds=8, pairs=4, candidates=32, epochs=8)
        user = make_user(PACK, target(i), settings)
        end = finished(user, settings).destination
        random = PACK.latents.sample(others, torch.Generator().manual_seed(5000 + i))
        distances = user.eye.distance(PACK.generate(torch.cat([end[None], random]), 24))
        statistic -= 2 * math.log(float((distances[1:] <= distances[0]).sum() + 1) / (others + 1))
    return float(chi2.sf(statistic, 2 * targets))


def test_rounds_beat_random_choice() -> None:
    assert chance_of_luck("perceptual") < ALPHA


def test_rounds_with_a_user_who_answers_at_random_do_not() -> None:
    assert chance_of_luck("random") > ALPHA


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"pairs": 40}, "candidates=64 must lie between 80"),
        ({"size": 8}, "size=8"),
        ({"angle": 2.0}, "angle=2.0"),
        ({"shrink": 0.0}, "shrink=0.0"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"tie": -1.0}, "tie=-1.0"),
        ({"seed": -1}, "seed=-1"),
        ({"sampling": "x"}, "sampling='x' is unknown"),
        ({"filtering": "x"}, "filtering='x' is unknown"),
        ({"pairing": "x"}, "pairing='x' is unknown"),
        ({"user": "x"}, "user='x' is unknown"),
        ({"reward": "x"}, "reward='x' is unknown"),
        ({"inputs": "x"}, "inputs='x' is unknown"),
        ({"stopping": "x"}, "stopping='x' is unknown"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        RoundsSettings(**change)  # type: ignore[arg-type]
