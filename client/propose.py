"""What to show next: which items of a candidate set would teach, or please, a person most.

Every proposer scores candidates from what is believed about them; ``propose`` takes the best ones that are not too
close to each other. For A or B questions the second item is chosen against the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from client.classifiers.base import Beliefs
from common.errors import SettingError

Proposer = Literal["random", "thompson", "optimistic", "information", "eubo"]
PROPOSERS: tuple[Proposer, ...] = ("random", "thompson", "optimistic", "information", "eubo")

OPTIMISM = 1.0  # standard deviations added to the mean
THOMPSON_SPREAD = 0.4  # temperature: share of the posterior's spread; full sampling wastes ratings in many dimensions


def propose(
    method: Proposer,
    beliefs: Beliefs,
    count: int,
    generator: torch.Generator,
    *,
    positions: Tensor | None = None,
    minimum_distance: float = 0.0,
    taken: Tensor | None = None,
    temperature: float = THOMPSON_SPREAD,
) -> Tensor:
    """Choose what each person sees next.

    Guarantee: the items of one person differ, none is ``taken``, and any two are at least ``minimum_distance`` apart
    as long as the candidates allow it (otherwise the farthest-scoring rest is used).

    Args:
        method: how candidates are scored; ``eubo`` is for pairs and more: the best mean, then its best partners.
        beliefs: about ``n`` candidates, of ``people`` people.
        count: items for each person.
        generator: source of randomness.
        positions: ``(n, q)`` where the candidates lie; needed for a minimum distance.
        minimum_distance: Euclidean, between positions.
        taken: ``(people, n)`` bool, items not to show again.
        temperature: for ``thompson``: 0 shows the best guess, 1 draws from all that is believed.

    Returns:
        ``(people, count)`` int64 numbers of candidates.

    Raises:
        SettingError: unknown method, fewer free candidates than ``count``, or a distance without positions.
    """
    people, n = beliefs.shape
    blocked = torch.zeros(people, n, dtype=torch.bool) if taken is None else taken.clone()
    if method not in PROPOSERS:
        raise SettingError(f"proposer {method!r} is unknown; choose one of {', '.join(PROPOSERS)}")
    if int((~blocked).sum(-1).min()) < count:
        raise SettingError(f"count={count} is more than the candidates nobody has seen yet; add candidates")
    if minimum_distance > 0 and positions is None:
        raise SettingError(f"minimum_distance={minimum_distance} needs positions; give them, or leave it at 0")
    near, chosen = blocked.clone(), torch.empty(people, count, dtype=torch.int64)
    everybody = torch.arange(people)
    for slot in range(count):
        partner = method == "eubo" and slot > 0
        if method == "thompson":  # scores under a taste drawn from the narrowed posterior (Thompson 1933)
            value = beliefs.draw(generator, temperature)
        else:
            value = eubo(beliefs, chosen[:, 0]) if partner else _SCORES[method](beliefs, generator)
        # crowded candidates lose to all free ones but stay possible; blocked ones are out
        value = value.masked_fill(near, -1e30).masked_fill(blocked, -torch.inf)
        chosen[:, slot] = value.argmax(-1)
        blocked[everybody, chosen[:, slot]] = True
        if minimum_distance > 0 and positions is not None:
            near |= torch.cdist(positions[chosen[:, slot]], positions) < minimum_distance
    return chosen


def _random(beliefs: Beliefs, generator: torch.Generator) -> Tensor:
    return torch.rand(beliefs.shape, generator=generator, dtype=torch.float64)


def _optimistic(beliefs: Beliefs, generator: torch.Generator) -> Tensor:
    """Upper confidence bound (Auer 2002)."""
    return beliefs.mean + OPTIMISM * beliefs.deviation


def _information(beliefs: Beliefs, generator: torch.Generator) -> Tensor:
    """Mutual information between the answer "like" and the taste (BALD; Houlsby et al. 2011, eq. 3), in nats.

    The logistic is replaced by the probit that fits it best, ``sigmoid(x) ~ Phi(x / 1.7)``.
    """
    m, v = beliefs.mean / 1.7, (beliefs.deviation / 1.7).square()
    chance = _phi(m / (1 + v).sqrt()).clamp(1e-12, 1 - 1e-12)
    total = -(chance * chance.log() + (1 - chance) * (1 - chance).log())
    c2 = math.pi * math.log(2) / 2
    noise = math.log(2) * (c2 / (v + c2)).sqrt() * torch.exp(-m.square() / (2 * (v + c2)))
    return total - noise


def _best_mean(beliefs: Beliefs, generator: torch.Generator) -> Tensor:
    # ties (nothing is known yet) are broken at random, not by the order of the candidates
    return beliefs.mean + 1e-9 * torch.rand(beliefs.shape, generator=generator, dtype=beliefs.mean.dtype)


def eubo(beliefs: Beliefs, against: Tensor) -> Tensor:
    """Expected utility of the better one of ``against`` and each candidate (qEUBO; Astudillo et al. 2023, eq. 5).

    Args:
        beliefs: about ``n`` candidates, of ``people`` people.
        against: ``(people,)`` int64, the candidate each person's others are compared with.

    Returns:
        ``(people, n)`` in log-odds.
    """
    gap, deviation = beliefs.gap(against)
    base = beliefs.mean.gather(1, against[:, None])
    deviation = deviation.clamp(min=1e-9)
    ratio = gap / deviation
    return base + gap * _phi(ratio) + deviation * torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)


def _phi(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x / math.sqrt(2))


_SCORES: dict[str, Callable[[Beliefs, torch.Generator], Tensor]] = {
    "random": _random,
    "optimistic": _optimistic,
    "information": _information,
    "eubo": _best_mean,
}
