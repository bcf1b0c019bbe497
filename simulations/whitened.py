"""The statistics of people's posteriors in whitened coordinates, where the prior is N(0, I): the inner loop of DP-EM.

With the prior ``w = mean + R t``, ``t ~ N(0, I)``, an item of features phi has score ``phi . mean + (phi R) . t``. So
one table of items, made once a round, whitens everything: its columns are ``phi R`` and, last, ``phi . mean``. The
posterior mode of ``t`` and its covariance V are then what ``common.update`` sends, without any work per person.

This is the same posterior as ``client.fit.laplace`` finds, in the dtype of the features. In float64 it agrees with it
to 1e-9; in float32 to about 1e-4 in the units of an update, a fraction of the step of 1 / 4096 that it is rounded to
(both are tested). Rounding can therefore move an entry of a person by a step, as it does between two machines, and
never weakens the bound on a person: clipping and rounding come after, and look only at the numbers that came out.

Speed: Newton's method with the last factorisation kept for as long as it serves (a chord step costs a tenth of one),
and answers that are, or can be written as, likes of rows -- a choice of A over B is a like of the difference -- take a
likelihood of one line.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from client.likelihood import Evidence, score_terms
from client.ratings import Kind
from common.update import svec

MAX_STEPS = 60
_TOGETHER = 7  # steps of everybody, before those who are left go on alone
_NEAR = 0.5  # a decrement below this, in nats, bends the posterior by so little that a factor may serve again
_CLOSE = {torch.float64: 1e-18, torch.float32: 1e-8}  # a decrement that leaves less than rounding to be gained


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
        evidence: over ``table``; features ``(people, t, m, p + 1)``, float32 or float64.
        thresholds: ``(4,)`` ascending cuts between stars.

    Returns:
        ``(people, p + p (p + 1) / 2)``, dtype and device of the features.
    """
    objective = _objective(evidence, thresholds)
    t, bend = _mode(objective)
    lower = torch.linalg.cholesky(objective.hessian(bend))
    identity = torch.eye(t.shape[1], dtype=t.dtype, device=t.device).expand_as(lower)
    half = torch.linalg.solve_triangular(lower, identity, upper=False)  # half' half is the covariance
    u = half.mT @ half + t.unsqueeze(-1) * t.unsqueeze(-2) - identity
    return torch.cat([t, svec(u)], dim=-1)


def _mode(objective: _Objective) -> tuple[Tensor, Tensor]:
    """``(people, p)`` where each person's log posterior is highest, and the curvature there.

    Everybody together takes two Newton steps and some with the factor of the second, which is enough for most; the
    few who are left go on by themselves.
    """
    start = objective.x.new_zeros(objective.x.shape[0], objective.x.shape[-1])
    t, bend, decrement = _ascend(objective, start, factors=2, steps=_TOGETHER)
    left = (decrement >= _CLOSE[t.dtype]).nonzero().squeeze(1)
    if len(left):
        t[left], bend[left], _ = _ascend(objective.select(left), t[left], factors=MAX_STEPS, steps=MAX_STEPS)
    return t, bend


