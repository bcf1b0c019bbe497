"""What privacy costs in time, in numbers one can compare: beside other ways to do the same, never against the clock.

Nothing here depends on the clock, so these pass on a busy machine; the tables at the end of a run show the ratios.
"""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from common.privacy.accounting import noise_multiplier
from common.privacy.clip import clip
from common.privacy.fixed_point import quantise
from common.privacy.noise import discrete_gaussian

SIGMA = 277_000
NUMBERS = 594


def one_at_a_time(count: int, variance: Fraction) -> list[int]:
    """Canonne, Kamath & Steinke 2020, algorithms 1 to 3, draw by draw as the paper writes them."""
    system = random.SystemRandom()

    def coin(chance: Fraction) -> bool:
        return system.randrange(chance.denominator) < chance.numerator

    def exp_coin(g: Fraction) -> bool:
        while g > 1:
            if not exp_coin(Fraction(1)):
                return False
            g -= 1
        toss = 1
        while coin(g / toss):
            toss += 1
        return toss % 2 == 1

    def laplace(t: int) -> int:
        while True:
            u = system.randrange(t)
            if not exp_coin(Fraction(u, t)):
                continue
            v = 0
            while exp_coin(Fraction(1)):
                v += 1
            negative = coin(Fraction(1, 2))
            if not (negative and u + t * v == 0):
                return -(u + t * v) if negative else u + t * v

    def gaussian() -> int:
        t = int(float(variance) ** 0.5) + 1
        while True:
            y = laplace(t)
            if exp_coin((abs(y) - variance / t) ** 2 / (2 * variance)):
                return y

    return [gaussian() for _ in range(count)]


@pytest.mark.benchmark(group="noise for one round, 594 numbers")
def test_exact_noise(benchmark: Any) -> None:
    assert len(benchmark(discrete_gaussian, NUMBERS, SIGMA**2)) == NUMBERS


@pytest.mark.benchmark(group="noise for one round, 594 numbers")
def test_exact_noise_draw_by_draw_as_in_the_paper(benchmark: Any) -> None:
    draws = benchmark.pedantic(one_at_a_time, (NUMBERS, Fraction(SIGMA**2)), rounds=3)
    assert len(draws) == NUMBERS


@pytest.mark.benchmark(group="noise for one round, 594 numbers")
def test_floating_point_noise_that_protects_nobody(benchmark: Any) -> None:
    generator = np.random.default_rng()
    assert len(benchmark(generator.normal, 0.0, SIGMA, NUMBERS)) == NUMBERS


@pytest.mark.benchmark(group="2,000 updates of 594 numbers")
def test_clip_quantise_and_sum(benchmark: Any) -> None:
    updates = torch.randn(2_000, NUMBERS)
    assert benchmark(lambda: quantise(clip(updates, 8.0)).sum(0)).shape == (NUMBERS,)


@pytest.mark.benchmark(group="2,000 updates of 594 numbers")
def test_plain_sum(benchmark: Any) -> None:
    updates = torch.randn(2_000, NUMBERS)
    assert benchmark(lambda: updates.sum(0)).shape == (NUMBERS,)


@pytest.mark.benchmark(group="calibration")
def test_calibration_in_closed_form(benchmark: Any) -> None:
    assert 8.4 < benchmark(noise_multiplier, 1.0, 1e-6, 4) < 8.5


@pytest.mark.benchmark(group="calibration")
def test_one_look_at_a_privacy_loss_distribution(benchmark: Any) -> None:
    from dp_accounting.dp_event import GaussianDpEvent  # type: ignore[import-untyped]
    from dp_accounting.pld import PLDAccountant  # type: ignore[import-untyped]

    def look() -> float:
        accountant = PLDAccountant(value_discretization_interval=1e-3)
        return float(accountant.compose(GaussianDpEvent(8.449), 4).get_epsilon(1e-6))

    assert 0.99 < benchmark.pedantic(look, rounds=3) < 1.01
