"""What to show next: which items of a candidate set would teach, or please, a person most.

Every proposer scores candidates from the posterior; ``propose`` takes the best ones that are not too close to each
other. For A or B questions the second item is chosen against the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from client.fit import Posterior
from common.errors import SettingError

Proposer = Literal["random", "thompson", "optimistic", "information", "eubo"]
PROPOSERS: tuple[Proposer, ...] = ("random", "thompson", "optimistic", "information", "eubo")

OPTIMISM = 1.0  # standard deviations added to the mean
THOMPSON_SPREAD = 0.4  # of the posterior; full sampling wastes ratings in many dimensions


def propose(
    method: Proposer,
    posterior: Posterior,
    candidates: Tensor,
    count: int,
    generator: torch.Generator,
    minimum_distance: float = 0.0,
    taken: Tensor | None = None,
) -> Tensor:
    """Choose what each person sees next.

    Guarantee: the items of one person differ, none is ``taken``, and any two are at least ``minimum_distance`` apart
    as long as the candidates allow it (otherwise the farthest-scoring rest is used).

    Args:
        method: how candidates are scored; ``eubo`` is for pairs and more: the best mean, then its best partners.
        posterior: of ``people`` people.
        candidates: ``(n, p)`` features, the bias last.
        count: items for each person.
        generator: source of randomness.
        minimum_distance: Euclidean, between features.
        taken: ``(people, n)`` bool, items not to show again.

    Returns:
        ``(people, count)`` int64 rows of ``candidates``.

    Raises:
        SettingError: unknown method, or fewer free candidates than ``count``.
    """
    people, n = posterior.mean.shape[0], candidates.shape[0]
    blocked = torch.zeros(people, n, dtype=torch.bool) if taken is None else taken.clone()
    if method not in PROPOSERS:
        raise SettingError(f"proposer {method!r} is unknown; choose one of {', '.join(PROPOSERS)}")
    if int((~blocked).sum(-1).min()) < count:
        raise SettingError(f"count={count} is more than the candidates nobody has seen yet; add candidates")
    near, chosen = blocked.clone(), torch.empty(people, count, dtype=torch.int64)
    everybody = torch.arange(people)
    for slot in range(count):
        if method == "eubo" and slot > 0:
            value = eubo(posterior, candidates, candidates[chosen[:, 0]])
        else:
            value = _SCORES[method](posterior, candidates, generator)
        # crowded candidates lose to all free ones but stay possible; blocked ones are out
        value = value.masked_fill(near, -1e30).masked_fill(blocked, -torch.inf)
        chosen[:, slot] = value.argmax(-1)
        blocked[everybody, chosen[:, slot]] = True
        if minimum_distance > 0:
            near |= torch.cdist(candidates[chosen[:, slot]], candidates) < minimum_distance
    return chosen


def _random(posterior: Posterior, candidates: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(posterior.mean.shape[0], candidates.shape[0], generator=generator, dtype=torch.float64)


def _thompson(posterior: Posterior, candidates: Tensor, generator: torch.Generator) -> Tensor:
    """Scores under a taste drawn from the (narrowed) posterior (Thompson 1933)."""
    centre = (posterior.weight.unsqueeze(-1) * posterior.mean).sum(-2)
    taste = centre + THOMPSON_SPREAD * (posterior.sample(1, generator).squeeze(1) - centre)
    return taste @ candidates.T


def _optimistic(posterior: Posterior, candidates: Tensor, generator: torch.Generator) -> Tensor:
    """Upper confidence bound (Auer 2002)."""
    mean, deviation = posterior.moments(candidates)
    return mean + OPTIMISM * deviation


def _information(posterior: Posterior, candidates: Tensor, generator: torch.Generator) -> Tensor:
    """Mutual information between the answer "like" and the taste (BALD; Houlsby et al. 2011, eq. 3), in nats.

    The logistic is replaced by the probit that fits it best, ``sigmoid(x) ~ Phi(x / 1.7)``.
    """
    mean, deviation = posterior.moments(candidates)
    m, v = mean / 1.7, (deviation / 1.7).square()
    chance = _phi(m / (1 + v).sqrt()).clamp(1e-12, 1 - 1e-12)
    total = -(chance * chance.log() + (1 - chance) * (1 - chance).log())
    c2 = math.pi * math.log(2) / 2
    noise = math.log(2) * (c2 / (v + c2)).sqrt() * torch.exp(-m.square() / (2 * (v + c2)))
    return total - noise


def _best_mean(posterior: Posterior, candidates: Tensor, generator: torch.Generator) -> Tensor:
    scores = posterior.scores(candidates)
    # ties (nothing is known yet) are broken at random, not by the order of the candidates
    return scores + 1e-9 * torch.rand(scores.shape, generator=generator, dtype=scores.dtype)


def eubo(posterior: Posterior, candidates: Tensor, against: Tensor) -> Tensor:
    """Expected utility of the better one of ``against`` and each candidate (qEUBO; Astudillo et al. 2023, eq. 5).

    Args:
        posterior: of ``people`` people.
        candidates: ``(n, p)``.
        against: ``(people, p)``.

    Returns:
        ``(people, n)`` in log-odds.
    """
    gap, deviation = posterior.moments(candidates - against.unsqueeze(1))
    base = posterior.scores(against.unsqueeze(1))
    deviation = deviation.clamp(min=1e-9)
    ratio = gap / deviation
    return base + gap * _phi(ratio) + deviation * torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)


def _phi(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x / math.sqrt(2))


_SCORES: dict[str, Callable[[Posterior, Tensor, torch.Generator], Tensor]] = {
    "random": _random,
    "thompson": _thompson,
    "optimistic": _optimistic,
    "information": _information,
    "eubo": _best_mean,
}
