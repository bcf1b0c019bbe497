"""How many archetypes a mixture should have, by the likelihood of answers it has not seen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from client.fit import log_predictive
from client.likelihood import Evidence
from common.errors import SettingError
from common.prior import PopulationPrior
from simulations.batched import train
from simulations.crowd import Answers, Crowd
from simulations.mechanisms import NoPrivacy
from simulations.strategies.base import State
from simulations.strategies.dp_em_mixture import DpEmMixture, exact


def choose_archetypes(
    crowd: Crowd,
    flat: PopulationPrior,
    candidates: Sequence[int] = (1, 2, 3, 5, 8),
    *,
    held_out: float = 0.5,
    strategy: DpEmMixture | None = None,
    draws: int = 64,
    seed: int = 0,
) -> tuple[int, dict[int, float]]:
    """The number of archetypes that best foretells answers of people it did not learn from.

    It trains without noise on some of the people of ``crowd`` and looks at the others' answers: the second half of
    each person's, after their first half. That reads everybody's answers and claims no privacy, so ``crowd`` must be
    invented, or its people must have agreed to it.

    Args:
        crowd: the last ``held_out`` of its people are kept for the comparison.
        flat: the prior of somebody who knows nobody.
        candidates: numbers to try.
        held_out: share of the people.
        strategy: other settings than the usual ones.
        draws: of the posterior, for the likelihood.
        seed: of the draws.

    Returns:
        The number, the smallest within one standard error of the best, and for each candidate the mean log likelihood
        of a held-out answer in nats.

    Raises:
        SettingError: no candidates, or too few people to keep some.
    """
    kept = round(crowd.people * held_out)
    if not candidates or not 0 < kept < crowd.people:
        raise SettingError(
            f"candidates={tuple(candidates)} and held_out={held_out} of {crowd.people} people leave none"
        )
    learners = _First(crowd, crowd.people - kept)
    evidence = exact(crowd.answers(crowd.people - kept, crowd.people).seen_as(crowd.items.features))
    half = evidence.kind.shape[1] // 2
    early, late = evidence.first(half), Evidence(*(tensor[:, half:] for tensor in evidence.tensors()))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(draws, flat.parameters, generator=generator, dtype=torch.float64)
    found: dict[int, Tensor] = {}
    for count in candidates:
        model = dataclasses.replace(strategy or DpEmMixture(), archetypes=count)
        state = _without_noise(model, learners, flat)
        likelihood = log_predictive(late, model.posterior(early, state), flat.thresholds, noise)
        given = late.weight.sum(1)
        found[count] = ((likelihood * late.weight).sum(1) / given.clamp(min=1))[given > 0]
    best = max(found, key=lambda count: float(found[count].mean()))
    return _simplest(found, best), {count: float(mean.mean()) for count, mean in found.items()}


def _simplest(found: dict[int, Tensor], best: int) -> int:
    """The smallest number whose people do, pair by pair, within one standard error as well as with the best."""
    for count in sorted(found):
        lost = found[best] - found[count]
        if float(lost.mean()) <= float(lost.std()) / math.sqrt(len(lost)):
            return count
    return best


class _First:
    """The first people of a crowd."""

    def __init__(self, crowd: Crowd, people: int) -> None:
        self.crowd, self.people, self.items = crowd, people, crowd.items

    def answers(self, first: int, last: int, round: int = 1) -> Answers:
        return self.crowd.answers(first, last, round)

    def answers_of(self, people: Tensor, round: int = 1) -> Answers:
        return self.crowd.answers_of(people, round)


def _without_noise(model: DpEmMixture, crowd: Crowd, flat: PopulationPrior) -> State:
    mechanism = NoPrivacy(rounds=model.rounds, norm_bound=model.norm_bound, people=crowd.people)
    return train(model, crowd, mechanism, flat=flat).state
