import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from client.search.base import Score, Task, angles
from client.search.distribution import diverse, ring_angle
from client.search.gradient import GradientSearch
from common.errors import SettingError
from common.latents import LatentSpace


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(d: int, seed: int = 0) -> Score:
    into, out = torch.randn(d, 24, generator=rng(seed)) / d**0.5, torch.randn(24, generator=rng(seed + 1))
    return lambda z: torch.sin(z @ into) @ out


def task(d: int = 24, score: Score | None = None, minimum_distance: float = 0.0, starts: int = 12) -> Task:
    space = LatentSpace(d)
    latents = space.sample(starts, rng(3))
    return Task(score=score or smooth(d), space=space, starts=latents, minimum_distance=minimum_distance)


def from_pole(found: Tensor, pole: Tensor) -> Tensor:
    """Angles of all but the pole, sorted."""
    return angles(found, pole[None])[:, 0].sort().values[1:]


def pole_of(wanted: Task) -> Tensor:
    return GradientSearch().run(wanted, 1, rng()).latents[0]


@pytest.mark.parametrize("d", [24, 100, 512])
@pytest.mark.parametrize("surprise", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_the_others_lie_at_the_angle_that_surprise_asks_for(d: int, surprise: float) -> None:
    pole = pole_of(task(d))
    found = diverse(task(d), 8, surprise, rng(), pole=pole)
    assert found.complete
    around = from_pole(found.latents, pole)
    assert float((around - ring_angle(surprise)).abs().max()) < 3e-3


def test_a_surprise_of_three_tenths_is_a_cosine_of_92_percent() -> None:
    assert math.cos(ring_angle(0.3)) == pytest.approx(0.92, abs=0.01)


def test_more_surprise_means_more_difference_among_all_and_less_score() -> None:
    sets = [diverse(task(), 8, surprise, rng(), pole=pole_of(task())) for surprise in (0.0, 0.2, 0.5, 1.0)]
    apart = [float(angles(found.latents, found.latents).sum() / 56) for found in sets]
    assert apart == sorted(apart)
    assert apart[0] < 0.01 < 1.1 < apart[-1]
    means = [float(found.scores.mean()) for found in sets]
    assert means == sorted(means, reverse=True)


def test_climbing_along_the_ring_is_worth_more_than_random_places_on_it() -> None:
    pole, wanted = pole_of(task(100)), task(100)
    found = diverse(wanted, 8, 0.6, rng(), pole=pole)
    across = torch.randn(2000, 100, generator=rng(9))
    unit = torch.nn.functional.normalize(pole, dim=0)
    across = torch.nn.functional.normalize(across - (across @ unit)[:, None] * unit, dim=1)
    angle = ring_angle(0.6)
    places = wanted.space.radius * (math.cos(angle) * unit + math.sin(angle) * across)
    assert float(found.scores[1:].min()) > float(wanted.score(places).quantile(0.9))


def test_full_surprise_finds_another_mode() -> None:
    """Two peaks at a right angle; the start lies under the higher one."""
    d = 30
    one, two = torch.eye(d)[:2] * d**0.5
    peaks: Score = lambda z: (  # noqa: E731
        torch.exp(-(z - one).square().sum(1) / 20) + 0.9 * torch.exp(-(z - two).square().sum(1) / 20)
    )
    space = LatentSpace(d)
    starts = torch.cat([one[None] + 0.3, two[None] + 0.3])
    wanted = Task(score=peaks, space=space, starts=starts)
    safe, far = (diverse(wanted, 6, surprise, rng()) for surprise in (0.2, 1.0))
    assert float(angles(safe.latents, one[None]).max()) < 0.6
    assert float(angles(far.latents, two[None]).min()) < 0.4
    assert float(angles(far.latents, one[None]).min()) < 0.1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    d=st.sampled_from([1, 2, 3, 5, 24]),
    count=st.integers(1, 9),
    surprise=st.floats(0, 1),
    minimum=st.sampled_from([0.0, 0.05, 0.4, 1.5]),
    seed=st.integers(0, 999),
)
def test_a_set_keeps_the_laws_of_searches(d: int, count: int, surprise: float, minimum: float, seed: int) -> None:
    wanted = task(d, smooth(d, seed), minimum)
    found, again = diverse(wanted, count, surprise, rng(seed)), diverse(wanted, count, surprise, rng(seed))
    assert torch.equal(found.latents, again.latents)
    assert 1 <= len(found) <= count
    assert found.complete == (len(found) == count)
    between = angles(found.latents, found.latents)[~torch.eye(len(found), dtype=torch.bool)]
    assert bool((between >= minimum - 1e-5).all())
    assert float((found.latents.norm(dim=1) / d**0.5 - 1).abs().max()) < 1e-4
    assert float(found.scores[0]) >= float(wanted.score(wanted.space.project(wanted.starts)).max()) - 1e-4
    torch.testing.assert_close(found.scores, wanted.score(found.latents), atol=1e-3, rtol=1e-3)
    assert not bool((found.scores.diff() > 0).any())


def test_a_small_space_widens_the_ring_rather_than_give_less() -> None:
    found = diverse(task(2, minimum_distance=0.3), 8, 0.1, rng())
    assert found.complete
    assert len(diverse(task(2, minimum_distance=1.5), 8, 0.1, rng())) in (3, 4)  # a circle has room for four at most


def test_steps_are_counted_and_few() -> None:
    rows = 0
    wanted = task()

    def counted(z: Tensor) -> Tensor:
        nonlocal rows
        rows += len(z)
        return wanted.score(z)

    found = diverse(task(score=counted), 8, 0.3, rng())
    assert found.steps == rows < 450


def test_walks_of_a_set_stop_at_a_wanted_score() -> None:
    wanted = task()
    best = float(diverse(wanted, 1, 0.0, rng()).scores[0])
    modest = Task(score=wanted.score, space=wanted.space, starts=wanted.starts, wanted=0.6 * best)
    found = diverse(modest, 4, 0.3, rng())
    assert found.reached
    assert float(found.scores[0]) < 0.9 * best


def test_broken_scores_never_win() -> None:
    found = diverse(task(score=lambda z: torch.where(z[:, 0] > 0.5, torch.nan, z[:, 0])), 5, 0.3, rng())
    assert bool(found.scores.isfinite().all())
    with pytest.raises(SettingError, match="finite score"):
        diverse(task(score=lambda z: z[:, 0] * math.nan), 5, 0.3, rng())


@pytest.mark.parametrize("surprise", [-0.1, 1.1, math.nan])
def test_surprise_out_of_range_is_refused(surprise: float) -> None:
    with pytest.raises(SettingError, match="surprise="):
        diverse(task(), 2, surprise, rng())
    with pytest.raises(SettingError, match="count=0"):
        diverse(task(), 0, 0.5, rng())
