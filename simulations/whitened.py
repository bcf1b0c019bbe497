"""The statistics of people's posteriors in whitened coordinates, where the prior is N(0, I): the inner loop of DP-EM.

With the prior ``w = mean + R t``, ``t ~ N(0, I)``, an item of features phi has score ``phi . mean + (phi R) . t``. So
one table of items, made once a round, whitens everything: its columns are ``phi R`` and, last, ``phi . mean``. The
posterior mode of ``t`` and its covariance V are then what ``common.update`` sends, without any work per person.

This is the same posterior as ``client.fit.laplace`` finds, in the dtype of the features. In float64 it agrees with it
to 1e-9; in float32 to about 1e-4 in the units of an update, a fraction of the step of 1 / 4096 that it is rounded to
(both are tested). Rounding can therefore move an entry of a person by a step, as it does between two machines, and
never weakens the bound on a person: clipping and rounding come after, and look only at the numbers that came out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from client.likelihood import Evidence, score_terms
from common.update import svec

MAX_STEPS = 60


def table(features: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Items as seen in a round, ``(n, p + 1)`` of the dtype of ``features``: whitened features, and the mean's score.

    Args:
        features: ``(n, p)``.
        mean: ``(p,)`` float64; covariance: ``(p, p)``, of the prior.
        covariance: see above.
    """
    values, vectors = torch.linalg.eigh(covariance)
    root = ((vectors * values.sqrt()) @ vectors.mT).to(features.device)
    exact = features.double()
    return torch.cat([exact @ root, (exact @ mean.to(exact))[:, None]], dim=1).to(features)


def statistics(evidence: Evidence, thresholds: Tensor) -> Tensor:
    """``[t, svec(V + t t' - I)]`` of everybody, as ``common.update`` defines it.

    Guarantee: whoever said nothing gets zeros.

    Args:
        evidence: over ``table``; features ``(people, t, m, p + 1)``.
        thresholds: ``(4,)`` ascending cuts between stars.

    Returns:
        ``(people, p + p (p + 1) / 2)``, dtype and device of the features.
    """
    objective = _Objective(evidence, thresholds)
    p = objective.x.shape[-1]
    t = objective.x.new_zeros(evidence.people, p)
    value, gradient, hessian = objective(t)
    precise = torch.finfo(t.dtype).eps
    for _ in range(MAX_STEPS):
        lower = torch.linalg.cholesky(hessian)
        step = torch.cholesky_solve(gradient.unsqueeze(-1), lower).squeeze(-1)
        decrement = (gradient * step).sum(-1)
        t, value, gradient, hessian = _climb(objective, t, value, step, decrement)
        # Newton squares the error: after this step what is left is of the order of the rounding of the dtype
        if bool((decrement < 4 * precise).all()):
            break
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    u = covariance + t.unsqueeze(-1) * t.unsqueeze(-2)
    u.diagonal(dim1=-2, dim2=-1).sub_(1)
    return torch.cat([t, svec(u)], dim=-1)


class _Objective:
    """Log posterior under N(0, I), with gradient and minus Hessian."""

    def __init__(self, evidence: Evidence, thresholds: Tensor) -> None:
        self.evidence, self.thresholds = evidence, thresholds.to(evidence.features)
        self.shape = evidence.features.shape[1:3]
        rows = evidence.features.flatten(1, 2)
        self.x, self.base = rows[..., :-1], rows[..., -1]
        self.identity = torch.eye(self.x.shape[-1], dtype=rows.dtype, device=rows.device)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = self.base + (self.x @ t.unsqueeze(-1)).squeeze(-1)
        value, slope, bend = score_terms(self.evidence, scores.reshape(len(t), *self.shape), self.thresholds)
        gradient = (slope.flatten(1).unsqueeze(1) @ self.x).squeeze(1) - t
        if self.shape[1] == 1:
            weighted = bend.flatten(1).unsqueeze(-1) * self.x
        else:
            weighted = (bend @ self.x.reshape(len(t), *self.shape, -1)).flatten(1, 2)
        return value.sum(-1) - 0.5 * t.square().sum(-1), gradient, self.x.mT @ weighted + self.identity


def _climb(
    objective: _Objective, t: Tensor, value: Tensor, step: Tensor, decrement: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One damped Newton step: halve it for whoever would not gain (Armijo's rule; Boyd & Vandenberghe 2004, 9.2)."""
    size = torch.ones_like(value)
    room = 64 * torch.finfo(value.dtype).eps * (1 + value.abs())  # of rounding: the converged stay put
    for _ in range(40):
        trial = t + size.unsqueeze(-1) * step
        result = objective(trial)
        short = result[0] < value + 1e-4 * size * decrement - room
        if not bool(short.any()):
            break
        size = torch.where(short, size / 2, size)
    return trial, *result
