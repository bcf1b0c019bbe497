"""The gradient of the goal itself, through the policy and the taste model (Kingma & Welling 2014, section 2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from client.policy.flow import LatentPolicy
from client.policy.goal import Goal, levels
from client.policy.learner import Learner, LearnSettings, optimiser_state, restore_optimiser, slow_down
from common.errors import OutOfMemory, RewardError

LONGEST = 5.0  # a gradient is shortened to this norm: one strange batch must not throw the policy off


class Reparameterised(Learner):
    """Adam on the value of fresh noise; the quick one, for rewards that torch can follow."""

    name: ClassVar[str] = "reparameterised"

    def __init__(self, policy: LatentPolicy, goal: Goal, settings: LearnSettings, generator: torch.Generator) -> None:
        """See `Learner`."""
        super().__init__(policy, goal, settings, generator)
        if not goal.reward.differentiable:
            raise RewardError("the reward has no gradient (a black box, or a true step); use the learner 'ppo'")
        self._optimiser = torch.optim.Adam(policy.parameters(), lr=settings.rate)

    def round(self) -> None:
        """See `Learner`."""
        try:
            for _ in range(self.settings.steps):
                self._step()
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise OutOfMemory(
                f"a batch of {self.settings.batch} items does not fit in memory; take a smaller one"
            ) from error

    def _step(self) -> None:
        groups, each = self.settings.groups, self.settings.batch // self.settings.groups
        level = levels(groups, each, self.generator)
        noise = torch.randn(
            len(level), self.goal.space.dimension, generator=self.generator, device=self.generator.device
        )
        noise, level = noise.to(self.policy.device), level.to(self.policy.device)
        terms = self.goal.terms(noise, self.policy(noise, level), groups)
        loss = -self.goal.value(terms, level, groups).mean()
        self._optimiser.zero_grad()
        if not loss.requires_grad:
            raise RewardError("the reward has no gradient though it says so; use the learner 'ppo'")
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), LONGEST)
        self._optimiser.step()

    def slow_down(self, factor: float) -> None:
        """See `Learner`."""
        slow_down(self._optimiser, factor)

    def state(self) -> dict[str, Tensor]:
        """See `Learner`."""
        return optimiser_state(self._optimiser)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Learner`."""
        restore_optimiser(self._optimiser, state)
