"""People for audits: loud canaries whose updates hardly overlap, and ordinary ones with tastes of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from client.likelihood import Evidence
from client.ratings import Kind
from common.prior import TYPICAL_SPREAD, PopulationPrior

PACK = "0" * 64
CANARY_ANSWERS = 120
_GENTLE = 0.2  # standard deviations of score between the two items: the less an answer says, the further it can push


def flat_prior(parameters: int) -> PopulationPrior:
    """The public starting point of an audit, over invented features."""
    return PopulationPrior.flat(parameters, PACK, TYPICAL_SPREAD)


def canaries(count: int, parameters: int, generator: torch.Generator) -> Evidence:
    """People who always prefer what lies further in a direction of their own.

    An update consists mostly of the second moment ``v v'`` of the direction, so two canaries overlap by about the
    square ``1 / p`` of a small cosine, and there may be many more of them than features: nearly orthogonal directions
    among ``p (p + 3) / 2`` numbers. Unclipped such an update is several times longer than a usual norm bound.

    Each has given the same answer ``CANARY_ANSWERS`` times; one answer of that weight is the same likelihood.

    Args:
        count: m.
        parameters: p, the bias included; comparing two items cancels it.
        generator: source of the directions.
    """
    direction = torch.randn(count, parameters - 1, generator=generator, dtype=torch.float64)
    direction /= torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
    # a flat prior gives each weight the standard deviation TYPICAL_SPREAD / sqrt(p - 1)
    away = direction * (_GENTLE * (parameters - 1) ** 0.5 / TYPICAL_SPREAD / 2)
    pair = torch.stack([away, -away], dim=1)
    features = torch.cat([pair, torch.ones(count, 2, 1, dtype=torch.float64)], dim=-1)
    return Evidence(
        kind=torch.full((count, 1), int(Kind.CHOICE)),
        value=torch.zeros(count, 1, dtype=torch.int64),
        weight=torch.full((count, 1), CANARY_ANSWERS, dtype=torch.float64),
        features=features[:, None],
        shown=torch.full((count, 1), 2),
    )


def ordinary(
    people: int, parameters: int, ratings: int, generator: torch.Generator, mean: Tensor | None = None
) -> Evidence:
    """People with normal tastes around a common one who like or dislike random items.

    Args:
        people: how many.
        parameters: p, the bias included.
        ratings: of each person.
        generator: source of tastes, items and answers.
        mean: ``(p,)`` the common taste; a fixed one of moderate size if left out.
    """
    k = parameters - 1
    if mean is None:
        mean = torch.ones(parameters, dtype=torch.float64) * TYPICAL_SPREAD / 2 / k**0.5
    taste = mean + torch.randn(people, parameters, generator=generator, dtype=torch.float64) * TYPICAL_SPREAD / k**0.5
    features = torch.randn(people, ratings, 1, parameters, generator=generator, dtype=torch.float64)
    features[..., -1] = 1
    score = (features[:, :, 0] * taste[:, None]).sum(-1)
    likes = torch.rand(people, ratings, generator=generator, dtype=torch.float64) < torch.sigmoid(score)
    shape = (people, ratings)
    return Evidence(
        kind=torch.full(shape, int(Kind.LIKE)),
        value=likes.to(torch.int64),
        weight=torch.ones(shape, dtype=torch.float64),
        features=features,
        shown=torch.ones(shape, dtype=torch.int64),
    )
