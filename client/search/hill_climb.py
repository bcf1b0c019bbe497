"""Hill climbing: from each of the best places look around at random, and go where it is better."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from client.search.base import Found, Search, Task, begin, finish, pick, random_directions, wander, within
from common.errors import SettingError

FIRST_STEP, LONGEST_STEP = 0.3, 1.0  # radians
GROW, SHRINK = 1.5, 0.8  # a step that is right for one gain in three looks neither grows nor shrinks for long


class HillClimb(Search):
    """Random steps along the shell from many places, each with a step length of its own; needs no gradient."""

    name = "hill-climb"

    def __init__(self, *, climbers: int = 8, looks: int = 4, rounds: int = 40, places: int = 128) -> None:
        """Choose how much to spend.

        Args:
            climbers: how many climb at once; never fewer than results.
            looks: random steps each considers in a round.
            rounds: how many rounds.
            places: random places looked at for beginnings besides the starts.

        Raises:
            SettingError: a number is below 1 (places: below 0).
        """
        for key, value, least in (("climbers", climbers, 1), ("looks", looks, 1), ("rounds", rounds, 1)):
            if value < least:
                raise SettingError(f"{key}={value} must be at least {least}")
        if places < 0:
            raise SettingError(f"places={places} must be at least 0")
        self.climbers, self.looks, self.rounds, self.places = climbers, looks, rounds, places

    def run(self, task: Task, count: int, generator: torch.Generator) -> Found:
        """See `Search`."""
        meter, shell, known = begin(task, count)
        places, homes = wander(task, shell, self.places, generator)
        seen, home, scores = torch.cat([shell, places]), torch.cat([shell, homes]), torch.cat([known, meter(places)])
        rows = pick(seen, scores, max(self.climbers, count), task.minimum_distance)
        here, best, centres = seen[rows] / task.space.radius, scores[rows], home[rows] / task.space.radius
        step = torch.full_like(here[:, :1], FIRST_STEP)
        for _ in range(self.rounds):
            if task.wanted is not None and bool(best.max() >= task.wanted):
                break
            ahead = self._look(task, here, centres, step, generator)
            risen, chosen = meter(task.space.radius * ahead.flatten(0, 1)).view(len(here), -1).max(1)
            better = (risen > best)[:, None]
            here = torch.where(better, ahead[torch.arange(len(here), device=here.device), chosen], here)
            best = torch.where(better[:, 0], risen, best)
            step = (step * torch.where(better, GROW, SHRINK)).clamp(max=LONGEST_STEP)
        return finish(task, count, meter, torch.cat([task.space.project(here), seen]), torch.cat([best, scores]))

    def _look(self, task: Task, here: Tensor, centres: Tensor, step: Tensor, generator: torch.Generator) -> Tensor:
        """Directions ``(climbers, looks, d)`` one step away."""
        n, d = here.shape
        from_here, around = (x[:, None].expand(n, self.looks, d).reshape(-1, d) for x in (here, centres))
        length = step.expand(n, self.looks).reshape(-1, 1)
        x = random_directions(n * self.looks, d, generator, here.device)
        x = normalize(x - (x * from_here).sum(1, keepdim=True) * from_here, dim=1)
        ahead = normalize(length.cos() * from_here + length.sin() * x, dim=1)
        reach = math.pi if task.trust_angle is None else task.trust_angle
        return within(ahead, around, reach).view(n, self.looks, d)
