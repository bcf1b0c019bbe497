"""Each kind of feedback as a log likelihood of the item scores, with gradient and curvature, batched over people.

With ``r`` the scores (log-odds of liking) of the items of one answer:

========  ==========================================================  =====================================
kind      log likelihood                                              source
========  ==========================================================  =====================================
like      log sigmoid(+-r)                                            Bernoulli, logit link
choice    log sigmoid(r_a - r_b), or the sum of two (dis)likes        Bradley & Terry 1952; both = two likes
stars     log [sigmoid(c_s - r) - sigmoid(c_(s-1) - r)]               cumulative logit, McCullagh 1980, eq. 2.4
best      r_chosen - log sum exp r                                    Luce 1959; McFadden 1974
worst     -r_chosen - log sum exp -r                                  the same on -r
glance    y log sigmoid(r) + (1 - y) log sigmoid(-r)                  cross-entropy with a soft label y
========  ==========================================================  =====================================

All are concave in ``r``, so the curvature (minus the Hessian) is positive semi-definite and the posterior of a taste
that is linear in the features has one mode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from client.ratings import Kind, Rating, encode
from common.errors import SettingError
from common.files import write_atomically


@dataclass(frozen=True)
class Evidence:
    """What many people said, padded to one shape: the input of every fit.

    Attributes:
        kind: ``(people, t)`` int64, a ``Kind``.
        value: ``(people, t)`` int64; its meaning depends on the kind (see ``client.ratings``).
        weight: ``(people, t)``; 0 for padding, below 1 for weak evidence.
        features: ``(people, t, m, p)`` features of the (up to) m items of each answer; zeros where there is none.
        shown: ``(people, t)`` int64, how many of the m items there are.
    """

    kind: Tensor
    value: Tensor
    weight: Tensor
    features: Tensor
    shown: Tensor

    @classmethod
    def of(cls, ratings: Sequence[Rating], item_features: Tensor) -> Evidence:
        """The ratings of one person, as a batch of one.

        Args:
            ratings: what they said; items are rows of ``item_features``.
            item_features: ``(items, p)``.
        """
        kinds, values, items = encode(ratings)
        index = torch.tensor(items, dtype=torch.int64).reshape(len(ratings), -1 if ratings else 1)
        found = cls.gather(
            torch.tensor(kinds, dtype=torch.int64)[None],
            torch.tensor(values, dtype=torch.int64)[None],
            index[None],
            item_features,
        )
        weight = torch.tensor([rating.weight for rating in ratings]).to(found.weight)
        return dataclasses.replace(found, weight=weight[None])

    @classmethod
    def gather(cls, kind: Tensor, value: Tensor, items: Tensor, item_features: Tensor) -> Evidence:
        """Evidence from stored answers.

        Args:
            kind: ``(people, t)`` kinds; ``value``: ``(people, t)``.
            value: as in ``client.ratings``.
            items: ``(people, t, m)`` rows of ``item_features``, -1 where there is none.
            item_features: ``(items, p)``.
        """
        if items.numel() and int(items.max()) >= item_features.shape[0]:
            raise SettingError(f"item {int(items.max())} was never shown; there are {item_features.shape[0]} items")
        present = items >= 0
        features = item_features[items.clamp(min=0)] * present.unsqueeze(-1)
        weight = torch.ones(kind.shape, dtype=item_features.dtype, device=item_features.device)
        return cls(kind, value, weight, features, present.sum(-1))

    @property
    def answers(self) -> int:
        """Answers that count, of all people together."""
        return int((self.weight > 0).sum())

    @property
    def people(self) -> int:
        """Number of people."""
        return self.kind.shape[0]

    @property
    def parameters(self) -> int:
        """Number of taste weights p."""
        return self.features.shape[-1]

    def first(self, answers: int) -> Evidence:
        """Only the first ``answers`` answers of everybody."""
        return Evidence(*(tensor[:, :answers] for tensor in self.tensors()))

    def select(self, people: Tensor | slice) -> Evidence:
        """Only some of the people."""
        return Evidence(*(tensor[people] for tensor in self.tensors()))

    def with_features(self, features: Tensor) -> Evidence:
        """The same answers about the same items, seen through other features ``(people, t, m, q)``."""
        return dataclasses.replace(self, features=features)

    def chunks(self, people: int) -> Iterator[Evidence]:
        """Everybody, at most ``people`` at a time."""
        for start in range(0, self.people, people):
            yield self.select(slice(start, start + people))

    def tensors(self) -> tuple[Tensor, ...]:
        """The fields in order."""
        return self.kind, self.value, self.weight, self.features, self.shown

    def save(self, path: Path) -> None:
        """Write as safetensors, all or nothing."""
        names = [field.name for field in dataclasses.fields(self)]
        write_atomically(
            path, safetensors.torch.save({n: t.clone() for n, t in zip(names, self.tensors(), strict=True)})
        )

    @classmethod
    def load(cls, path: Path) -> Evidence:
        """Read what ``save`` wrote."""
        return cls(**safetensors.torch.load(path.read_bytes()))


def score_terms(evidence: Evidence, scores: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log likelihood of every answer, with its gradient and curvature in the scores of its items.

    Args:
        evidence: what was said.
        scores: ``(..., people, t, m)``; any leading dimensions are computed together.
        thresholds: ``(4,)`` ascending cuts between stars.

    Returns:
        Weighted log likelihood ``(..., people, t)``, its gradient ``(..., people, t, m)`` and minus its Hessian
        ``(..., people, t, m, m)`` in the scores.
    """
    flat = scores.flatten(-3, -2)
    kinds, answer, shown = evidence.kind.flatten(), evidence.value.flatten(), evidence.shown.flatten()
    present = torch.unique(kinds).tolist()
    if len(present) == 1:
        value, gradient, curvature = _KINDS[Kind(present[0])](flat, answer, shown, thresholds)
    else:
        value, gradient = flat.new_zeros(flat.shape[:-1]), torch.zeros_like(flat)
        curvature = flat.new_zeros(*flat.shape, flat.shape[-1])
        for kind in present:
            rows = (kinds == kind).nonzero().squeeze(-1)
            part = _KINDS[Kind(kind)](flat[..., rows, :], answer[rows], shown[rows], thresholds)
            value[..., rows], gradient[..., rows, :], curvature[..., rows, :, :] = part
    weight = evidence.weight.flatten().to(scores)
    shape = scores.shape[:-1]
    return (
        (value * weight).reshape(shape),
        (gradient * weight[..., None]).reshape(scores.shape),
        (curvature * weight[..., None, None]).reshape(*scores.shape, scores.shape[-1]),
    )


