"""Gradient ascent along the typical shell, from many starts at once.

Steps are angles along great circles in the direction of the Riemannian gradient (Absil, Mahony and Sepulchre 2008,
sections 3.6 and 4.1), with a step length of its own for every walk: longer after a gain, shorter after a loss, which is
then not taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from client.search.base import Found, Meter, Search, Task, begin, finish, pick, wander, within
from common.errors import SettingError
from common.latents import LatentSpace

FIRST_STEP = 0.2  # radians
GROW, SHRINK = 1.6, 0.3
SMALLEST_STEP = 1e-4  # radians; a walk whose steps are shorter has arrived


@dataclass(frozen=True, eq=False)
class Ring:
    """Where walks may go: all points at some angles from a pole; without one the whole shell.

    A point of the ring is ``radius (cos * pole + sin * u)`` with ``u`` a unit vector across the pole; walks move ``u``.

    Attributes:
        space: where the shell lies.
        pole: ``(d,)`` unit vector, or zeros for the whole shell.
        cos: ``(n, 1)`` cosines of the angles from the pole; 0 for the whole shell.
        sin: ``(n, 1)``; 1 for the whole shell.
    """

    space: LatentSpace
    pole: Tensor
    cos: Tensor
    sin: Tensor

    @classmethod
    def whole(cls, space: LatentSpace, like: Tensor) -> Ring:
        """The whole shell, for walks ``like`` ``(n, d)``."""
        none = torch.zeros_like(like[:, :1])
        return cls(space, torch.zeros_like(like[0]), none, none + 1)

    @classmethod
    def around(cls, space: LatentSpace, pole: Tensor, angle: Tensor) -> Ring:
        """Rings at angles ``(n,)`` radians around a pole ``(d,)`` of any length."""
        return cls(space, torch.nn.functional.normalize(pole, dim=0), angle.cos()[:, None], angle.sin()[:, None])

    def place(self, directions: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Latents ``(m, d)`` of directions ``(m, d)`` of the walks ``rows``."""
        return self.space.project(self.cos[rows] * self.pole + self.sin[rows] * directions)

    def across(self, vectors: Tensor) -> Tensor:
        """Vectors ``(m, d)`` without their part along the pole."""
        return vectors - (vectors @ self.pole)[:, None] * self.pole

    def uphill(self, directions: Tensor, slope: Tensor) -> Tensor:
        """Unit tangents ``(m, d)`` at ``directions`` along which the score rises most; zero where it is flat."""
        tangent = self.across(slope)
        tangent = tangent - (tangent * directions).sum(1, keepdim=True) * directions
        length, whole = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (tangent, slope))
        # what is left of a slope that points straight out of the shell is rounding, not a direction
        return torch.where(length > 1e-6 * whole, tangent / length.clamp(min=1e-30), torch.zeros_like(tangent))


def climb(
    meter: Meter,
    ring: Ring,
    directions: Tensor,
    steps: int,
    *,
    centres: Tensor,
    reach: Tensor | float,
    wanted: float | None = None,
) -> tuple[Tensor, Tensor]:
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
        Directions ``(n, d)`` and scores ``(n,)``.
    """
    here = directions.clone()
    scores, slope = meter.with_gradient(ring.place(here))
    reach = torch.as_tensor(reach, dtype=here.dtype, device=here.device).expand(len(here), 1)
    length, goal = torch.full_like(here[:, :1], FIRST_STEP), math.inf if wanted is None else wanted
    for _ in range(steps):
        rows = ((length[:, 0] > SMALLEST_STEP) & (scores < goal)).nonzero()[:, 0]
        if not len(rows):
            break
        now, step = here[rows], length[rows]
        uphill = ring.uphill(now, slope[rows])
        ahead = torch.nn.functional.normalize(ring.across(step.cos() * now + step.sin() * uphill), dim=1)
        ahead = within(ahead, centres[rows], reach[rows])
        risen, steeper = meter.with_gradient(ring.place(ahead, rows))
        better = risen > scores[rows]
        here[rows] = torch.where(better[:, None], ahead, now)
        slope[rows] = torch.where(better[:, None], steeper, slope[rows])
        scores[rows] = torch.where(better, risen, scores[rows])
        length[rows] = (step * torch.where(better[:, None], GROW, SHRINK)).clamp(max=0.5)
    return here, scores


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
        ring = Ring.whole(task.space, begun)
        ended, scores = climb(meter, ring, begun, self.steps, centres=centres, reach=reach, wanted=task.wanted)
        return task.space.project(ended), scores
