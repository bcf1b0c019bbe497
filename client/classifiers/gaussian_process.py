"""The default taste model: what people share, plus a personal Gaussian process.

``r(z) = w . phi(z) + g(z)``: the first part has the population's law (or a flat one), the second is a Gaussian process
that only the person ever has. Which of several hypotheses about both holds is decided by evidence, after every answer.
The posterior is Laplace's (Rasmussen & Williams 2006, algorithms 3.1 and 3.2), computed in the dual: its size is the
number of answers, not of features.

Every answer is a statement about one or more *contrasts*: the score of an item, or the difference of two. An answer
"A" is one contrast, so a hundred A-or-B answers cost a 100 x 100 factorisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from client.classifiers.base import Answers, Beliefs, Points, Taste, TasteModel
from client.classifiers.labels import compact
from client.likelihood import Evidence, score_terms
from client.ratings import Kind
from common.prior import DEFAULT_THRESHOLDS, PopulationPrior

MAX_STEPS = 40
TOLERANCE = 1e-6  # nats gained by the last step; Newton's next one would gain about its square
JITTER = 1e-8
LARGE = 4096  # points whose distances are worth remembering
MOST = 200  # answers in a fit
FULL = 20  # every so many answers all hypotheses are fitted again
NEGLIGIBLE = 1e-2  # of the best one's weight: a hypothesis that is left out until then
NOISE = 4.0  # variance that stands for the noise of one answer: the inverse of the steepest logistic curvature


@dataclass(frozen=True)
class Contrasts:
    """Answers as statements about contrasts of items: the score of one, or of one minus that of another.

    Attributes:
        first: ``(r,)`` item of each contrast; second: ``(r,)`` item to subtract, -1 for none.
        second: see above.
        answer: ``(r,)`` answer each belongs to.
        context: ``(r,)`` context each was given in.
        place: ``(r,)`` where each contrast stands in the flattened ``(t, m)`` grid of ``evidence``.
        evidence: what was said about the contrasts: ``t`` statements about up to ``m`` contrasts each.
    """

    first: Tensor
    second: Tensor
    answer: Tensor
    context: Tensor
    place: Tensor
    evidence: Evidence

    @classmethod
    def of(cls, answers: Answers) -> Contrasts:
        """Break answers down.

        "A" and "B" are one contrast. "Both" and "neither" are three: two likes or dislikes, and that the two are about
        equal, which is what three of five stars for their difference says.
        """
        kind, value, items = answers.kind, answers.value, answers.items
        if items.shape[1] < 2:
            items = torch.nn.functional.pad(items, (0, 2 - items.shape[1]), value=-1)
        choice = kind == Kind.CHOICE
        several = (kind == Kind.BEST) | (kind == Kind.WORST)
        absolute, preference = choice & (value >= 2), choice & (value < 2)
        single = ~choice & ~several
        width = items.shape[1] if bool(several.any()) else 1
        blank = torch.full((len(answers), width), -1)
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []  # rows, kind, value, first, second

        def add(rows: Tensor, kinds: Tensor, values: Tensor, first: Tensor, second: Tensor) -> None:
            parts.append((rows, kinds, values, first, second))

        def one(rows: Tensor, kinds: Tensor, values: Tensor, first: Tensor, second: Tensor | None = None) -> None:
            left, right = blank[rows].clone(), blank[rows].clone()
            left[:, 0] = first
            if second is not None:
                right[:, 0] = second
            add(rows, kinds, values, left, right)

        rows = preference.nonzero().squeeze(-1)
        like = torch.full_like(rows, int(Kind.LIKE))
        one(rows, like, 1 - value[rows], items[rows, 0], items[rows, 1])
        rows = absolute.nonzero().squeeze(-1)
        like = torch.full_like(rows, int(Kind.LIKE))
        for side in range(2):
            one(rows, like, 3 - value[rows], items[rows, side])
        middle = torch.full_like(rows, 3)
        one(rows, torch.full_like(rows, int(Kind.STARS)), middle, items[rows, 0], items[rows, 1])
        rows = single.nonzero().squeeze(-1)
        one(rows, kind[rows], value[rows], items[rows, 0])
        rows = several.nonzero().squeeze(-1)
        if len(rows):
            add(rows, kind[rows], value[rows], items[rows], blank[rows])
        source, kinds, values, firsts, seconds = (torch.cat(x) for x in zip(*parts, strict=True))
        order = source.argsort(stable=True)  # as they were given: one more answer is one more row at the end
        source, kinds, values, firsts, seconds = (x[order] for x in (source, kinds, values, firsts, seconds))
        there = firsts >= 0
        evidence = Evidence(
            kinds[None], values[None], answers.weight[source][None], torch.empty(0), there.sum(-1)[None]
        )
        place = there.flatten().nonzero().squeeze(-1)
        answer = source[:, None].expand_as(firsts).flatten()[place]
        return cls(firsts.flatten()[place], seconds.flatten()[place], answer, answers.context[answer], place, evidence)

    def __len__(self) -> int:
        return self.first.shape[0]

    def take(self, matrix: Tensor) -> Tensor:
        """Contrasts of the columns of ``(..., items)``."""
        return self._along(matrix, -1)

    def square(self, matrix: Tensor) -> Tensor:
        """Contrasts of rows and columns of ``(..., items, items)``."""
        return self._along(self._along(matrix, -2), -1)

    def _along(self, matrix: Tensor, dimension: int) -> Tensor:
        both = (self.second >= 0).nonzero().squeeze(-1)
        found = matrix.index_select(dimension, self.first)
        return found.index_add_(dimension, both, matrix.index_select(dimension, self.second[both]), alpha=-1)

    def terms(self, scores: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log likelihood ``(h,)``, gradient ``(h, r)`` and a root ``S`` of its curvature ``W = S S'``.

        The root is ``(h, r)`` where it is diagonal, which it is for every kind but best and worst, else ``(h, r, r)``.
        """
        h, t, m = scores.shape[0], self.evidence.kind.shape[1], self.width
        if not t:
            return scores.new_zeros(h), scores, scores
        grid = scores.new_zeros(h, t * m)
        grid[:, self.place] = scores
        value, slope, bend = score_terms(self.evidence, grid.reshape(-1, 1, t, m), thresholds)
        gradient = slope.reshape(-1, t * m)[:, self.place]
        if m == 1:
            return value.sum((-1, -2)), gradient, bend.reshape(-1, t).sqrt()
        root = scores.new_zeros(h, t, m, t, m)
        each = torch.arange(t)
        root[:, each, :, each, :] = _root(bend.squeeze(1)).transpose(0, 1)
        flat = root.reshape(-1, t * m, t * m)[:, self.place][:, :, self.place]
        return value.sum((-1, -2)), gradient, flat

    @property
    def width(self) -> int:
        """``m``, contrasts of the widest statement."""
        t = self.evidence.kind.shape[1]
        return 1 if t == 0 else max(1, int(self.evidence.shown.max()))


