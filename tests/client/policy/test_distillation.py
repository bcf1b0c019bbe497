import pytest
import torch

from client.policy.distillation import DistilSettings, distil
from client.policy.flow import FlowSettings, LatentPolicy
from client.policy.learner import LearnSettings, learner
from common.errors import SettingError
from tests.client.policy.known import SPACE, Along, goal_of


@pytest.fixture(scope="module")
def teacher() -> LatentPolicy:
    policy = LatentPolicy(FlowSettings(dimension=6, couplings=6, width=32))
    how = LearnSettings(steps=10, batch=64, groups=4, rate=5e-3)
    work = learner("reparameterised", policy, goal_of(Along(), safe=0.5), how, torch.Generator().manual_seed(0))
    for _ in range(4):
        work.round()
    return policy.requires_grad_(False)


def reward(policy: LatentPolicy, level: float) -> float:
    noise = SPACE.sample(2000, torch.Generator().manual_seed(3))
    with torch.no_grad():
        return float(goal_of(Along()).reward(policy(noise, torch.full((2000,), level)).places).mean())


def test_a_fifth_of_the_parameters_draws_the_same(teacher: LatentPolicy) -> None:
    small = distil(teacher, lambda latents: latents, DistilSettings(steps=150))
    assert small.parameters_in_all <= teacher.parameters_in_all / 5
    assert reward(teacher, 0.0) > 1.2
    for level in (0.0, 0.5, 1.0):
        assert reward(small, level) >= 0.95 * reward(teacher, level)
    noise = SPACE.sample(500, torch.Generator().manual_seed(4))
    half = torch.full((500,), 0.5)
    with torch.no_grad():
        apart = (small(noise, half).places - teacher(noise, half).places).norm(dim=1).mean()
        moved = (noise - teacher(noise, half).places).norm(dim=1).mean()
    assert float(apart) < 0.3 * float(moved)


def test_without_steps_the_small_policy_is_the_generator(teacher: LatentPolicy) -> None:
    """The control of the test above: a policy that learned nothing does not reach the teacher."""
    small = distil(teacher, lambda latents: latents, DistilSettings(steps=0))
    assert reward(small, 0.0) < 0.2


def test_no_policy_is_so_small(teacher: LatentPolicy) -> None:
    with pytest.raises(SettingError, match="take fewer couplings"):
        distil(teacher, lambda latents: latents, DistilSettings(share=1000))
    with pytest.raises(SettingError, match="batch=250 must be a multiple of groups=16"):
        DistilSettings(batch=250)