def _ascend(objective: _Objective, t: Tensor, *, factors: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Damped Newton steps, the last ones with a kept factor; the point, the curvature, and the last decrement.

    A step that would not gain is halved for whoever it concerns (Armijo's rule; Boyd & Vandenberghe 2004, 9.2). A kept
    factor is that of another point, so its steps converge linearly, by the relative change of the curvature.
    """
    close, worst, lower = _CLOSE[t.dtype], float("inf"), None
    value, slope, bend = objective.at(t)
    for _ in range(steps):
        if lower is None or (factors and worst > _NEAR):
            lower, factors = torch.linalg.cholesky(objective.hessian(bend)), factors - 1
        gradient = objective.gradient(t, slope)
        step = torch.cholesky_solve(gradient.unsqueeze(-1), lower).squeeze(-1)
        decrement = (gradient * step).sum(-1)
        t, value, slope, bend = _climb(objective, t, value, step, decrement)
        before, worst = worst, float(decrement.max())
        if worst < close:
            break
        if factors and worst > 0.25 * before:  # not the progress that was hoped for
            lower = None
    return t, bend, decrement


def _climb(
    objective: _Objective, t: Tensor, value: Tensor, step: Tensor, decrement: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = torch.ones_like(value)
    room = 64 * torch.finfo(value.dtype).eps * (1 + value.abs())  # of rounding: the converged stay put
    for _ in range(40):
        trial = t + size.unsqueeze(-1) * step
        result = objective.at(trial)
        short = result[0] < value + 1e-4 * size * decrement - room
        if not bool(short.any()):
            break
        size = torch.where(short, size / 2, size)
    return trial, *result


class _Objective:
    """Log posterior under N(0, I) of answers of any kind; ``x`` ``(people, t m, p)``, ``base`` ``(people, t m)``."""

    def __init__(self, evidence: Evidence, thresholds: Tensor) -> None:
        self.evidence, self.thresholds = evidence, thresholds.to(evidence.features)
        self.shape = evidence.features.shape[:3]
        rows = evidence.features.flatten(1, 2)
        self.x, self.base = rows[..., :-1], rows[..., -1]

    def select(self, people: Tensor) -> _Objective:
        """Of some of the people."""
        return _Objective(self.evidence.select(people), self.thresholds)

    def at(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value ``(people,)``, and slope and bend of the likelihood in the scores."""
        scores = torch.baddbmm(self.base.unsqueeze(-1), self.x, t.unsqueeze(-1)).squeeze(-1)
        value, slope, bend = self.likelihood(scores)
        return value - 0.5 * t.square().sum(-1), slope, bend

    def likelihood(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log likelihood ``(people,)``, slope ``(people, rows)`` and bend, as ``weighted`` takes it."""
        value, slope, bend = score_terms(self.evidence, scores.reshape(self.shape), self.thresholds)
        return value.sum(-1), slope.flatten(1), bend

    def gradient(self, t: Tensor, slope: Tensor) -> Tensor:
        """``(people, p)``."""
        gradient: Tensor = (slope.unsqueeze(1) @ self.x).squeeze(1) - t
        return gradient

    def hessian(self, bend: Tensor) -> Tensor:
        """Minus the Hessian ``(people, p, p)``."""
        hessian: Tensor = self.x.mT @ self.weighted(bend)
        hessian.diagonal(dim1=-2, dim2=-1).add_(1)
        return hessian

    def weighted(self, bend: Tensor) -> Tensor:
        """The curvature in the scores times ``x``."""
        weighted: Tensor = (bend @ self.x.reshape(*self.shape, self.x.shape[-1])).flatten(1, 2)
        return weighted


class _Likes(_Objective):
    """Answers that are all of the form ``log sigmoid(sign * score)``, one score each."""

    def __init__(self, rows: Tensor, sign: Tensor, weight: Tensor) -> None:
        self.rows, self.sign, self.weight = rows, sign, weight
        self.x, self.base = rows[..., :-1], rows[..., -1]

    def select(self, people: Tensor) -> _Likes:
        return _Likes(self.rows[people], self.sign[people], self.weight[people])

    def likelihood(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        signed = scores * self.sign
        wrong = torch.sigmoid(-signed)
        pull = wrong * self.weight
        return (logsigmoid(signed) * self.weight).sum(-1), pull * self.sign, pull * (1 - wrong)

    def weighted(self, bend: Tensor) -> Tensor:
        return bend.unsqueeze(-1) * self.x


def _objective(evidence: Evidence, thresholds: Tensor) -> _Objective:
    kinds, rows = torch.unique(evidence.kind).tolist(), evidence.features
    sign = (2 * (evidence.value & 1) - 1).to(rows)
    weight = evidence.weight.to(rows)
    if kinds == [int(Kind.LIKE)]:
        return _Likes(rows[:, :, 0], sign, weight)
    if kinds == [int(Kind.CHOICE)] and rows.shape[2] == 2:
        return _Likes(*_choices(evidence, -sign, weight))  # a, both: even numbers
    return _Objective(evidence, thresholds)


def _choices(evidence: Evidence, sign: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A over B is a like of ``a - b``; both (neither) are two (dis)likes, of which the second needs a row of its own.

    Rows for the second ones are as many as the person with most of them has: ``(people, t + most, p + 1)``.
    """
    first, second = evidence.features.unbind(2)
    alone = evidence.value >= 2
    most = int((alone & (weight > 0)).sum(1).max())
    place = (alone & (weight > 0)).to(torch.int8).topk(most, dim=1).indices if most else sign[:, :0].long()
    own = torch.arange(len(sign), device=sign.device)[:, None]
    rows = torch.cat([torch.where(alone.unsqueeze(-1), first, first - second), second[own, place]], dim=1)
    return rows, torch.cat([sign, sign[own, place]], 1), torch.cat([weight, (weight * alone)[own, place]], 1)
