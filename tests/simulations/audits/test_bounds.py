"""Bounds from counts: never above the truth more often than they may, and close to it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from common.errors import SettingError
from simulations.audits import bounds

DELTA = 1e-6


def normal(count: int, seed: int, mean: float = 0.0) -> Tensor:
    return mean + torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("mu", [0.25, 0.84, 3.0])
def test_the_truth_lies_between_the_bounds_and_they_are_close(mu: float) -> None:
    outside, short = 0, 0.0
    for seed in range(60):
        found = bounds.from_scores(normal(20_000, 2 * seed), normal(20_000, 2 * seed + 1, mu), 0.95)
        outside += not found.lower <= mu <= found.upper
        short += (mu - found.lower) / 60
    assert short < 0.06 + 0.06 * mu
    assert outside <= 6  # 10 % nominal, of which Clopper-Pearson and two halves leave far less


def test_a_claim_that_is_too_small_is_refuted() -> None:
    assert bounds.from_scores(normal(20_000, 0), normal(20_000, 1, 0.5), 0.999).lower > 0.35


def test_scores_that_say_nothing_show_nothing() -> None:
    found = bounds.from_scores(normal(4_000, 0), normal(4_000, 1), 0.95)
    assert found.lower < 0.02
    assert bounds.epsilon_of(min(found.lower, 0.0), DELTA) == 0


def test_equal_scores_show_nothing_instead_of_failing() -> None:
    assert bounds.from_scores(torch.zeros(100), torch.zeros(100), 0.95).lower <= 0


def test_perfect_separation_is_limited_by_the_number_of_runs() -> None:
    found = bounds.from_scores(normal(1_000, 0), normal(1_000, 1, 100.0), 0.95)
    assert found.lower == pytest.approx(bounds.most_from_scores(1_000, 0.95))
    assert found.upper == math.inf


def test_the_runs_that_are_said_to_suffice_do() -> None:
    for mu in (0.3, 1.0, 3.0):
        needed = bounds.runs_needed(mu, 0.95)
        assert bounds.most_from_scores(needed, 0.95) >= mu
        assert bounds.most_from_scores(needed // 2 - 2, 0.95) < mu or needed < 20


@pytest.mark.parametrize(("guesses", "most"), [(500, 5.10), (1_000, 5.78)])
def test_the_ceiling_of_one_run_is_the_published_one(guesses: int, most: float) -> None:
    assert bounds.epsilon_from_guesses(guesses, guesses, guesses, 1e-5, 0.95) == pytest.approx(most, abs=0.02)


def test_one_run_bounds_hold_on_gaussian_canaries_and_the_newer_one_is_tighter() -> None:
    canaries, guesses, mu = 400, 100, 0.84
    above, newer, older = 0, [], []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        inside = torch.rand(canaries, generator=generator) < 0.5
        scores = inside * mu + torch.randn(canaries, generator=generator)
        order = scores.argsort()
        right = int((~inside[order[:50]]).sum() + inside[order[-50:]].sum())
        newer.append(bounds.epsilon_of(bounds.from_guesses(canaries, guesses, right, 0.95), DELTA))
        older.append(bounds.epsilon_from_guesses(canaries, guesses, right, DELTA, 0.95))
        above += newer[-1] > bounds.epsilon_of(mu, DELTA)
    assert above <= 2
    assert sum(newer) > 1.3 * sum(older)


def test_one_run_bounds_refute_a_claim_that_is_far_too_small() -> None:
    assert bounds.from_guesses(400, 100, 95, 0.99) > 0.6
    assert bounds.from_guesses(400, 100, 50, 0.95) == 0
    assert bounds.epsilon_from_guesses(400, 100, 50, DELTA, 0.95) == 0


def test_more_right_guesses_never_lower_the_bound() -> None:
    found = [bounds.from_guesses(400, 100, right, 0.95) for right in range(50, 101, 5)]
    assert found == sorted(found)


@pytest.mark.parametrize("call", [(100, 101, 50), (100, 50, 51), (100, 0, 0)])
def test_impossible_counts_are_refused(call: tuple[int, int, int]) -> None:
    with pytest.raises(SettingError, match="guesses"):
        bounds.from_guesses(*call, 0.95)


def test_too_few_scores_are_refused() -> None:
    with pytest.raises(SettingError, match="too few"):
        bounds.from_scores(torch.zeros(3), torch.zeros(3), 0.95)
