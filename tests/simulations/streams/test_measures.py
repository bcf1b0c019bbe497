import pytest
import torch

from common.errors import SettingError
from simulations.streams.measures import coverage, frechet


def sample(count: int, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return shift + scale * torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_frechet_distance_of_two_gaussians_is_the_formula() -> None:
    """Of N(0, 1) and N(m, s) in four numbers: ``4 m^2 + 4 (s - 1)^2``."""
    found = frechet(sample(20_000), sample(20_000, shift=0.5, scale=2.0, seed=1))
    assert found == pytest.approx(4 * 0.25 + 4 * 1.0, rel=0.05)
    assert frechet(sample(20_000), sample(20_000, seed=1)) < 0.01


def test_the_frechet_distance_sees_correlations() -> None:
    one = sample(20_000)
    other = one.clone()
    other[:, 1] = other[:, 0]  # the same variances
    assert frechet(one, other) > 0.3
    with pytest.raises(SettingError, match=r"should be \(n, f\) with n > 1"):
        frechet(one[:1], other)


def test_precision_falls_for_items_that_are_not_like_the_real_ones_and_recall_for_those_that_lack_some() -> None:
    real = sample(400)
    alike, narrow, wide = sample(400, seed=1), sample(400, scale=0.2, seed=1), sample(400, scale=5.0, seed=1)
    assert coverage(alike, real).precision > 0.8
    assert coverage(alike, real).recall > 0.8
    assert coverage(narrow, real).precision > 0.9
    assert coverage(narrow, real).recall < 0.3
    assert coverage(wide, real).precision < 0.3
    with pytest.raises(SettingError, match="5 items are too few for 5 neighbours"):
        coverage(real[:5], real)
