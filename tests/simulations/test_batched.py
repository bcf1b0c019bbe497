import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from client.likelihood import Evidence
from client.ratings import Kind
from common.errors import SettingError
from common.privacy.fixed_point import SCALE, sensitivity
from common.privacy.settings import PrivacySettings
from simulations import engines
from simulations.batched import Round, Trained, Watch, summed, train
from simulations.crowd import Answers, Crowd, HeldCrowd
from simulations.invented_crowd import Habits, InventedCrowd, World
from simulations.mechanisms import Everyone, Mechanism
from simulations.strategies.base import State, Task
from simulations.strategies.dp_em import DpEm

WORLD = World.abstract(components=5, pool=200, unseen=200)
CROWD = InventedCrowd(WORLD, 150, ratings=10, kind=Kind.LIKE)
LEARNER = DpEm(norm_bound=2.0)


def promise(epsilon: float = math.inf, rounds: int = 2) -> PrivacySettings:
    return PrivacySettings(epsilon=epsilon, participations=rounds, norm_bound=2.0, expected_people=150)


def close(one: State, other: State, steps: float = 4) -> None:
    """To a few steps of the rounding to integers, over 150 people."""
    for name, mine in one.items():
        assert torch.allclose(mine, other[name], rtol=0, atol=steps / SCALE / 150 * 10), name


def test_a_crowd_in_chunks_gives_the_prior_of_the_federation(tmp_path: Path) -> None:
    trained = train(LEARNER, CROWD, Everyone(promise()), flat=WORLD.flat)
    evidence = CROWD.answers(0, 150).seen_as(WORLD.pool.features)
    prior, _ = engines.run("direct", evidence, WORLD.flat, promise(), step=2.0, nodes=3, folder=tmp_path)
    close({"mean": prior.mean, "covariance": prior.covariance}, trained.state)
    assert float((prior.mean - WORLD.flat.mean).abs().max()) > 0.1
    made = LEARNER.prior(trained.state, WORLD.pack, trained.statement, len(trained.rounds))
    assert (made.privacy, made.rounds, made.pack) == (prior.privacy, prior.rounds, prior.pack)


def test_with_the_same_noise_too(tmp_path: Path) -> None:
    mechanism = Everyone(promise(1.0), np.random.default_rng(3).bytes)
    trained = train(LEARNER, CROWD, mechanism, flat=WORLD.flat)
    evidence, same = CROWD.answers(0, 150).seen_as(WORLD.pool.features), np.random.default_rng(3).bytes
    prior, _ = engines.run(
        "direct", evidence, WORLD.flat, promise(1.0), step=2.0, nodes=3, folder=tmp_path, randomness=same
    )
    close({"mean": prior.mean, "covariance": prior.covariance}, trained.state)
    assert trained.statement == prior.privacy
    assert trained.statement.epsilon == 1.0


@pytest.mark.parametrize(("chunk", "threads"), [(9, 1), (7, 3), (64, 2), (1_000, 1)])
def test_chunks_and_threads_do_not_change_the_result(chunk: int, threads: int) -> None:
    whole = train(LEARNER, CROWD, Everyone(promise()), flat=WORLD.flat)
    cut = train(LEARNER, CROWD, Everyone(promise()), flat=WORLD.flat, chunk=chunk, threads=threads)
    close(whole.state, cut.state, steps=1)
    assert [(r.number, r.people, r.clipped, r.numbers) for r in whole.rounds] == [
        (r.number, r.people, r.clipped, r.numbers) for r in cut.rounds
    ]


def test_threads_leave_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    train(LEARNER, CROWD, Everyone(promise()), flat=WORLD.flat, threads=2)
    assert torch.get_num_threads() == before


