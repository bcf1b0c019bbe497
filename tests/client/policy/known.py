"""A latent space of six numbers with a reward whose best policy is known in closed form."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from client.policy.flow import FlowSettings, LatentPolicy
from client.policy.goal import Goal, GoalSettings
from client.policy.reward import Reward
from common.latents import LatentSpace

SPACE = LatentSpace(6)
DIRECTION = torch.tensor([1.0, -1.0, 2.0, 0.0, 0.5, 0.0]) / math.sqrt(6.25)


class Along(Reward):
    """A linear reward of deviation one: the best policy at price b has mean reward 1/b and divergence 1/(2 b^2)."""

    def __init__(self, differentiable: bool = True) -> None:
        self.differentiable = differentiable

    def __call__(self, latents: Tensor) -> Tensor:
        found = latents @ DIRECTION
        return found if self.differentiable else found.detach()


class Of(Reward):
    """Any function of latents."""

    def __init__(self, function: Callable[[Tensor], Tensor], differentiable: bool = True) -> None:
        self.function, self.differentiable = function, differentiable

    def __call__(self, latents: Tensor) -> Tensor:
        return self.function(latents)


def goal_of(reward: Reward, *, safe: float = 1.0, surprising: float = 1.0, variety: float = 0.0) -> Goal:
    """A goal on the small space; what is seen are the latents."""
    settings = GoalSettings(safe=safe, surprising=surprising, variety=variety, most=math.inf, nearest=math.inf)
    return Goal.measure(reward, lambda latents: latents, SPACE, torch.Generator().manual_seed(1), settings)


def fresh_policy(seed: int = 0) -> LatentPolicy:
    """A small policy."""
    return LatentPolicy(FlowSettings(dimension=6, couplings=4, width=16, seed=seed))
