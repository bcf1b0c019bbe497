"""A policy on the steps of the smallest flow there is, and what may go wrong with a reward."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from client.flows.adapters import AdapterSettings
from client.flows.denoising import DenoisingPolicy, DenoisingSettings
from client.flows.model import Diffusion, FlowModel
from client.flows.stochastic import StochasticSettings
from common.errors import OutOfMemory, RewardError, SettingError
from tests.client.flows.lines import line_model, rare, trained_line

QUICK = DenoisingSettings(
    iterations=12, noises=64, learning_rate=1e-2, divergence=0.1,
    way=StochasticSettings(steps=10, chance=0.8, until=0.6), adapter=AdapterSettings(rank=4),
)  # fmt: skip


@pytest.fixture(scope="module")
def base() -> FlowModel:
    return line_model(trained_line())


def right(media: Tensor) -> Tensor:
    return torch.sigmoid(4 * (media[:, 0] - 0.5))


def learned(base: FlowModel, reward: Callable[[Tensor], Tensor], settings: DenoisingSettings) -> DenoisingPolicy:
    policy = DenoisingPolicy(base, reward, settings)
    while not policy.done:
        policy.advance()
    return policy


def test_what_is_rewarded_is_drawn_more_often_and_a_reward_of_chance_teaches_nothing(base: FlowModel) -> None:
    before, weights = rare(base), {k: v.clone() for k, v in base.velocity.state_dict().items()}
    policy = learned(base, right, QUICK)
    assert rare(policy.flow) > 2 * before
    assert policy.history[-1].reward > policy.history[0].reward
    assert policy.history[-1].divergence > 0
    luck = torch.Generator().manual_seed(0)
    idle = learned(base, lambda media: torch.rand(len(media), generator=luck), QUICK)
    assert abs(rare(idle.flow) - before) < 0.5 * before
    assert all(torch.equal(v, weights[k]) for k, v in base.velocity.state_dict().items())


def test_a_diffusion_model_learns_too() -> None:
    """The same line, told as a network that predicts noise."""
    levels = torch.linspace(0.01, math.pi / 2 - 0.01, 200, dtype=torch.float64).cos().square()

    class Noise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = trained_line()

        def forward(self, y: Tensor, told: Tensor) -> Tensor:
            angle = 0.01 + told / 199 * (math.pi / 2 - 0.02)
            a, b = angle.cos(), angle.sin()
            place, time = y / (a + b)[:, None], a / (a + b)
            noise: Tensor = place - time[:, None] * self.line(place, time)
            return noise

    diffusion = line_model(Diffusion(Noise(), levels))
    before = rare(diffusion)
    assert 0.15 < before < 0.3
    policy = learned(diffusion, right, replace(QUICK, iterations=8))
    assert rare(policy.flow) > 1.5 * before
    assert all(name.endswith(("up.weight", "down.weight")) for name in policy.state() if name.startswith("adapter."))


def test_a_weight_on_the_divergence_and_a_limit_keep_it_near_the_base(base: FlowModel) -> None:
    free = learned(base, right, replace(QUICK, divergence=0.0)).history[-1].divergence
    held = learned(base, right, replace(QUICK, divergence=3.0)).history[-1].divergence
    assert held < 0.5 * free
    stopped = learned(base, right, replace(QUICK, divergence=0.0, limit=0.5 * free))
    assert stopped.stopped
    assert 0 < len(stopped.history) < QUICK.iterations
    assert stopped.history[-1].divergence <= 0.5 * free


def test_going_on_ends_as_if_it_had_not_been_stopped(base: FlowModel) -> None:
    short = replace(QUICK, iterations=4, noises=8)
    whole = learned(base, right, short)
    first = DenoisingPolicy(base, right, short)
    first.advance()
    first.advance()
    again = DenoisingPolicy(base, right, short)
    again.restore({name: value.clone() for name, value in first.state().items()})
    while not again.done:
        again.advance()
    assert again.history == whole.history
    for name, value in whole.flow.velocity.state_dict().items():
        assert torch.equal(value, again.flow.velocity.state_dict()[name])


def test_the_base_goes_the_rest_of_the_way(base: FlowModel) -> None:
    flow = learned(base, right, replace(QUICK, iterations=2)).flow
    place, time = torch.randn(6, 1), torch.tensor([0.0, 0.3, 0.59, 0.6, 0.8, 1.0])
    apart = (flow.velocity(place, time) - base.velocity(place, time)).abs()[:, 0]
    assert bool((apart[:3] > 0).all())
    assert not bool(apart[3:].any())
    torch.testing.assert_close(flow.velocity(place[:2], time[:2]), flow.velocity(place, time)[:2])
    assert torch.equal(flow.velocity(place[3:], time[3:]), base.velocity(place[3:], time[3:]))


def broken(how: str) -> Callable[[Tensor], Tensor]:
    def reward(media: Tensor) -> Tensor:
        if how == "raises":
            raise ZeroDivisionError("of my own")
        if how == "memory":
            raise MemoryError
        return {
            "constant": torch.full((len(media),), 0.3),
            "nan": right(media) * torch.nan,
            "shape": media,
        }[how]

    return reward


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("constant", RewardError, "0.3 for all of"),
        ("nan", RewardError, "NaN or infinite for 32 of 32"),
        ("raises", RewardError, "ZeroDivisionError: of my own"),
        ("shape", RewardError, r"expected a tensor of shape \(32,\)"),
        ("memory", OutOfMemory, "take fewer"),
    ],
)
def test_a_reward_that_breaks_is_told_and_the_last_good_adapter_stays(
    base: FlowModel, how: str, error: type[Exception], says: str
) -> None:
    settings = replace(QUICK, noises=8)
    calls: list[int] = []

    def reward(media: Tensor) -> Tensor:
        calls.append(len(media))
        return right(media) if len(calls) == 1 else broken(how)(media)

    policy = DenoisingPolicy(base, reward, settings)
    policy.advance()
    good = policy.state()
    with pytest.raises(error, match=says):
        policy.advance()
    assert all(torch.equal(value, good[name]) for name, value in policy.state().items())
    assert len(policy.history) == 1


def test_ctrl_c_keeps_the_last_good_adapter(base: FlowModel) -> None:
    def reward(media: Tensor) -> Tensor:
        if policy.history:
            raise KeyboardInterrupt
        return right(media)

    policy = DenoisingPolicy(base, reward, replace(QUICK, noises=8))
    policy.advance()
    good = policy.state()
    with pytest.raises(KeyboardInterrupt):
        policy.advance()
    assert all(torch.equal(value, good[name]) for name, value in policy.state().items())


@pytest.mark.parametrize(
    "wrong", [{"iterations": 0}, {"group": 1}, {"divergence": -1.0}, {"clip": 0.0}, {"limit": 0.0}, {"trust": 0.0}]
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        DenoisingSettings(**wrong)  # type: ignore[arg-type]
