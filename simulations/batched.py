"""The rounds of a federation of any size in the memory of one chunk of people: any strategy, mechanism and crowd.

Per round: the items are looked at once, people are asked a chunk at a time, their updates are clipped, rounded to
integers and added up in int64; the mechanism adds its noise to the integer sum, and the strategy moves on. Nothing but
the strategy's own functions knows what an update means, and nothing but this file and the mechanism protects people.

The bound on one person is that of ``common.privacy.fixed_point.sensitivity`` whatever the dtype people are fitted in:
a float32 fit can be wrong in its last digits, never too long, because ``clip`` (float64) and ``quantise`` come after it
and ask only which numbers arrived, and because sums are of integers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import SettingError
from common.prior import PopulationPrior
from common.privacy.clip import clip
from common.privacy.fixed_point import SCALE, dequantise, quantise, sensitivity
from common.privacy.statement import PrivacyStatement
from simulations.crowd import Answers, Crowd
from simulations.mechanisms import Mechanism
from simulations.strategies.base import State, Strategy, Task, statement_of

CHUNK = 512
"""People worked on together; has no effect on the result beyond the rounding of a fit."""
_LARGEST_SUM = 2.0**61  # as in server.rounds: an int64 sum and its noise cannot wrap around


@dataclass(frozen=True, kw_only=True)
class Round:
    """What happened in one round.

    Attributes:
        number: 1 for the first.
        people: how many the sum is about; secret where the mechanism samples, so for the experimenter only.
        clipped: how many of them had a longer update than the bound; for the experimenter only.
        numbers: entries D of an update.
        seconds: it took.
    """

    number: int
    people: int
    clipped: int
    numbers: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came out.

    Attributes:
        state: the last one.
        statement: the claim that covers it.
        rounds: what happened.
    """

    state: State
    statement: PrivacyStatement
    rounds: tuple[Round, ...]


def train(
    strategy: Strategy,
    crowd: Crowd,
    mechanism: Mechanism,
    *,
    flat: PopulationPrior,
    seed: int = 0,
    chunk: int = CHUNK,
    on_round: Callable[[Round, State], None] | None = None,
    on_chunk: Callable[[int], None] | None = None,
    after: Trained | None = None,
) -> Trained:
    """Run all rounds of a mechanism.

    Guarantee: the result does not depend on ``chunk`` beyond the rounding of a fit. Noise is drawn once for each
    round; a round that was interrupted has released nothing.

    Args:
        strategy: what people send and what the server makes of it.
        crowd: who takes part; answers arrive on the device of its items, and all work is done there.
        mechanism: who is asked in a round, and the noise.
        flat: the prior of somebody who knows nobody, over ``crowd.items.features``.
        seed: of anything the strategy draws in public; never of the noise.
        chunk: people worked on together.
        on_round: told about each round when it is over, with the state it led to.
        on_chunk: told how many more people have been worked on.
        after: what earlier rounds gave, to go on after them; their mechanism must have been the same.

    Raises:
        SettingError: a setting is outside its range.
    """
    if chunk < 1:
        raise SettingError(f"chunk={chunk} must be >= 1; try {CHUNK}")
    task = Task(
        items=crowd.items, flat=flat, rounds=mechanism.rounds, ratings=crowd.answers(0, 1).kind.shape[1], seed=seed
    )
    state = strategy.start(task) if after is None else after.state
    rounds = [] if after is None else list(after.rounds)
    for number in range(len(rounds) + 1, mechanism.rounds + 1):
        began = time.monotonic()
        total, people, clipped = summed(strategy, crowd, mechanism, state, number, chunk, on_chunk)
        noise = mechanism.noise(total.numel(), number)
        # Integers plus integers: nothing may turn the sum into floating point before this line.
        noised = total if noise is None else total + noise
        state = strategy.advance(state, dequantise(noised, SCALE) / mechanism.denominator, number)
        seconds = time.monotonic() - began
        rounds.append(Round(number=number, people=people, clipped=clipped, numbers=total.numel(), seconds=seconds))
        if on_round is not None:
            on_round(rounds[-1], state)
    numbers = rounds[-1].numbers if rounds else 1
    statement = statement_of(strategy, mechanism, numbers, len(rounds))
    return Trained(state=state, statement=statement, rounds=tuple(rounds))


def summed(
    strategy: Strategy,
    crowd: Crowd,
    mechanism: Mechanism,
    state: State,
    number: int,
    chunk: int = CHUNK,
    on_chunk: Callable[[int], None] | None = None,
) -> tuple[Tensor, int, int]:
    """The exact sum of one round, before any noise.

    Returns:
        ``(D,)`` int64 on the CPU, how many people are in it, and how many of them were clipped.
    """
    view = strategy.view(crowd.items, state)
    total: Tensor | None = None
    people = torch.zeros((), dtype=torch.int64, device=view.device)
    clipped = people.clone()
    for first in range(0, crowd.people, chunk):
        last = min(first + chunk, crowd.people)
        answers, there = _asked(crowd, mechanism, first, last, number)
        updates = strategy.updates(answers.seen_as(view), state)
        if total is None:
            _check(mechanism, updates.shape[1], crowd.people)
            total = torch.zeros(updates.shape[1], dtype=torch.int64, device=updates.device)
        total += (quantise(clip(updates, mechanism.norm_bound), SCALE) * there[:, None]).sum(0)
        people += there.sum()
        clipped += ((torch.linalg.vector_norm(updates, dim=1) > mechanism.norm_bound) & there).sum()
        if on_chunk is not None:
            on_chunk(last - first)
    assert total is not None, "a crowd has at least one person"
    return total.cpu(), int(people), int(clipped)


def _asked(crowd: Crowd, mechanism: Mechanism, first: int, last: int, number: int) -> tuple[Answers, Tensor]:
    """Answers of some people, and ``(people,)`` bool who of them sends anything: was chosen, and has answered."""
    answers = crowd.answers(first, last, number)
    there = (answers.weight > 0).any(1)
    chosen = mechanism.takes_part(first, last, number)
    return answers, there if chosen is None else there & chosen.to(there.device)


def _check(mechanism: Mechanism, numbers: int, people: int) -> None:
    if sensitivity(mechanism.norm_bound, numbers, SCALE) * people > _LARGEST_SUM:
        raise SettingError(f"norm_bound={mechanism.norm_bound} is too large for {people} people; try 8.0")
