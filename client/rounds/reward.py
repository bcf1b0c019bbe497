"""What the user preferred, and the reward model that learns it: bounded, trained by cross-entropy over pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.generators.pack import GeneratorPack
from client.lens import Lens
from client.rounds.user import BOTH, NEITHER, A, B
from common.errors import SettingError
from common.latents import LatentSpace

BOUND = 12.0  # log-odds; no picture is ever worth more than certainty
ABSOLUTE_WEIGHT = 0.1  # of "both" and "neither" as statements about each picture alone
Inputs = Literal["features", "latents", "both"]
INPUTS: tuple[Inputs, ...] = ("features", "latents", "both")
_BATCH = 64
_CLIMBS = 10  # gradient steps of a destination in one round


@dataclass(frozen=True, eq=False)
class Memory:
    """Every pair and its answer.

    Attributes:
        a: ``(t, d)`` latents of the first pictures.
        b: ``(t, d)`` latents of the second pictures.
        answer: ``(t,)`` int64, see `client.rounds.user`.
    """

    a: Tensor
    b: Tensor
    answer: Tensor

    @classmethod
    def empty(cls, dimension: int) -> Memory:
        """Nothing was asked yet."""
        return cls(torch.empty(0, dimension), torch.empty(0, dimension), torch.empty(0, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.answer)

    def add(self, a: Tensor, b: Tensor, answer: Tensor) -> Memory:
        """With more answers after these."""
        return Memory(torch.cat([self.a, a]), torch.cat([self.b, b]), torch.cat([self.answer, answer]))


class Sight(nn.Module):
    """What of a latent the reward model sees; differentiable, nothing in it is trained.

    ``features`` are the components of the pack's latent map, each as large as it varies among pictures; a pack without
    a map is seen through its latents.
    """

    def __init__(self, pack: GeneratorPack, inputs: Inputs) -> None:
        """Look at a pack's latents.

        Raises:
            SettingError: the inputs are unknown.
        """
        super().__init__()
        if inputs not in INPUTS:
            raise SettingError(f"inputs={inputs!r} is unknown; choose one of {', '.join(INPUTS)}")
        self._inputs = inputs if pack.components else "latents"
        self._lens = Lens(pack, None if self._inputs != "latents" else 0)
        self._scale = self._lens.scale.float()
        self.width = {
            "latents": pack.latents.dimension,
            "features": self._lens.components,
            "both": pack.latents.dimension + self._lens.components,
        }[self._inputs]

    def forward(self, latents: Tensor) -> Tensor:
        """``(n, width)`` of latents ``(n, d)``."""
        if self._inputs == "latents":
            return latents
        features: Tensor = self._lens(latents).features[:, :-1] * self._scale
        return features if self._inputs == "features" else torch.cat([latents, features], 1)


class RewardModel(nn.Module):
    """Reward of what is seen, in log-odds of "good", within ``BOUND`` either way."""

    def __init__(self, body: nn.Module) -> None:
        """Use ``REWARDS``; ``body`` maps ``(n, width)`` to ``(n, 1)``."""
        super().__init__()
        self.body = body

    def forward(self, seen: Tensor) -> Tensor:
        """``(n,)`` rewards, strictly within the bound up to rounding."""
        bounded: Tensor = BOUND * torch.tanh(self.body(seen).squeeze(1) / BOUND)
        return bounded


class _Bent(nn.Module):
    """A linear taste plus what two hidden layers add to it: sensible from a few answers, flexible from many."""

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.straight = nn.Linear(width, 1)
        self.bend = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 1)
        )

    def forward(self, seen: Tensor) -> Tensor:
        found: Tensor = self.straight(seen) + self.bend(seen)
        return found


def _linear(width: int) -> nn.Module:
    return nn.Linear(width, 1)


REWARDS = {"mlp": _Bent, "linear": _linear}


def make_reward(name: str, width: int, generator: torch.Generator) -> RewardModel:
    """An untrained reward model.

    Args:
        name: one of `REWARDS`.
        width: of what it sees.
        generator: draws the first weights, uniform within ``1 / sqrt(fan-in)``.

    Raises:
        SettingError: no such model.
    """
    if name not in REWARDS:
        raise SettingError(f"reward={name!r} is unknown; choose one of {', '.join(REWARDS)}")
    model = RewardModel(REWARDS[name](width))
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                for weights in (layer.weight, layer.bias):
                    bound = 1 / math.sqrt(layer.in_features)
                    weights.uniform_(-bound, bound, generator=generator)
    return model


def preference_loss(reward_a: Tensor, reward_b: Tensor, answer: Tensor) -> Tensor:
    """Mean cross-entropy of answers, in nats.

    The chance of A over B is ``sigmoid(r_a - r_b)`` (Bradley and Terry 1952); ties are soft targets of one half. A tie
    also says of each picture alone that it is good, ``sigmoid(r)``, or bad, at the weight ``ABSOLUTE_WEIGHT``.

    Args:
        reward_a: ``(t,)``.
        reward_b: ``(t,)``.
        answer: ``(t,)`` int64.

    Returns:
        A scalar; 0 for no answers.
    """
    target = torch.full_like(reward_a, 0.5)
    target = target.masked_fill(answer == A, 1.0).masked_fill(answer == B, 0.0)
    compared = functional.binary_cross_entropy_with_logits(reward_a - reward_b, target, reduction="none")
    sign = (answer == BOTH).to(reward_a.dtype) - (answer == NEITHER).to(reward_a.dtype)
    alone = functional.softplus(-sign * reward_a) + functional.softplus(-sign * reward_b)
    total = compared + ABSOLUTE_WEIGHT * sign.abs() * alone / 2
    return total.sum() / max(1, len(answer))


def train(model: RewardModel, sight: Sight, memory: Memory, epochs: int, generator: torch.Generator) -> float:
    """Go on training on everything that is remembered, by AdamW in small batches.

    Args:
        model: changed in place.
        sight: what it sees.
        memory: what was answered; nothing happens without any.
        epochs: passes over the memory.
        generator: orders the batches.

    Returns:
        The loss over the whole memory afterwards.
    """
    with torch.no_grad():
        seen_a, seen_b = sight(memory.a), sight(memory.b)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(memory), generator=generator), _BATCH):
            optimiser.zero_grad()
            if len(rows):
                preference_loss(model(seen_a[rows]), model(seen_b[rows]), memory.answer[rows]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    with torch.no_grad():
        return float(preference_loss(model(seen_a), model(seen_b), memory.answer))


def climb(model: RewardModel, sight: Sight, space: LatentSpace, start: Tensor, angle: float) -> Tensor:
    """Move a latent along the reward gradient on the typical shell.

    Guarantee: the result lies on the shell, at most ``angle`` from the (projected) start, and its reward is not below
    the start's. Where the gradient vanishes it stays.

    Args:
        model: the reward.
        sight: what it sees.
        space: whose shell.
        start: ``(d,)``.
        angle: radians.

    Returns:
        ``(d,)``.
    """
    here, step = space.project(start.detach()[None]), angle / _CLIMBS
    for _ in range(_CLIMBS):
        here.requires_grad_()
        value = model(sight(here)).sum()
        (gradient,) = torch.autograd.grad(value, here)
        here, axis = here.detach(), here.detach() / space.radius
        slope = gradient - (gradient * axis).sum() * axis
        steepness = torch.linalg.vector_norm(slope)
        if not float(steepness) > 1e-12:
            break
        further = space.project(math.cos(step) * axis + math.sin(step) * slope / steepness)
        with torch.no_grad():
            if bool(model(sight(further)).sum() > value):
                here = further
            else:
                step /= 2  # too far: the reward bends within the step
    return here[0]
