"""Exact discrete Gaussian noise: the law, the scale, and that no seed can repeat it."""

from __future__ import annotations

import hashlib
import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor

from common.errors import SettingError
from common.privacy.noise import Randomness, _Coins, discrete_gaussian

ALPHA = 1e-4
SIGMA = 277_000


def seeded(seed: int) -> Randomness:
    """Uniform bytes that a test can repeat: SHAKE-256 of the seed and the number of the call."""
    calls = iter(range(10**9))
    return lambda count: hashlib.shake_256(f"{seed} {next(calls)}".encode()).digest(count)


def check_small_law(draws: Tensor, variance: float) -> None:
    """Chi-square of counts against the exact probabilities, tails pooled below 20 expected draws."""
    reach = math.ceil(40 * math.sqrt(variance))
    support = np.arange(-reach, reach + 1)
    weights = np.exp(-(support**2) / (2 * variance))
    expected = weights / weights.sum() * len(draws)
    inner = support[expected >= 20]
    low, high = inner[0], inner[-1]
    values = draws.clamp(low - 1, high + 1).numpy()
    observed = np.array([(values == value).sum() for value in range(low - 1, high + 2)])
    pooled = np.array([expected[support < low].sum(), *expected[expected >= 20], expected[support > high].sum()])
    assert stats.chisquare(observed, pooled).pvalue > ALPHA


def check_scale(draws: Tensor, sigma: float) -> None:
    """Kolmogorov-Smirnov against the continuous normal; at this sigma the lattice is far below its resolution."""
    assert stats.kstest(draws.numpy(), stats.norm(scale=sigma).cdf).pvalue > ALPHA


@pytest.mark.parametrize("variance", [1, Fraction(9, 4), Fraction(1, 3), 30])
def test_the_law_is_the_exact_one_on_a_small_support(variance: Fraction | int) -> None:
    check_small_law(discrete_gaussian(60_000, variance, seeded(1)), float(variance))


def test_the_check_of_the_law_rejects_a_slightly_wrong_one() -> None:
    draws = discrete_gaussian(60_000, 1, seeded(2))
    with pytest.raises(AssertionError):
        check_small_law(draws, 1.06**2)
    with pytest.raises(AssertionError):
        check_small_law(discrete_gaussian(60_000, Fraction(9, 4), seeded(3)), 1.5**2 * 1.06**2)
    # A rounded normal is not a discrete Gaussian; at sigma 1/2 the difference is plain.
    rounded = torch.from_numpy(np.random.default_rng(0).normal(scale=0.5, size=60_000).round().astype(np.int64))
    with pytest.raises(AssertionError):
        check_small_law(rounded, 0.25)


def test_the_scale_is_right_and_the_same_check_rejects_others() -> None:
    draws = discrete_gaussian(2_000, SIGMA**2, seeded(4))
    check_scale(draws, SIGMA)
    for wrong in (2 / 3, 3 / 2, 0.25):
        with pytest.raises(AssertionError):
            check_scale(draws, SIGMA * wrong)
        with pytest.raises(AssertionError):
            check_scale(discrete_gaussian(2_000, math.ceil((SIGMA * wrong) ** 2), seeded(5)), SIGMA)


def test_standard_deviation_is_within_one_per_cent_and_the_mean_is_zero() -> None:
    draws = discrete_gaussian(100_000, SIGMA**2, seeded(6)).double()
    assert abs(float(draws.std()) / SIGMA - 1) < 0.01
    assert abs(float(draws.mean())) < 4 * SIGMA / math.sqrt(100_000)
    # All residues are met: the noise covers the integers, not a coarser grid.
    assert stats.chisquare(np.bincount(draws.long().remainder(16).numpy())).pvalue > ALPHA


def test_draws_are_independent_of_their_neighbours() -> None:
    draws = discrete_gaussian(20_000, SIGMA**2, seeded(7)).double() / SIGMA
    for lag in (1, 2, 63, 594):
        assert abs(float((draws[:-lag] * draws[lag:]).mean())) < 4 / math.sqrt(20_000)