_Terms = tuple[Tensor, Tensor, Tensor]


def _like(scores: Tensor, answer: Tensor, shown: Tensor, thresholds: Tensor) -> _Terms:
    return _likes(scores, (2 * answer - 1)[:, None] * (torch.arange(scores.shape[-1], device=scores.device) == 0))


def _glance(scores: Tensor, answer: Tensor, shown: Tensor, thresholds: Tensor) -> _Terms:
    label = answer.to(scores) / 1000
    score, slope, bend = scores[..., 0], torch.zeros_like(scores), torch.zeros_like(scores)
    value = label * logsigmoid(score) + (1 - label) * logsigmoid(-score)
    slope[..., 0] = label - torch.sigmoid(score)
    bend[..., 0] = torch.sigmoid(score) * torch.sigmoid(-score)
    return value, slope, torch.diag_embed(bend)


def _likes(scores: Tensor, sign: Tensor) -> _Terms:
    """Independent likes (+1) and dislikes (-1) of the items of an answer; 0 where nothing was said. ``sign (n, m)``."""
    sign = sign.to(scores)
    slope = torch.sigmoid(-sign * scores) * sign
    value = (logsigmoid(sign * scores) * sign.abs()).sum(-1)
    bend = torch.sigmoid(scores) * torch.sigmoid(-scores) * sign.abs()
    return value, slope, torch.diag_embed(bend)


def _choice(scores: Tensor, answer: Tensor, shown: Tensor, thresholds: Tensor) -> _Terms:
    absolute = (answer == 2).to(scores) - (answer == 3).to(scores)  # both = +1, neither = -1
    pair = scores.new_zeros(scores.shape[-1])
    pair[:2] = 1
    value, slope, bend = _likes(scores, absolute[:, None] * pair)
    preferred = (answer == 0).to(scores) - (answer == 1).to(scores)  # a = +1, b = -1
    difference = scores[..., 0] - scores[..., 1]
    direction = scores.new_zeros(scores.shape[-1])
    direction[0], direction[1] = 1, -1
    value = value + logsigmoid(preferred * difference) * preferred.abs()
    slope = slope + (torch.sigmoid(-preferred * difference) * preferred)[..., None] * direction
    spread = torch.sigmoid(difference) * torch.sigmoid(-difference) * preferred.abs()
    return value, slope, bend + spread[..., None, None] * torch.outer(direction, direction)


def _stars(scores: Tensor, answer: Tensor, shown: Tensor, thresholds: Tensor) -> _Terms:
    cuts = torch.cat([thresholds.new_tensor([-torch.inf]), thresholds, thresholds.new_tensor([torch.inf])]).to(scores)
    upper, lower = cuts[answer] - scores[..., 0], cuts[answer - 1] - scores[..., 0]
    # log [sigmoid(u) - sigmoid(l)] = log sigmoid(u) + log sigmoid(-l) + log(1 - exp(l - u)), stable in both tails
    gap = torch.log1p(-torch.exp(cuts[answer - 1] - cuts[answer]))
    above, below = torch.sigmoid(-upper), torch.sigmoid(lower)
    slope, bend = torch.zeros_like(scores), torch.zeros_like(scores)
    value = logsigmoid(upper) + logsigmoid(-lower) + gap
    slope[..., 0] = below - above
    bend[..., 0] = above * (1 - above) + below * (1 - below)
    return value, slope, torch.diag_embed(bend)


def _best(scores: Tensor, answer: Tensor, shown: Tensor, thresholds: Tensor) -> _Terms:
    position = torch.arange(scores.shape[-1], device=scores.device)
    there = position < shown[:, None]
    log_share = torch.log_softmax(scores.masked_fill(~there, -torch.inf), dim=-1)
    share = log_share.exp()
    chosen = position == answer[:, None]
    value = torch.where(chosen, log_share, 0.0).sum(-1)
    bend = torch.diag_embed(share) - share[..., :, None] * share[..., None, :]
    return value, chosen.to(scores) - share, bend


def _worst(scores: Tensor, answer: Tensor, shown: Tensor, thresholds: Tensor) -> _Terms:
    value, slope, bend = _best(-scores, answer, shown, thresholds)
    return value, -slope, bend


_KINDS = {
    Kind.LIKE: _like,
    Kind.CHOICE: _choice,
    Kind.STARS: _stars,
    Kind.BEST: _best,
    Kind.WORST: _worst,
    Kind.GLANCE: _glance,
}
