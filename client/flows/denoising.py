"""A policy on the steps of a flow: each step with chance is an action, the reward comes at the end.

DDPO (Black et al. 2024, equation 5): the steps from noise to sample are a decision process whose policy is Gaussian, so
the likelihood of a way under the network is exact and the clipped objective of PPO (Schulman et al. 2017, equation 7)
applies. Ways from the same noise are each other's baseline (RLOO; Ahmadian et al. 2024; for flows Liu et al. 2025,
Flow-GRPO). The divergence from the base flow is that of two Gaussians at each step and is penalised (DPOK; Fan et al.
2023). The network stays frozen; an adapter learns, and only the steps with chance use it: the base, which knows what
samples look like, goes the rest of the way.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from client.flows.adapters import AdapterSettings, adapted, adapter_state, restore_adapter
from client.flows.model import FlowModel
from client.flows.stochastic import Paths, StochasticSettings, follow, step_mean
from common.errors import OutOfMemory, PlglError, RewardError, SettingError

CONSTANT = 1e-9  # a spread of rewards below this is none
_MOST = 3.0  # nats of a likelihood ratio; what moved further has nothing left to say
Reward = Callable[[Tensor], Tensor]
"""What a person sees of the samples, ``(n, ...)``, to ``(n,)``; any function."""


@dataclass(frozen=True, kw_only=True)
class DenoisingSettings:
    """How a denoising policy learns.

    Attributes:
        iterations: of drawing and learning, >= 1.
        noises: in an iteration, >= 1.
        group: ways from each noise, >= 2.
        epochs: passes over the ways of an iteration, >= 1; the clip is for the later ones.
        clip: how far the likelihood of a step may move in an iteration, as a share, above 0.
        trust: nats a way may move in an iteration; epochs that are left are skipped beyond it, above 0.
        divergence: weight of the divergence from the base, >= 0, in rewards' standard deviations per nat.
        limit: nats of divergence for each sample at which it stops, above 0.
        learning_rate: above 0.
        way: steps and chance.
        adapter: what may change.
        seed: of noises, chance and the adapter.
    """

    iterations: int = 8
    noises: int = 32
    group: int = 4
    epochs: int = 3
    clip: float = 0.5
    trust: float = 0.3
    divergence: float = 0.1
    limit: float = 4.0
    learning_rate: float = 5e-3
    way: StochasticSettings = field(default_factory=StochasticSettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.iterations, self.noises, self.epochs) < 1 or self.group < 2:
            raise SettingError(
                f"iterations={self.iterations}, noises={self.noises} and epochs={self.epochs} must be >= 1 and "
                f"group={self.group} >= 2; try 8, 32, 3 and 4"
            )
        if not 0 <= self.divergence < math.inf:
            raise SettingError(f"divergence={self.divergence} must be >= 0; try 0.1")
        for name in ("clip", "trust", "limit", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingError(f"{name}={getattr(self, name)} must be > 0; try the default")


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """What happened in one iteration.

    Attributes:
        reward: mean over its samples, before learning from them.
        deviation: of those rewards.
        divergence: from the base for each sample, nats, after it.
    """

    reward: float
    deviation: float
    divergence: float


class Early(nn.Module):
    """A velocity that is one network's until a time and another's from then on."""

    def __init__(self, early: nn.Module, late: nn.Module, until: float) -> None:
        super().__init__()
        self.early, self.late, self.until = early, late, until

    def forward(self, place: Tensor, time: Tensor) -> Tensor:
        """See `FlowModel.velocity`."""
        early = time < self.until
        if bool(early.all()):
            return cast(Tensor, self.early(place, time))
        late = cast(Tensor, self.late(place, time))
        if not bool(early.any()):
            return late
        return torch.where(early.view(-1, *(1,) * (place.ndim - 1)), self.early(place, time), late)


class DenoisingPolicy:
    """A flow whose steps learn from a reward.

    Guarantee: the base is left as it is. `advance` either completes an iteration or, whatever stops it (a reward that
    raises, Ctrl-C, numbers that are not finite, the limit), leaves the adapter of the last whole one. A policy that is
    kept with `state` and gone on with `restore` learns as if it had not been stopped.

    Attributes:
        base: the flow it started from.
        history: whole iterations.
        stopped: whether the next iteration would leave the limit of divergence.
    """

    def __init__(self, base: FlowModel, reward: Reward, settings: DenoisingSettings) -> None:
        """Start as the base."""
        self.base, self.settings, self._reward = base, settings, reward
        self._network = adapted(base.velocity, settings.adapter, torch.Generator().manual_seed(settings.seed))
        self._weights = [weight for weight in self._network.parameters() if weight.requires_grad]
        self._descent = torch.optim.Adam(self._weights, settings.learning_rate, betas=(0.9, 0.99))
        self.history, self.stopped = list[Iteration](), False

    @property
    def done(self) -> bool:
        """Whether all iterations are made, or the limit was reached."""
        return self.stopped or len(self.history) >= self.settings.iterations

    @property
    def flow(self) -> FlowModel:
        """The flow as it is now, frozen; drawn from without chance, as the base is."""
        return self.base.moved(self._path(copy.deepcopy(self._network).requires_grad_(False)))

    def state(self) -> dict[str, Tensor]:
        """The adapter, its optimiser and how far it is."""
        return {**{f"adapter.{k}": v for k, v in adapter_state(self._network).items()}, **self._moments()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state` of the same settings.

        Raises:
            SettingError: it belongs to other settings.
        """
        kept = {k.removeprefix("adapter."): v for k, v in state.items() if k.startswith("adapter.")}
        restore_adapter(self._network, kept)
        self.history = [Iteration(**dict(zip(_FIELDS, row, strict=True))) for row in state["history"].tolist()]
        self.stopped = bool(state["stopped"])
        for index, weight in enumerate(self._weights):
            if f"first.{index}" in state:
                self._descent.state[weight] = {
                    "step": state["steps"].clone(),
                    "exp_avg": state[f"first.{index}"].clone().to(weight),
                    "exp_avg_sq": state[f"second.{index}"].clone().to(weight),
                }

    def advance(self) -> Iteration | None:
        """Draw, ask for rewards and learn once.

        Returns:
            What happened; None where the limit of divergence was reached, after which it is `done`.

        Raises:
            RewardError: the reward raises, is NaN, or is the same for all samples.
            SettingError: the numbers are no longer finite.
            OutOfMemory: an iteration does not fit.
        """
        before = self.state()
        try:
            found = self._iteration()
        except (MemoryError, torch.OutOfMemoryError) as error:
            self._back(before)
            raise OutOfMemory(f"{self.settings.noises} noises do not fit in memory; take fewer") from error
        except BaseException:
            self._back(before)
            raise
        if found.divergence > self.settings.limit:
            self._back(before)
            self.stopped = True
            return None
        self.history.append(found)
        return found

    def _iteration(self) -> Iteration:
        settings = self.settings
        generator = self._generator(len(self.history))
        noise = self.base.noise(settings.noises, generator).repeat_interleave(settings.group, 0)
        paths = follow(self._path(self._network), noise, settings.way, generator)
        if not bool(paths.samples.isfinite().all()):
            raise SettingError(f"the policy lost its way; try a lower rate than {settings.learning_rate}")
        rewards = ask(self._reward, self.base.media(paths.samples))
        advantages = _advantages(rewards, settings.group)
        with torch.no_grad():
            old, held = self._means(self._network, paths), self._means(self.base.velocity, paths)
        for _ in range(settings.epochs):
            means = self._means(self._network, paths)
            if float(self._divergence(means.detach(), old).mean()) > settings.trust:
                break
            loss = self._loss(paths, means, advantages, old, held)
            self._descent.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
            self._descent.step()
            if not all(bool(weight.isfinite().all()) for weight in self._weights):
                raise SettingError(f"the policy lost its way; try a lower rate than {settings.learning_rate}")
        with torch.no_grad():
            divergence = float(self._divergence(self._means(self._network, paths), held).mean())
        deviation = float(rewards.std(correction=0))
        return Iteration(reward=float(rewards.mean()), deviation=deviation, divergence=divergence)

    def _loss(self, paths: Paths, means: Tensor, advantages: Tensor, old: Tensor, held: Tensor) -> Tensor:
        taken = paths.places[1 : len(means) + 1]
        gain = self._log_likelihood(taken, means) - self._log_likelihood(taken, old)  # (chances, n)
        ratio = gain.clamp(-_MOST, _MOST).exp()
        near = ratio.clamp(1 - self.settings.clip, 1 + self.settings.clip)
        objective = torch.minimum(ratio * advantages, near * advantages).sum(0).mean()
        return self.settings.divergence * self._divergence(means, held).mean() - objective

    def _means(self, velocity: nn.Module, paths: Paths) -> Tensor:
        """``(chances, n, ...)`` where the steps of chance led on average."""
        steps = range(self.settings.way.chances)
        return torch.stack([step_mean(velocity, paths.places[step], step, self.settings.way) for step in steps])

    def _log_likelihood(self, taken: Tensor, means: Tensor) -> Tensor:
        """``(chances, n)`` nats, of the steps of chance, up to a constant."""
        return -(taken - means).square().flatten(2).sum(-1) / (2 * self._variances(means)[:, None])

    def _divergence(self, means: Tensor, held: Tensor) -> Tensor:
        """``(n,)`` nats between the ways of both flows (chain rule; two Gaussians of the same variance each)."""
        return ((means - held).square().flatten(2).sum(-1) / (2 * self._variances(means)[:, None])).sum(0)

    def _variances(self, like: Tensor) -> Tensor:
        return like.new_tensor(self.settings.way.spreads[: self.settings.way.chances]).square()

    def _path(self, network: nn.Module) -> Early:
        return Early(network, self.base.velocity, self.settings.way.until)

    def _generator(self, count: int) -> torch.Generator:
        seed = (self.settings.seed * 1_000_003 + count + 1) % 2**62
        return torch.Generator(self.base.device).manual_seed(seed)

    def _moments(self) -> dict[str, Tensor]:
        kept = {
            "history": torch.tensor([[getattr(each, name) for name in _FIELDS] for each in self.history]).view(-1, 3),
            "stopped": torch.tensor(self.stopped),
        }
        for index, weight in enumerate(self._weights):
            if moments := self._descent.state.get(weight):
                kept["steps"] = torch.as_tensor(moments["step"]).clone()
                kept[f"first.{index}"] = moments["exp_avg"].clone()
                kept[f"second.{index}"] = moments["exp_avg_sq"].clone()
        return kept

    def _back(self, state: Mapping[str, Tensor]) -> None:
        self._descent.state.clear()
        self.restore(state)


