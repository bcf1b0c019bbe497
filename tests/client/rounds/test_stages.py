import math

import pytest
import torch
from torch import Tensor

from client.rounds.record import Row
from client.rounds.stages import FILTERS, PAIRINGS, SAMPLERS, Candidates, Whereabouts, choose
from client.rounds.stopping import STOPPINGS
from common.errors import SettingError
from common.latents import LatentSpace

SPACE = LatentSpace(24)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def somewhere(angle: float = 0.3) -> Whereabouts:
    return Whereabouts(SPACE, SPACE.project(SPACE.sample(1, source(9)))[0], angle)


def angles(latents: Tensor, centre: Tensor) -> Tensor:
    return torch.cosine_similarity(latents, centre[None]).acos()


def row(distance: float, *, both: int = 0) -> Row:
    return Row(
        round=1, loss=0.5, reward_mean=0, reward_best=0, reward_destination=0, distance=distance,
        distance_favourite=distance, angle=1, questions=10, a=10 - both, b=0, both=both, neither=0,
    )  # fmt: skip


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("count", [0, 1, 50])
def test_a_sampler_gives_as_many_finite_latents_and_the_seed_decides(name: str, count: int) -> None:
    first, second = (SAMPLERS[name](somewhere(), count, source()) for _ in range(2))
    assert first.shape == (count, 24)
    assert bool(first.isfinite().all())
    assert torch.equal(first, second)
    assert count == 0 or not torch.equal(first, SAMPLERS[name](somewhere(), count, source(1)))


def test_samples_around_a_centre_stay_on_the_shell_within_the_angle() -> None:
    where = somewhere(0.3)
    latents = SAMPLERS["around"](where, 500, source())
    assert torch.allclose(latents.norm(dim=1), torch.tensor(SPACE.radius))
    assert float(angles(latents, where.centre).max()) <= 0.3 + 1e-3
    assert float(angles(latents, where.centre).max()) > 0.28


def test_a_mixed_sample_is_near_to_seventy_percent_and_prior_samples_are_anywhere() -> None:
    where = somewhere(0.3)
    near = (angles(SAMPLERS["mixed"](where, 1000, source()), where.centre) <= 0.301).float().mean()
    assert float(near) == pytest.approx(0.7, abs=0.01)
    assert float(angles(SAMPLERS["prior"](where, 1000, source()), where.centre).median()) > 1.3


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("n", "keep"), [(40, 11), (40, 40), (40, 1), (15, 14)])
def test_a_filter_keeps_different_rows(name: str, n: int, keep: int) -> None:
    reward = torch.randn(n, generator=source())
    rows = FILTERS[name](Candidates(torch.zeros(n, 24), reward, lambda: -reward), keep)
    assert rows.shape == (keep,)
    assert len(set(rows.tolist())) == keep
    assert 0 <= int(rows.min()) <= int(rows.max()) < n


def test_filters_differ_in_what_they_keep() -> None:
    reward, realism = torch.arange(10.0), torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0, 1, 0])
    candidates = Candidates(torch.zeros(10, 24), reward, lambda: realism)
    assert FILTERS["reward"](candidates, 3).tolist() == [9, 8, 7]
    assert FILTERS["realism"](candidates, 3).tolist() == [8, 6, 4]
    assert FILTERS["none"](candidates, 5).tolist() == [0, 2, 4, 6, 8]


def test_the_reward_filter_never_asks_for_realism() -> None:
    def expensive() -> Tensor:
        raise AssertionError("drew all pictures for nothing")

    FILTERS["reward"](Candidates(torch.zeros(4, 24), torch.zeros(4), expensive), 2)


@pytest.mark.parametrize("name", PAIRINGS)
@pytest.mark.parametrize("pairs", [1, 8])
@pytest.mark.parametrize("level", [False, True])
def test_no_picture_meets_itself_and_no_pair_meets_twice(name: str, pairs: int, level: bool) -> None:
    reward = torch.zeros(2 * pairs) if level else torch.randn(2 * pairs, generator=source())
    rows = PAIRINGS[name](reward, pairs, source())
    assert rows.shape == (pairs, 2)
    assert bool((rows[:, 0] != rows[:, 1]).all())
    assert len({frozenset(pair) for pair in rows.tolist()}) == pairs
    assert 0 <= int(rows.min()) <= int(rows.max()) < 2 * pairs
    assert torch.equal(rows, PAIRINGS[name](reward, pairs, source()))


def test_pairings_pair_whom_they_say() -> None:
    reward = torch.tensor([0.0, 3, 1, 2])
    assert PAIRINGS["favourite"](reward, 2, source()).tolist() == [[0, 1], [0, 3]]
    assert PAIRINGS["neighbours"](reward, 2, source()).tolist() == [[1, 3], [2, 0]]
    first = {tuple(PAIRINGS["random"](reward, 2, source(i)).flatten().tolist()) for i in range(20)}
    assert len(first) > 5


@pytest.mark.parametrize("name", STOPPINGS)
def test_nothing_stops_before_the_first_round(name: str) -> None:
    assert not STOPPINGS[name]((), 0.2, 3)


def test_rules_stop_when_they_say() -> None:
    far, near, pleased = [row(0.5)] * 2, [row(0.5), row(0.1)], [row(0.5, both=8)]
    assert [STOPPINGS["distance"](rows, 0.2, 3) for rows in (far, near, pleased)] == [False, True, False]
    assert [STOPPINGS["satisfied"](rows, 0.2, 3) for rows in (far, near, pleased)] == [False, False, True]
    assert not any(STOPPINGS["limit"](rows, 0.2, 3) for rows in (far, near, pleased))
    falling = [row(0.9 - 0.1 * i) for i in range(5)]
    assert [STOPPINGS["plateau"](rows, 0.2, 3) for rows in (falling, falling + far + far, near)] == [False, True, True]


def test_an_unknown_stage_is_named_with_those_there_are() -> None:
    with pytest.raises(SettingError, match=r"sampling='moon' is unknown; choose one of mixed, prior, around"):
        choose(SAMPLERS, "sampling", "moon")


def test_the_angle_of_a_zero_search_is_the_centre() -> None:
    where = somewhere(0.0)
    assert torch.allclose(SAMPLERS["around"](where, 3, source()), where.centre.expand(3, -1), atol=1e-5)
    assert math.isclose(float(where.centre.norm()), SPACE.radius, rel_tol=1e-5)
