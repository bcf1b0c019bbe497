import math

import pytest
import torch

from client.search.base import Score, Task, angles
from client.search.gradient import GradientSearch
from client.search.reverse import (
    ClosedFormSearch,
    CoordinateSearch,
    RootSearch,
    coordinate_rule,
    minimum_norm,
    nearest_on_shell,
)
from common.latents import LatentSpace


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(d: int, bias: float = -0.5) -> tuple[torch.Tensor, Score]:
    weight = torch.randn(d, generator=rng(1)) / d**0.5
    return weight, lambda z: z @ weight + bias


def test_the_least_change_is_the_formula_on_a_case_worked_by_hand() -> None:
    """w = (3, 4), b = 1, z = (1, 1): the score is 8; to have 33 it moves by (33 - 8) w / 25 = (3, 4)."""
    moved = minimum_norm(torch.tensor([[1.0, 1.0]]), torch.tensor([3.0, 4.0]), 1.0, 33.0)
    assert moved.tolist() == [[4.0, 5.0]]
    assert minimum_norm(torch.ones(1, 2), torch.zeros(2), 0.0, 5.0).tolist() == [[1.0, 1.0]]


def test_the_nearest_latent_of_the_shell_has_the_score_and_none_with_it_is_nearer() -> None:
    space = LatentSpace(6)
    weight, score = linear(6)
    begun = space.project(space.sample(1, rng(2)))
    wanted = float(score(begun)[0]) + 0.8
    moved = nearest_on_shell(begun, weight, -0.5, wanted, space)
    assert float(score(moved)[0]) == pytest.approx(wanted, abs=1e-5)
    others = nearest_on_shell(space.project(space.sample(5000, rng(3))), weight, -0.5, wanted, space)
    others = others[(score(others) - wanted).abs() < 1e-4]  # many points with that very score
    assert len(others) > 3000
    assert float(angles(begun, others).min()) >= float(angles(begun, moved)) - 1e-3


