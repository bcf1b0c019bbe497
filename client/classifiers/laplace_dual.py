"""Laplace's approximation in the dual: its size is the number of answers, not of features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from client.classifiers.contrasts import Contrasts

MAX_STEPS = 40
TOLERANCE = 1e-6  # nats gained by the last step; Newton's next one would gain about its square


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
        lower = factor_of(root, kernel)
        target = times(root, times(transposed(root), away.unsqueeze(-1))) + gradient.unsqueeze(-1)
        inner = torch.cholesky_solve(times(transposed(root), kernel @ target), lower)
        step = (target - times(root, inner)).squeeze(-1) - alpha
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
    lower = factor_of(root, kernel)
    # at the mode alpha is the gradient; Newton's own is one step behind it
    return DualFit(alpha, root, lower, objective - lower.diagonal(dim1=-2, dim2=-1).log().sum(-1))


def times(root: Tensor, x: Tensor) -> Tensor:
    """``S x`` for ``x`` ``(h, r, n)``."""
    return root.unsqueeze(-1) * x if root.dim() == 2 else root @ x


def transposed(root: Tensor) -> Tensor:
    """``S'``."""
    return root if root.dim() == 2 else root.mT


def factor_of(root: Tensor, kernel: Tensor) -> Tensor:
    """Cholesky factor of ``B = I + S' K S`` ``(h, r, r)``."""
    half = times(transposed(root), kernel)
    matrix = times(transposed(root), half.mT)
    matrix.diagonal(dim1=-2, dim2=-1).add_(1.0)
    factor: Tensor = torch.linalg.cholesky(matrix)
    return factor
