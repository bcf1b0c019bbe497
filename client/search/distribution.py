"""A diverse set instead of one optimum: the best latent and others at a chosen distance from it.

The best one is the pole. The others lie on a ring around it, at an angle that grows from safe to surprising, in
directions far from each other, and each climbs along the ring as far as it keeps its distance from its neighbours. So
all of them are as good as their distance allows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from client.search.base import Found, Meter, Task, begin, finish, pick, random_directions
from client.search.gradient import Ring, climb
from common.errors import SettingError

FULL_SURPRISE = 1.3  # radians between pole and ring at surprise 1 (cosine 0.27); 0.39 (cosine 0.92) at 0.3
POLE_WALKS, POLE_STEPS = 16, 10
RING_STEPS = 4
PLACES = 24  # places looked at on the ring for each one taken
WIDENINGS = 5  # times the ring is widened, to twice its angle each, where a small space has no room
MARGIN = 1e-3  # radians added to the minimum distance, so that rounding cannot break it
APART = (1.2, 0.9, 0.6, 0.3)  # wanted angles between directions around the pole, radians; the first with room is used


def ring_angle(surprise: float, minimum_distance: float = 0.0) -> float:
    """Angle between the pole and the others, radians: grows evenly with surprise, never below the minimum distance.

    Raises:
        SettingError: surprise is not between 0 and 1.
    """
    if not 0 <= surprise <= 1:
        raise SettingError(f"surprise={surprise} must lie between 0 (safe) and 1 (surprising)")
    return max(FULL_SURPRISE * surprise, minimum_distance + MARGIN if minimum_distance > 0 else 0.0)


def diverse(task: Task, count: int, surprise: float, generator: torch.Generator, pole: Tensor | None = None) -> Found:
    """A diverse set of high score.

    Guarantees: those of every search, except that the trust angle holds for the pole alone (surprise is a step out of
    it, on purpose); and the others lie at `ring_angle` from the pole, farther only where a small space has no room.
    At surprise 0 without a minimum distance all are the pole.

    Args:
        task: what is wanted.
        count: how many, at least 1.
        surprise: 0 (all close to the best) to 1 (as far apart as random items, different modes).
        generator: source of randomness.
        pole: ``(d,)`` a latent already climbed to, which becomes the pole if no start is better; None to climb here.

    Returns:
        The set, best first.

    Raises:
        SettingError: surprise or count is out of range, or every start has a score that is not finite.
    """
    angle = ring_angle(surprise, task.minimum_distance)
    meter, shell, known = begin(task, count)
    top, best = _pole(task, meter, shell, known, pole)
    latents, scores = top[None], best[None]
    if count > 1:
        others, theirs = _others(task, meter, shell, top, angle, count - 1, generator)
        latents, scores = _with(task, latents, scores, others, theirs, count)
    for widening in range(WIDENINGS):
        if len(latents) >= count:
            break
        between = angle, min(math.pi, max(angle, MARGIN) * 2.0 ** (widening + 1))
        places = _anywhere(task, top, between, PLACES * count, generator)
        latents, scores = _with(task, latents, scores, places, meter(places), count)
    return finish(task, count, meter, latents, scores)


def _pole(task: Task, meter: Meter, shell: Tensor, known: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
    """The best latent ``(d,)`` and its score: the given one, or the end of the best walk."""
    if given is not None:
        ended = task.space.project(given.detach().float().reshape(1, -1))
        scores = meter(ended)
    else:
        begun = shell[pick(shell, known, POLE_WALKS, 0.2)] / task.space.radius
        reach = math.pi if task.trust_angle is None else task.trust_angle
        walked = climb(meter, Ring(task.space), begun, POLE_STEPS, centres=begun, reach=reach, wanted=task.wanted)
        ended, scores = task.space.project(walked.directions), walked.scores
    ended, scores = torch.cat([shell[:1], ended]), torch.cat([known[:1], scores])
    best = scores.argmax()
    return ended[best], scores[best]


def _others(
    task: Task,
    meter: Meter,
    shell: Tensor,
    pole: Tensor,
    angle: float,
    count: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """At most ``count`` latents on the ring at an angle around the pole, climbed along it, and their scores."""
    places, ring = _places(pole, shell, count, generator), Ring.around(task.space, pole, angle)
    needed = _needed(task.minimum_distance, angle)
    rows, apart = _spread(places, meter(ring.place(places)), count, needed)
    room = max(0.0, (apart - max(needed, apart / 2)) / 2)  # two neighbours that walk towards each other stay apart
    begun = places[rows]
    walked = climb(meter, ring, begun, RING_STEPS, centres=begun, reach=room, wanted=task.wanted)
    return task.space.project(ring.place(walked.directions)), walked.scores


def _places(pole: Tensor, shell: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Unit vectors ``(n, d)`` across the pole: towards the best starts, which may be other modes, and at random."""
    unit = torch.nn.functional.normalize(pole, dim=0)
    drawn = random_directions(PLACES * count, len(pole), generator, pole.device)
    both = torch.cat([shell[: PLACES * count // 2] / torch.linalg.vector_norm(pole), drawn])
    across = both - (both @ unit)[:, None] * unit
    across = across - (across @ unit)[:, None] * unit  # once more, for those that were nearly the pole
    length = torch.linalg.vector_norm(across, dim=1)
    kept = length > 1e-3
    unit_across: Tensor = across[kept] / length[kept, None]
    return unit_across


def _needed(minimum_distance: float, angle: float) -> float:
    """Angle between directions around the pole that keeps the minimum distance on a ring (spherical law of cosines)."""
    if minimum_distance <= 0 or angle <= 0:
        return 0.0
    cos = (math.cos(minimum_distance + MARGIN) - math.cos(angle) ** 2) / math.sin(angle) ** 2
    return math.acos(min(1.0, max(-1.0, cos)))


def _spread(places: Tensor, scores: Tensor, count: int, needed: float) -> tuple[Tensor, float]:
    """Rows of the best places far from each other, and how far: the first of `APART` that leaves room for all."""
    rows = torch.empty(0, dtype=torch.int64, device=places.device)
    apart = needed
    for apart in (*(angle for angle in APART if angle > needed), needed):
        rows = pick(places, scores, count, apart)
        if len(rows) == count:
            break
    return rows, apart


def _anywhere(task: Task, pole: Tensor, between: tuple[float, float], count: int, generator: torch.Generator) -> Tensor:
    """Random latents at angles ``between`` around the pole; none in one dimension."""
    places = _places(pole, pole[None], count, generator)
    share = torch.rand(len(places), 1, generator=generator, device=generator.device).to(pole.device)
    angle = between[0] + (between[1] - between[0]) * share
    unit = torch.nn.functional.normalize(pole, dim=0)
    return task.space.project(angle.cos() * unit + angle.sin() * places)


def _with(
    task: Task, latents: Tensor, scores: Tensor, others: Tensor, theirs: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """At most ``count`` latents and their scores: those there are, then others, as the minimum distance allows."""
    both, all_scores = torch.cat([latents, others]), torch.cat([scores, theirs])
    # those chosen before, the pole first among them, are not given up for better ones
    order = all_scores.clone()
    order[: len(latents)] = torch.arange(len(latents), 0, -1).to(order) * 1e30
    kept = pick(both, order, count, task.minimum_distance)
    return both[kept], all_scores[kept]
