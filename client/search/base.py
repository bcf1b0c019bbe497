"""What a latent optimiser is: a score and places to start in, latents of the typical shell out.

A search knows nothing of tastes, ratings or pictures: a score is any function of latents. Distances between latents are
angles in radians, seen from the centre of the shell, because on the shell nothing else differs: 0 is the same item,
``pi / 2`` what two random items of a large space have, ``pi`` the opposite one. In Euclidean distance an angle ``a`` is
``sqrt(2 d (1 - cos a))``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from common.errors import SettingError
from common.latents import LatentSpace

Score = Callable[[Tensor], Tensor]
"""Latents ``(n, d)`` float32 to scores ``(n,)``, each of its own row only; differentiable by torch where that helps."""

CHUNK = 4096  # most latents scored at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is wanted.

    Attributes:
        score: what to raise. A score that is NaN or infinite never wins.
        space: where the latents live.
        starts: ``(s, d)``, s >= 1, where to start (the best items so far, samples of the space); searches project them
            to the shell. Their device is the device of everything.
        wanted: stop where this score is reached; None for as high as possible.
        minimum_distance: smallest angle between two results, radians from 0 to pi.
        trust_angle: largest angle between a result and the nearest start, radians from 0 to pi; None for anywhere.

    Raises:
        SettingError: a value is out of range, or starts are no ``(s, d)`` matrix with s >= 1.
    """

    score: Score
    space: LatentSpace
    starts: Tensor
    wanted: float | None = None
    minimum_distance: float = 0.0
    trust_angle: float | None = None

    def __post_init__(self) -> None:
        if self.starts.ndim != 2 or self.starts.shape[0] < 1 or self.starts.shape[1] != self.space.dimension:
            raise SettingError(f"starts of shape {tuple(self.starts.shape)} should be (s, {self.space.dimension})")
        if self.wanted is not None and not math.isfinite(self.wanted):
            raise SettingError(f"wanted={self.wanted} must be finite; leave it out for as high as possible")
        for name, angle in (("minimum_distance", self.minimum_distance), ("trust_angle", self.trust_angle)):
            if angle is not None and not 0 <= angle <= math.pi:
                raise SettingError(f"{name}={angle} must be an angle between 0 and pi radians")


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a search found, best first.

    Attributes:
        latents: ``(k, d)`` float32 on the shell; fewer than asked where the minimum distance leaves no room for more.
        scores: ``(k,)`` never rising.
        reached: whether the best score is at least the wanted one; True where none was wanted.
        steps: score evaluations, one for each latent scored.
        complete: whether there are as many as were asked for.
    """

    latents: Tensor
    scores: Tensor
    reached: bool
    steps: int
    complete: bool

    def __len__(self) -> int:
        return self.latents.shape[0]


class Search(ABC):
    """A way to find latents of a high score.

    Guarantees, the same for all: results lie on the typical shell (norm within 1e-4 of its radius); the best one scores
    no less than the best start once that is projected to the shell; no two are closer than the minimum distance, and
    fewer come back where that leaves no more room; none is farther than the trust angle from the nearest start; none
    has a score that is NaN or infinite; ``reached`` says whether the wanted score was; the same seed gives the same
    answer.
    """

    name: ClassVar[str]

    @abstractmethod
    def run(self, task: Task, count: int, generator: torch.Generator) -> Found:
        """Search.

        Args:
            task: what is wanted.
            count: how many results, at least 1.
            generator: source of randomness, on any device.

        Raises:
            SettingError: ``count`` is below 1, every start has a score that is not finite, or the score has the wrong
                shape.
        """


class Meter:
    """Scores latents, counts how many, and gives minus infinity for what must not win.

    Attributes:
        steps: latents scored so far.
    """

    def __init__(self, score: Score) -> None:
        self.steps = 0
        self._score = score

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Scores ``(n,)`` of latents ``(n, d)``, in bounded chunks."""
        if not len(latents):
            return latents.new_empty(0)
        return torch.cat([self._usable(part, self._raw(part)) for part in torch.split(latents, CHUNK)])

    def with_gradient(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``(n,)`` of finite latents and their gradients ``(n, d)``, zero where they are not finite."""
        free = latents.detach().requires_grad_()
        with torch.enable_grad():
            raw = self._raw(free)
            slope = torch.autograd.grad(raw.sum(), free, allow_unused=True)[0] if raw.requires_grad else None
        if slope is None:
            slope = torch.zeros_like(latents)
        raw = raw.detach()
        return torch.where(raw.isfinite(), raw, -math.inf), slope.nan_to_num(0.0, 0.0, 0.0)

    def _raw(self, latents: Tensor) -> Tensor:
        self.steps += latents.shape[0]
        scores = self._score(latents)
        if scores.shape != latents.shape[:1]:
            raise SettingError(f"scores of shape {tuple(scores.shape)} should be ({latents.shape[0]},)")
        return scores

    @staticmethod
    def _usable(latents: Tensor, scores: Tensor) -> Tensor:
        """A latent that is NaN must not win either, whatever a score makes of it."""
        return scores.masked_fill(~(scores.isfinite() & latents.isfinite().all(1)), -math.inf)


def begin(task: Task, count: int) -> tuple[Meter, Tensor, Tensor]:
    """What every search does first: projected starts with a finite score ``(s', d)``, best first, and their scores.

    Raises:
        SettingError: ``count`` is below 1, or no start has a finite score.
    """
    if count < 1:
        raise SettingError(f"count={count} must be at least 1")
    meter, shell = Meter(task.score), task.space.project(task.starts.detach().float())
    scores, order = meter(shell).sort(descending=True, stable=True)
    good = scores.isfinite()
    if not bool(good.any()):
        raise SettingError(
            f"none of the {len(shell)} starts has a finite score; fit the taste again or start elsewhere"
        )
    return meter, shell[order[good]], scores[good]


def finish(task: Task, count: int, meter: Meter, latents: Tensor, scores: Tensor) -> Found:
    """What every search does last: the best of all candidates ``(n, d)`` that keep the minimum distance."""
    kept = pick(latents, scores, count, task.minimum_distance)
    best = scores[kept]
    reached = task.wanted is None or bool(best[0] >= task.wanted)
    return Found(latents=latents[kept], scores=best, reached=reached, steps=meter.steps, complete=len(kept) == count)


def angles(one: Tensor, other: Tensor) -> Tensor:
    """Angles ``(n, m)`` float64, radians, between directions ``(n, d)`` and ``(m, d)``, exact for small ones too."""
    a, b = (torch.nn.functional.normalize(x.double(), dim=1) for x in (one, other))
    chord = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return 2 * torch.asin((chord / 2).clamp(max=1.0))


def pick(latents: Tensor, scores: Tensor, count: int, minimum_distance: float) -> Tensor:
    """Rows of the best latents, best first: always the best one that is far enough from those chosen.

    Args:
        latents: ``(n, d)``.
        scores: ``(n,)``; minus infinity is never chosen.
        count: at most how many.
        minimum_distance: angle in radians.

    Returns:
        ``(k,)`` int64, k <= count.
    """
    if minimum_distance <= 0:
        order = scores.argsort(descending=True, stable=True)[:count]
        return order[scores[order] > -math.inf]
    left, chosen = scores.clone(), []
    directions = torch.nn.functional.normalize(latents.double(), dim=1)
    closest = 2 * math.sin(minimum_distance / 2)  # as a chord of the unit sphere
    for _ in range(min(count, len(scores))):
        best = left.argmax()
        if not bool(left[best] > -math.inf):
            break
        chosen.append(best)
        near = torch.linalg.vector_norm(directions - directions[best], dim=1) < closest
        near[best] = True
        left = left.masked_fill(near, -math.inf)
    return torch.stack(chosen) if chosen else torch.empty(0, dtype=torch.int64, device=scores.device)


def random_directions(n: int, dimension: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Unit vectors ``(n, d)`` in every direction alike."""
    drawn = torch.randn(n, dimension, generator=generator, device=generator.device)
    return torch.nn.functional.normalize(drawn, dim=1).to(device)


def within(directions: Tensor, centres: Tensor, reach: Tensor | float) -> Tensor:
    """Directions ``(n, d)`` slid along the sphere to their centres ``(n, d)`` until no farther than ``reach``, radians.

    Args:
        directions: unit vectors.
        centres: unit vectors, one for each.
        reach: ``(n, 1)``, or one for all.
    """
    if isinstance(reach, float) and reach >= math.pi:
        return directions
    reach = torch.as_tensor(reach, dtype=directions.dtype, device=directions.device)
    along = (directions * centres).sum(1, keepdim=True)
    if bool((along > reach.cos()).all()):
        return directions
    across = directions - along * centres
    length = torch.linalg.vector_norm(across, dim=1, keepdim=True)
    angle = torch.atan2(length, along)
    edge = reach.cos() * centres + reach.sin() * across / length.clamp(min=1e-12)
    return torch.where(angle > reach, edge, directions)


def wander(task: Task, shell: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random places to look at: half anywhere in the space, half around the starts; with a trust angle all around them.

    Around a start means at an angle drawn evenly up to 1.27 (a cosine of 0.3), or up to the trust angle, in a random
    direction: ``z = sqrt(d) (a v + sqrt(1 - a^2) x)``.

    Args:
        task: for the space and the trust angle.
        shell: ``(s, d)`` projected starts, best first; the best five are looked around.
        count: how many places.
        generator: source of randomness.

    Returns:
        ``(count, d)`` latents on the shell, and ``(count, d)`` the starts they belong to.
    """
    near = count if task.trust_angle is not None else count - count // 2
    home = shell[torch.arange(near, device=shell.device) % min(len(shell), 5)]
    furthest = math.acos(0.3) if task.trust_angle is None else task.trust_angle
    angle = furthest * torch.rand(near, 1, generator=generator, device=generator.device).to(shell.device)
    unit = home / task.space.radius
    x = random_directions(near, task.space.dimension, generator, shell.device)
    x = torch.nn.functional.normalize(x - (x * unit).sum(1, keepdim=True) * unit, dim=1)
    around = within(torch.nn.functional.normalize(angle.cos() * unit + angle.sin() * x, dim=1), unit, furthest)
    anywhere = task.space.sample(count - near, generator).to(shell.device)
    latents = task.space.project(torch.cat([around, anywhere]))
    return latents, torch.cat([home, latents[near:]])
