"""Against blind spots: unwanted content marked beforehand, and likes that count as much as dislikes."""

from __future__ import annotations

import torch
from torch import Tensor

from client.classifiers.base import Answers, Points
from client.classifiers.labels import targets
from client.ratings import Kind
from common.errors import SettingError


def with_marked_negatives(answers: Answers, points: Points, weight: float = 1.0, context: int = 0) -> Answers:
    """Add content that nobody needs to be shown to know that it is unwanted, as dislikes.

    Guarantee: the answers there were come first and are unchanged.

    Args:
        answers: what was said.
        points: ``(n)`` the unwanted content.
        weight: of each, above 0; 1 is that of a dislike.
        context: they count in.

    Raises:
        SettingError: the weight is not a positive number.
    """
    if not 0 < weight < float("inf"):
        raise SettingError(f"weight={weight} of marked negatives must be a finite number > 0; try 1.0")
    n, t = len(points), len(answers)
    items = torch.full((t + n, max(1, answers.items.shape[1])), -1, dtype=torch.int64)
    items[:t, : answers.items.shape[1]] = answers.items
    items[t:, 0] = len(answers.points) + torch.arange(n)
    return Answers(
        Points.join([answers.points, points]),
        _extended(answers.kind, n, int(Kind.LIKE)),
        _extended(answers.value, n, 0),
        items,
        _extended(answers.weight, n, weight),
        _extended(answers.context, n, context),
    )


def _extended(column: Tensor, count: int, value: float) -> Tensor:
    return torch.cat([column, column.new_full((count,), value)])


def class_balanced(answers: Answers, limit: float = 4.0) -> Answers:
    """Weigh answers so that likes and dislikes together count the same.

    Guarantee: the total weight stays, up to the limit; answers that only compare keep theirs, and so do all when only
    likes or only dislikes were given. A soft label counts partly to either side.

    Args:
        answers: what was said.
        limit: no weight changes by more than this factor, so that one dislike does not outweigh a hundred likes.

    Raises:
        SettingError: the limit is below 1.
    """
    if not limit >= 1:
        raise SettingError(f"limit={limit} of class balance must be >= 1; try 4.0")
    target = targets(answers)
    absolute = ~target.isnan()
    liked, weight = target[absolute], answers.weight[absolute]
    masses = torch.stack([(weight * (1 - liked)).sum(), (weight * liked).sum()])
    if not bool((masses > 0).all()):
        return answers
    no, yes = (masses.sum() / (2 * masses)).clamp(1 / limit, limit)
    factor = torch.ones_like(target)
    factor[absolute] = liked * yes + (1 - liked) * no
    return answers.weighted(factor)
