"""The default taste model: what people share, plus a personal Gaussian process.

Which of several hypotheses (`client.classifiers.hypotheses`) holds is decided by evidence, after every answer. The
posterior is Laplace's (Rasmussen & Williams 2006, algorithms 3.1 and 3.2), in the dual, over contrasts of items.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from client.classifiers.base import Answers, Beliefs, Points, Taste, TasteModel
from client.classifiers.contrasts import Contrasts
from client.classifiers.hypotheses import Kernels, Process, hypotheses, squared_distances
from client.classifiers.labels import compact
from client.classifiers.laplace_dual import DualFit, laplace_dual, times, transposed
from common.prior import DEFAULT_THRESHOLDS, PopulationPrior

JITTER = 1e-8
LARGE = 4096  # points whose distances are worth remembering
MOST = 200  # answers in a fit
FULL = 20  # every so many answers all hypotheses are fitted again
NEGLIGIBLE = 1e-2  # of the best one's weight: a hypothesis that is left out until then
NOISE = 4.0  # variance that stands for the noise of one answer: the inverse of the steepest logistic curvature
DRIFT = 0.25  # variance of a context's own part, as a share of what all contexts of a person have in common


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
                near = self._near(points, process)
                total = total + process.deviation**2 * (self.dual.to(near) @ near).to(total)
        return total

    def _near(self, points: Points, process: Process) -> Tensor:
        """A process, of variance one, between what was rated and points: ``(items, n)``."""
        view, length, _ = process
        if len(points) >= LARGE and not points.latents.requires_grad:
            return self.kernels.remembered.near(points, self.points, view, length, self.kernels)
        seen = self.kernels.view(points, view)
        known = self.kernels.view(self.points, view).to(seen)
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
        pulled = times(transposed(taste.fit.root), contrast.T[None])[0]
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