def _times(root: Tensor, x: Tensor) -> Tensor:
    """``S x`` for ``x`` ``(h, r, n)``."""
    return root.unsqueeze(-1) * x if root.dim() == 2 else root @ x


def _transposed(root: Tensor) -> Tensor:
    return root if root.dim() == 2 else root.mT


def _factor(root: Tensor, kernel: Tensor) -> Tensor:
    """Cholesky factor of ``B = I + S' K S`` ``(h, r, r)``."""
    half = _times(_transposed(root), kernel)
    matrix = _times(_transposed(root), half.mT)
    matrix.diagonal(dim1=-2, dim2=-1).add_(1.0)
    factor: Tensor = torch.linalg.cholesky(matrix)
    return factor


def _root(bend: Tensor) -> Tensor:
    """Symmetric root of small positive semi-definite blocks ``(..., m, m)``: zero where the block is."""
    value, axes = torch.linalg.eigh(bend)
    root: Tensor = (axes * value.clamp(min=0).sqrt().unsqueeze(-2)) @ axes.mT
    return root


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


@dataclass(frozen=True)
class DualFit:
    """Laplace posteriors of h hypotheses.

    Attributes:
        alpha: ``(h, r)`` gradient of the log likelihood at the mode.
        root: S, see `Contrasts.terms`; lower: ``(h, r, r)`` Cholesky factor of ``I + S' K S``.
        lower: see above.
        log_evidence: ``(h,)`` nats.
    """

    alpha: Tensor
    root: Tensor
    lower: Tensor
    log_evidence: Tensor


