"""Proximal policy optimisation (Schulman et al. 2017, eq. 7) by Stable-Baselines3: for rewards that are black boxes.

The actor is the policy itself: an action is a latent, and its log density is exact, so the ratio of new to old policy
needs no added noise. The price of divergence is part of the pay, ``-price (log q_old - log p)``, whose policy gradient
is that of the divergence. Between rollouts older ones are used again, see `client.policy.replay`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from client.policy.flow import LatentPolicy
from client.policy.generation import Generations
from client.policy.goal import Goal
from client.policy.learner import Learner, LearnSettings, optimiser_state, restore_optimiser, slow_down
from client.policy.replay import Replay, Scored
from common.errors import OutOfMemory

CLIP = 0.2  # how far the ratio of new to old policy may leave 1
EPOCHS = 4  # passes over a rollout
TIMES = 3  # older rollouts that are used again
BATCHES = 4  # a rollout is so many batches


class FlowActor(ActorCriticPolicy):
    """The policy as an actor, with a small critic of levels."""

    def __init__(self, *given: Any, flow: LatentPolicy, source: torch.Generator, **named: Any) -> None:
        self._given = (flow, source)  # a module cannot take modules before it is one
        super().__init__(*given, **named)

    def _build(self, lr_schedule: Any) -> None:
        self.flow, self._source = self._given
        self.critic = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
        with torch.no_grad():  # not from torch's global numbers
            for weights in self.critic.parameters():
                weights.copy_(0.3 * torch.randn(weights.shape, generator=self._source))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1))

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, values and log densities (relative to the latent law) at levels ``(n, 1)``."""
        noise = torch.randn(len(obs), self.flow.settings.dimension, generator=self._source)
        places, stretch = self.flow(noise.to(obs.device), obs[:, 0])
        ratio = (places.square().sum(1) - noise.to(obs.device).square().sum(1)) / 2 - stretch
        return places, self.critic(obs), ratio

    def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:  # type: ignore[override]
        """Values, log densities (relative to the latent law) and no entropy: its price is in the pay."""
        return self.critic(obs), self.flow.log_ratio_of(actions, obs[:, 0]), None

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self.forward(observation, deterministic)[0]

    def predict_values(self, obs: Any) -> Tensor:
        """What levels are worth ``(n, 1)``."""
        values: Tensor = self.critic(obs)
        return values


class ProximalPolicy(Learner):
    """PPO; needs rewards alone, and many more of them than `Reparameterised`."""

    name: ClassVar[str] = "ppo"

    def __init__(self, policy: LatentPolicy, goal: Goal, settings: LearnSettings, generator: torch.Generator) -> None:
        """See `Learner`; a rollout has ``BATCHES * batch`` items."""
        super().__init__(policy, goal, settings, generator)
        groups = settings.groups * BATCHES
        self._groups, self._replay = groups, Replay(TIMES)
        world = Generations(goal.space.dimension, groups, settings.batch // settings.groups, self._pay, generator)
        with torch.random.fork_rng(devices=[]):  # first weights that are never used come from the global numbers
            self._model = self._made(world)
        # the rate is that of the optimiser, which may be slowed down
        self._model.lr_schedule = lambda left: self._actor.optimizer.param_groups[0]["lr"]
        self._model.set_logger(Logger(folder=None, output_formats=[]))

    def _made(self, world: Generations) -> PPO:
        return PPO(
            FlowActor,
            world,
            learning_rate=self.settings.rate,
            n_steps=1,
            batch_size=self.settings.batch,
            n_epochs=EPOCHS,
            gamma=1.0,
            gae_lambda=1.0,
            clip_range=CLIP,
            ent_coef=0.0,
            policy_kwargs={"flow": self.policy, "source": self.generator},
            device=self.policy.device,
        )

    @property
    def _actor(self) -> FlowActor:
        actor = self._model.policy
        assert isinstance(actor, FlowActor)
        return actor

    @torch.no_grad()
    def _pay(self, latents: Tensor, level: Tensor) -> Tensor:
        """What latents are worth, and a note of them for later."""
        latents, level = latents.to(self.policy.device), level.to(self.policy.device)
        reward, ratio = self.goal.reward(latents), self.policy.log_ratio_of(latents, level)
        self._fresh = Scored(latents.clone(), level.clone(), reward, ratio)
        return self._worth(self._fresh, ratio)

    def _worth(self, scored: Scored, ratio: Tensor) -> Tensor:
        """Value of samples under a policy with log ratios ``(n,)``; a pair's distance is paid to both, hence twice."""
        variety = self.goal.variety(scored.latents, self._groups)
        bonus = 2 * self.goal.settings.variety * variety
        return scored.reward - self.goal.settings.cost(ratio, scored.level, self._groups) + bonus

    def round(self) -> None:
        """See `Learner`: one rollout, `EPOCHS` passes over it, and one over older ones that are still of use."""
        try:
            with _numpy_from(self.generator), contextlib.redirect_stdout(io.StringIO()):
                self._model._last_obs = None  # a round begins with levels of its own, resumed or not
                self._model.learn(self._model.n_envs, reset_num_timesteps=False)
            self._again()
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise OutOfMemory(
                f"a batch of {self.settings.batch} items does not fit in memory; take a smaller one"
            ) from error
        self._replay.add(self._fresh)

    def _again(self) -> None:
        actor = self._actor
        for weighed in self._replay.weighed(self.policy):
            with torch.no_grad():
                ratio = self.policy.log_ratio_of(weighed.scored.latents, weighed.scored.level)
                worth = self._worth(weighed.scored, ratio) - actor.critic(weighed.scored.level[:, None])[:, 0]
                worth = (worth - worth.mean()) / worth.std().clamp(min=1e-6)
            near = weighed.weight.clamp(1 - CLIP, 1 + CLIP)
            loss = -torch.minimum(weighed.weight * worth, near * worth).mean()
            actor.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(actor.parameters(), 0.5)
            actor.optimizer.step()

    def slow_down(self, factor: float) -> None:
        """See `Learner`."""
        slow_down(self._actor.optimizer, factor)

    def state(self) -> dict[str, Tensor]:
        """See `Learner`."""
        kept = optimiser_state(self._actor.optimizer)
        kept |= {f"critic.{name}": value.clone() for name, value in self._actor.critic.state_dict().items()}
        for i, scored in enumerate(self._replay.times):
            kept |= {f"replay.{i}.{name}": value.clone() for name, value in vars(scored).items()}
        return kept

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Learner`."""
        restore_optimiser(self._actor.optimizer, state)
        critic = {name.removeprefix("critic."): value for name, value in state.items() if name.startswith("critic.")}
        self._actor.critic.load_state_dict(critic)
        times = sorted({name.split(".")[1] for name in state if name.startswith("replay.")})
        self._replay = Replay(TIMES)
        for i in times:
            self._replay.add(Scored(**{key: state[f"replay.{i}.{key}"] for key in Scored.__annotations__}))


@contextlib.contextmanager
def _numpy_from(generator: torch.Generator) -> Iterator[None]:
    """NumPy's global numbers, which Stable-Baselines3 shuffles by, from our generator for a while."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(int(torch.randint(2**31, (), generator=generator, device=generator.device)))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
