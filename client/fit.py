"""Ratings and a prior -> the posterior of a taste, for one person or for ten thousand at once.

The taste is linear in the features, ``r = phi . w``, and every likelihood is concave in ``r``, so the posterior under
a Gaussian prior has one mode. Newton's method finds it; the Laplace approximation (Tierney & Kadane 1986; Rasmussen &
Williams 2006, section 3.4) turns it into a Gaussian and an evidence. Everything is exact linear algebra on
``(people, ratings, p)``: no learning rate, no Python loop over people.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from client.classifiers.base import Beliefs
from client.likelihood import Evidence, score_terms
from common.errors import SettingError

MAX_STEPS = 60
TOLERANCE = 1e-18  # half the squared Newton decrement, in nats: the mode itself is then good to about 1e-9


@dataclass(frozen=True)
class LaplaceFit:
    """Gaussian approximation of each person's posterior; leading dimensions are those of the prior.

    Attributes:
        mean: ``(..., people, p)`` posterior mode.
        covariance: ``(..., people, p, p)`` inverse of the Hessian at the mode.
        log_evidence: ``(..., people)`` Laplace approximation of log p(ratings | prior), in nats.
    """

    mean: Tensor
    covariance: Tensor
    log_evidence: Tensor


def laplace(evidence: Evidence, mean: Tensor, covariance: Tensor, thresholds: Tensor) -> LaplaceFit:
    """Laplace posterior of every person under one or several Gaussian priors.

    Guarantee: the mode is the global one, to ``TOLERANCE`` nats, or to rounding where the prior is nearly singular; a
    person without ratings gets the prior back with a log evidence of zero. One person alone and the same person in a
    batch get the same posterior up to rounding.

    Args:
        evidence: what was said; features ``(people, t, m, p)``, float64 for exact work.
        mean: ``(..., p)`` prior means.
        covariance: ``(..., p, p)`` prior covariances.
        thresholds: ``(4,)`` ascending cuts between stars.

    Raises:
        SettingError: the features and the prior have different sizes, or a feature is not finite.
    """
    p = mean.shape[-1]
    if evidence.parameters != p:
        raise SettingError(f"features have {evidence.parameters} numbers, the prior has {p}; use the prior of this map")
    x = evidence.features.flatten(1, 2)  # (people, t m, p)
    if not bool(x.isfinite().all()):
        raise SettingError("a feature is NaN or infinite; check the generator pack")
    mean, covariance, thresholds = mean.to(x), covariance.to(x), thresholds.to(x)
    factor = torch.linalg.cholesky(covariance)
    precision = torch.cholesky_inverse(factor)
    objective = _Objective(evidence, x, mean, precision, thresholds)
    w = mean.unsqueeze(-2).expand(*mean.shape[:-1], evidence.people, p).clone()
    value, gradient, hessian = objective(w)
    lost = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(MAX_STEPS):
        lower = torch.linalg.cholesky(hessian)
        step = torch.cholesky_solve(gradient.unsqueeze(-1), lower).squeeze(-1)
        decrement = (gradient * step).sum(-1)
        rounding = objective.rounding(w)
        # Under a nearly singular prior values are rounded by more than is left to gain; once more, and that is all.
        if bool(((decrement < 2 * TOLERANCE) | (lost & (decrement < rounding))).all()):
            break
        lost = decrement < rounding
        w, value, gradient, hessian = _climb(objective, w, value, step, decrement, rounding)
    lower = torch.linalg.cholesky(hessian)
    half_log_det = lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    prior_half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return LaplaceFit(w, torch.cholesky_inverse(lower), value - half_log_det - prior_half_log_det.unsqueeze(-1))


class _Objective:
    """Log posterior without its constant, with gradient and minus Hessian in the taste weights."""

    def __init__(self, evidence: Evidence, x: Tensor, mean: Tensor, precision: Tensor, thresholds: Tensor) -> None:
        self.evidence, self.x, self.thresholds = evidence, x, thresholds
        self.mean, self.precision = mean.unsqueeze(-2), precision.unsqueeze(-3)
        self.shape = evidence.features.shape[1:3]

    def __call__(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        away = w - self.mean
        pull = (self.precision @ away.unsqueeze(-1)).squeeze(-1)
        scores = (self.x @ w.unsqueeze(-1)).squeeze(-1)
        scores = scores.reshape(*scores.shape[:-1], *self.shape)
        value, slope, bend = score_terms(self.evidence, scores, self.thresholds)
        gradient = (slope.flatten(-2).unsqueeze(-2) @ self.x).squeeze(-2) - pull
        if self.shape[1] == 1:
            weighted = bend.flatten(-3).unsqueeze(-1) * self.x
        else:
            weighted = (bend @ self.evidence.features).flatten(-3, -2)
        hessian = self.x.mT @ weighted + self.precision
        return value.sum(-1) - 0.5 * (away * pull).sum(-1), gradient, hessian

    def rounding(self, w: Tensor) -> Tensor:
        """``(..., people)`` how far off a value may be: the quadratic form's terms cancel where the prior is narrow."""
        away = (w - self.mean).abs()
        terms = (away.unsqueeze(-2) @ self.precision.abs() @ away.unsqueeze(-1)).squeeze(-1).squeeze(-1)
        return 8 * torch.finfo(w.dtype).eps * terms