def laplace_dual(
    contrasts: Contrasts, mean: Tensor, kernel: Tensor, thresholds: Tensor, start: Tensor | None = None
) -> DualFit:
    """Laplace posterior in the dual, for several hypotheses at once (Rasmussen & Williams 2006, alg. 3.1).

    Guarantee: the mode is the global one, up to what a step beyond ``TOLERANCE`` would gain; all likelihoods are
    log-concave.

    Args:
        contrasts: what was said, about r contrasts.
        mean: ``(h, r)`` prior means of the contrasts.
        kernel: ``(h, r, r)`` prior covariances.
        thresholds: ``(4,)`` cuts between stars.
        start: ``(h, r)`` alpha to start from, e.g. that of one answer less.
    """
    h, r = mean.shape
    alpha = mean.new_zeros(h, r)
    away, (value, gradient, root) = alpha, contrasts.terms(mean, thresholds)
    objective = value
    if start is not None:
        pulled = (kernel @ start.unsqueeze(-1)).squeeze(-1)
        begun = contrasts.terms(mean + pulled, thresholds)
        gained = begun[0] - 0.5 * (start * pulled).sum(-1)
        better = gained > objective  # an end that fits other answers badly is no place to start from; NaN is not either
        alpha, away = (torch.where(better.unsqueeze(-1), x, y) for x, y in ((start, alpha), (pulled, away)))
        gradient = torch.where(better.unsqueeze(-1), begun[1], gradient)
        root = torch.where(better.reshape(-1, *[1] * (root.dim() - 1)), begun[2], root)
        objective = torch.where(better, gained, objective)
    for _ in range(MAX_STEPS):
        lower = _factor(root, kernel)
        target = _times(root, _times(_transposed(root), away.unsqueeze(-1))) + gradient.unsqueeze(-1)
        inner = torch.cholesky_solve(_times(_transposed(root), kernel @ target), lower)
        step = (target - _times(root, inner)).squeeze(-1) - alpha
        size = mean.new_ones(h)
        for _ in range(30):
            trial = alpha + size.unsqueeze(-1) * step
            away = (kernel @ trial.unsqueeze(-1)).squeeze(-1)
            value, gradient, root = contrasts.terms(mean + away, thresholds)
            reached = value - 0.5 * (trial * away).sum(-1)
            short = reached < objective - 1e-9 * (1 + objective.abs())
            if not bool(short.any()):
                break
            size = torch.where(short, size / 2, size)
        gain, alpha, objective = reached - objective, trial, reached
        if bool((gain.abs() < TOLERANCE).all()):
            break
    lower = _factor(root, kernel)
    # at the mode alpha is the gradient; Newton's own is one step behind it
    return DualFit(alpha, root, lower, objective - lower.diagonal(dim1=-2, dim2=-1).log().sum(-1))


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


class ProcessTaste(Taste):
    """A taste under one hypothesis: linear part and personal process together."""

    def __init__(self, kernels: Kernels, answers: Answers, contrasts: Contrasts, fit: DualFit, context: int) -> None:
        self.kernels, self.points, self.contrasts, self.context = kernels, answers.points, contrasts, context
        self.fit = fit
        self.hypothesis = kernels.hypotheses[0]
        # the mean needs no contrasts: alpha spread over the items once
        alpha = self._shared() * fit.alpha[0]
        padded = alpha.new_zeros(len(self.points) + 1)
        padded.index_add_(0, contrasts.first, alpha)
        rows = torch.where(contrasts.second >= 0, contrasts.second, len(self.points))
        padded.index_add_(0, rows, -alpha)
        self.dual = padded[:-1]
        law = kernels.laws[self.hypothesis.law]
        features = self.points.features.double()
        self.linear = law.mean + self.hypothesis.amplitude**2 * (law.covariance @ (features.T @ self.dual))

    def _shared(self) -> Tensor:
        """Covariance of a context with that of each contrast, relative to the one of contexts that are the same."""
        other = 1 / (1 + DRIFT)
        return torch.where(self.contrasts.context == self.context, 1.0, other).double()

    def score(self, points: Points) -> Tensor:
        """See `Taste`; in the precision of the points, of which there may be very many."""
        total = points.features @ self.linear.to(points.features)
        if len(self.points):
            for process in self.hypothesis.processes:
                total = total + process.deviation**2 * (self.dual.to(total) @ self._near(points, process))
        return total

    def _near(self, points: Points, process: Process) -> Tensor:
        """A process, of variance one, between what was rated and points: ``(items, n)``."""
        view, length, _ = process
        if len(points) >= LARGE and not points.latents.requires_grad:
            return self.kernels.remembered.near(points, self.points, view, length, self.kernels)
        seen = self.kernels.view(points, view)
        known = self.kernels.view(_double(self.points), view).to(seen)
        return torch.exp(squared_distances(known, seen) / (-2 * length**2))

    def over(self, points: Points) -> ProcessBeliefs:
        """See `Taste`."""
        return ProcessBeliefs(self, points)


