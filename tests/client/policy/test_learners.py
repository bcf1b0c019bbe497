"""The laws of learners, for all of them."""

import copy
import warnings

import pytest
import torch
from torch import Tensor

from client.policy.flow import LatentPolicy, log_ratio
from client.policy.goal import Goal
from client.policy.learner import LEARNERS, Learner, LearnSettings, learner
from client.policy.reward import Reward
from common.errors import OutOfMemory, RewardError, SettingError
from tests.client.policy.known import SPACE, Along, Of, fresh_policy, goal_of

STEADY = LearnSettings(rounds=20, steps=5, batch=128, groups=4, rate=5e-3)
SMALL = LearnSettings(rounds=20, steps=2, batch=32, groups=4, rate=5e-3)


@pytest.fixture(params=LEARNERS)
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "ppo":
        pytest.importorskip("stable_baselines3", reason="needs plgl[rl]")
    return str(request.param)


def made(name: str, goal: Goal, policy: LatentPolicy, settings: LearnSettings, seed: int = 0) -> Learner:
    return learner(name, policy, goal, settings, torch.Generator().manual_seed(seed))


def standing(policy: LatentPolicy, goal: Goal, level: float = 0.5) -> tuple[float, float]:
    """Mean reward and divergence."""
    noise = SPACE.sample(4000, torch.Generator().manual_seed(5))
    with torch.no_grad():
        moved = policy(noise, torch.full((4000,), level))
        return float(goal.reward(moved.places).mean()), float(log_ratio(noise, moved).mean())


def test_the_best_policy_of_a_linear_reward_is_found(name: str) -> None:
    """At price 1 it has mean reward 1 and divergence 1/2: the latent law tilted by the reward."""
    goal, policy = goal_of(Along(differentiable=name != "ppo")), fresh_policy()
    assert standing(policy, goal) == pytest.approx((0, 0), abs=0.1)
    work = made(name, goal, policy, STEADY)
    for _ in range(8):
        work.round()
    reward, divergence = standing(policy, goal)
    assert reward == pytest.approx(1, abs=0.35)
    assert divergence == pytest.approx(0.5, abs=0.35)


def test_safe_levels_raise_the_reward_more_than_surprising_ones(name: str) -> None:
    goal, policy = goal_of(Along(differentiable=name != "ppo"), safe=0.4, surprising=4.0), fresh_policy()
    work = made(name, goal, policy, STEADY)
    for _ in range(6):
        work.round()
    safe, surprising = standing(policy, goal, 0.0), standing(policy, goal, 1.0)
    assert safe[0] > surprising[0] + 0.5
    assert safe[1] > surprising[1]


def test_the_same_seed_gives_the_same_policy_and_nobody_elses_random_numbers_matter(name: str) -> None:
    goal, found = goal_of(Along(), variety=0.5), []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        policy = fresh_policy()
        before = torch.get_rng_state()
        made(name, goal, policy, SMALL, seed).round()
        assert torch.equal(torch.get_rng_state(), before)
        found.append(torch.cat([weights.flatten() for weights in policy.parameters()]).detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_learner_restored_from_its_state_goes_on_as_if_it_had_never_stopped(name: str) -> None:
    goal, policy = goal_of(Along(), variety=0.5), fresh_policy()
    work = made(name, goal, policy, SMALL)
    for _ in range(2):
        work.round()
    other = copy.deepcopy(policy)
    state, place = {key: value.clone() for key, value in work.state().items()}, work.generator.get_state()
    for _ in range(2):
        work.round()
    again = made(name, goal, other, SMALL, seed=9)
    again.restore(state)
    again.generator.set_state(place)
    for _ in range(2):
        again.round()
    for one, two in zip(policy.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_a_state_of_another_policy_is_refused(name: str) -> None:
    work = made(name, goal_of(Along()), fresh_policy(), SMALL)
    work.round()
    state = {key: value[..., :1] if key.endswith("exp_avg") else value for key, value in work.state().items()}
    with pytest.raises(ValueError, match="about other weights"):
        made(name, goal_of(Along()), fresh_policy(), SMALL).restore(state)


class Later(Reward):
    """Fine when it is measured, broken afterwards."""

    differentiable = True

    def __init__(self, error: Exception | None) -> None:
        self.error, self.asked = error, 0

    def __call__(self, latents: Tensor) -> Tensor:
        self.asked += 1
        if self.asked > 1:
            if self.error is not None:
                raise self.error
            return latents[:, 0] * torch.nan
        return latents[:, 0]


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        (None, RewardError, "NaN or infinite for"),
        (OSError("gone"), RewardError, "raised OSError: gone"),
        (MemoryError(), OutOfMemory, "take a smaller batch"),
    ],
    ids=["nan", "raises", "memory"],
)
def test_a_reward_that_breaks_on_the_way_is_told(
    name: str, broken: Exception | None, error: type[Exception], message: str
) -> None:
    work = made(name, goal_of(Later(broken)), fresh_policy(), SMALL)
    with pytest.raises(error, match=message):
        work.round()


def test_a_policy_for_another_generator_is_refused(name: str) -> None:
    from client.policy.flow import FlowSettings

    with pytest.raises(SettingError, match="for 4 numbers, the generator takes 6"):
        made(name, goal_of(Along()), LatentPolicy(FlowSettings(dimension=4)), SMALL)


def test_a_black_box_is_refused_by_the_learner_that_needs_a_gradient() -> None:
    with pytest.raises(RewardError, match=r"no gradient .* use the learner 'ppo'"):
        made("reparameterised", goal_of(Along(differentiable=False)), fresh_policy(), SMALL)
    lying = Of(lambda latents: latents[:, 0].detach())
    with pytest.raises(SettingError, match="unknown; choose one of reparameterised, ppo"):
        made("magic", goal_of(lying), fresh_policy(), SMALL)


@pytest.mark.parametrize(
    ("named", "message"),
    [({"batch": 30}, "multiple of groups"), ({"rounds": 0}, "rounds=0 must be >= 1"), ({"rate": 0.0}, "rate=0.0")],
    ids=["batch", "rounds", "rate"],
)
def test_settings_out_of_range_are_refused(named: dict[str, float], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        LearnSettings(**named)  # type: ignore[arg-type]


def test_generation_is_a_gymnasium_environment() -> None:
    pytest.importorskip("gymnasium", reason="needs plgl[rl]")
    import numpy as np
    from gymnasium.utils.env_checker import check_env

    from client.policy.generation import Generation

    world = Generation(goal_of(Along()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather have actions from -1 to 1
        check_env(world, skip_render_check=True)
    seen, _ = world.reset(seed=0, options={"level": 0.25})
    assert seen.tolist() == [0.25]
    action = np.ones(6, np.float32)
    _, pay, over, cut, _ = world.step(action)
    expected = float(world.goal.reward(torch.ones(1, 6))[0])
    assert pay == pytest.approx(expected)
    assert (over, cut) == (True, False)