def test_what_scores_enough_stays_and_what_cannot_goes_to_the_top() -> None:
    space = LatentSpace(4)
    weight = torch.tensor([2.0, 0.0, 0.0, 0.0])
    latents = space.project(torch.tensor([[1.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]))
    torch.testing.assert_close(nearest_on_shell(latents, weight, 0.0, -9.0, space), latents)
    top = nearest_on_shell(latents, weight, 0.0, 99.0, space)
    torch.testing.assert_close(top, torch.tensor([[2.0, 0.0, 0.0, 0.0]]).repeat(3, 1), atol=1e-5, rtol=0)
    from_the_bottom = nearest_on_shell(latents[1:2], weight, 0.0, 1.0, space)
    assert float(from_the_bottom @ weight) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(nearest_on_shell(latents, 0 * weight, 0.0, 1.0, space), latents)


@pytest.mark.parametrize("method", [ClosedFormSearch, RootSearch])
def test_reverse_searches_end_at_the_wanted_score_and_no_farther(method: type[ClosedFormSearch | RootSearch]) -> None:
    space = LatentSpace(40)
    weight, score = linear(40)
    start = space.project(space.sample(1, rng(4)))
    task = Task(score=score, space=space, starts=start, wanted=math.log(0.9 / 0.1))
    found = method().run(task, 1, rng(5))
    assert found.reached
    assert float(found.scores[0]) == pytest.approx(math.log(9), abs=2e-3)
    direct = nearest_on_shell(start, weight, -0.5, math.log(9), space)
    if method is ClosedFormSearch:
        assert found.steps < 40
        shortest = float(angles(start, direct))
        some = method().run(task, 16, rng(5)).latents
        assert float(angles(start, some).min()) == pytest.approx(shortest, abs=1e-3)


def test_the_closed_form_leaves_a_score_that_bends_to_root_finding() -> None:
    space = LatentSpace(24)
    into, out = torch.randn(24, 16, generator=rng(6)) / 24**0.5, torch.randn(16, generator=rng(7))
    task = Task(score=lambda z: torch.sin(z @ into) @ out, space=space, starts=space.sample(5, rng(8)), wanted=8.0)
    closed, root = ClosedFormSearch().run(task, 4, rng(9)), RootSearch().run(task, 4, rng(9))
    assert closed.reached
    assert closed.steps > root.steps > 0
    overshoot = (closed.scores - 8.0).min()
    assert 0 <= float(overshoot) < 1e-2
    assert float(GradientSearch().run(task, 4, rng(9)).scores[0]) > 8.1  # a plain walk stops wherever its step ends


def test_without_a_wanted_score_reverse_searches_go_to_the_top() -> None:
    space = LatentSpace(24)
    weight, score = linear(24)
    task = Task(score=score, space=space, starts=space.sample(2, rng(4)))
    top = float(weight.norm()) * space.radius - 0.5
    for method in (ClosedFormSearch(), RootSearch()):
        assert float(method.run(task, 1, rng(5)).scores[0]) == pytest.approx(top, abs=1e-3)


def test_the_coordinate_rule_is_the_older_one_on_a_case_worked_by_hand() -> None:
    """w = (2, -1, 4, 0), b = 0, z = 0, wanted 4, in the order of the coordinates.

    z0 would have to be 2: cut to 1, and 2 is missing. z1 would have to be -2: cut to -1, and 1 is missing. z2 must be
    1 / 4, which is within the bounds: done, the last one stays.
    """
    weight, order = torch.tensor([2.0, -1.0, 4.0, 0.0]), torch.arange(4)[None]
    assert coordinate_rule(torch.zeros(1, 4), weight, 0.0, 4.0, order).tolist() == [[1.0, -1.0, 0.25, 0.0]]
    assert coordinate_rule(torch.zeros(1, 4), weight, 0.0, 4.0, order.flip(1)).tolist() == [[0.0, 0.0, 1.0, 0.0]]
    assert coordinate_rule(torch.zeros(1, 4), weight, 0.0, -1.0, order).tolist() == [[-0.5, 0.0, 0.0, 0.0]]
    assert coordinate_rule(torch.zeros(1, 4), weight, 0.0, 99.0, order).tolist() == [[1.0, -1.0, 1.0, 0.0]]
    assert coordinate_rule(torch.tensor([[3.0, 0.0, 0.0, -2.0]]), weight, 0.0, 2.0, order).tolist() == [[1, 0, 0, -1]]


def older_rule(z: list[float], weight: list[float], bias: float, wanted: float, order: list[int]) -> list[float]:
    """The rule as a plain loop."""
    z = [min(1.0, max(-1.0, value)) for value in z]
    for i in order:
        rest = bias + sum(w * value for j, (w, value) in enumerate(zip(weight, z, strict=True)) if j != i)
        if weight[i] == 0 or abs(rest + weight[i] * z[i] - wanted) < 1e-9:
            continue
        solved = (wanted - rest) / weight[i]
        z[i] = min(1.0, max(-1.0, solved))
    return z


def test_the_coordinate_rule_is_the_same_as_a_plain_loop() -> None:
    n, d = 30, 7
    latents, weight = torch.randn(n, d, generator=rng(1)).double(), torch.randn(d, generator=rng(2)).double()
    order = torch.rand(n, d, generator=rng(3)).argsort(1)
    for wanted in (-3.0, 0.2, 2.0, 50.0):
        batch = coordinate_rule(latents, weight, 0.3, wanted, order)
        loop = [
            older_rule(z.tolist(), weight.tolist(), 0.3, wanted, o.tolist())
            for z, o in zip(latents, order, strict=True)
        ]
        torch.testing.assert_close(batch, torch.tensor(loop, dtype=torch.float64))


def test_the_coordinate_search_reports_honestly_when_its_rule_falls_short() -> None:
    space = LatentSpace(10)
    weight, score = linear(10)
    start = -weight[None]  # the bottom of the shell
    task = Task(score=score, space=space, starts=start, wanted=1e3)
    found = CoordinateSearch().run(task, 3, rng(1))
    assert not found.reached
    assert float(found.scores[0]) > float(score(space.project(start))[0]) + 1
