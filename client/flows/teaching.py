"""Teaching a copy of a flow what somebody picked, without letting it forget the rest.

The copy B learns from two things at once: flow matching on the picked samples, which are what the person injects, and
an anchor, which holds the velocity of B to that of the first flow A wherever A leads. Their mixture is a flow that
draws more of what was picked and is elsewhere what it was. Nothing here knows what a sample is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from client.flows.rectified import Pairing, Velocity, independent, interpolate
from common.errors import SettingError

Flow = TypeVar("Flow", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class TeachSettings:
    """How a preference is injected.

    Attributes:
        steps: of Adam for one injection, >= 1.
        picks: places in a step for each sample picked so far, >= 1: every pick makes the flow draw more like it.
        most_picks: places for picks in a step at most, >= ``picks``.
        anchors: samples of A in a step, >= 0.
        anchor: weight of the anchor, >= 0; without it B forgets everything but the picks.
        learning_rate: > 0; a higher one makes more shapes that are none.
    """

    steps: int = 40
    picks: int = 16
    most_picks: int = 48
    anchors: int = 40
    anchor: float = 1.0
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.steps < 1 or self.picks < 1 or self.anchors < 0:
            raise SettingError(
                f"steps={self.steps} and picks={self.picks} must be >= 1, anchors={self.anchors} >= 0; "
                "try 40, 16 and 40"
            )
        if self.most_picks < self.picks:
            raise SettingError(f"most_picks={self.most_picks} must be at least picks={self.picks}; try 48")
        if not 0 < self.learning_rate < math.inf or not 0 <= self.anchor < math.inf:
            raise SettingError(
                f"learning_rate={self.learning_rate} must be > 0 and anchor={self.anchor} >= 0; try 0.001 and 1"
            )


def inject(
    student: Flow,
    base: Velocity,
    picks: Tensor,
    anchors: Tensor,
    settings: TeachSettings,
    generator: torch.Generator,
    pairing: Pairing = independent,
    report: Callable[[int], None] | None = None,
) -> Flow:
    """Teach a flow what was picked.

    Guarantee: ``student`` and ``base`` stay as they are, also when this is interrupted.

    Args:
        student: B as it is so far, or a copy of A. A velocity field.
        base: A.
        picks: ``(m, ...)`` all samples picked so far, m >= 1.
        anchors: ``(k, ...)`` samples of A, k >= 1 unless ``settings.anchors`` is 0.
        settings: how.
        generator: random numbers, on the device of ``picks``.
        pairing: the pairing that A was trained with.
        report: called with the number of steps done.

    Returns:
        B as it is now.

    Raises:
        SettingError: nothing to learn from, or the loss is no longer finite.
    """
    if not len(picks) or (settings.anchors and not len(anchors)):
        raise SettingError(f"{len(picks)} picks and {len(anchors)} samples to anchor on; give one of each at least")
    taught = copy.deepcopy(student).requires_grad_(True)
    descent = torch.optim.Adam(taught.parameters(), settings.learning_rate, betas=(0.9, 0.99))
    places = min(settings.picks * len(picks), settings.most_picks)
    for step in range(settings.steps):
        samples = torch.cat([_some(picks, places, generator), _some(anchors, settings.anchors, generator)])
        loss = _loss(taught, base, samples, places, settings.anchor, generator, pairing)
        descent.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        descent.step()
        if not math.isfinite(float(loss.detach())):
            raise SettingError(f"teaching lost its way at step {step}; try a lower rate than {settings.learning_rate}")
        if report is not None:
            report(step + 1)
    return taught.requires_grad_(False)


def _loss(
    taught: Velocity,
    base: Velocity,
    samples: Tensor,
    picked: int,
    anchor: float,
    generator: torch.Generator,
    pairing: Pairing,
) -> Tensor:
    """Mean of the flow-matching loss over the first ``picked`` samples, plus the anchor's mean over the others.

    All are paired with noise together: what is picked takes the noise that suits it best from what is not.
    """
    noise = torch.randn(samples.shape, generator=generator, device=samples.device)
    samples, index = pairing(noise, samples)
    time = torch.rand(len(samples), generator=generator, device=samples.device)
    place = interpolate(noise, samples, time)
    held = index >= picked
    wanted = samples - noise
    with torch.no_grad():
        wanted[held] = base(place[held], time[held])
    error = (taught(place, time) - wanted).square().flatten(1).mean(1)
    loss: Tensor = error[~held].mean()
    return loss + anchor * error[held].mean() if bool(held.any()) else loss


def _some(samples: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return samples[torch.randint(max(1, len(samples)), (n,), generator=generator, device=samples.device)]
