"""How fast many people are fitted: beside a loop over scikit-learn, and beside what the machine could do.

Run ``pytest tests/benchmarks/test_fit_speed.py -s`` to see the table; nothing here asserts a wall time.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from client.fit import laplace
from client.likelihood import Evidence
from client.ratings import Kind
from common.prior import PopulationPrior

PEOPLE, RATINGS, P = 10_000, 30, 33
PEERS = 200  # people the loop is timed on; it does not get faster with more
CHUNK = 256


def evidence() -> Evidence:
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(4_000, P, dtype=torch.float64, generator=generator)
    tastes = torch.randn(PEOPLE, P, dtype=torch.float64, generator=generator) / 2
    shown = torch.randint(4_000, (PEOPLE, RATINGS, 1), generator=generator)
    scores = (items[shown[..., 0]] * tastes.unsqueeze(1)).sum(-1)
    liked = (torch.rand(scores.shape, generator=generator, dtype=torch.float64) < scores.sigmoid()).long()
    return Evidence.gather(torch.full(liked.shape, int(Kind.LIKE)), liked, shown, items)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def test_people_per_second_beside_a_loop_and_the_floor() -> None:
    said, flat = evidence(), PopulationPrior.flat(P, "pack", 2.0)
    steps = 6  # Newton steps, each with one objective; what the last of the people need

    def ours() -> None:
        for part in said.chunks(CHUNK):
            laplace(part, flat.mean, flat.covariance, flat.thresholds)

    def loop() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for person in range(PEERS):
                peer = LogisticRegression(C=4.0, fit_intercept=False)
                x, y = said.features[person, :, 0].numpy(), said.value[person].numpy()
                if 0 < y.sum() < RATINGS:
                    peer.fit(x, y)

    a = torch.randn(1024, 1024, dtype=torch.float64)
    flops_per_person = steps * (2 * RATINGS * P * P + 4 * RATINGS * P + P**3 / 3) + P**3
    rows = []
    for _ in range(3):  # in turn, since machines are noisy
        fit, peer = PEOPLE / seconds(ours), PEERS / seconds(loop)
        floor = 2 * 1024**3 / seconds(lambda: a @ a) / flops_per_person
        rows.append((fit, peer, floor, fit / peer, fit / floor))
    print(f"\n{'people/s':>10} {'loop':>8} {'floor':>10} {'x loop':>7} {'of floor':>8}")
    for fit, peer, floor, faster, share in rows:
        print(f"{fit:10,.0f} {peer:8,.0f} {floor:10,.0f} {faster:7.1f} {share:8.1%}")
    assert sorted(row[3] for row in rows)[1] > 1, "the batch is slower than a loop over people"
