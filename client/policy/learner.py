"""What a learner is: it improves a policy for a goal, one round at a time.

Laws, the same for all: a round leaves the policy finite or raises; the same seed gives the same policy; a learner
restored from its state goes on as if it had never stopped; random numbers come from its generator and from nothing
else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from client.policy.flow import LatentPolicy
from client.policy.goal import Goal
from common.errors import SettingError

LEARNERS = ("reparameterised", "ppo")


@dataclass(frozen=True, kw_only=True)
class LearnSettings:
    """How a learner works; none of it changes what is good.

    Attributes:
        rounds: most rounds.
        steps: gradient steps of a round.
        batch: items of a step, in ``groups`` groups of one level each.
        groups: see above.
        rate: learning rate of Adam.

    Raises:
        SettingError: a value is out of range, or the groups do not divide the batch.
    """

    rounds: int = 20
    steps: int = 10
    batch: int = 256
    groups: int = 8
    rate: float = 3e-3

    def __post_init__(self) -> None:
        for name in ("rounds", "steps", "batch", "groups"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}={getattr(self, name)} must be >= 1")
        if self.batch % self.groups or self.batch < 2 * self.groups:
            raise SettingError(f"batch={self.batch} must be a multiple of groups={self.groups}, two items or more each")
        if not 0 < self.rate < math.inf:
            raise SettingError(f"rate={self.rate} must be > 0; try 0.003")


class Learner(ABC):
    """A way to improve a policy.

    Attributes:
        policy: what is improved, in place.
        goal: what for.
        settings: how.
        generator: source of randomness.
    """

    name: ClassVar[str]

    def __init__(self, policy: LatentPolicy, goal: Goal, settings: LearnSettings, generator: torch.Generator) -> None:
        """Begin, or go on after `restore`.

        Raises:
            SettingError: policy and goal are about latents of different sizes.
            RewardError: this learner needs a gradient and the reward has none.
        """
        if policy.settings.dimension != goal.space.dimension:
            raise SettingError(
                f"the policy is for {policy.settings.dimension} numbers, the generator takes {goal.space.dimension}"
            )
        self.policy, self.goal, self.settings, self.generator = policy, goal, settings, generator

    @abstractmethod
    def round(self) -> None:
        """Improve the policy a little.

        Raises:
            RewardError: the reward is NaN or infinite, has another shape, or raises.
            OutOfMemory: the batch does not fit.
        """

    @abstractmethod
    def slow_down(self, factor: float) -> None:
        """Learn slower from now on; the rate is multiplied by ``factor``."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What `restore` needs besides the policy and the generator."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state.

        Raises:
            KeyError, ValueError: it is not the state of such a learner.
        """


def learner(
    name: str, policy: LatentPolicy, goal: Goal, settings: LearnSettings, generator: torch.Generator
) -> Learner:
    """A learner by name; see `Learner` for arguments.

    Raises:
        SettingError: there is none of that name, or what it needs is not installed.
        RewardError: it needs a gradient and the reward has none.
    """
    if name == "reparameterised":
        from client.policy.reparameterised import Reparameterised

        return Reparameterised(policy, goal, settings, generator)
    if name == "ppo":
        try:
            from client.policy.ppo import ProximalPolicy
        except ImportError as error:
            raise SettingError(
                f"learner 'ppo' needs {error.name}; install plgl[rl], or use 'reparameterised'"
            ) from error
        return ProximalPolicy(policy, goal, settings, generator)
    raise SettingError(f"learner {name!r} is unknown; choose one of {', '.join(LEARNERS)}")


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and rate of Adam as named tensors."""
    kept: dict[int, dict[str, Tensor]] = optimiser.state_dict()["state"]
    rate = torch.tensor(optimiser.param_groups[0]["lr"], dtype=torch.float64)
    return {"rate": rate} | {
        f"adam.{i}.{name}": value.detach().clone() for i, values in kept.items() for name, value in values.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Take what `optimiser_state` gave.

    Raises:
        ValueError: it is about other weights.
    """
    whole = optimiser.state_dict()
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith("adam."):
            _, index, key = name.split(".")
            found.setdefault(int(index), {})[key] = value
    shapes = [weights.shape for group in optimiser.param_groups for weights in group["params"]]
    if found and [found[i]["exp_avg"].shape for i in sorted(found)] != shapes:
        raise ValueError("the state is about other weights")
    optimiser.load_state_dict({**whole, "state": found})
    for group in optimiser.param_groups:
        group["lr"] = float(state["rate"])


def slow_down(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Multiply the rate of an optimiser."""
    for group in optimiser.param_groups:
        group["lr"] *= factor