class ProcessBeliefs(Beliefs):
    """Beliefs of a Gaussian process about n items."""

    def __init__(self, taste: ProcessTaste, points: Points) -> None:
        self.taste, self.points = taste, points
        self.mean = taste.score(points)[None]
        kernels = taste.kernels
        cross = kernels.between(points, taste.points)[0]
        contrast = taste.contrasts.take(cross) * taste._shared()
        pulled = _times(_transposed(taste.fit.root), contrast.T[None])[0]
        self._explained = torch.linalg.solve_triangular(taste.fit.lower[0], pulled, upper=False)  # (r, n)
        prior = kernels.variance(points)
        self.deviation = (prior - self._explained.square().sum(0)).clamp(min=1e-12).sqrt()

    @cached_property
    def _factor(self) -> Tensor:
        """Cholesky factor ``(n, n)`` of the posterior covariance."""
        n = len(self.points)
        covariance = self._covariance(torch.arange(n))
        ridge = JITTER * (1 + covariance.diagonal().mean())
        while True:  # as much as rounding asks for: items may be equal
            factor, failed = torch.linalg.cholesky_ex(covariance + ridge * torch.eye(n, dtype=covariance.dtype))
            if not int(failed):
                found: Tensor = factor
                return found
            ridge = 10 * ridge

    def _covariance(self, rows: Tensor) -> Tensor:
        prior = self.taste.kernels.between(self.points[rows], self.points)[0]
        posterior: Tensor = prior - self._explained[:, rows].T @ self._explained
        return posterior

    def gap(self, against: Tensor) -> tuple[Tensor, Tensor]:
        """See `Beliefs`."""
        variance = self.deviation.square()
        shared = self._covariance(against)
        spread = (variance + variance.gather(1, against[:, None]) - 2 * shared).clamp(min=0).sqrt()
        return self.mean - self.mean.gather(1, against[:, None]), spread

    def draw(self, generator: torch.Generator, spread: float = 1.0) -> Tensor:
        """See `Beliefs`."""
        noise = torch.randn(len(self.points), generator=generator, dtype=self._factor.dtype)
        return self.mean + spread * (self._factor @ noise)


