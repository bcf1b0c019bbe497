"""The rounds of a federation of any size in the memory of one chunk of people: any strategy, mechanism and crowd.

Per round: the items are looked at once, people are asked a chunk at a time, their updates are clipped, rounded to
integers and added up in int64; the mechanism adds its noise to the integer sum, and the strategy moves on. Nothing but
the strategy's own functions knows what an update means, and nothing but this file and the mechanism protects people.
Where a mechanism asks only some, only they are fitted: a round costs its cohort, and 8 bytes a person to draw it.

The bound on one person is that of ``common.privacy.fixed_point.sensitivity`` whatever the dtype people are fitted in:
a float32 fit can be wrong in its last digits, never too long, because clipping and rounding (``clipped_sum``) come
after it and ask only which numbers arrived, and because sums are of integers, in which order does not matter.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import SettingError
from common.prior import PopulationPrior
from common.privacy.fixed_point import SCALE, dequantise, sensitivity
from common.privacy.statement import PrivacyStatement
from simulations.clipped_sum import clipped_sum
from simulations.crowd import Answers, Crowd
from simulations.mechanisms import Mechanism
from simulations.strategies.base import State, Strategy, Task, statement_of

CHUNK, CHUNK_ON_GPU = 512, 65_536
"""People worked on together where nothing else is asked for: what a cache holds, and what keeps a GPU busy."""
_DRAWN_TOGETHER = 2**20  # people; bounds the memory of a draw
_LARGEST_SUM = 2.0**61  # as in server.rounds: an int64 sum and its noise cannot wrap around


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Settings that change how fast a result comes, and nothing in it beyond the rounding of a fit.

    Attributes:
        chunk: people worked on together; 0 for what suits the device.
        threads: chunks worked on at the same time. Threads of Python: nearly all the work lies in libraries.
    """

    chunk: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.chunk < 0:
            raise SettingError(f"chunk={self.chunk} must be >= 1, or 0 for what suits the device; try {CHUNK}")
        if not 1 <= self.threads <= 1024:
            raise SettingError(f"threads={self.threads} must be between 1 and 1024; try the number of cores")


@dataclass(frozen=True, kw_only=True)
class Round:
    """What happened in one round.

    Attributes:
        number: 1 for the first.
        people: how many the sum is about; secret where the mechanism samples, so for the experimenter only.
        clipped: how many of them had a longer update than the bound; for the experimenter only.
        numbers: entries D of an update.
        seconds: it took.
        released: False for a round that was charged and then lost, e.g. by a process that was killed.
    """

    number: int
    people: int
    clipped: int
    numbers: int
    seconds: float
    released: bool = True


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


