import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.search.base import CHUNK, Meter, Task, angles, pick, wander, within
from common.errors import SettingError
from common.latents import LatentSpace


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"starts": torch.zeros(0, 3)}, r"\(0, 3\) should be \(s, 3\)"),
        ({"starts": torch.zeros(2, 4)}, r"\(2, 4\) should be \(s, 3\)"),
        ({"starts": torch.zeros(3)}, "should be"),
        ({"wanted": math.nan}, "wanted=nan must be finite"),
        ({"minimum_distance": -0.1}, "minimum_distance=-0.1"),
        ({"minimum_distance": 4.0}, "between 0 and pi"),
        ({"trust_angle": math.nan}, "trust_angle=nan"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(wrong: dict[str, object], message: str) -> None:
    right: dict[str, object] = {"score": lambda z: z[:, 0], "space": LatentSpace(3), "starts": torch.ones(1, 3)}
    with pytest.raises(SettingError, match=message):
        Task(**{**right, **wrong})  # type: ignore[arg-type]


def test_angles_are_right_for_same_near_square_and_opposite_directions() -> None:
    one = torch.tensor([[2.0, 0.0]])
    other = torch.tensor([[5.0, 0.0], [math.cos(1e-4), math.sin(1e-4)], [0.0, 1.0], [-3.0, 0.0]])
    expected = torch.tensor([[0.0, 1e-4, math.pi / 2, math.pi]], dtype=torch.float64)
    torch.testing.assert_close(angles(one, other), expected, atol=1e-7, rtol=0)


def test_picking_takes_the_best_and_skips_what_is_too_close_to_it() -> None:
    turns = torch.tensor([0.0, 0.1, 0.6, 0.65, 1.2])
    latents = torch.stack([turns.cos(), turns.sin()], 1)
    scores = torch.tensor([5.0, 4.0, 1.0, 2.0, -math.inf])
    assert pick(latents, scores, 5, 0.5).tolist() == [0, 3]
    assert pick(latents, scores, 3, 0.0).tolist() == [0, 1, 3]
    assert pick(latents, scores, 9, 0.0).tolist() == [0, 1, 3, 2]
    assert pick(latents, torch.full((5,), -math.inf), 2, 0.5).tolist() == []


def test_the_meter_counts_and_scores_in_bounded_chunks() -> None:
    sizes: list[int] = []

    def score(z: torch.Tensor) -> torch.Tensor:
        sizes.append(len(z))
        return z[:, 0]

    meter, latents = Meter(score), torch.randn(2 * CHUNK + 5, 2, generator=rng())
    torch.testing.assert_close(meter(latents), latents[:, 0])
    assert sizes == [CHUNK, CHUNK, 5]
    assert meter.steps == 2 * CHUNK + 5


def test_the_meter_gives_minus_infinity_and_no_slope_to_what_is_broken() -> None:
    meter = Meter(lambda z: z.square().sum(1).sqrt() + torch.tensor([0.0, math.nan, 0.0, math.inf]))
    scores, slope = meter.with_gradient(torch.tensor([[3.0, 4.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]))
    assert scores.tolist() == [5.0, -math.inf, 0.0, -math.inf]
    torch.testing.assert_close(slope[:3], torch.tensor([[0.6, 0.8], [0.5**0.5, 0.5**0.5], [0.0, 0.0]]))
    flat, none = Meter(lambda z: torch.ones(len(z))).with_gradient(torch.ones(2, 3))
    assert (flat.tolist(), none.tolist()) == ([1.0, 1.0], [[0.0] * 3] * 2)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(d=st.integers(1, 40), seed=st.integers(0, 1000), reach=st.floats(0, math.pi))
def test_what_is_slid_within_reach_is_within_reach_and_on_the_way(d: int, seed: int, reach: float) -> None:
    directions, centres = torch.nn.functional.normalize(torch.randn(2, 20, d, generator=rng(seed)), dim=2)
    slid = within(directions, centres, reach)
    far, before = angles(slid, centres).diagonal(), angles(directions, centres).diagonal()
    way = angles(slid, directions).diagonal()
    if d > 1:  # in one dimension there is no way between the two points
        assert bool((far <= reach + 2e-3).all())
        torch.testing.assert_close(far + way, before, atol=5e-3, rtol=0)
    torch.testing.assert_close(slid[before <= reach], directions[before <= reach])


@pytest.mark.parametrize("trust", [None, 0.4])
def test_half_of_the_random_places_lie_around_the_best_starts_or_all_with_a_trust_angle(trust: float | None) -> None:
    space = LatentSpace(60)
    shell = space.project(space.sample(7, rng(1)))
    task = Task(score=lambda z: z[:, 0], space=space, starts=shell, trust_angle=trust)
    places, homes = wander(task, shell, 101, rng(2))
    far = angles(places, shell[:5]).amin(1)
    near = math.acos(0.3) if trust is None else trust
    assert places.shape == homes.shape == (101, 60)
    assert int((far <= near + 1e-3).sum()) >= (51 if trust is None else 101)
    if trust is None:
        assert int((far > 1.2).sum()) >= 40
    else:
        assert bool((angles(places, homes).diagonal() <= trust + 1e-3).all())
