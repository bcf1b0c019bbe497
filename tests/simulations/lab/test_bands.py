import math

import numpy as np
import pytest

from simulations.lab.bands import band, within


def test_the_band_over_repeats_is_that_of_a_t_test() -> None:
    from scipy import stats  # type: ignore[import-untyped]

    means = [0.1, 0.4, 0.3, 0.35]
    found = band([[value - 0.05, value + 0.05] for value in means])
    expected = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(means))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_band_holds_the_truth_nineteen_times_in_twenty_and_half_of_it_does_not() -> None:
    generator = np.random.default_rng(0)
    runs = 1_500
    caught = halves = 0
    for _ in range(runs):
        found = band([[value] for value in generator.normal(size=4)])
        caught += found.low < 0 < found.high
        halves += abs(found.mean) < (found.high - found.mean) / 2
    margin = 3.9 * math.sqrt(0.95 * 0.05 / runs)  # two-sided, alpha 1e-4
    assert abs(caught / runs - 0.95) < margin
    assert abs(halves / runs - 0.95) > margin


def test_one_repeat_has_a_band_over_its_people() -> None:
    found = band([[0.2, 0.4, 0.6]])
    assert found.mean == pytest.approx(0.4)
    assert found.low < 0.4 < found.high
    assert math.isnan(band([[0.2]]).low)


def test_a_verdict_needs_a_band_that_does_not_span_zero() -> None:
    assert band([[0.1], [0.11], [0.12]]).verdict == "ahead"
    assert band([[-0.1], [-0.11], [-0.12]]).verdict == "behind"
    assert band([[-0.1], [0.11], [0.12]]).verdict == "not shown"


def test_what_all_methods_share_in_a_repeat_does_not_widen_their_bands() -> None:
    easy = {"a": [[0.5], [0.6], [0.55]], "b": [[0.7], [0.8], [0.75]]}  # the same crowd effect in both
    for found in within(easy).values():
        assert found.high - found.low < 1e-9
    unlike = {"a": [[0.5], [0.6], [0.55]], "b": [[0.7], [0.6], [0.65]]}
    assert all(found.high - found.low > 0.1 for found in within(unlike).values())


def test_bands_of_percentiles_stay_between_0_and_1() -> None:
    for found in within({"a": [[0.1], [0.9]], "b": [[0.9], [0.1]]}).values():
        assert 0 <= found.low <= found.high <= 1
