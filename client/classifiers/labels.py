"""Answers as labelled rows, for models that know labels and differences only.

Each row is a statement about a *contrast*, the score of one item or of one item minus another: "positive" with
probability ``target``. Its loss under a score is the cross-entropy, so all kinds of feedback become one kind:

========== ==================================================================== ====================================
like       the item, target 1 or 0
stars      the item, target 0, 1/4, 1/2, 3/4 or 1
choice     the first minus the second for "a", the reverse for "b"; two (dis)likes for "both" ("neither")
best       winner minus each other, weight 2/m: same information as Luce's model where all m score the same
worst      each other minus the loser, weight 2/m
glance     the item, its soft label, with its small weight
========== ==================================================================== ====================================

Breaking a choice of m into pairs follows rank breaking (Azari Soufiani et al. 2013). The trace of Luce's curvature at
equal scores is 1 - 1/m, that of m - 1 pairs (m - 1)/2: hence 2/m.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from client.classifiers.base import Answers, Points
from client.ratings import Kind
from common.errors import SettingError

OTHER_CONTEXT = 0.5  # weight of an answer given in another context, for models that know no contexts

View = Literal["latents", "features"]


@dataclass(frozen=True)
class Inputs:
    """What a model looks at.

    Attributes:
        view: latents or features; both with a constant last.
        scale: ``(k,)`` multiplies the features; all equal without.
    """

    view: View
    scale: Tensor | None = None

    def __call__(self, points: Points) -> Tensor:
        """``(n, q)`` float64, differentiable in the points.

        Raises:
            SettingError: the scale is for another number of features.
        """
        if self.view == "latents":
            seen = points.latents.double()
            return torch.cat([seen, torch.ones_like(points.features[:, -1:], dtype=torch.float64)], dim=1)
        seen = points.features.double()
        if self.scale is None:
            return seen
        if self.scale.shape != (seen.shape[1] - 1,):
            raise SettingError(
                f"scale of shape {tuple(self.scale.shape)} must be {seen.shape[1] - 1} numbers, one for each feature"
            )
        return torch.cat([seen[:, :-1] * self.scale.to(seen), seen[:, -1:]], dim=1)


@dataclass(frozen=True, eq=False)
class Rows:
    """Statements about contrasts.

    Attributes:
        first: ``(r,)`` int64 rows of the points.
        second: ``(r,)`` int64, what is subtracted; -1 for nothing.
        target: ``(r,)`` float64 in [0, 1], share of "positive".
        weight: ``(r,)`` float64.
        answer: ``(r,)`` int64, the answer each came from.
    """

    first: Tensor
    second: Tensor
    target: Tensor
    weight: Tensor
    answer: Tensor

    def __len__(self) -> int:
        return self.first.shape[0]

    def select(self, rows: Tensor) -> Rows:
        """Only some of the rows."""
        return Rows(self.first[rows], self.second[rows], self.target[rows], self.weight[rows], self.answer[rows])

    def contrast(self, values: Tensor) -> Tensor:
        """Contrasts ``(..., r, q)`` of values ``(..., items, q)`` of the items, e.g. scores or features."""
        pair = self.second >= 0
        subtracted = values[..., self.second.clamp(min=0), :] * pair.to(values)[:, None]
        return values[..., self.first, :] - subtracted

    def signed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Every soft label as a positive and a negative one.

        Returns:
            Rows ``(s,)``, their signs ``(s,)`` and weights ``(s,)``; those without weight are left out.
        """
        rows = torch.arange(len(self)).repeat(2)
        sign = torch.cat([torch.ones(len(self)), -torch.ones(len(self))]).to(self.weight)
        weight = torch.cat([self.weight * self.target, self.weight * (1 - self.target)])
        kept = weight > 0
        return rows[kept], sign[kept], weight[kept]


def heard(answers: Answers, context: int) -> Answers:
    """The answers as they count in a context, for models that know no contexts: those of others ``OTHER_CONTEXT``."""
    return answers.weighted(torch.where(answers.context == context, 1.0, OTHER_CONTEXT).to(answers.weight))


def compact(answers: Answers) -> Answers:
    """The same answers about only the items they speak of."""
    used = torch.unique(answers.items[answers.items >= 0])
    place = torch.full((len(answers.points) + 1,), -1, dtype=torch.int64)  # the last is the place of -1
    place[used] = torch.arange(len(used))
    return replace(answers, points=answers.points[used], items=place[answers.items])


def label(answers: Answers) -> Rows:
    """Answers as rows, in order of their kind."""
    rows = torch.arange(len(answers))
    kind, value = answers.kind, answers.value
    single = (kind == Kind.LIKE) | (kind == Kind.STARS) | (kind == Kind.GLANCE)
    several = (kind == Kind.BEST) | (kind == Kind.WORST)
    preference, absolute = (kind == Kind.CHOICE) & (value < 2), (kind == Kind.CHOICE) & (value >= 2)
    parts = [_alone(answers, rows[single], 0)]
    if answers.items.shape[1] > 1:  # only then can there be answers about several items
        parts += [_alone(answers, rows[absolute], side) for side in range(2)]
        parts += [_pairs(answers, rows[preference]), _winners(answers, rows[several])]
    return Rows(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


_Columns = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def targets(answers: Answers) -> Tensor:
    """``(t,)`` float64 share of liking that each answer states; NaN for answers that only compare."""
    value = answers.value.double()
    target = torch.full((len(answers),), torch.nan, dtype=torch.float64)
    target = torch.where(answers.kind == Kind.LIKE, value, target)
    target = torch.where(answers.kind == Kind.STARS, (value - 1) / 4, target)
    target = torch.where(answers.kind == Kind.GLANCE, value / 1000, target)
    return torch.where((answers.kind == Kind.CHOICE) & (value >= 2), 3 - value, target)


def _alone(answers: Answers, rows: Tensor, side: int) -> _Columns:
    return (
        answers.items[rows, side],
        torch.full_like(rows, -1),
        targets(answers)[rows],
        answers.weight[rows].double(),
        rows,
    )


def _pairs(answers: Answers, rows: Tensor) -> _Columns:
    a, b, weight = answers.items[rows, 0], answers.items[rows, 1], answers.weight[rows].double()
    return a, b, 1 - answers.value[rows].double(), weight, rows


def _winners(answers: Answers, rows: Tensor) -> _Columns:
    items, chosen = answers.items[rows], answers.value[rows]
    position = torch.arange(items.shape[1])
    other = (items >= 0) & (position != chosen[:, None])
    row, column = other.nonzero(as_tuple=True)
    winner = items[row, chosen[row]]
    shown = (items >= 0).sum(-1)[row].double()
    target = (answers.kind[rows][row] == Kind.BEST).double()
    return winner, items[row, column], target, answers.weight[rows][row].double() * 2 / shown, rows[row]
