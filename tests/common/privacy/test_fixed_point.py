"""Integers from updates: exact, the same everywhere, and never longer than what is accounted for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from common.errors import SettingError, UpdateError
from common.privacy import fixed_point
from common.privacy.clip import clip
from common.privacy.fixed_point import SCALE, dequantise, quantise, sensitivity, sensitivity_in_update_units


def check_sensitivity(function: Callable[[float, int], float]) -> None:
    """Fails for a sensitivity that some clipped update exceeds after rounding."""
    for numbers in (1, 65, 594, 10_000):
        for entry in (0.5, 1.5, 3.5, 101.5):
            update = torch.full((numbers,), entry / SCALE, dtype=torch.float64)
            # The smallest bound that leaves this update as it is.
            bound = float(update.norm()) * (1 + 1e-9)
            steps = quantise(clip(update, bound))
            assert int((steps * steps).sum()) <= function(bound, numbers) ** 2


def test_no_clipped_update_is_longer_than_the_sensitivity() -> None:
    check_sensitivity(sensitivity)


def test_the_check_above_finds_a_sensitivity_that_forgets_rounding() -> None:
    with pytest.raises(AssertionError):
        check_sensitivity(lambda bound, _: bound * SCALE)
    with pytest.raises(AssertionError):
        check_sensitivity(lambda bound, numbers: bound * SCALE + math.sqrt(numbers) / 4)


@settings(deadline=None)  # a busy machine is no failure
@given(arrays.arrays("float64", st.integers(1, 60)), st.floats(1e-6, 1e3), st.sampled_from([1, 2**6, 2**12, 2**16]))
def test_any_clipped_update_is_within_the_sensitivity(update: Any, bound: float, scale: int) -> None:
    steps = quantise(clip(torch.from_numpy(update), bound), scale).tolist()
    assert sum(step * step for step in steps) <= sensitivity(bound, len(steps), scale) ** 2


@settings(deadline=None)  # a busy machine is no failure
@given(arrays.arrays("float32", 8, elements=st.floats(-8, 8, width=32)))
def test_rounding_is_to_the_nearest_step_and_the_way_back_is_exact(update: Any) -> None:
    steps = quantise(torch.from_numpy(update))
    assert steps.dtype == torch.int64
    assert steps.tolist() == [round(float(value) * SCALE) for value in update]
    assert torch.equal(quantise(dequantise(steps)), steps)


def test_an_integer_sum_does_not_depend_on_the_order() -> None:
    people = quantise(torch.randn(500, 20))
    assert torch.equal(people.sum(0), people[torch.randperm(500)].sum(0))


def test_sensitivity_in_update_units_is_close_to_the_bound() -> None:
    assert math.isclose(sensitivity(8.0, 594), 8 * 4096 + math.sqrt(594) / 2, rel_tol=1e-14)
    assert 8.0 < sensitivity_in_update_units(8.0, 594) < 8.003


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e10])
def test_a_number_that_could_break_a_sum_is_refused(value: float) -> None:
    with pytest.raises(UpdateError, match="clip before quantising"):
        quantise(torch.tensor([0.0, value]))


@pytest.mark.parametrize("scale", [0, -4, 3, 1000])
def test_a_scale_that_would_round_twice_is_refused(scale: int) -> None:
    with pytest.raises(SettingError, match="power of two"):
        quantise(torch.zeros(2), scale)
    with pytest.raises(SettingError, match="power of two"):
        dequantise(torch.zeros(2, dtype=torch.int64), scale)
    with pytest.raises(SettingError, match="power of two"):
        sensitivity(1.0, 2, scale)


def test_a_sensitivity_of_nothing_is_refused() -> None:
    with pytest.raises(SettingError, match="norm_bound"):
        sensitivity(math.inf, 2)
    with pytest.raises(SettingError, match="numbers"):
        sensitivity(1.0, 0)


def test_the_scale_is_the_one_the_statements_name() -> None:
    assert fixed_point.SCALE == 4096
