"""Samples that were scored before: used again with importance weights, and as a warm start.

A sample drawn by an old policy counts ``w = q_now / q_then``. Two limits are stated and kept: no weight is above
``LARGEST`` (Ionides 2008), and samples of a time whose effective number (Kong 1992) has fallen below ``EFFECTIVE`` of
them are not used at all.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from client.policy.flow import LatentPolicy
from client.policy.goal import Goal
from common.errors import SettingError

LARGEST = 5.0
EFFECTIVE = 0.3
WARM_EFFECTIVE = 0.02  # of the samples a warm start leans on at any level


@dataclass(frozen=True, eq=False)
class Scored:
    """Samples of one time.

    Attributes:
        latents: ``(n, d)``; level: ``(n,)``; reward: ``(n,)`` in deviations.
        level: see above.
        reward: see above.
        log_ratio: ``(n,)`` log density of the policy that drew them minus that of the latent law.
    """

    latents: Tensor
    level: Tensor
    reward: Tensor
    log_ratio: Tensor


@dataclass(frozen=True, eq=False)
class Weighed:
    """Old samples as the policy of now sees them.

    Attributes:
        scored: the samples.
        weight: ``(n,)`` importance weights, at most `LARGEST`; differentiable in the policy.
        effective: effective number of samples, as a share of them.
    """

    scored: Scored
    weight: Tensor
    effective: float


class Replay:
    """The samples of the last few times."""

    def __init__(self, times: int) -> None:
        """Remember so many times.

        Raises:
            SettingError: the number is negative.
        """
        if times < 0:
            raise SettingError(f"times={times} must be >= 0")
        self.times: deque[Scored] = deque(maxlen=times)

    def add(self, scored: Scored) -> None:
        """Remember; the oldest are forgotten."""
        self.times.append(scored)

    def weighed(self, policy: LatentPolicy) -> Iterator[Weighed]:
        """Samples that are still of use to a policy, newest first; each time is weighed when it is asked for."""
        for scored in reversed(self.times):
            found = weigh(policy, scored)
            if found.effective >= EFFECTIVE:
                yield found


def weigh(policy: LatentPolicy, scored: Scored) -> Weighed:
    """Importance weights of old samples under a policy."""
    gap = policy.log_ratio_of(scored.latents, scored.level) - scored.log_ratio
    weight = gap.clamp(max=math.log(LARGEST)).exp()
    return Weighed(scored, weight, effective_share(weight.detach()))


def effective_share(weight: Tensor) -> float:
    """Effective number of samples of weights ``(n,)`` over ``n``: ``(sum w)^2 / (n sum w^2)``; 0 where all are 0."""
    total, squares = float(weight.sum()), float(weight.square().sum())
    return total * total / (len(weight) * squares) if squares > 0 else 0.0


def warm_start(
    policy: LatentPolicy,
    goal: Goal,
    generator: torch.Generator,
    *,
    samples: int = 4096,
    steps: int = 100,
    batch: int = 256,
    rate: float = 3e-3,
) -> float:
    """Teach a policy the best of the generator's own items, so that learning does not begin from nothing.

    Items of the latent law are replayed with weights ``exp(reward / price)``, which is the best policy's density
    (`client.policy.goal`), and the policy takes their maximum likelihood. Where that would lean on fewer than
    `WARM_EFFECTIVE` of the samples, the price is raised until it does not.

    Args:
        policy: is taught in place, at all levels.
        goal: for reward and prices; a black box will do.
        generator: source of randomness.
        samples: items scored, once.
        steps: of Adam.
        batch: items of a step.
        rate: learning rate.

    Returns:
        Mean reward of the replayed items over levels, in deviations.
    """
    latents = goal.space.sample(samples, generator).to(policy.device)
    with torch.no_grad():
        reward = goal.reward(latents)
    grid = torch.linspace(0, 1, 5)
    weights = torch.stack([_tilted(reward, float(goal.settings.price(level))) for level in grid])
    optimiser = torch.optim.Adam(policy.parameters(), lr=rate)
    for _ in range(steps):
        row = torch.randint(len(grid), (batch,), generator=generator, device=generator.device)
        chosen = torch.multinomial(weights.to(generator.device), batch // len(grid) + 1, True, generator=generator)
        chosen, row = (
            chosen.flatten()[:batch],
            torch.arange(len(grid)).repeat_interleave(batch // len(grid) + 1)[:batch],
        )
        loss = -policy.log_ratio_of(latents[chosen.to(latents.device)], grid[row].to(policy.device)).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return float((weights.to(reward) @ reward).mean())


def _tilted(reward: Tensor, price: float) -> Tensor:
    """Weights ``(n,)``, summing to one, of a tilt by the reward that leans on enough samples."""
    while True:
        weight = torch.softmax(reward.double() / price, 0)
        if effective_share(weight) >= WARM_EFFECTIVE:
            return weight.float()
        price *= 1.1