def test_global_seeds_do_not_repeat_the_noise() -> None:
    def draw() -> Tensor:
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002 - the global state is what must have no effect
        torch.manual_seed(7)
        return discrete_gaussian(600, SIGMA**2)

    # Two equal ones among 600 pairs at this sigma: probability about 1e-6.
    assert int((draw() == draw()).sum()) <= 1


def test_the_same_bytes_give_the_same_noise_and_other_bytes_other_noise() -> None:
    assert torch.equal(discrete_gaussian(50, 10**6, seeded(1)), discrete_gaussian(50, 10**6, seeded(1)))
    assert not torch.equal(discrete_gaussian(50, 10**6, seeded(1)), discrete_gaussian(50, 10**6, seeded(2)))


def test_no_draws_and_many_draws_have_the_asked_length() -> None:
    assert discrete_gaussian(0, 5).shape == (0,)
    for count in (1, 600, 50_000):
        draws = discrete_gaussian(count, SIGMA**2)
        assert draws.shape == (count,)
        assert draws.dtype == torch.int64


def test_a_variance_far_beyond_64_bits_is_drawn_exactly_too() -> None:
    variance = Fraction(2**99, 3)
    check_scale(discrete_gaussian(2_000, variance, seeded(8)), math.sqrt(variance))


@pytest.mark.parametrize("variance", [0, -1, 2**100, 2.25, math.nan])
def test_a_variance_that_cannot_be_drawn_exactly_is_refused(variance: int) -> None:
    with pytest.raises(SettingError, match="sigma_squared"):
        discrete_gaussian(3, variance)


def test_a_negative_count_and_a_source_that_runs_dry_are_refused() -> None:
    with pytest.raises(SettingError, match="count=-1"):
        discrete_gaussian(-1, 1)
    with pytest.raises(SettingError, match="gave 3 of"):
        discrete_gaussian(3, 1, lambda count: b"abc")


def scripted(*words: int) -> Randomness:
    """A source that gives exactly these 63-bit words, one per call."""
    script = iter(words)
    return lambda count: b"".join((next(script) << 1).to_bytes(8, "little") for _ in range(count // 8))


@pytest.mark.parametrize("numerator", [1, 2])
def test_a_coin_whose_first_63_bits_agree_with_the_chance_is_settled_by_the_next(numerator: int) -> None:
    first, rest = divmod(numerator << 63, 3)
    second = (rest << 63) // 3
    fraction = np.array([numerator], dtype=object)

    def toss(*words: int) -> bool:
        return bool(_Coins(scripted(*words)).chance(fraction, 3)[0])

    assert toss(first - 1)
    assert not toss(first + 1)
    assert toss(first, second - 1)
    assert not toss(first, second + 1)
    assert toss(first, second, first - 1)  # the digits of thirds repeat with period two


def test_a_coin_of_chance_one_and_of_chance_zero_needs_no_luck() -> None:
    most, zero = np.array([5], dtype=object), np.array([0], dtype=object)
    assert _Coins(scripted(2**63 - 1)).chance(most, 5)[0]
    assert not _Coins(scripted(1)).chance(zero, 5)[0]
    assert not _Coins(scripted(0, 0, 1)).chance(zero, 5)[0]


@pytest.mark.parametrize(
    ("numerator", "denominator"), [(0, 1), (1, 1), (1, 3), (7, 2), (1, 10**30)], ids=["0", "1", "1/3", "7/2", "1e-30"]
)
def test_the_exponential_coin_has_its_chance(numerator: int, denominator: int) -> None:
    heads = _Coins(seeded(9)).exp_minus(np.full(40_000, numerator, dtype=object), denominator)
    chance = math.exp(-numerator / denominator)
    assert stats.binomtest(int(heads.sum()), heads.size, chance).pvalue > ALPHA
