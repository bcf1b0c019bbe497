"""Gradient ascent along the typical shell, from many starts at once.

Steps go along the Riemannian gradient with momentum and back to the shell by projection (Absil, Mahony and Sepulchre
2008, sections 3.6 and 4.1). Every walk has a step length of its own: longer after a gain, shorter after a loss, which
is then not taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from client.search.base import Found, Meter, Search, Task, begin, finish, pick, wander, within
from common.errors import SettingError
from common.latents import LatentSpace

FIRST_STEP, LONGEST_STEP, SHORTEST_STEP = (
    0.5,
    0.5,
    1e-4,
)  # of the unit sphere; a walk whose steps are shorter has arrived
GROW, SHRINK = 1.2, 0.4
MOMENTUM = 0.7  # eight steps with it reach what twelve reach without, on the maps of pictures


class Walked(NamedTuple):
    """Where walks ended.

    Attributes:
        directions: ``(n, d)`` unit vectors.
        scores: ``(n,)``.
        before: ``(n, d)`` where each stood before its last step.
    """

    directions: Tensor
    scores: Tensor
    before: Tensor


@dataclass(frozen=True, eq=False)
class Ring:
    """Where walks may go: the points at some angle from a pole, or the whole shell.

    A point of the ring is ``radius (cos * pole + sin * u)`` with ``u`` a unit vector across the pole; walks move ``u``.

    Attributes:
        space: where the shell lies.
        pole: ``(d,)`` unit vector; None for the whole shell.
        cos: cosine of the angle.
        sin: sine of the angle.
    """

    space: LatentSpace
    pole: Tensor | None = None
    cos: float = 0.0
    sin: float = 1.0

    @classmethod
    def around(cls, space: LatentSpace, pole: Tensor, angle: float) -> Ring:
        """The ring at an angle, radians, around a pole ``(d,)`` of any length."""
        return cls(space, normalize(pole, dim=0), math.cos(angle), math.sin(angle))

    def place(self, directions: Tensor) -> Tensor:
        """Latents ``(n, d)`` of directions ``(n, d)``."""
        if self.pole is None:
            return self.space.radius * directions
        return self.space.radius * (self.cos * self.pole + self.sin * directions)

    def across(self, vectors: Tensor) -> Tensor:
        """Vectors ``(n, d)`` without their part along the pole."""
        return vectors if self.pole is None else vectors - (vectors @ self.pole)[:, None] * self.pole

    def uphill(self, directions: Tensor, slope: Tensor) -> Tensor:
        """Unit vectors ``(n, d)`` along the ring in which the score rises most; zero where it is flat."""
        left = self.across(slope - (slope * directions).sum(1, keepdim=True) * directions)
        length, whole = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (left, slope))
        # what is left of a slope that points straight out of the shell is rounding, not a direction
        return torch.where(length > 1e-6 * whole, left / length, 0.0)


def climb(
    meter: Meter,
    ring: Ring,
    directions: Tensor,
    steps: int,
    *,
    centres: Tensor,
    reach: Tensor | float,
    wanted: float | None = None,
) -> Walked:
    """Walk uphill from each direction, all walks at once.

    Guarantee: no walk ends below where it began, or farther than ``reach`` from its centre.

    Args:
        meter: scores and counts.
        ring: where the walks may go.
        directions: ``(n, d)`` unit vectors across the pole of the ring.
        steps: most steps of each walk.
        centres: ``(n, d)`` unit vectors across the pole, no farther than ``reach`` from the beginnings.
        reach: ``(n, 1)``, or one for all: largest angle between directions and their centres, radians.
        wanted: a walk stops where it reaches this score.

    Returns:
        Where they ended.
    """
    here, before, heading = directions, directions, torch.zeros_like(directions)
    scores, slope = meter.with_gradient(ring.place(here))
    step, goal = torch.full_like(here[:, :1], FIRST_STEP), math.inf if wanted is None else wanted
    for _ in range(steps):
        walking = (step > SHORTEST_STEP) & (scores < goal)[:, None]
        if not bool(walking.any()):
            break
        heading = normalize(ring.uphill(here, slope) + MOMENTUM * heading, dim=1)
        ahead = within(normalize(here + step * heading, dim=1), centres, reach)
        risen, steeper = meter.with_gradient(ring.place(ahead))
        better = walking & (risen > scores)[:, None]
        before = torch.where(better, here, before)
        here, slope = torch.where(better, ahead, here), torch.where(better, steeper, slope)
        scores = torch.where(better[:, 0], risen, scores)
        heading = heading * better  # after a loss straight uphill again
        step = (step * torch.where(better, GROW, SHRINK)).clamp(max=LONGEST_STEP)
    return Walked(here, scores, before)


class GradientSearch(Search):
    """Projected gradient ascent from the best starts and from the best of some random places."""

    name = "gradient"

    def __init__(self, *, walks: int = 16, steps: int = 25, places: int = 128) -> None:
        """Choose how much to spend.

        Args:
            walks: walks at least; there are never fewer than results.
            steps: most steps of each.
            places: random places looked at for beginnings besides the starts.

        Raises:
            SettingError: a number is below 1 (places: below 0).
        """
        for key, value, least in (("walks", walks, 1), ("steps", steps, 1), ("places", places, 0)):
            if value < least:
                raise SettingError(f"{key}={value} must be at least {least}")
        self.walks, self.steps, self.places = walks, steps, places

    def run(self, task: Task, count: int, generator: torch.Generator) -> Found:
        """See `Search`."""
        meter, shell, known = begin(task, count)
        seen, home, scores = shell, shell, known
        if self.places:
            places, homes = wander(task, shell, self.places, generator)
            seen, home, scores = (
                torch.cat([shell, places]),
                torch.cat([shell, homes]),
                torch.cat([known, meter(places)]),
            )
        chosen = pick(seen, scores, max(self.walks, count), task.minimum_distance)
        ended, risen = self._climb(task, meter, seen[chosen], home[chosen])
        return finish(task, count, meter, torch.cat([ended, seen]), torch.cat([risen, scores]))

    def _climb(self, task: Task, meter: Meter, latents: Tensor, home: Tensor) -> tuple[Tensor, Tensor]:
        begun, centres = latents / task.space.radius, home / task.space.radius
        reach = math.pi if task.trust_angle is None else task.trust_angle
        walked = climb(meter, Ring(task.space), begun, self.steps, centres=centres, reach=reach, wanted=task.wanted)
        return task.space.project(walked.directions), walked.scores
