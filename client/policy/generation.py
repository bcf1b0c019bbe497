"""Generation as an environment: at a level, act by choosing a latent, and be paid what the item is worth.

An episode is one item. `Generation` is a Gymnasium environment for any learner; `Generations` is many of them at once
for Stable-Baselines3, scored together, so that nothing loops over items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from client.policy.goal import Goal, levels
from common.errors import SettingError

Array = npt.NDArray[np.float32]
Pay = Callable[[Tensor, Tensor], Tensor]
"""Latents ``(n, d)`` and levels ``(n,)`` to pay ``(n,)``."""

FARTHEST = 10.0  # most a number of a latent may be; the latent law never gets there


def spaces(dimension: int) -> tuple[Box, Box]:
    """Spaces of what is seen (the level) and of what is done (the latent)."""
    return Box(0.0, 1.0, (1,), np.float32), Box(-FARTHEST, FARTHEST, (dimension,), np.float32)


class Generation(gymnasium.Env[Array, Array]):
    """One item an episode; the pay is the reward alone, in deviations."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, goal: Goal) -> None:
        """Generate for a goal."""
        self.goal = goal
        self.observation_space, self.action_space = spaces(goal.space.dimension)  # type: ignore[assignment]
        self._level = np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode at a random level, or at ``options["level"]``."""
        super().reset(seed=seed)
        level = (options or {}).get("level", self.np_random.random())
        if not 0 <= level <= 1:
            raise SettingError(f"level={level} must lie between 0 (safe) and 1 (surprising)")
        self._level = np.array([level], np.float32)
        return self._level.copy(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Draw one item and be paid for it."""
        with torch.no_grad():
            reward = self.goal.reward(torch.as_tensor(action, dtype=torch.float32)[None])
        return self._level.copy(), float(reward), True, False, {}


class Generations(VecEnv):
    """Many episodes at once, each over after one item; levels come in groups, see `levels`."""

    def __init__(self, dimension: int, groups: int, each: int, pay: Pay, generator: torch.Generator) -> None:
        """Generate ``groups * each`` items at a time."""
        super().__init__(groups * each, *spaces(dimension))
        self._groups, self._each, self._pay, self._generator = groups, each, pay, generator
        self._level, self._actions = np.zeros((0, 1), np.float32), np.zeros((0, dimension), np.float32)

    def reset(self) -> Array:
        """Levels ``(n, 1)`` of the next items."""
        self._level = levels(self._groups, self._each, self._generator)[:, None].cpu().numpy()
        return self._level

    def step_async(self, actions: Array) -> None:
        """Take latents ``(n, d)``."""
        self._actions = actions

    def step_wait(self) -> tuple[Array, Array, npt.NDArray[np.bool_], list[dict[str, Any]]]:
        """Pay for them; every episode is over."""
        pay = self._pay(torch.from_numpy(self._actions), torch.from_numpy(self._level[:, 0]))
        nothing: dict[str, Any] = {}
        return self._level, pay.cpu().numpy(), np.ones(self.num_envs, np.bool_), [nothing] * self.num_envs

    def close(self) -> None:
        """Nothing is held."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same for every environment."""
        return [getattr(self, attr_name, None)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: environments cannot differ."""
        raise SettingError(f"{attr_name} cannot be set for some of the environments")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Refused: there are no single environments."""
        raise SettingError(f"{method_name} cannot be called on some of the environments")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """None is."""
        return [False] * len(list(self._get_indices(indices)))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Randomness comes from the generator; a seed changes nothing."""
        return [None] * self.num_envs
