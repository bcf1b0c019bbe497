"""What people's devices do with the answers in classical federated learning: a few steps of gradient ascent.

Everybody's model is trained at once and the gradients are written out, for two models of how an item's score comes
from its features ``x`` (the last one a constant 1, for the bias):

    linear    r = w . x
    network   r = v . relu(W x) + b

The loss is the mean log likelihood of a person's answers, whatever their kind (``client.likelihood``).

A person has few answers, so the change of ``W`` is a combination of few feature rows, ``dW = A^T X`` with ``A`` one
number for each row and hidden unit. Steps are done on ``A``: scores move by ``X dW^T = (X X^T) A``, and ``X X^T`` is
computed once. With 30 rows, 100 features and 5 steps this takes a third of the arithmetic of steps on ``W``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from client.likelihood import Evidence, score_terms
from client.ratings import Kind

LINEAR_TOGETHER, NETWORK_TOGETHER = 64, 64
"""People trained together on a CPU, so that what they need stays in its cache. Has no effect on the result."""


@dataclass(frozen=True)
class Lesson:
    """The answers of some people, ready for gradient steps.

    Attributes:
        evidence: what was said; features ``(people, t, m, q)``.
        thresholds: ``(4,)`` cuts between stars.
        share: ``(people, t)`` weight of each answer.
        liked: ``(people, t)`` 1 for a like, 0 for a dislike; ``None`` where there are answers of other kinds.
    """

    evidence: Evidence
    thresholds: Tensor
    share: Tensor
    liked: Tensor | None

    @classmethod
    def of(cls, evidence: Evidence, thresholds: Tensor, *, mean: bool = True) -> Lesson:
        """A lesson about the mean log likelihood of a person's answers, or about its sum.

        Whoever said nothing learns nothing.
        """
        share = evidence.weight.to(evidence.features)
        if mean:
            share = share / share.sum(1, keepdim=True).clamp(min=1e-9)
        likes = evidence.features.shape[2] == 1 and not bool((evidence.kind != int(Kind.LIKE)).any())
        return cls(evidence, thresholds, share, evidence.value.to(share) if likes else None)

    @property
    def rows(self) -> Tensor:
        """``(people, t m, q)`` features of the items, one row each."""
        return self.evidence.features.flatten(1, 2)

    def slope(self, scores: Tensor) -> Tensor:
        """Gradient of the weighted log likelihood in the scores ``(people, t m)`` of the items, same shape."""
        if self.liked is not None:
            return torch.sub(self.liked, torch.sigmoid(scores)).mul_(self.share)
        kind, value, _, features, shown = self.evidence.tensors()
        weighted = Evidence(kind, value, self.share, features, shown)
        return score_terms(weighted, scores.reshape(features.shape[:3]), self.thresholds.to(scores))[1].flatten(1)

    def parts(self, together: int) -> Iterator[tuple[slice, Lesson]]:
        """Everybody, so many at a time on a CPU, all at once elsewhere."""
        people = self.evidence.people
        size = together if self.share.device.type == "cpu" else max(1, people)
        for start in range(0, people, size):
            some = slice(start, min(start + size, people))
            liked = None if self.liked is None else self.liked[some]
            yield some, Lesson(self.evidence.select(some), self.thresholds, self.share[some], liked)


@dataclass(frozen=True, kw_only=True)
class Network:
    """Weights of the network, of one or of many people.

    Attributes:
        body: ``(..., h, q)`` W.
        head: ``(..., h + 1)`` v, then b.
    """

    body: Tensor
    head: Tensor

    @property
    def vector(self) -> Tensor:
        """``(..., h q + h + 1)``."""
        return torch.cat([self.body.flatten(-2), self.head], dim=-1)

    @classmethod
    def of(cls, vector: Tensor, features: int) -> Network:
        """The network whose ``vector`` this is."""
        hidden = (vector.shape[-1] - 1) // (features + 1)
        body = vector[..., : hidden * features]
        return cls(body=body.reshape(*body.shape[:-1], hidden, features), head=vector[..., hidden * features :])

    def hidden(self, features: Tensor) -> Tensor:
        """``(..., n, h + 1)`` what the head looks at, the last a constant 1; for one network."""
        inside = torch.relu(features @ self.body.to(features).T)
        return torch.cat([inside, torch.ones_like(inside[..., :1])], dim=-1)

    def scores(self, features: Tensor) -> Tensor:
        """``(..., n)`` scores of items ``(..., n, q)``; for one network."""
        return self.hidden(features) @ self.head.to(features)


def train_linear(lesson: Lesson, weights: Tensor, *, steps: int, rate: float) -> Tensor:
    """How each person changes the linear model in ``steps`` full-batch gradient steps.

    Args:
        lesson: the answers.
        weights: ``(q,)`` where everybody starts.
        steps: how many.
        rate: step length.

    Returns:
        ``(people, q)``, after minus before.
    """
    weights = weights.to(lesson.share)
    change = weights.new_zeros(lesson.evidence.people, weights.shape[0])
    if lesson.liked is not None and change.device.type == "cpu":
        _linear_likes(lesson.liked, lesson, weights, steps, rate, change)
        return change
    for some, part in lesson.parts(LINEAR_TOGETHER):
        _linear(part, weights, steps, rate, change[some])
    return change


def _linear(lesson: Lesson, weights: Tensor, steps: int, rate: float, change: Tensor) -> None:
    rows = lesson.rows
    # Everybody starts from the same weights, so the first scores are one product.
    scores = first = torch.mv(rows.flatten(0, 1), weights).reshape(rows.shape[:2])
    for step in range(steps):
        if step:
            scores = torch.bmm(rows, change.unsqueeze(2)).squeeze(2).add_(first)
        change.add_(torch.bmm(lesson.slope(scores).unsqueeze(1), rows).squeeze(1), alpha=rate)


def _linear_likes(liked: Tensor, lesson: Lesson, weights: Tensor, steps: int, rate: float, change: Tensor) -> None:
    """The same for likes on a CPU, by NumPy on the same memory: matrices are so small that calls are what costs.

    The slope of a like is ``liked - sigmoid(r) = (liked - 1/2) - tanh(r / 2) / 2``.
    """
    half = (lesson.share * (rate / 2)).numpy()
    aim, start = half * (2 * liked.numpy() - 1), weights.numpy()
    everybody, changes = lesson.rows.numpy(), change.numpy()
    for begin in range(0, len(changes), LINEAR_TOGETHER):
        some = slice(begin, begin + LINEAR_TOGETHER)
        rows, moved, pull, size = everybody[some], changes[some], aim[some], half[some]
        first = (rows.reshape(-1, rows.shape[2]) @ start).reshape(rows.shape[:2])
        scores, slope = first.copy(), np.empty_like(first)
        for step in range(steps):
            if step:
                np.matmul(rows, moved[:, :, None], out=scores[:, :, None])
                scores += first
            np.multiply(scores, 0.5, out=slope)
            np.tanh(slope, out=slope)
            slope *= size
            np.subtract(pull, slope, out=slope)
            moved += np.matmul(slope[:, None], rows)[:, 0]


def train_network(
    lesson: Lesson, network: Network, *, steps: int, rate: float, body: bool = True, head: bool = True
) -> Tensor:
    """How each person changes the network in ``steps`` full-batch gradient steps.

    Args:
        lesson: the answers.
        network: where everybody starts; a head of each person's own, ``(people, h + 1)``, is allowed.
        steps: how many.
        rate: step length.
        body: whether W moves; ``head``: whether v and b move.
        head: see above.

    Returns:
        ``(people, h q + h + 1)``, after minus before as ``Network.vector``.
    """
    weights = network.body.to(lesson.share)
    heads = network.head.to(lesson.share).expand(lesson.evidence.people, -1)
    change = heads.new_empty(heads.shape[0], weights.numel() + heads.shape[1])
    for some, part in lesson.parts(NETWORK_TOGETHER):
        _network(part, weights, heads[some], steps, rate, (body, head), change[some])
    return change


def _network(
    lesson: Lesson, body: Tensor, heads: Tensor, steps: int, rate: float, moving: tuple[bool, bool], change: Tensor
) -> None:
    rows = lesson.rows
    first = (rows.flatten(0, 1) @ body.T).reshape(*rows.shape[:2], body.shape[0])  # one product: all start from W
    shift = _shift(rows)
    combination, inside, back = torch.zeros_like(first), first.relu(), torch.empty_like(first)  # A, see the top
    weight, bias, each = heads[:, :-1].clone(), heads[:, -1:].clone(), _Each(inside)
    for step in range(steps):
        if step and moving[0]:
            shift(first, combination, inside).relu_()
        slope = lesson.slope(each.times(weight).add_(bias))
        if moving[0]:
            torch.mul(slope.unsqueeze(2), weight.unsqueeze(1), out=back)
            torch.ops.aten.threshold_backward.grad_input(back, inside, 0, grad_input=back)
            combination.add_(back, alpha=rate)
        if moving[1]:
            weight.add_(each.added(slope), alpha=rate)
            bias.add_(slope.sum(1, keepdim=True), alpha=rate)
    torch.bmm(combination.mT, rows, out=change[:, : body.numel()].view(-1, *body.shape))
    torch.sub(torch.cat([weight, bias], dim=1), heads, out=change[:, body.numel() :])


def _shift(rows: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """``first + X X^T A`` into ``out``, by way of X X^T where a person has fewer rows than there are features."""
    if rows.shape[1] <= rows.shape[2]:
        gram = torch.bmm(rows, rows.mT)
        return lambda first, combination, out: torch.baddbmm(first, gram, combination, out=out)
    return lambda first, combination, out: torch.baddbmm(first, rows, torch.bmm(rows.mT, combination), out=out)


class _Each:
    """Products of each person's own matrix ``(people, r, q)`` with their own vector.

    On a CPU by NumPy, which looks at the same memory and is two to three times as fast as ``torch.bmm`` at this.
    """

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        self._host = rows.numpy() if rows.device.type == "cpu" else None

    def times(self, vectors: Tensor) -> Tensor:
        """``(people, r)`` of vectors ``(people, q)``."""
        if self._host is None:
            return torch.bmm(self._rows, vectors.unsqueeze(2)).squeeze(2)
        return torch.from_numpy(np.matmul(self._host, vectors.numpy()[:, :, None])[:, :, 0])

    def added(self, factors: Tensor) -> Tensor:
        """``(people, q)`` sum of the rows times ``factors`` ``(people, r)``."""
        if self._host is None:
            return torch.bmm(factors.unsqueeze(1), self._rows).squeeze(1)
        return torch.from_numpy(np.matmul(factors.numpy()[:, None], self._host)[:, 0])
