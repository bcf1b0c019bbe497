"""The bound on what one person can do to a sum holds for every input, in exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from common.errors import SettingError, UpdateError
from common.privacy.clip import clip

Clip = Callable[[Tensor, float], Tensor]


def exact_norm_squared(row: Tensor) -> Fraction:
    return sum((Fraction(value) ** 2 for value in row.double().tolist()), Fraction(0))


def check_bound(function: Clip) -> None:
    """Fails for a function that lets any row of a hard collection pass its bound, or turns or breaks it."""
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        for size in (0.01, 1.0, 1.0001, 100.0):
            rows = (torch.randn(50, 65, generator=generator, dtype=torch.float64) * size).to(dtype)
            clipped = function(rows, 8.0)
            assert clipped.dtype == dtype
            assert clipped.shape == rows.shape
            assert all(exact_norm_squared(row) <= 64 for row in clipped)
            cosine = torch.cosine_similarity(rows.double(), clipped.double(), dim=-1)
            assert bool((cosine > 0.999).all())


def test_no_row_passes_the_bound_in_any_dtype() -> None:
    check_bound(clip)


def test_the_check_above_finds_a_clip_that_does_nothing_and_one_that_forgets_rounding() -> None:
    def forgets_rounding(rows: Tensor, bound: float) -> Tensor:
        factor: Tensor = (bound / rows.norm(dim=-1, keepdim=True)).clamp(max=1)
        return rows * factor

    for broken in (lambda rows, _: rows, forgets_rounding):
        with pytest.raises(AssertionError):
            check_bound(broken)


@settings(deadline=None)  # a busy machine is no failure
@given(
    arrays.arrays("float64", st.tuples(st.integers(1, 3), st.integers(0, 40))),
    st.floats(1e-300, 1e300),
)
def test_any_float64_rows_stay_within_any_bound(rows: Any, bound: float) -> None:
    clipped = clip(torch.from_numpy(rows), bound)
    assert all(exact_norm_squared(row) <= Fraction(bound) ** 2 for row in clipped)


@settings(deadline=None)  # a busy machine is no failure
@given(arrays.arrays("float32", 7), st.floats(1e-40, 1e40))
def test_any_float32_row_stays_within_any_bound(row: Any, bound: float) -> None:
    assert exact_norm_squared(clip(torch.from_numpy(row), bound)) <= Fraction(bound) ** 2


def test_a_row_inside_the_bound_comes_back_bit_for_bit() -> None:
    rows = torch.randn(20, 10, dtype=torch.float64)
    assert torch.equal(clip(rows, 100.0), rows)


def test_a_long_row_keeps_nearly_the_whole_bound() -> None:
    row = torch.full((594,), 1e200, dtype=torch.float64)
    assert math.isclose(float(clip(row, 8.0).norm()), 8.0, rel_tol=1e-12)
    assert math.isclose(float(clip(row.new_tensor([3e38]).float(), 8.0)), 8.0, rel_tol=1e-6)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_row_with_a_nan_or_infinity_becomes_zeros_and_its_neighbours_stay(poison: float) -> None:
    rows = torch.ones(3, 4)
    rows[1, 2] = poison
    clipped = clip(rows, 10.0)
    assert torch.equal(clipped, torch.tensor([[1.0] * 4, [0.0] * 4, [1.0] * 4]))


def test_zeros_stay_zeros_and_empty_stays_empty() -> None:
    assert torch.equal(clip(torch.zeros(2, 5), 1.0), torch.zeros(2, 5))
    assert clip(torch.zeros(0, 5), 1.0).shape == (0, 5)
    assert clip(torch.zeros(5, 0), 1.0).shape == (5, 0)


def test_a_stack_of_people_is_clipped_row_by_row() -> None:
    rows = torch.randn(2, 3, 9, dtype=torch.float64) * 10
    each = torch.stack([torch.stack([clip(row, 1.0) for row in person]) for person in rows])
    assert torch.equal(clip(rows, 1.0), each)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_that_bounds_nothing_is_refused(bound: float) -> None:
    with pytest.raises(SettingError, match=r"norm_bound=.* must be > 0 and finite; try"):
        clip(torch.ones(3), bound)


def test_integers_and_scalars_are_refused() -> None:
    with pytest.raises(UpdateError):
        clip(torch.ones(3, dtype=torch.int64), 1.0)
    with pytest.raises(UpdateError):
        clip(torch.tensor(1.0), 1.0)