def test_single_precision_moves_the_prior_by_far_less_than_noise() -> None:
    exact = train(LEARNER, CROWD, Everyone(promise()), flat=WORLD.flat)
    single = dataclasses.replace(CROWD, world=WORLD.to(torch.device("cpu"), torch.float32))
    quick = train(LEARNER, single, Everyone(promise()), flat=WORLD.flat)
    assert single.items.features.dtype == torch.float32
    close(exact.state, quick.state, steps=20)


class Loud:
    """A strategy whose people send vectors far too long, or broken ones."""

    name, label, norm_bound, rounds = "loud", "loud", 2.0, 1

    def __init__(self, dtype: torch.dtype, first: int = 0) -> None:
        self.dtype, self.first = dtype, first

    def start(self, task: Task) -> State:
        return {"mean": torch.zeros(3, dtype=torch.float64)}

    def view(self, items: object, state: State) -> Tensor:
        return WORLD.pool.features

    def updates(self, evidence: Evidence, state: State) -> Tensor:
        rows = torch.tensor([[1e9, -1e9, 1e9], [math.nan, 1, 1], [math.inf, 0, 0], [0.1, 0.2, 0.3]])
        return rows[(self.first + torch.arange(evidence.people)) % 4].to(self.dtype)

    def advance(self, state: State, mean: Tensor, round: int) -> State:
        return {"mean": mean}

    def scores(self, evidence: Evidence, state: State, items: object) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nobody_moves_the_sum_by_more_than_the_sensitivity(dtype: torch.dtype) -> None:
    for person in range(4):
        alone = HeldCrowd(WORLD.pool, CROWD.answers(0, 4))
        one = summed(Loud(dtype, person), alone, Only(person), {}, 1)
        length = float(torch.linalg.vector_norm(one.total.double()))
        assert length <= sensitivity(2.0, 3)
        assert length > 0.99 * sensitivity(2.0, 3) or person > 0
        assert one.people == 1
        assert (length == 0) == (person in (1, 2))


class Only(Everyone):
    """One person is chosen."""

    def __init__(self, person: int) -> None:
        super().__init__(promise())
        self.person = person

    def takes_part(self, first: int, last: int, round: int) -> Tensor | None:
        return torch.arange(first, last) == self.person


def test_who_is_not_chosen_or_says_nothing_is_not_in_the_sum() -> None:
    state = LEARNER.start(Task(items=WORLD.pool, flat=WORLD.flat, rounds=1, ratings=10))
    alone = summed(
        LEARNER,
        CROWD,
        Only(77),
        state,
        1,
    )
    person = HeldCrowd(WORLD.pool, CROWD.answers(77, 78))
    assert torch.equal(alone.total, summed(LEARNER, person, Everyone(promise()), state, 1).total)
    assert alone.people == 1
    sleepy = dataclasses.replace(CROWD, habits=Habits(drop_out=0.5))
    there = int((sleepy.answers(0, 150).weight > 0).any(1).sum())
    assert summed(LEARNER, sleepy, Everyone(promise()), state, 1).people == there < 150


class Tight:
    """A crowd whose answers do not fit in memory when more than some are asked for."""

    items = WORLD.pool
    people = 150

    def __init__(self, fits: int, error: Callable[[], Exception]) -> None:
        self.fits, self.error, self.refused = fits, error, 0

    def answers(self, first: int, last: int, round: int = 1) -> Answers:
        if last - first > self.fits:
            self.refused += 1
            raise self.error()
        return CROWD.answers(first, last, round)

    def answers_of(self, people: Tensor, round: int = 1) -> Answers:
        raise NotImplementedError


NO_MEMORY: dict[str, Callable[[], Exception]] = {
    "python": MemoryError,
    "gpu": lambda: torch.OutOfMemoryError("CUDA out of memory"),
    "cpu": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1"),
}


