"""How well somebody's answers are foretold by what is believed about their taste, whatever kind the answers are."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from client.fit import Posterior, log_predictive
from client.likelihood import Evidence
from client.ratings import Kind
from common.prior import DEFAULT_THRESHOLDS


def foretold(later: Evidence, posterior: Posterior, draws: Tensor) -> tuple[Tensor, Tensor]:
    """How well some answers are foretold.

    Args:
        later: answers nobody has learned from, at least one of each person with weight.
        posterior: of the same people.
        draws: ``(s, p)`` standard normal.

    Returns:
        ``(people,)`` share of answers that were the most likely ones ("both" and "neither" of a choice are left out;
        NaN where nothing is left), and ``(people,)`` mean log likelihood in nats.
    """
    thresholds = torch.tensor(DEFAULT_THRESHOLDS, dtype=torch.float64)
    told = dataclasses.replace(later, weight=torch.ones_like(later.weight))
    weight = later.weight
    likelihood = (log_predictive(told, posterior, thresholds, draws) * weight).sum(1) / weight.sum(1)
    chances = []
    for value in range(max(6, int(later.shown.max()))):
        possible = _possible(later, value)
        asked = dataclasses.replace(told, value=torch.where(possible, value, _some(later.kind)))
        chances.append(log_predictive(asked, posterior, thresholds, draws).masked_fill(~possible, -torch.inf))
    chance = torch.stack(chances, dim=-1)
    # Where several are equally likely each counts in part; else who is listed first would decide.
    likeliest = (chance >= chance.amax(-1, keepdim=True) - 1e-9).double()
    right = (likeliest / likeliest.sum(-1, keepdim=True)).gather(-1, later.value[..., None])[..., 0]
    counted = weight * ~((later.kind == Kind.CHOICE) & (later.value > 1))
    return (right * counted).sum(1) / counted.sum(1), likelihood


def guessing(later: Evidence) -> float:
    """Share of answers a blind guess gets right."""
    several = (later.kind == Kind.BEST) | (later.kind == Kind.WORST)
    ways = torch.where(several, later.shown, torch.where(later.kind == Kind.STARS, 5, 2)).clamp(min=1)
    counted = later.weight * ~((later.kind == Kind.CHOICE) & (later.value > 1))
    return float((counted / ways).sum() / counted.sum())


def _possible(later: Evidence, value: int) -> Tensor:
    """``(people, t)`` whether an answer of its kind can have this value."""
    several = (later.kind == Kind.BEST) | (later.kind == Kind.WORST)
    two = (later.kind == Kind.LIKE) | (later.kind == Kind.CHOICE)
    stars = (later.kind == Kind.STARS) & (1 <= value <= 5)
    return stars | (two & (value < 2)) | (several & (value < later.shown))


def _some(kind: Tensor) -> Tensor:
    """A value every answer of its kind may have."""
    return (kind == Kind.STARS).long()
