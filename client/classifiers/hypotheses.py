"""Guesses about how a taste is made, and the covariances they stand for.

``r(z) = w . phi(z) + g(z)``: a linear part with the population's law or a flat one, and Gaussian processes over
features and over latents that only the person ever has. Which guess holds is for evidence to decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from client.classifiers.base import Points
from common.prior import PopulationPrior

SPREAD = 1.5  # standard deviation of a flat law's score, in log-odds
BIAS = 1.0  # and of its constant
FLAT_SHARE = 0.4  # of the prior weight, for being unlike everybody
LINES = ((0.0, 0.7), (0.5, 0.3), (0.0, 0.2))  # shares of the variance: linear, process over features; the rest latents


@dataclass(frozen=True)
class Law:
    """Population law of the linear part: ``w ~ N(mean, covariance)``, ``(p,)`` and ``(p, p)`` float64."""

    mean: Tensor
    covariance: Tensor


FEATURES, LATENTS = 0, 1  # views that distances are measured in


class Process(NamedTuple):
    """A Gaussian process with the kernel ``deviation^2 exp(-|x - y|^2 / (2 length^2))``.

    Attributes:
        view: what distances are measured in, ``FEATURES`` or ``LATENTS``; two random items are about sqrt(2) apart.
        length: length scale.
        deviation: standard deviation, in log-odds.
    """

    view: int
    length: float
    deviation: float


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One guess about how a taste is made: a linear part plus independent processes.

    Attributes:
        law: number of the linear law; amplitude multiplies its standard deviation.
        amplitude: see above; 0 for no linear part.
        processes: what is personal.
        log_weight: prior weight.
    """

    law: int = 0
    amplitude: float = 1.0
    processes: tuple[Process, ...] = ()
    log_weight: float = 0.0


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """``|x - y|^2`` ``(n, m)`` of rows ``(n, q)`` and ``(m, q)``, in few passes over a matrix that may be large."""
    half = torch.addmm(0.5 * b.square().sum(-1), a, b.T, alpha=-1)
    return half.add_(0.5 * a.square().sum(-1, keepdim=True)).clamp_(min=0).mul_(2)


