"""The rounds of a federation, without any transport: ask, check, add, noise, next prior.

What a node sends is never trusted: a reply that is missing, broken, late or too long to be true is left out and
counted. Every round that asks people is charged to them, also when too few answered to publish anything, so the noise
is sized for all ``participations`` from the start and never re-sized by who happened to answer.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from common import update
from common.errors import CohortError, SettingError
from common.messages import Reason, RejectedReply, RoundReply, RoundRequest
from common.prior import PopulationPrior
from common.privacy.accounting import noise_sigma_squared, statement
from common.privacy.fixed_point import SCALE, dequantise, sensitivity
from common.privacy.noise import Randomness, discrete_gaussian, system_randomness
from common.privacy.settings import PrivacySettings
from server.intake import Answer, intake
from server.population import next_prior

_LARGEST_SUM = 2.0**61  # of the bounds of all people: an int64 sum and its noise cannot wrap around


Transport = Callable[[Mapping[int, RoundRequest]], Iterable[Answer]]
"""Sends a request to each node and gives whatever came back before its deadline, in any order."""


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """What happened in one round; fit to be published.

    Attributes:
        number: 1 for the first.
        asked: people asked; all of them are charged.
        answered: people whose node's reply entered the sum.
        dropped: nodes' replies left out, by reason; a reply that never came counts as missing.
        released: whether a prior came out of it.
    """

    number: int
    asked: int
    answered: int
    dropped: dict[Reason, int]
    released: bool

    def to_json(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "round": self.number,
            "asked": self.asked,
            "answered": self.answered,
            "dropped": {str(reason): n for reason, n in self.dropped.items()},
            "released": self.released,
        }


def run_rounds(
    transport: Transport,
    people: Mapping[int, int],
    prior: PopulationPrior,
    settings: PrivacySettings,
    step: float,
    *,
    randomness: Randomness = system_randomness,
    on_round: Callable[[RoundRecord], None] | None = None,
) -> tuple[PopulationPrior, list[RoundRecord]]:
    """Learn a population prior in ``settings.participations`` rounds.

    Guarantee: each person is asked at most ``settings.participations`` times, and the prior that comes out carries
    the statement for exactly what was added to the sums. No reply can stop a round, and no node can move the sum by
    more than its number of people times the bound of one person.

    Args:
        transport: brings requests to nodes and replies back.
        people: how many people each node holds.
        prior: where to start; it must be public, since what an earlier training spent cannot be added up here.
        settings: the promise.
        step: learning rate of the M-step, > 0.
        randomness: source of the noise; the operating system unless a test asks for the same numbers twice.
        on_round: told about each round when it is over.

    Returns:
        The prior, and one record per round.

    Raises:
        SettingError: a setting is outside its range, or the starting prior is not public.
        CohortError: no round had enough answers; nothing is released, all rounds are charged.
    """
    _check(prior, settings, step, people)
    numbers = update.length(prior.parameters)
    bound = sensitivity(settings.norm_bound, numbers, SCALE)
    variance = noise_sigma_squared(settings, numbers, SCALE) if settings.private else None
    if bound * sum(people.values()) > _LARGEST_SUM:
        raise SettingError(f"norm_bound={settings.norm_bound} is too large for {sum(people.values())} people; try 8.0")
    session, records = secrets.token_hex(16), []
    for number in range(1, settings.participations + 1):  # the budget: a round that begins here is never repeated
        requests = {
            node: RoundRequest.of(
                prior, session=session, number=number, norm_bound=settings.norm_bound, scale=SCALE, people=count
            )
            for node, count in people.items()
        }
        total, record = collect(transport(requests), requests, bound, settings.minimum_people)
        if record.released:
            prior = _release(prior, total, variance, settings, step, randomness)
        records.append(record)
        if on_round is not None:
            on_round(record)
    if not any(record.released for record in records):
        raise CohortError(
            f"at most {max(record.answered for record in records)} of {records[0].asked} people answered a round, "
            f"{settings.minimum_people} are needed; nothing was released and {len(records)} participations are spent"
        )
    return prior, records


def collect(
    answers: Iterable[Answer], requests: Mapping[int, RoundRequest], bound: float, minimum_people: int
) -> tuple[Tensor, RoundRecord]:
    """Add up the replies that can be trusted to be within bounds.

    Guarantee: the sum is exact, and holds at most one reply per node. A repeated reply counts once; a node that sends
    two different ones is left out, since one of them must be false.

    Args:
        answers: what came back, from anybody, in any order.
        requests: what was asked in this round, by node; at least one.
        bound: L2 norm one person can have, in integer steps.
        minimum_people: fewer people than this release nothing.

    Returns:
        ``(D,)`` int64 sum over the nodes that count, and the record of the round.
    """
    counted, dropped = intake(answers, requests, lambda node, content: _checked(content, requests[node], bound))
    answered = sum(_people(requests[node]) for node in counted)
    request = next(iter(requests.values()))
    record = RoundRecord(
        number=request.round,
        asked=sum(_people(request) for request in requests.values()),
        answered=answered,
        dropped={reason: dropped[reason] for reason in Reason if dropped[reason]},
        released=answered >= minimum_people,
    )
    zero = np.zeros(update.length(request.parameters), dtype=np.int64)
    return torch.from_numpy(sum(counted.values(), start=zero)), record


def _checked(
    content: Mapping[str, object], request: RoundRequest, bound: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    total = RoundReply.from_wire(content, request).total
    length = float(np.linalg.norm(total.astype(np.float64)))
    if length > bound * _people(request) * (1 + 1e-9):  # room for the rounding of the norm itself
        raise RejectedReply(Reason.OUT_OF_BOUND, "a sum longer than its people could make it")
    return total


def _release(
    prior: PopulationPrior,
    total: Tensor,
    variance: Fraction | None,
    settings: PrivacySettings,
    step: float,
    randomness: Randomness,
) -> PopulationPrior:
    """The next prior, with its statement; from the noise on everything is post-processing."""
    if variance is not None:
        # Integers plus integers: nothing may turn the sum into floating point before this line.
        total = total + discrete_gaussian(total.numel(), variance, randomness)
    # A denominator fixed beforehand: dividing by who answered would tell how many did.
    mean_update = dequantise(total, SCALE) / settings.expected_people
    moved = next_prior(prior, mean_update, step)
    return dataclasses.replace(moved, privacy=statement(settings, total.numel(), moved.rounds))


def _people(request: RoundRequest) -> int:
    return request.last - request.first


def _check(prior: PopulationPrior, settings: PrivacySettings, step: float, people: Mapping[int, int]) -> None:
    if not 0 < step < math.inf:
        raise SettingError(f"step={step} must be > 0 and finite; try 1.5")
    if prior.privacy.epsilon != 0:
        raise SettingError("the starting prior was learned from people; start from a public one, such as a flat prior")
    if not people:
        raise CohortError("no node has joined; nobody was asked and nothing is charged")
    if any(count < 1 for count in people.values()):
        raise SettingError("every node must hold at least one person")
