import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import SettingError
from common.privacy.clip import clip
from common.privacy.fixed_point import SCALE, quantise, sensitivity
from simulations.clipped_sum import clipped_sum


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**30), st.sampled_from([1, 3, 50, 700]), st.floats(-6, 6), st.floats(0.01, 3000))
def test_one_row_is_never_longer_than_the_sensitivity(seed: int, numbers: int, power: float, bound: float) -> None:
    row = torch.randn(1, numbers, generator=torch.Generator().manual_seed(seed)) * 10**power
    total = clipped_sum(row, bound)
    assert float(torch.linalg.vector_norm(total.double())) <= sensitivity(bound, numbers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bound", [0.3, 5.0, 5000.0])
def test_it_is_the_sum_of_clipped_and_rounded_rows(dtype: torch.dtype, bound: float) -> None:
    rows = torch.randn(300, 40, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected = quantise(clip(rows, bound)).sum(0)
    found = clipped_sum(rows, bound)
    assert found.dtype == torch.int64
    # a float32 entry within rounding of a half step may fall on the other side of it
    assert int((found - expected).abs().max()) <= (0 if dtype == torch.float64 else 3)
    assert int(found.abs().max()) > 100


def test_sums_stay_exact_where_float32_would_round() -> None:
    rows = torch.full((40_000, 1), 3.0)
    rows[0] = 1 / SCALE
    assert int(clipped_sum(rows, 3.5)) == 39_999 * 3 * SCALE + 1


def test_broken_rows_add_nothing_and_nobody_gives_zeros() -> None:
    rows = torch.ones(4, 3)
    rows[0, 1], rows[1, 2], rows[2, 0] = float("nan"), float("inf"), -float("inf")
    assert torch.equal(clipped_sum(rows, 9.0), torch.full((3,), SCALE))
    assert torch.equal(clipped_sum(rows[:0], 9.0), torch.zeros(3, dtype=torch.int64))


def test_a_bound_outside_its_range_is_refused() -> None:
    with pytest.raises(SettingError, match="norm_bound"):
        clipped_sum(torch.ones(2, 2), 0.0)