@dataclass(frozen=True)
class Sum:
    """What a round adds up, before any noise. Exact, and secret.

    Attributes:
        total: ``(D,)`` int64.
        people: how many are in it.
        clipped: how many of them were clipped.
    """

    total: Tensor
    people: int
    clipped: int

    def __add__(self, other: Sum) -> Sum:
        """The sum over both."""
        return Sum(self.total + other.total, self.people + other.people, self.clipped + other.clipped)


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Who is told what while a training runs; all are called from the thread that called ``train``.

    Attributes:
        on_chunk: after each chunk, with its people.
        on_noise: with the number of a round, right before its noise is drawn: the moment to write down that it is
            charged.
        on_round: after each round, with the state it led to.
        on_smaller: from any thread, with the new size, when a chunk did not fit in memory.
    """

    on_chunk: Callable[[int], None] = lambda people: None
    on_noise: Callable[[int], None] = lambda number: None
    on_round: Callable[[Round, State], None] = lambda record, state: None
    on_smaller: Callable[[int], None] = lambda chunk: None


_SPEED, _WATCH = Speed(), Watch()


def train(
    strategy: Strategy,
    crowd: Crowd,
    mechanism: Mechanism,
    *,
    flat: PopulationPrior,
    seed: int = 0,
    chunk: int = 0,
    threads: int = 1,
    on_chunk: Callable[[int], None] | None = None,
    on_round: Callable[[Round, State], None] | None = None,
    watch: Watch = _WATCH,
    after: Trained | None = None,
) -> Trained:
    """Run all rounds of a mechanism.

    Guarantee: chunk and threads change nothing in the result beyond the rounding of a fit; a chunk that does not fit
    in memory is halved and done again. Noise is drawn once for each round, after ``watch.on_noise``.

    Args:
        strategy: what people send and what the server makes of it.
        crowd: who takes part; answers arrive on the device of its items, and all work is done there.
        mechanism: who is asked in a round, and the noise.
        flat: the prior of somebody who knows nobody, over ``crowd.items.features``.
        seed: of anything the strategy draws in public; never of the noise.
        chunk: people worked on together; 0 for what suits the device.
        threads: chunks worked on at the same time; threads of Python, since nearly all the work lies in libraries.
        on_chunk: short for ``watch.on_chunk``; on_round: for ``watch.on_round``.
        on_round: see above.
        watch: who is told what.
        after: what earlier rounds gave, to go on after them; their mechanism must have been the same.

    Raises:
        SettingError: a setting is outside its range, or even one person does not fit in memory.
    """
    watch = dataclasses.replace(watch, on_chunk=on_chunk or watch.on_chunk, on_round=on_round or watch.on_round)
    speed = Speed(chunk=chunk, threads=threads)
    ratings = crowd.answers(0, 1).kind.shape[1]
    task = Task(items=crowd.items, flat=flat, rounds=mechanism.rounds, ratings=ratings, seed=seed)
    state, rounds = (strategy.start(task), ()) if after is None else (after.state, after.rounds)
    for number in range(len(rounds) + 1, mechanism.rounds + 1):
        began = time.monotonic()
        found = summed(strategy, crowd, mechanism, state, number, speed=speed, watch=watch)
        numbers = found.total.numel()
        watch.on_noise(number)
        noise = mechanism.noise(numbers, number)
        # Integers plus integers: nothing may turn the sum into floating point before this line.
        noised = found.total if noise is None else found.total + noise
        state = strategy.advance(state, dequantise(noised, SCALE) / mechanism.denominator, number)
        record = Round(
            number=number,
            people=found.people,
            clipped=found.clipped,
            numbers=numbers,
            seconds=time.monotonic() - began,
        )
        rounds = (*rounds, record)
        watch.on_round(record, state)
    releases = sum(record.released for record in rounds)
    numbers = max((record.numbers for record in rounds), default=1)
    return Trained(state=state, statement=statement_of(strategy, mechanism, numbers, releases), rounds=rounds)


def summed(
    strategy: Strategy,
    crowd: Crowd,
    mechanism: Mechanism,
    state: State,
    number: int,
    *,
    speed: Speed = _SPEED,
    watch: Watch = _WATCH,
) -> Sum:
    """The exact sum of one round, on the CPU; arguments as for ``train``."""
    view = strategy.view(crowd.items, state)
    cohort = _cohort(mechanism, crowd.people, number)
    shift = _Shift(strategy, crowd, mechanism.norm_bound, cohort, state, view, number, speed, watch)
    asked, whole = crowd.people if cohort is None else len(cohort), shift.size
    if not asked:
        return shift.nobody()
    spans = [(first, min(first + whole, asked)) for first in range(0, asked, whole)]
    total: Sum | None = None
    with _workers(speed.threads, view.device) as each:
        for (first, last), part in zip(spans, each(shift.sum_of, spans), strict=True):
            total = part if total is None else total + part
            watch.on_chunk(last - first)
    assert total is not None, "somebody is asked"
    return Sum(total.total.cpu(), total.people, total.clipped)


def _cohort(mechanism: Mechanism, people: int, number: int) -> Tensor | None:
    """``(k,)`` int64 rising numbers of those who are asked in a round, on the CPU; ``None`` for everybody."""
    found = []
    for first in range(0, people, _DRAWN_TOGETHER):
        chosen = mechanism.takes_part(first, min(first + _DRAWN_TOGETHER, people), number)
        if chosen is None:
            return None
        found.append(first + chosen.cpu().nonzero()[:, 0])
    return torch.cat(found)


class _Shift:
    """One round's work on any range of those who are asked: of the cohort, or of everybody where it is ``None``."""

    def __init__(
        self,
        strategy: Strategy,
        crowd: Crowd,
        bound: float,
        cohort: Tensor | None,
        state: State,
        view: Tensor,
        number: int,
        speed: Speed,
        watch: Watch,
    ) -> None:
        self.strategy, self.crowd, self.bound, self.cohort, self.state = strategy, crowd, bound, cohort, state
        self.view, self.number, self.watch = view, number, watch
        self.size = speed.chunk or (CHUNK if view.device.type == "cpu" else CHUNK_ON_GPU)

    def sum_of(self, span: tuple[int, int]) -> Sum:
        """The sum over those from place ``span[0]`` to before ``span[1]``, in pieces of what fits in memory."""
        first, last = span
        total: Sum | None = None
        while first < last:
            size = min(self.size, last - first)
            try:
                part = self._piece(first, first + size)
            except (MemoryError, RuntimeError) as error:
                self._halve(size, error)
                continue
            total = part if total is None else total + part
            first += size
        assert total is not None
        return total

    def _piece(self, first: int, last: int) -> Sum:
        answers = self._answers(first, last)
        there = (answers.weight > 0).any(1)  # who has answered anything sends something
        updates = self.strategy.updates(answers.seen_as(self.view), self.state)
        bound = self.bound
        if sensitivity(bound, updates.shape[1], SCALE) * self.crowd.people > _LARGEST_SUM:
            raise SettingError(f"norm_bound={bound} is too large for {self.crowd.people} people; try 8.0")
        updates = updates.masked_fill(~there[:, None], 0)
        clipped = (torch.linalg.vector_norm(updates, dim=1) > bound).sum()
        return Sum(clipped_sum(updates, bound, SCALE), int(there.sum()), int(clipped))

    def nobody(self) -> Sum:
        """The sum over nobody: zeros, as many as an update has; what the person asked for that says goes nowhere."""
        updates = self.strategy.updates(self.crowd.answers(0, 1, self.number).seen_as(self.view), self.state)
        return Sum(torch.zeros(updates.shape[1], dtype=torch.int64), 0, 0)

    def _answers(self, first: int, last: int) -> Answers:
        if self.cohort is None:
            return self.crowd.answers(first, last, self.number)
        return self.crowd.answers_of(self.cohort[first:last], self.number)

    def _halve(self, size: int, error: Exception) -> None:
        if not _out_of_memory(error):
            raise error
        if size == 1:
            raise SettingError("even one person does not fit in memory; ask for fewer ratings or features") from error
        if self.view.device.type == "cuda":
            torch.cuda.empty_cache()
        if size // 2 < self.size:
            self.size = size // 2
            self.watch.on_smaller(self.size)


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; on a CPU torch says so with a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


_Map = Callable[[Callable[[tuple[int, int]], Sum], list[tuple[int, int]]], Iterator[Sum]]


@contextmanager
def _workers(threads: int, device: torch.device) -> Iterator[_Map]:
    """A map over spans, in their order. On a GPU one thread keeps everything in one queue of work."""
    if threads == 1 or device.type != "cpu":
        yield map
        return
    inside = torch.get_num_threads()
    torch.set_num_threads(1)  # two layers of threads would only wait for each other
    pool = ThreadPoolExecutor(threads, thread_name_prefix="chunk")
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, what was not begun is not done
        torch.set_num_threads(inside)
