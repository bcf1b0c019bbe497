"""Reverse classification: the nearest latent with a wanted score.

For a taste with log-odds ``w . z + b`` and a wanted probability ``s`` of liking, the wanted score is ``logit(s)``, and
the smallest change of a latent that gives it is ``(logit(s) - w . z - b) w / ||w||^2``. On the typical shell the
nearest such latent has a closed form too (`nearest_on_shell`). Without a wanted score these searches go as high as they
can.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from client.search.base import Found, Meter, Search, Task, begin, finish, wander, within
from client.search.gradient import Ring, Walked, climb
from common.errors import SettingError
from common.latents import LatentSpace

STEPS = 40  # of a walk along the gradient
HALVINGS = 16  # of the last step of such a walk; 0.5 radians become 1e-5
PROBES = 16  # places at which a score is compared with its own plane
PLANE = 1e-4  # largest difference, relative to the range of scores, of a score that counts as linear


def minimum_norm(latents: Tensor, weight: Tensor, bias: float, wanted: float) -> Tensor:
    """The nearest latents, anywhere in space, at which a linear score has a wanted value.

    ``z + w (wanted - w . z - b) / ||w||^2``, the Lagrange solution of the least change under one linear equation.

    Args:
        latents: ``(n, d)``.
        weight: ``(d,)``.
        bias: ``b``.
        wanted: score; ``logit(s)`` for a probability ``s``.

    Returns:
        ``(n, d)``; the latents themselves where the weight is zero and nothing can be done.
    """
    missing = wanted - latents @ weight - bias
    return latents + missing[:, None] * weight / weight.square().sum().clamp(min=1e-30)


def nearest_on_shell(latents: Tensor, weight: Tensor, bias: float, wanted: float, space: LatentSpace) -> Tensor:
    """The nearest latents on the typical shell at which a linear score has at least a wanted value.

    On the shell the score fixes the part along ``w``, ``c = (wanted - b) / ||w||``; the rest keeps its direction and
    has length ``sqrt(d - c^2)``. Latents that score enough stay, and where not even the top of the shell does
    (``c^2 > d``) the top is returned.

    Args:
        latents: ``(n, d)`` on the shell.
        weight: ``(d,)``; zero leaves everything where it is.
        bias: ``b``.
        wanted: score.
        space: where the shell lies.

    Returns:
        ``(n, d)`` on the shell.
    """
    length = torch.linalg.vector_norm(weight)
    if not float(length) > 0:
        return latents
    up, radius = weight / length, space.radius
    along = min(max((wanted - bias) / float(length), -radius), radius)
    rest = latents - (latents @ up)[:, None] * up
    # a latent at the very bottom has no direction of its own across w, so it is given one
    rest = torch.where(torch.linalg.vector_norm(rest, dim=1, keepdim=True) > 1e-6 * radius, rest, _across(up))
    moved = along * up + math.sqrt(max(radius**2 - along**2, 0.0)) * normalize(rest, dim=1)
    enough = (latents @ weight + bias >= wanted)[:, None]
    return torch.where(enough, latents, space.project(moved))


def coordinate_rule(latents: Tensor, weight: Tensor, bias: float, wanted: float, order: Tensor) -> Tensor:
    """The older rule: solve for one coordinate after another, each kept within -1 and 1, until the score is reached.

    Each coordinate in turn is given the value with which ``w . z + b`` would be the wanted score, the others being as
    they are. If that value is within the bounds, the rule stops there; otherwise the coordinate goes to the bound. It
    knows no shell, and stops as soon as its own model is content, which is why it hardly uses what it has learned.

    Args:
        latents: ``(n, d)``; begins from these, cut to the bounds.
        weight: ``(d,)``.
        bias: ``b``.
        wanted: score.
        order: ``(n, d)`` int64, the order of coordinates for each latent.

    Returns:
        ``(n, d)`` with every coordinate between -1 and 1.
    """
    begun = latents.clamp(-1.0, 1.0)
    missing = (wanted - begun @ weight - bias)[:, None]
    bound = torch.sign(missing) * torch.sign(weight)  # (n, d) where each coordinate would go at most
    gain = ((bound - begun) * weight).abs().gather(1, order)
    before = gain.cumsum(1) - gain  # (n, d) what earlier coordinates have brought
    share = ((missing.abs() - before) / gain.clamp(min=1e-30)).clamp(0.0, 1.0) * (gain > 0)
    share = torch.zeros_like(share).scatter(1, order, share)
    return begun + share * (bound - begun)


class RootSearch(Search):
    """Walks along the gradient on the shell, and stops where the wanted score is first reached.

    The last step of a walk, which crosses the wanted score, is halved until it ends just above it. For smooth scores.
    """

    name = "root"

    def __init__(self, *, walks: int = 16, steps: int = STEPS) -> None:
        """Choose how many walks, never fewer than results, and the most steps of each.

        Raises:
            SettingError: a number is below 1.
        """
        if walks < 1 or steps < 1:
            raise SettingError(f"walks={walks} and steps={steps} must be at least 1")
        self.walks, self.steps = walks, steps

    def run(self, task: Task, count: int, generator: torch.Generator) -> Found:
        """See `Search`."""
        meter, shell, known = begin(task, count)
        latents, home = _beginnings(task, shell, max(self.walks, count), generator)
        centres, reach = home / task.space.radius, math.pi if task.trust_angle is None else task.trust_angle
        walked = climb(
            meter,
            Ring(task.space),
            latents / task.space.radius,
            self.steps,
            centres=centres,
            reach=reach,
            wanted=task.wanted,
        )
        ended, scores = walked.directions, walked.scores
        if task.wanted is not None:
            ended, scores = _settle(task, meter, walked, task.wanted)
        return finish(task, count, meter, torch.cat([task.space.project(ended), shell]), torch.cat([scores, known]))


class ClosedFormSearch(Search):
    """The nearest latents on the shell with the wanted score, at once, for a score that is linear in the latents.

    Weight and bias are read off the gradient, and checked at other places. A score that is not linear is left to
    `RootSearch`.
    """

    name = "closed-form"

    def run(self, task: Task, count: int, generator: torch.Generator) -> Found:
        """See `Search`."""
        meter, shell, known = begin(task, count)
        latents, home = _beginnings(task, shell, max(PROBES, count), generator)
        weight, bias = _plane(meter, latents[:1])
        scores = meter(latents)
        if _off_plane(latents, scores, weight, bias) > PLANE:
            found = RootSearch().run(task, count, generator)
            return replace(found, steps=found.steps + meter.steps)
        top = float(torch.linalg.vector_norm(weight)) * task.space.radius + bias
        wanted = top if task.wanted is None else task.wanted
        # a hair above, so that rounding does not leave the score below what was wanted
        moved = nearest_on_shell(latents, weight, bias, wanted + 1e-6 * (abs(wanted) + abs(bias)), task.space)
        if task.trust_angle is not None:
            centres = home / task.space.radius
            moved = task.space.project(within(moved / task.space.radius, centres, task.trust_angle))
        both, theirs = torch.cat([moved, latents, shell]), torch.cat([meter(moved), scores, known])
        return finish(task, count, meter, both, theirs)


class CoordinateSearch(Search):
    """The older coordinate-by-coordinate rule, kept to compare with; what it finds is projected to the shell.

    A score that is not linear is replaced by its tangent plane at each beginning.
    """

    name = "coordinate"

    def __init__(self, *, tries: int = 16) -> None:
        """Choose how many times the rule is tried, never fewer than results, each with an order of its own.

        Raises:
            SettingError: ``tries`` is below 1.
        """
        if tries < 1:
            raise SettingError(f"tries={tries} must be at least 1")
        self.tries = tries

    def run(self, task: Task, count: int, generator: torch.Generator) -> Found:
        """See `Search`."""
        meter, shell, known = begin(task, count)
        latents, home = _beginnings(task, shell, max(self.tries, count), generator)
        order = torch.rand(latents.shape, generator=generator, device=generator.device).argsort(1).to(latents.device)
        weight, bias = _plane(meter, latents[:1])
        wanted = math.inf if task.wanted is None else task.wanted
        wanted = min(wanted, float(weight.abs().sum()) + bias)  # the most the rule can do
        moved = task.space.project(coordinate_rule(latents, weight, bias, wanted, order))
        if task.trust_angle is not None:
            centres = home / task.space.radius
            moved = task.space.project(within(moved / task.space.radius, centres, task.trust_angle))
        return finish(task, count, meter, torch.cat([moved, shell]), torch.cat([meter(moved), known]))


def _settle(task: Task, meter: Meter, walked: Walked, wanted: float) -> tuple[Tensor, Tensor]:
    """Bisect the last step of walks that reached the wanted score; directions ``(n, d)`` and their scores ``(n,)``."""
    above, scores, below = walked
    reached = scores >= wanted
    for _ in range(HALVINGS if bool(reached.any()) else 0):
        middle = normalize(torch.where(reached[:, None], below + above, above), dim=1)
        found = meter(task.space.radius * middle)
        crossed = reached & (found >= wanted)
        above = torch.where(crossed[:, None], middle, above)
        below = torch.where(crossed[:, None], below, middle)
        scores = torch.where(crossed, found, scores)
    return above, scores


def _beginnings(task: Task, shell: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """At least ``count`` latents to change, the starts first, then places around; and the starts they belong to."""
    places, homes = wander(task, shell, max(0, count - len(shell)), generator)
    return torch.cat([shell[:count], places]), torch.cat([shell[:count], homes])


def _plane(meter: Meter, latent: Tensor) -> tuple[Tensor, float]:
    """Weight ``(d,)`` and bias of the plane that touches the score at a latent ``(1, d)``."""
    score, slope = meter.with_gradient(latent)
    weight = slope[0].to(latent)
    return weight, float(score[0]) - float(latent[0] @ weight)


def _off_plane(latents: Tensor, scores: Tensor, weight: Tensor, bias: float) -> float:
    """Largest distance of scores from a plane, relative to what the plane spans on the shell."""
    span = float(torch.linalg.vector_norm(weight)) * math.sqrt(latents.shape[1]) + abs(bias)
    off = (scores - latents @ weight - bias).abs().max()
    return float(off) / max(span, 1e-30) if bool(off.isfinite()) else math.inf


def _across(up: Tensor) -> Tensor:
    """Some direction ``(1, d)`` across a unit vector ``(d,)``; zero in one dimension."""
    axis = torch.zeros_like(up)
    axis[up.abs().argmin()] = 1.0
    return (axis - (axis @ up) * up)[None] if len(up) > 1 else torch.zeros_like(up)[None]
