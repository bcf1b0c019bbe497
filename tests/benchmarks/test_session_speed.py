"""How long a person waits: one answer taken and learned from, eight proposals made out of a pool of 20,000.

``pytest tests/benchmarks/test_session_speed.py -s`` prints a table, milliseconds of one thread's processor time.
"""

import time
from collections.abc import Callable, Iterator
from statistics import median, quantiles

import pytest
import torch

from client.curator import POOL
from client.fit import weigh
from client.items import Item
from client.likelihood import Evidence
from client.propose import propose
from client.ratings import Choice, Rating
from client.session import Session
from common.prior import DEFAULT_THRESHOLDS


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def likes(item: Item) -> float:
    x = item.features
    return float(2 * x[0] + x[2] - (x[1] - 1).square())


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    taken = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        taken.append(1e3 * (time.process_time() - begun))
    return taken


def line(name: str, taken: list[float]) -> None:
    print(f"{name:<58}{median(taken):8.1f}{quantiles(taken, n=20)[-1]:8.1f}")


def session_after(answers: int) -> Session:
    session = Session.open("art", seed=0)
    for _ in range(answers):
        a, b = session.propose(2)
        session._memory.rate("me", "", Choice(a, b, "a" if likes(a) > likes(b) else "b"), None)
        if len(session.history) % 20 == 0:
            session._learn()
    session._learn()
    return session


def test_an_answer_and_eight_proposals() -> None:
    print(f"\n{'milliseconds of one thread':<58}{'median':>8}{'p95':>8}")
    for answers in (30, 100):
        session = session_after(answers - 20)  # twice all hypotheses are looked at again
        both: list[float] = []
        for _ in range(40):
            a, b = session.propose(2)
            rating = Choice(a, b, "a" if likes(a) > likes(b) else "b")
            begun = time.process_time()
            session.rate(rating)
            session.propose(8, feedback="batch")
            both.append(1e3 * (time.process_time() - begun))
        line(f"Gaussian process, {answers} answers: rate + propose(8)", both)
        line(f"Gaussian process, {answers} answers: propose(2)", timed(lambda: session.propose(2), 20))  # noqa: B023
        line(f"Gaussian process, {answers} answers: recommend(8)", timed(lambda: session.recommend(8), 8))  # noqa: B023
        assert len(session.history) == answers + 20


def test_the_population_part() -> None:
    """The linear posterior of p = 33 weights under two priors, and eight of 20,000 items."""
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(POOL, 33, dtype=torch.float64, generator=generator)
    items[:, -1] = 1
    taste = torch.randn(33, dtype=torch.float64, generator=generator)
    pairs = torch.randint(POOL, (100, 2), generator=generator)
    ratings: list[Rating] = [
        Choice(a, b, "a" if float(items[a] @ taste) > float(items[b] @ taste) else "b")
        for a, b in pairs.tolist()
        if a != b
    ]
    law = torch.zeros(2, 33).double(), torch.eye(33).double().repeat(2, 1, 1), torch.tensor([0.8, 0.2]).double()

    def work() -> None:
        evidence = Evidence.of(ratings, items)
        posterior = weigh(evidence, *law, torch.tensor(DEFAULT_THRESHOLDS).double())
        chosen = propose("thompson", posterior.over(items), 8, generator)
        assert chosen.shape == (1, 8)

    work()
    print(f"\n{'milliseconds of one thread':<58}{'median':>8}{'p95':>8}")
    line("population part, p = 33, 100 answers: fit + 8 of 20,000", timed(work, 60))