class Remembered:
    """The process between a large, fixed list of points and what was rated: little of it is new with each answer."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._latents: Tensor | None = None
        self._known: dict[tuple[int, float], tuple[Tensor, Tensor]] = {}  # items' latents, and rows for at least those
        self._views: dict[int, tuple[Tensor, Tensor]] = {}  # coordinates of the points, and half their squared lengths

    def near(self, points: Points, items: Points, view: int, length: float, kernels: Kernels) -> Tensor:
        """``exp(-|x - y|^2 / (2 length^2))`` ``(m, n)`` of m items; the same points must be the same tensors."""
        if self._latents is not points.latents:
            self._latents, self._known, self._views = points.latents, {}, {}
        latents, rows = self._known.get((view, length), (items.latents[:0], points.latents.new_empty(0, len(points))))
        kept = _common(latents, items.latents)
        if len(items) > len(rows):
            grown = rows.new_empty(max(64, 2 * len(items)), len(points))
            grown[:kept] = rows[:kept]
            rows = grown
        if kept < len(items):
            seen, half = self._view(points, view, kernels)
            known = kernels.view(items[slice(kept, None)], view).to(seen)
            fresh = torch.addmm(-half, known, seen.T).sub_(0.5 * known.square().sum(-1, keepdim=True))
            torch.exp(fresh.clamp_(max=0).div_(length**2), out=rows[kept : len(items)])
        self._known[view, length] = items.latents, rows
        return rows[: len(items)]

    def _view(self, points: Points, view: int, kernels: Kernels) -> tuple[Tensor, Tensor]:
        if view not in self._views:
            seen = kernels.view(points, view)
            self._views[view] = seen, 0.5 * seen.square().sum(-1)
        return self._views[view]


def _common(one: Tensor, other: Tensor) -> int:
    """How many rows two matrices begin with in common."""
    n = min(len(one), len(other))
    differ = (one[:n] != other[:n]).any(1).nonzero()
    return int(differ[0]) if len(differ) else n


class Kernels:
    """Covariances of a set of hypotheses, and the views they measure distances in.

    Args of the constructor: the laws of the linear part, the hypotheses, and the scale ``(k,)`` of the features.
    """

    def __init__(self, laws: Sequence[Law], hypotheses: Sequence[Hypothesis], scale: Tensor) -> None:
        self.laws, self.hypotheses = list(laws), list(hypotheses)
        self.scale = (scale / scale.square().sum().sqrt()).double()
        self.remembered = Remembered()
        self._kinds = sorted({(process.view, process.length) for h in self.hypotheses for process in h.processes})
        self._shares = torch.zeros(len(self.hypotheses), len(self.laws) + len(self._kinds), dtype=torch.float64)
        for i, h in enumerate(self.hypotheses):
            self._shares[i, h.law] = h.amplitude**2
            for process in h.processes:
                kind = self._kinds.index((process.view, process.length))
                self._shares[i, len(self.laws) + kind] += process.deviation**2

    def view(self, points: Points, number: int) -> Tensor:
        """Coordinates in which distances are measured; their total variance over the latent law is about 1."""
        if number == 0:
            return points.features[:, :-1] * self.scale.to(points.features)
        unit: Tensor = points.latents / points.latents.shape[1] ** 0.5
        return unit

    def parts(self, a: Points, b: Points) -> Tensor:
        """Covariances ``(c, n, m)`` of what the hypotheses are made of: linear laws first, then processes."""
        a, b = _double(a), _double(b)
        linear = [(a.features @ law.covariance) @ b.features.T for law in self.laws]
        squared = {v: torch.cdist(self.view(a, v), self.view(b, v)).square() for v in {v for v, _ in self._kinds}}
        near = [torch.exp(squared[v] / (-2 * length**2)) for v, length in self._kinds]
        return torch.stack(linear + near)

    def mixed(self, parts: Tensor) -> Tensor:
        """``(h, ...)`` covariances of the hypotheses from ``(c, ...)`` of their parts."""
        mixed: Tensor = (self._shares @ parts.flatten(1)).reshape(len(self.hypotheses), *parts.shape[1:])
        return mixed

    def each(self, a: Points, b: Points) -> Tensor:
        """Covariances ``(n,)`` of item with item, under the first hypothesis."""
        h, one, other = self.hypotheses[0], _double(a), _double(b)
        total = h.amplitude**2 * ((one.features @ self.laws[h.law].covariance) * other.features).sum(-1)
        for view, length, deviation in h.processes:
            apart = (self.view(one, view) - self.view(other, view)).square().sum(-1)
            total = total + deviation**2 * torch.exp(apart / (-2 * length**2))
        return total

    def between(self, a: Points, b: Points) -> Tensor:
        """Covariances ``(h, n, m)``."""
        return self.mixed(self.parts(a, b))

    def mean(self, points: Points) -> Tensor:
        """Prior means ``(h, n)``."""
        features = points.features.double()
        return torch.stack([features @ self.laws[h.law].mean for h in self.hypotheses])

    def variance(self, points: Points) -> Tensor:
        """Prior variances ``(h, n)``."""
        features = points.features.double()
        linear = [((features @ law.covariance) * features).sum(-1) for law in self.laws]
        personal = self._shares[:, len(self.laws) :].sum(-1)
        return torch.stack([linear[h.law] * h.amplitude**2 for h in self.hypotheses]) + personal[:, None]

    def likeliest(self, weights: Tensor) -> int:
        """The likeliest hypothesis ``(h,)`` of the likeliest law: whose taste it resembles, then how."""
        law = torch.tensor([h.law for h in self.hypotheses])
        each = torch.zeros(len(self.laws), dtype=weights.dtype).index_add_(0, law, weights)
        return int(torch.where(law == each.argmax(), weights, -1.0).argmax())

    def only(self, number: int) -> Kernels:
        """The same with one hypothesis."""
        hypothesis = replace(self.hypotheses[number], law=0)
        found = Kernels([self.laws[self.hypotheses[number].law]], [hypothesis], self.scale)
        found.remembered = self.remembered
        return found


def _double(points: Points) -> Points:
    return Points(points.latents.double(), points.features.double())


def flat_law(scale: Tensor) -> Law:
    """A law without anybody: features count as much as people can see them; ``scale`` ``(k,)``."""
    scale = scale.double()
    variance = SPREAD**2 * scale.square() / scale.square().sum()
    return Law(torch.zeros(len(scale) + 1).double(), torch.diag(torch.cat([variance, variance.new_tensor([BIAS**2])])))


def hypotheses(prior: PopulationPrior | None, scale: Tensor, linear: bool = True) -> Kernels:
    """What is weighed by evidence: the population's law against a flat one, how personal and how wavy a taste is."""
    laws, shares = [flat_law(scale)], [1.0]
    if prior is not None and linear:
        laws, shares = [*laws, Law(prior.mean, prior.covariance)], [FLAT_SHARE, 1 - FLAT_SHARE]
    grid = [
        Hypothesis(
            law=i,
            amplitude=total * math.sqrt(line) / SPREAD if i == 0 else 1.0,
            processes=(
                Process(FEATURES, wide, total * math.sqrt(seen)),
                Process(LATENTS, wide * 1.3, total * math.sqrt(1 - line - seen)),
            ),
            log_weight=math.log(share / (8 if i or not linear else 12)),
        )
        for i, share in enumerate(shares)
        for total in ((1.5, 3.0) if i == 0 else (1.0, 2.0))
        for line, seen in (LINES if i == 0 and linear else ((0.0, 0.7), (0.0, 0.3)))
        for wide in (0.6, 1.0)
    ]
    return Kernels(laws, grid, scale)
