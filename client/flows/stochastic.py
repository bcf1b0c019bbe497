"""A flow that is followed with chance: noise is taken out and put in anew on the way, which makes each step a policy.

With ``x_t = (1 - t) x_0 + t x_1`` the velocity tells both ends: the sample ``x + (1 - t) v`` and the noise
``x - t v``. A step to u mixes them anew, ``u sample + sqrt((1 - u)^2 - s^2) noise + s xi``. This is the family of Song,
Meng and Ermon 2021 (DDIM, equations 7 and 12) with weights that sum to 1 in place of squares that do; it keeps the law
of ``x_u`` for every s where noise and sample are independent. ``s = 0`` is Euler's method on the flow, the largest s is
ancestral sampling. A flow that was trained with noises matched to samples keeps its law only nearly, and only early on
the way: hence `StochasticSettings.until`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from client.flows.rectified import Velocity
from common.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class StochasticSettings:
    """How much chance there is, and when.

    Attributes:
        steps: from noise to sample, >= 2.
        chance: share of ancestral sampling, above 0 to 1.
        until: time from which steps are without chance, above 0 to 1; the last step always is.
    """

    steps: int = 8
    chance: float = 0.7
    until: float = 0.25

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise SettingError(f"steps={self.steps} must be >= 2; try 8")
        if not 0 < self.chance <= 1 or not 0 < self.until <= 1:
            raise SettingError(f"chance={self.chance} and until={self.until} must lie in (0, 1]; try 0.7 and 0.25")

    @property
    def spreads(self) -> tuple[float, ...]:
        """Standard deviation s of the noise that each step puts in; the last is 0."""
        return tuple(self._spread(step) for step in range(self.steps))

    @property
    def chances(self) -> int:
        """How many steps, from the first on, are steps of chance; >= 1."""
        return sum(spread > 0 for spread in self.spreads)

    def _spread(self, step: int) -> float:
        time, after = step / self.steps, (step + 1) / self.steps
        if time >= self.until or step == self.steps - 1:
            return 0.0
        kept = time * (1 - after) / (after * (1 - time))  # of the noise, by ancestral sampling
        return self.chance * (1 - after) * math.sqrt(1 - kept**2)


@dataclass(frozen=True)
class Paths:
    """Ways from noise to samples.

    Attributes:
        places: ``(steps + 1, n, ...)``, the noise first, the sample last.
    """

    places: Tensor

    @property
    def samples(self) -> Tensor:
        """``(n, ...)``."""
        return self.places[-1]


def step_mean(velocity: Velocity, place: Tensor, step: int, settings: StochasticSettings) -> Tensor:
    """Where a step leads on average, ``(n, ...)``; it adds N(0, s^2 I) to that.

    Args:
        velocity: the field.
        place: ``(n, ...)`` before the step.
        step: 0 to ``settings.steps - 1``.
        settings: of the way.
    """
    time, after = step / settings.steps, (step + 1) / settings.steps
    spread = settings.spreads[step]
    found = velocity(place, place.new_full((len(place),), time))
    sample, noise = place + (1 - time) * found, place - time * found
    return after * sample + math.sqrt(max(0.0, (1 - after) ** 2 - spread**2)) * noise


@torch.no_grad()
def follow(velocity: Velocity, noise: Tensor, settings: StochasticSettings, generator: torch.Generator) -> Paths:
    """Follow a flow with chance.

    Args:
        velocity: the field.
        noise: ``(n, ...)``, standard normal.
        settings: of the way.
        generator: on the device of ``noise``.
    """
    places = [noise]
    for step, spread in enumerate(settings.spreads):
        place = step_mean(velocity, places[-1], step, settings)
        if spread:
            place = place + spread * torch.randn(place.shape, generator=generator, device=place.device)
        places.append(place)
    return Paths(torch.stack(places))