_FIELDS = ("reward", "deviation", "divergence")


def ask(reward: Reward, media: Tensor) -> Tensor:
    """What a reward says, ``(n,)`` float32; it may be somebody else's code.

    Raises:
        RewardError: it raises, is not finite, or has another shape.
    """
    try:
        said = reward(media)
    except PlglError:
        raise
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # somebody else's code can raise anything
        raise RewardError(f"the reward raised {type(error).__name__}: {error}; try it on a few items") from error
    if not isinstance(said, Tensor) or said.shape != media.shape[:1]:
        shape = tuple(said.shape) if isinstance(said, Tensor) else type(said).__name__
        raise RewardError(f"the reward answered with {shape}; expected a tensor of shape ({len(media)},)")
    if broken := int((~said.isfinite()).sum()):
        raise RewardError(f"the reward is NaN or infinite for {broken} of {len(media)} items; return finite numbers")
    return said.detach().float()


def _advantages(rewards: Tensor, group: int) -> Tensor:
    """``(n,)`` how much better each way is than the others from its noise, in deviations of all.

    Raises:
        RewardError: all rewards are the same.
    """
    deviation = float(rewards.double().std(correction=0))
    if deviation <= CONSTANT * max(1.0, float(rewards.abs().max())):
        raise RewardError(
            f"the reward is {float(rewards[0]):.6g} for all of {len(rewards)} samples; nothing can be learned from it: "
            "rate more items, or give a reward that tells them apart"
        )
    rows = rewards.view(-1, group)
    others = (rows.sum(1, keepdim=True) - rows) / (group - 1)
    return ((rows - others) / deviation).flatten()