def _climb(
    objective: _Objective, w: Tensor, value: Tensor, step: Tensor, decrement: Tensor, rounding: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One damped Newton step: halve it for whoever would not gain (Armijo's rule; Boyd & Vandenberghe 2004, 9.2)."""
    size = torch.ones_like(value)
    for _ in range(40):
        trial = w + size.unsqueeze(-1) * step
        result = objective(trial)
        # the last term lets a person who has converged to rounding stay put instead of halving for ever
        short = result[0] < value + 1e-4 * size * decrement - 1e-12 * (1 + value.abs()) - rounding
        if not bool(short.any()):
            break
        size = torch.where(short, size / 2, size)
    return trial, *result


@dataclass(frozen=True)
class Posterior:
    """A mixture of Gaussians over each person's taste: one component for each prior that was weighed.

    Attributes:
        mean: ``(people, c, p)``; covariance: ``(people, c, p, p)``; weight: ``(people, c)``, sums to one.
        covariance: see above.
        weight: see above.
    """

    mean: Tensor
    covariance: Tensor
    weight: Tensor

    @cached_property
    def lower(self) -> Tensor:
        """Cholesky factors ``(people, c, p, p)`` of the covariances."""
        factor: Tensor = torch.linalg.cholesky(self.covariance)
        return factor

    def scores(self, features: Tensor) -> Tensor:
        """Posterior mean scores ``(people, n)`` of items with features ``(n, p)`` or ``(people, n, p)``."""
        taste = (self.weight.unsqueeze(-1) * self.mean).sum(-2)
        return (features @ taste.unsqueeze(-1)).squeeze(-1)

    def moments(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``(people, n)`` of the scores of items ``(n, p)`` or ``(people, n, p)``."""
        if features.dim() == 2:
            features = features.expand(self.mean.shape[0], *features.shape)
        means = features @ self.mean.mT  # (people, n, c)
        lower = self.lower
        within = torch.stack([(features @ lower[:, c]).square().sum(-1) for c in range(lower.shape[1])], dim=-1)
        weight = self.weight.unsqueeze(-2)
        mean = (weight * means).sum(-1)
        second = (weight * (within + means.square())).sum(-1)
        return mean, (second - mean.square()).clamp(min=0).sqrt()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Tastes ``(people, count, p)`` drawn from each person's posterior."""
        people, _, p = self.mean.shape
        component = torch.multinomial(self.weight, count, replacement=True, generator=generator)
        noise = torch.randn(people, count, p, dtype=self.mean.dtype, device=self.mean.device, generator=generator)
        lower = self.lower
        person = torch.arange(people, device=self.mean.device)[:, None]
        moved: Tensor = (lower[person, component] @ noise.unsqueeze(-1)).squeeze(-1)
        return self.mean[person, component] + moved

    def over(self, features: Tensor) -> LinearBeliefs:
        """Beliefs about items with features ``(n, p)``, the same for everybody."""
        return LinearBeliefs(self, features)


class LinearBeliefs(Beliefs):
    """Beliefs about items under a taste that is linear in the features, correlations included."""

    def __init__(self, posterior: Posterior, features: Tensor) -> None:
        """Beliefs of ``people`` posteriors about items ``(n, p)``."""
        self.posterior, self.features = posterior, features
        self.mean = posterior.scores(features)

    @cached_property
    def deviation(self) -> Tensor:  # type: ignore[override]
        """``(people, n)``."""
        return self.posterior.moments(self.features)[1]

    def gap(self, against: Tensor) -> tuple[Tensor, Tensor]:
        """See `Beliefs`."""
        return self.posterior.moments(self.features - self.features[against].unsqueeze(1))

    def draw(self, generator: torch.Generator, spread: float = 1.0) -> Tensor:
        """See `Beliefs`."""
        centre = (self.posterior.weight.unsqueeze(-1) * self.posterior.mean).sum(-2)
        taste = centre + spread * (self.posterior.sample(1, generator).squeeze(1) - centre)
        return taste @ self.features.T


def weigh(evidence: Evidence, mean: Tensor, covariance: Tensor, weight: Tensor, thresholds: Tensor) -> Posterior:
    """Posterior under a mixture of priors, each weighed by how well it foretold this person's ratings.

    With one component being a flat prior, a population prior can only help: for a person unlike everybody the evidence
    moves the weight to the flat one (Bayesian model averaging; Hoeting et al. 1999, eq. 1-2).

    Args:
        evidence: what was said.
        mean: ``(c, p)``, covariance: ``(c, p, p)``, weight: ``(c,)`` prior weights, summing to one.
        covariance: see above.
        weight: see above.
        thresholds: ``(4,)``.
    """
    fit = laplace(evidence, mean, covariance, thresholds)
    log_weight = fit.log_evidence + weight.to(fit.log_evidence).log().unsqueeze(-1)
    return Posterior(
        fit.mean.transpose(0, 1), fit.covariance.transpose(0, 1), torch.softmax(log_weight.transpose(0, 1), dim=-1)
    )


def log_predictive(evidence: Evidence, posterior: Posterior, thresholds: Tensor, draws: Tensor) -> Tensor:
    """Log probability of each held-out answer, averaged over the posterior by fixed standard normal draws.

    Args:
        evidence: held-out answers ``(people, t)``.
        posterior: of the same people.
        thresholds: ``(4,)``.
        draws: ``(s, p)`` standard normal numbers, the same for every method that is compared.

    Returns:
        ``(people, t)`` in nats.
    """
    lower = torch.linalg.cholesky(posterior.covariance)
    tastes = posterior.mean.unsqueeze(-2) + draws.to(lower) @ lower.mT  # (people, c, s, p)
    x = evidence.features.flatten(1, 2)
    scores = torch.einsum("nip,ncsp->csni", x, tastes)
    scores = scores.reshape(*scores.shape[:-1], *evidence.features.shape[1:3])
    value, _, _ = score_terms(evidence, scores, thresholds.to(x))
    mixed = torch.logsumexp(value, dim=1) - math.log(draws.shape[0])
    return torch.logsumexp(mixed + posterior.weight.mT.log().unsqueeze(-1), dim=0)
