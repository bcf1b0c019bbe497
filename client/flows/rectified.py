"""Rectified flow: straight lines from noise to samples, and the velocity field that follows them on average.

``x_t = (1 - t) x_0 + t x_1`` with noise ``x_0 ~ N(0, I)`` and a sample ``x_1``; the field that minimises
``E |v(x_t, t) - (x_1 - x_0)|^2`` carries noise to samples (Liu, Gong and Liu 2022, equation 1; Lipman et al. 2023,
equation 23 with sigma_min = 0). Nothing here knows what a sample is: any field on tensors ``(n, ...)`` will do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import SettingError

Velocity = Callable[[Tensor, Tensor], Tensor]
"""``(n, ...)`` places and ``(n,)`` times in [0, 1] to ``(n, ...)`` velocities."""


Pairing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(n, ...)`` noises and ``(n, ...)`` samples to the sample that each noise shall become, and its index ``(n,)``."""


def independent(noise: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """The pairing of the papers: each noise becomes the sample that was drawn with it."""
    return samples, torch.arange(len(noise), device=samples.device)


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How the field is followed.

    Attributes:
        steps: of Heun's method, >= 1; each asks the field twice.
        chunk: samples at a time, >= 1; bounds the memory.
        times: from 0 to 1, rising, where Euler's method stops instead, as in a pack; empty for Heun's on equal steps.
    """

    steps: int = 12
    chunk: int = 256
    times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 1 or self.chunk < 1:
            raise SettingError(f"steps={self.steps} and chunk={self.chunk} must be >= 1; try 12 and 256")
        if self.times and (
            (self.times[0], self.times[-1]) != (0.0, 1.0) or any(not a < b for a, b in itertools.pairwise(self.times))
        ):
            raise SettingError(f"times of {len(self.times)} stops must rise from 0 to 1")


def interpolate(noise: Tensor, samples: Tensor, time: Tensor) -> Tensor:
    """Points ``(n, ...)`` on the lines from ``noise`` to ``samples``, both ``(n, ...)``, at ``time`` ``(n,)``."""
    at = _as_column(time, noise)
    return (1 - at) * noise + at * samples


def flow_loss(velocity: Velocity, noise: Tensor, samples: Tensor, time: Tensor) -> Tensor:
    """Flow-matching loss, the mean over all entries; see the module.

    Args:
        velocity: the field that learns.
        noise: ``(n, ...)``, standard normal.
        samples: ``(n, ...)``.
        time: ``(n,)`` in [0, 1].

    Returns:
        A scalar; its least value is the variance that the field cannot know, not 0.
    """
    return (velocity(interpolate(noise, samples, time), time) - (samples - noise)).square().mean()


@torch.no_grad()
def sample(
    velocity: Velocity,
    noise: Tensor,
    settings: SamplerSettings | None = None,
    report: Callable[[int], None] | None = None,
) -> Tensor:
    """Carry noise to samples, by Heun's method on equal steps or Euler's on given ones.

    Guarantee: the same noise always gives the same sample.

    Args:
        velocity: the field.
        noise: ``(n, ...)``, standard normal.
        settings: steps and memory; the usual ones without.
        report: called with the number of samples that are done.

    Returns:
        ``(n, ...)``, on the device of ``noise``.
    """
    settings = settings or SamplerSettings()
    done: list[Tensor] = []
    for part in torch.split(noise, settings.chunk):
        done.append(_euler(velocity, part, settings.times) if settings.times else _heun(velocity, part, settings.steps))
        if report is not None:
            report(min(len(noise), len(done) * settings.chunk))
    return torch.cat(done) if done else noise.clone()


def _heun(velocity: Velocity, place: Tensor, steps: int) -> Tensor:
    width = 1 / steps
    for step in range(steps):
        start = place.new_full((len(place),), step * width)
        here = velocity(place, start)
        there = velocity(place + width * here, start + width)
        place = place + 0.5 * width * (here + there)
    return place


def _euler(velocity: Velocity, place: Tensor, times: tuple[float, ...]) -> Tensor:
    for start, end in itertools.pairwise(times):
        place = place + (end - start) * velocity(place, place.new_full((len(place),), start))
    return place


def _as_column(time: Tensor, like: Tensor) -> Tensor:
    return time.view(-1, *(1,) * (like.dim() - 1))
