import math

import pytest
import torch
from torch import Tensor

from client.search.base import Meter, Score, Task, angles
from client.search.gradient import GradientSearch, Ring, climb
from client.search.pool import PoolSearch
from common.errors import SettingError
from common.latents import LatentSpace


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(d: int, seed: int) -> Score:
    into, out = torch.randn(d, 24, generator=rng(seed)) / d**0.5, torch.randn(24, generator=rng(seed + 1))
    return lambda z: torch.sin(z @ into) @ out


def test_the_top_of_a_linear_score_is_found() -> None:
    weight, space = torch.randn(50, generator=rng(1)), LatentSpace(50)
    task = Task(score=lambda z: z @ weight, space=space, starts=space.sample(3, rng(2)))
    found = GradientSearch().run(task, 1, rng(3))
    assert float(found.scores[0]) == pytest.approx(float(weight.norm()) * space.radius, rel=1e-4)


@pytest.mark.parametrize("d", [8, 24, 100])
def test_gradients_beat_a_pool_of_as_many_evaluations(d: int) -> None:
    space, ahead = LatentSpace(d), []
    for seed in range(5):
        task = Task(score=smooth(d, 10 * seed), space=space, starts=space.sample(10, rng(seed)))
        climbed = GradientSearch().run(task, 4, rng(seed))
        looked = PoolSearch(size=climbed.steps - 10).run(task, 4, rng(seed))
        assert looked.steps == climbed.steps
        ahead.append(float(climbed.scores.mean() - looked.scores.mean()))
    assert min(ahead) > 0


def test_a_walk_keeps_to_its_ring_and_ends_where_the_ring_is_highest() -> None:
    """On the ring at angle a around a pole, a linear score has its top at cos a (w . p) + sin a |w across p|."""
    d, angle = 30, 0.4
    space, weight = LatentSpace(d), torch.randn(d, generator=rng(1))
    pole = torch.nn.functional.normalize(torch.randn(d, generator=rng(2)), dim=0)
    ring = Ring.around(space, pole * 7, angle)
    begun = torch.nn.functional.normalize(ring.across(torch.randn(5, d, generator=rng(3))), dim=1)
    walked = climb(Meter(lambda z: z @ weight), ring, begun, 40, centres=begun, reach=math.pi)
    along = float(weight @ pole)
    top = space.radius * (math.cos(angle) * along + math.sin(angle) * float((weight - along * pole).norm()))
    torch.testing.assert_close(walked.scores, torch.full((5,), top), rtol=1e-3, atol=0)
    torch.testing.assert_close(
        angles(ring.place(walked.directions), pole[None]), torch.full((5, 1), angle).double(), rtol=0, atol=1e-4
    )


def test_a_walk_never_ends_below_where_it_began_nor_out_of_reach() -> None:
    space = LatentSpace(12)
    begun = torch.nn.functional.normalize(space.sample(40, rng(4)), dim=1)
    rough: Score = lambda z: torch.sin(9 * z).sum(1)  # noqa: E731  steps overshoot here all the time
    meter, ring = Meter(rough), Ring(space)
    before = rough(ring.place(begun))
    walked = climb(meter, ring, begun, 15, centres=begun, reach=0.25)
    assert bool((walked.scores >= before).all())
    assert bool((walked.scores > before + 0.1).any())
    assert float(angles(walked.directions, begun).diagonal().max()) <= 0.25 + 1e-3
    torch.testing.assert_close(walked.scores, rough(ring.place(walked.directions)))


def test_a_walk_stops_where_the_wanted_score_is_reached() -> None:
    space, seen = LatentSpace(20), []

    def score(z: Tensor) -> Tensor:
        seen.append(z.detach().clone())
        return z[:, 0]

    begun = torch.nn.functional.normalize(space.sample(2, rng(5)), dim=1)
    walked = climb(Meter(score), Ring(space), begun, 50, centres=begun, reach=math.pi, wanted=2.0)
    assert bool((walked.scores >= 2.0).all())
    assert float(walked.scores.max()) < 4.0 < space.radius
    assert len(seen) < 15


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingError, match="walks=0"):
        GradientSearch(walks=0)
    with pytest.raises(SettingError, match="places=-1"):
        GradientSearch(places=-1)