class PersonalGaussianProcess(TasteModel):
    """Population part plus personal Gaussian process; see the module.

    Attributes:
        weights: ``(h,)`` how likely each hypothesis was after the last fit.
    """

    name: ClassVar[str] = "default"

    def __init__(
        self, *, prior: PopulationPrior | None = None, scale: Tensor | None = None, linear: bool = True
    ) -> None:
        """Choose the hypotheses.

        Args:
            prior: what the population likes, weighed against a flat law by evidence; None for the flat law alone.
            scale: ``(k,)`` how much each feature varies among what people see; None for all alike.
            linear: whether there is a linear part; without it this is a plain Gaussian process.
        """
        self.prior, self.scale, self.linear = prior, scale, linear
        self.thresholds = torch.as_tensor(DEFAULT_THRESHOLDS if prior is None else prior.thresholds).double()
        self.kernels: Kernels | None = None if scale is None else hypotheses(prior, scale, linear)
        self.weights = torch.empty(0, dtype=torch.float64)
        self._alpha: Tensor | None = None

    def fit(self, answers: Answers, context: int = 0) -> ProcessTaste:
        """See `TasteModel`; the most likely hypothesis is used."""
        if self.kernels is None:
            self.kernels = hypotheses(self.prior, torch.ones(answers.points.features.shape[1] - 1), self.linear)
        if len(answers) > MOST:
            answers = compact(answers.select(self._informative(answers)))
        contrasts = Contrasts.of(answers)
        open_ = self._open(len(answers))
        mean = contrasts.take(self.kernels.mean(answers.points))[open_]
        parts = contrasts.square(self.kernels.parts(answers.points, answers.points))
        same = contrasts.context[:, None] == contrasts.context
        kernel = self.kernels.mixed(torch.where(same, parts, parts / (1 + DRIFT)))[open_]
        fit = laplace_dual(contrasts, mean, kernel, self.thresholds, self._start(mean, open_))
        best = self._weigh(fit, open_)
        row = int((open_ == best).nonzero())
        chosen = DualFit(*(x[row : row + 1] for x in (fit.alpha, fit.root, fit.lower, fit.log_evidence)))
        return ProcessTaste(self.kernels.only(best), answers, contrasts, chosen, context)

    def _informative(self, answers: Answers) -> Tensor:
        """The newest answers and, of the older ones, those that together say most: ``MOST`` rows at most, ascending.

        Greedy maximum entropy (Krause et al. 2008, algorithm 1) under the hypothesis that was best so far: always the
        contrast that is least known from those chosen.
        """
        assert self.kernels is not None
        older = (len(answers) - MOST // 4) // (MOST // 4) * (MOST // 4)  # moves in steps, so that most stay chosen
        past = compact(answers.select(slice(0, older)))
        contrasts = Contrasts.of(past)
        kernels = self.kernels.only(self.kernels.likeliest(self.weights) if len(self.weights) else 0)
        left = _variance(kernels, contrasts, past.points)
        known = left.new_zeros(MOST // 2, len(contrasts))  # rows of a pivoted Cholesky factor
        chosen: list[int] = []
        for row in range(min(MOST // 2, len(contrasts))):
            best = int(left.argmax())
            column = _column(kernels, contrasts, past.points, best) - known[:, best] @ known
            known[row] = column / (column[best] + NOISE).sqrt()
            left = left - known[row].square()
            chosen.append(int(contrasts.answer[best]))
            left[contrasts.answer == chosen[-1]] = -torch.inf
        return torch.cat([torch.tensor(sorted(set(chosen))), torch.arange(older, len(answers))])

    def _open(self, answers: int) -> Tensor:
        """Numbers of the hypotheses to fit: all of them now and then, else those that are still in question."""
        assert self.kernels is not None
        if answers < FULL or answers % FULL == 0 or not len(self.weights):
            return torch.arange(len(self.kernels.hypotheses))
        return (self.weights > NEGLIGIBLE * self.weights.max()).nonzero().squeeze(-1)

    def _weigh(self, fit: DualFit, open_: Tensor) -> int:
        """Weights of the hypotheses that were fitted, none for the others; returns the one to use."""
        assert self.kernels is not None
        log_weight = torch.tensor([h.log_weight for h in self.kernels.hypotheses], dtype=torch.float64)
        total = torch.full_like(log_weight, -torch.inf)
        total[open_] = fit.log_evidence + log_weight[open_]
        self.weights = torch.softmax(total, 0)
        alpha = fit.alpha.new_zeros(len(log_weight), fit.alpha.shape[1])
        alpha[open_] = fit.alpha
        self._alpha = alpha
        return self.kernels.likeliest(self.weights)

    def _start(self, mean: Tensor, open_: Tensor) -> Tensor | None:
        """Where the last fit ended: usually it knew all answers but one."""
        if self._alpha is None:
            return None
        known = self._alpha[open_, : mean.shape[1]]
        return torch.nn.functional.pad(known, (0, mean.shape[1] - known.shape[1]))


def _variance(kernels: Kernels, contrasts: Contrasts, points: Points) -> Tensor:
    """Prior variances ``(r,)`` of contrasts."""
    a, b = points[contrasts.first], points[contrasts.second.clamp(min=0)]
    differ = contrasts.second >= 0
    both = kernels.variance(a)[0] + torch.where(differ, kernels.variance(b)[0], 0.0)
    return both - 2 * torch.where(differ, kernels.each(a, b), 0.0)


def _column(kernels: Kernels, contrasts: Contrasts, points: Points, which: int) -> Tensor:
    """Prior covariances ``(r,)`` of all contrasts with one of them."""
    ends = points[torch.stack([contrasts.first[which], contrasts.second[which].clamp(min=0)])]
    cross = kernels.between(ends, points)[0]
    return contrasts.take(cross[0] - cross[1] if int(contrasts.second[which]) >= 0 else cross[0])


SPREAD = 1.5  # standard deviation of a flat law's score, in log-odds
BIAS = 1.0  # and of its constant
FLAT_SHARE = 0.4  # of the prior weight, for being unlike everybody
DRIFT = 0.25  # variance of a context's own part, as a share of what all contexts of a person have in common


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


LINES = ((0.0, 0.7), (0.5, 0.3), (0.0, 0.2))  # shares of the variance: linear, process over features; the rest latents