@pytest.mark.parametrize("kind", NO_MEMORY)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_chunk_that_does_not_fit_is_halved_and_said_so(kind: str, threads: int) -> None:
    crowd = Tight(20, NO_MEMORY[kind])
    sizes: list[int] = []
    watch = Watch(on_smaller=sizes.append)
    found = train(LEARNER, crowd, Everyone(promise()), flat=WORLD.flat, chunk=100, threads=threads, watch=watch)
    assert crowd.refused >= 3
    assert sizes[:3] == [50, 25, 12]
    close(found.state, train(LEARNER, CROWD, Everyone(promise()), flat=WORLD.flat).state, steps=1)
    assert [record.people for record in found.rounds] == [150, 150]


def test_when_not_even_one_person_fits_it_ends_with_advice() -> None:
    class Full(Tight):
        def answers(self, first: int, last: int, round: int = 1) -> Answers:
            return CROWD.answers(first, last, round)

    crowd = Full(0, MemoryError)

    class Greedy(DpEm):
        def updates(self, evidence: Evidence, state: State) -> Tensor:
            raise MemoryError

    with pytest.raises(SettingError, match="even one person"):
        train(Greedy(), crowd, Everyone(promise()), flat=WORLD.flat)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    crowd = Tight(0, lambda: RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        summed(LEARNER, crowd, Everyone(promise()), LEARNER.start(task()), 1)
    assert crowd.refused == 1


def task() -> Task:
    return Task(items=WORLD.pool, flat=WORLD.flat, rounds=2, ratings=10)


def test_training_goes_on_where_it_stopped_and_draws_no_noise_twice() -> None:
    drawn: list[int] = []

    class Counted(Everyone):
        def noise(self, numbers: int, round: int) -> Tensor | None:
            drawn.append(round)
            return super().noise(numbers, round)

    kept: list[tuple[Round, State]] = []
    whole = train(
        LEARNER, CROWD, Counted(promise(rounds=3)), flat=WORLD.flat, on_round=lambda r, s: kept.append((r, s))
    )
    assert drawn == [1, 2, 3]
    half = Trained(state=kept[1][1], statement=whole.statement, rounds=tuple(r for r, _ in kept[:2]))
    rest = train(LEARNER, CROWD, Counted(promise(rounds=3)), flat=WORLD.flat, after=half)
    assert drawn == [1, 2, 3, 3]
    for name, value in whole.state.items():
        assert torch.equal(value, rest.state[name])
    assert [record.number for record in rest.rounds] == [1, 2, 3]


def test_everybody_who_watches_is_told_in_order() -> None:
    said: list[str] = []
    watch = Watch(
        on_chunk=lambda people: said.append(f"chunk {people}"),
        on_noise=lambda number: said.append(f"noise {number}"),
        on_round=lambda record, state: said.append(f"round {record.number}"),
    )
    train(LEARNER, CROWD, Everyone(promise()), flat=WORLD.flat, chunk=100, threads=2, watch=watch)
    once = ["chunk 100", "chunk 50"]
    assert said == [*once, "noise 1", "round 1", *once, "noise 2", "round 2"]


@pytest.mark.parametrize("bad", [{"chunk": -1}, {"threads": 0}, {"threads": 5_000}], ids=str)
def test_impossible_speeds_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(SettingError):
        train(
            LEARNER,
            CROWD,
            Everyone(promise()),
            flat=WORLD.flat,
            chunk=bad.get("chunk", 0),
            threads=bad.get("threads", 1),
        )


def test_a_sum_that_could_wrap_around_is_refused() -> None:
    loud = Everyone(PrivacySettings(epsilon=math.inf, participations=1, norm_bound=1e13, expected_people=150))
    with pytest.raises(SettingError, match="too large for 150 people"):
        train(LEARNER, CROWD, loud, flat=WORLD.flat)


def test_a_prior_helps_newcomers() -> None:
    settings = PrivacySettings(epsilon=math.inf, participations=4, norm_bound=6.0, expected_people=800)
    crowd: Crowd = dataclasses.replace(CROWD, people=800, ratings=20)
    trained = train(DpEm(), crowd, Everyone(settings), flat=WORLD.flat)
    new = CROWD.newcomers(100)
    for answers, gain in ((0, 0.05), (5, 0.02)):
        said = new.answers.first(answers)
        after, before = (
            float(new.percentile(LEARNER.scores(said.seen_as(LEARNER.view(WORLD.pool, s)), s, WORLD.unseen)).mean())
            for s in (trained.state, LEARNER.start(task()))
        )
        assert after > before + gain


class Masked:
    """A crowd that is asked as a whole, with nothing said by those who are not chosen: the naive way."""

    def __init__(self, mechanism: Mechanism) -> None:
        self.mechanism, self.items, self.people = mechanism, CROWD.items, CROWD.people

    def answers(self, first: int, last: int, round: int = 1) -> Answers:
        found, chosen = CROWD.answers(first, last, round), self.mechanism.takes_part(first, last, round)
        assert chosen is not None
        return dataclasses.replace(found, weight=found.weight * chosen[:, None])

    def answers_of(self, people: Tensor, round: int = 1) -> Answers:
        raise AssertionError("everybody is asked")


class Drawn(Everyone):
    """Some people in each round, without noise; remembers how many were fitted."""

    def __init__(self, chance: float) -> None:
        super().__init__(promise(rounds=3))
        self.chance = chance

    def takes_part(self, first: int, last: int, round: int) -> Tensor | None:
        generator = torch.Generator().manual_seed(round)
        return (torch.rand(150, generator=generator) < self.chance)[first:last]


class Counting(DpEm):
    """Remembers how many people were fitted."""

    fitted: ClassVar[list[int]] = []

    def updates(self, evidence: Evidence, state: State) -> Tensor:
        self.fitted.append(evidence.people)
        return super().updates(evidence, state)


@pytest.mark.parametrize(("chunk", "threads"), [(0, 1), (4, 2)])
def test_only_those_who_take_part_are_fitted_and_the_result_is_that_of_masking(chunk: int, threads: int) -> None:
    mechanism, learner = Drawn(0.2), Counting(norm_bound=2.0)
    learner.fitted.clear()
    found = train(learner, CROWD, mechanism, flat=WORLD.flat, chunk=chunk, threads=threads)
    drawn = [int(mechanism.takes_part(0, 150, number).sum()) for number in (1, 2, 3)]  # type: ignore[union-attr]
    assert [record.people for record in found.rounds] == drawn
    assert sum(learner.fitted) == sum(drawn) < 150
    masked = train(LEARNER, Masked(mechanism), Everyone(promise(rounds=3)), flat=WORLD.flat)
    assert [record.people for record in masked.rounds] == drawn
    close(masked.state, found.state)
    other = train(LEARNER, CROWD, Everyone(promise(rounds=3)), flat=WORLD.flat)
    assert float((other.state["mean"] - found.state["mean"]).abs().max()) > 1e-3


def test_a_round_that_draws_nobody_adds_up_to_zeros_and_goes_on() -> None:
    found = train(LEARNER, CROWD, Drawn(0.0), flat=WORLD.flat)
    assert [(record.people, record.clipped, record.numbers) for record in found.rounds] == [(0, 0, 27)] * 3
    assert torch.equal(found.state["mean"], WORLD.flat.mean)


def test_any_people_of_a_crowd_say_what_they_say_in_a_range() -> None:
    some = torch.tensor([3, 77, 149])
    drifting = dataclasses.replace(CROWD, habits=Habits(unequal=1.0, drop_out=0.3, drift=0.2))
    for crowd in (drifting, HeldCrowd(WORLD.pool, CROWD.answers(0, 150))):
        for mine, whole in zip(crowd.answers_of(some, 2).tensors(), crowd.answers(0, 150, 2).tensors(), strict=True):
            assert torch.equal(mine, whole[some])
    for beyond in (-1, 150):
        with pytest.raises(SettingError, match="not among the 150"):
            CROWD.answers_of(torch.tensor([beyond]))
