"""A latent policy in front of the toy's flow: it moves the noise, the flow stays as it is.

Gradients go through the flow, followed in few steps, to the reward that was fitted to the picks. Of so few picks none
is held out: the guard has its limits alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from client.flows.comparison import Lesson
from client.flows.model import FlowModel
from client.flows.proposals import shape_distribution
from client.policy.flow import FlowSettings, LatentPolicy
from client.policy.goal import Goal, GoalSettings
from client.policy.guard import Guard, GuardSettings
from client.policy.learner import LearnSettings, learner
from client.policy.reward import Reward, Scaled
from client.policy.training import Learned, Training
from common.latents import LatentSpace

_FAR = 9.0  # of a point from the middle; noise unlike any can lead anywhere


@dataclass(frozen=True, kw_only=True)
class FrontSettings:
    """How the policy learns.

    Attributes:
        steps: of Heun's method from noise to shape while it learns.
        measured: shapes that the reward is put to scale on.
        learn: rounds and batches; a round takes 64 x 10 shapes.
        goal: prices; so many nats are enough to turn one kind of shape into another.
        guard: twice the limits, which it halves without a judge.
    """

    steps: int = 3
    measured: int = 256
    learn: LearnSettings = field(default_factory=lambda: LearnSettings(rounds=6, batch=64, groups=4))
    goal: GoalSettings = field(default_factory=lambda: GoalSettings(most=6.0, nearest=3.0))
    guard: GuardSettings = field(default_factory=lambda: GuardSettings(samples=64, divergence=16.0, distance=4.0))


class Walk:
    """Noise ``(n, d)`` to clouds ``(n, points, 3)``, differentiable; the last noise is walked only once."""

    def __init__(self, flow: FlowModel, steps: int) -> None:
        self._flow, self._steps = flow, steps
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, noise: Tensor) -> Tensor:
        """See the class."""
        wanted = noise.requires_grad and torch.is_grad_enabled()
        if self._last is None or self._last[0] is not noise or (wanted and not self._last[1].requires_grad):
            self._last = noise, self._walked(noise.reshape(len(noise), *self._flow.shape))
        return self._last[1]

    def _walked(self, place: Tensor) -> Tensor:
        width = 1 / self._steps
        for step in range(self._steps):
            start = place.new_full((len(place),), step * width)
            here = self._flow.velocity(place, start)
            there = self._flow.velocity(place + width * here, start + width)
            place = place + 0.5 * width * (here + there)
        return place.nan_to_num(0, 0, 0).clamp(-_FAR, _FAR)


class Picked(Reward):
    """What the picks of a lesson say of the shapes that noise leads to."""

    differentiable = True

    def __init__(self, lesson: Lesson, walk: Walk) -> None:
        self._lesson, self._walk = lesson, walk

    def __call__(self, latents: Tensor) -> Tensor:
        """See `Reward`."""
        return self._lesson.reward(self._walk(latents))


def learned(lesson: Lesson, settings: FrontSettings | None = None) -> Learned:
    """The policy that a lesson teaches.

    Raises:
        RewardError: the picks tell no shapes apart.
    """
    how = settings or FrontSettings()
    space = LatentSpace(math.prod(lesson.base.shape))
    generator, walk = torch.Generator().manual_seed(lesson.seed), Walk(lesson.base, how.steps)
    reward = Scaled.measure(Picked(lesson, walk), space, generator, how.measured)
    goal = Goal.measure(reward, lambda noise: shape_distribution(walk(noise)), space, generator, how.goal)
    policy = LatentPolicy(FlowSettings(dimension=space.dimension, seed=lesson.seed % 2**31))
    guard = Guard(goal, None, how.guard, generator)
    return Training(learner("reparameterised", policy, goal, how.learn, generator), guard).run()
