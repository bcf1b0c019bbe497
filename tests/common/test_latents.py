import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import SettingError
from common.latents import LatentSpace, spread_out


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_samples_follow_the_normal_law_and_repeat_with_the_seed() -> None:
    space = LatentSpace(24)
    latents = space.sample(20_000, seeded())
    assert latents.shape == (20_000, 24)
    assert latents.dtype == torch.float32
    assert float(latents.mean(0).abs().max()) < 0.04
    assert float((latents.var(0) - 1).abs().max()) < 0.05
    assert torch.equal(latents, space.sample(20_000, seeded()))
    assert float(latents.norm(dim=1).mean()) == pytest.approx(space.radius, rel=0.02)


def test_no_samples_is_an_empty_matrix() -> None:
    assert LatentSpace(3).sample(0, seeded()).shape == (0, 3)


@pytest.mark.parametrize("make", [lambda: LatentSpace(0), lambda: LatentSpace(2, "cauchy")])
def test_an_impossible_space_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(SettingError):
        make()


def test_a_negative_number_of_samples_is_refused() -> None:
    with pytest.raises(SettingError, match="n=-1"):
        LatentSpace(2).sample(-1, seeded())


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=5, max_size=5))
def test_projection_ends_on_the_shell_whatever_the_length(numbers: list[float]) -> None:
    space = LatentSpace(5)
    projected = space.project(torch.tensor([numbers]))
    assert float(projected.norm()) == pytest.approx(math.sqrt(5), rel=1e-5)


def test_projection_keeps_the_direction_and_lets_gradients_through() -> None:
    space = LatentSpace(4)
    latents = torch.randn(7, 4, generator=seeded(), dtype=torch.float64, requires_grad=True)
    projected = space.project(latents)
    assert torch.allclose(torch.cosine_similarity(latents, projected), torch.ones(7, dtype=torch.float64))
    assert torch.allclose(projected, latents / latents.norm(dim=1, keepdim=True) * 2)
    assert torch.autograd.gradcheck(space.project, (latents,))


def test_projection_of_another_dimension_is_refused() -> None:
    with pytest.raises(SettingError, match="end in 4"):
        LatentSpace(4).project(torch.zeros(2, 3))


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 5))
def test_spread_out_points_are_distinct_and_repeat_with_the_seed(n: int, count: int, seed: int) -> None:
    points = torch.randn(n, 3, generator=seeded(seed)).round()  # many equal points
    count = min(n, count)
    chosen = spread_out(points, count, seeded(seed))
    assert chosen.shape == (count,)
    assert len(set(chosen.tolist())) == count
    assert torch.equal(chosen, spread_out(points, count, seeded(seed)))


def test_spread_out_takes_one_point_of_each_cluster() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    points = (centres[:, None] + 0.1 * torch.randn(4, 50, 2, generator=seeded())).reshape(-1, 2)
    assert sorted((spread_out(points, 4, seeded(1)) // 50).tolist()) == [0, 1, 2, 3]


def test_spread_out_beats_random_choice_by_far() -> None:
    points = torch.randn(500, 4, generator=seeded())
    chosen = torch.pdist(points[spread_out(points, 10, seeded())]).min()
    random = max(float(torch.pdist(points[torch.randperm(500, generator=seeded(i))[:10]]).min()) for i in range(50))
    assert float(chosen) > random


@pytest.mark.parametrize("count", [-1, 4])
def test_spreading_out_more_points_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(SettingError, match="between 0 and the 3"):
        spread_out(torch.eye(3), count, seeded())


def test_spreading_out_points_that_are_not_numbers_is_refused() -> None:
    with pytest.raises(SettingError, match="finite"):
        spread_out(torch.full((3, 2), float("nan")), 2, seeded())
