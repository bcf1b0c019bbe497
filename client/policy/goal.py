"""What a policy is learned for: expected reward, minus a price for leaving the latent law, plus variety.

For a level ``s`` the value of a policy is ``E[r] - price(s) KL(q || p) + bonus E[variety]``. Without the bonus the best
policy is the latent law tilted by the reward, ``q ~ p exp(r / price)`` (Levine 2018, eq. 9): the price alone decides
how safe or surprising it is. The divergence is estimated by `client.policy.flow.log_ratio`, exact for each sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from client.policy.flow import Moved, log_ratio
from client.policy.reward import Reward, Scaled
from common.errors import SettingError
from common.latents import LatentSpace

See = Callable[[Tensor], Tensor]
"""Latents ``(n, d)`` to what people see in them ``(n, f)``; differentiable by torch where learners need that."""

STEEP = 1.0  # deviations of the reward a nat
_MEASURED = 1024  # items that variety is compared with


@dataclass(frozen=True, kw_only=True)
class GoalSettings:
    """What a policy is to weigh.

    Attributes:
        safe: price of one nat of divergence at level 0, in standard deviations of the reward.
        surprising: the same at level 1; in between prices rise geometrically.
        variety: bonus for a group of items as varied as the generator's own; more than that is not paid for.
        most: nats of divergence at level 0 from where on each further one costs ``STEEP`` more, however high the
            reward climbs.
        nearest: the same at level 1; in between they fall geometrically.

    Raises:
        SettingError: a number is not positive, a price falls, nats rise, or the bonus is negative.
    """

    safe: float = 0.03
    surprising: float = 0.3
    variety: float = 1.0
    most: float = 14.0
    nearest: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.safe <= self.surprising < math.inf:
            raise SettingError(f"prices safe={self.safe}, surprising={self.surprising} must be > 0 and rising")
        if not 0 <= self.variety < math.inf:
            raise SettingError(f"variety={self.variety} must be >= 0; try 1")
        if not 0 < self.nearest <= self.most:
            raise SettingError(f"most={self.most}, nearest={self.nearest} must be > 0 and falling; try 14 and 5")

    def price(self, level: Tensor) -> Tensor:
        """Price of a nat ``(n,)`` at levels ``(n,)``, as long as there are few of them."""
        return self.safe * (self.surprising / self.safe) ** level

    def cost(self, log_ratio: Tensor, level: Tensor, groups: int) -> Tensor:
        """What leaving the latent law costs items ``(n,)`` that come in groups of one level each.

        The price goes up for a group that has gone as far as its level allows.
        """
        each = len(log_ratio) // groups
        mean = log_ratio.detach().reshape(groups, each).mean(1).repeat_interleave(each)
        far = mean > self.allowed(level)
        return (self.price(level) + STEEP * far.to(log_ratio)) * log_ratio

    def allowed(self, level: Tensor) -> Tensor:
        """Nats of divergence ``(n,)`` that levels ``(n,)`` allow before they cost more."""
        if math.isinf(self.nearest):
            return torch.full_like(level, math.inf)
        most = min(self.most, 1e30)
        return most * (self.nearest / most) ** level


class Terms(NamedTuple):
    """Parts of what items are worth, each ``(n,)``: reward in deviations, log ratio in nats, variety from 0 to 1."""

    reward: Tensor
    log_ratio: Tensor
    variety: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Goal:
    """A goal, measured on a generator.

    Attributes:
        reward: in standard deviations over the latent law.
        see: what variety is measured on.
        space: the latent law.
        apart: mean distance of two random items in what is seen.
        settings: what is weighed.
    """

    reward: Scaled
    see: See
    space: LatentSpace
    apart: float
    settings: GoalSettings

    @classmethod
    def measure(
        cls,
        reward: Reward,
        see: See,
        space: LatentSpace,
        generator: torch.Generator,
        settings: GoalSettings | None = None,
    ) -> Goal:
        """Put a reward and variety to scale.

        Raises:
            RewardError: see `Scaled.measure`.
        """
        scaled = reward if isinstance(reward, Scaled) else Scaled.measure(reward, space, generator)
        with torch.no_grad():
            seen = see(space.sample(_MEASURED, generator))
        apart = float(torch.cdist(seen, seen).sum() / (_MEASURED * (_MEASURED - 1)))
        return cls(reward=scaled, see=see, space=space, apart=max(apart, 1e-9), settings=settings or GoalSettings())

    def terms(self, noise: Tensor, moved: Moved, groups: int) -> Terms:
        """What items are worth, part by part.

        Args:
            noise: ``(n, d)``.
            moved: where it went.
            groups: rows come in so many groups of one size; variety is within each.
        """
        reward = self.reward(moved.places)
        return Terms(reward, log_ratio(noise, moved), self.variety(moved.places, groups))

    def variety(self, latents: Tensor, groups: int) -> Tensor:
        """Mean distance ``(n,)`` of each item to the others of its group, 1 for random items and never more."""
        seen = self.see(latents)
        seen = seen.reshape(groups, -1, seen.shape[1])
        each = seen.shape[1]
        # the small number keeps the slope of a distance of nothing finite
        squared = (seen[:, :, None] - seen[:, None]).square().sum(-1)
        distance = (squared + 1e-12).sqrt().sum(-1) / max(1, each - 1)
        return (distance / self.apart).clamp(max=1).flatten()

    def value(self, terms: Terms, level: Tensor, groups: int) -> Tensor:
        """What items are worth ``(n,)`` at levels ``(n,)``, in so many groups of one level each."""
        cost = self.settings.cost(terms.log_ratio, level, groups)
        return terms.reward - cost + self.settings.variety * terms.variety


def levels(groups: int, each: int, generator: torch.Generator) -> Tensor:
    """Levels ``(groups * each,)``, one per group, spread evenly over 0 to 1 with both ends in reach."""
    place = torch.arange(groups, device=generator.device, dtype=torch.float32)
    within = torch.rand(groups, generator=generator, device=generator.device)
    return ((place + within) / groups).repeat_interleave(each)
