"""Pairing keeps every shape and every point, and costs least."""

from itertools import permutations

import torch

from client.flows.coupling import describe, match, pair
from client.flows.shapes import ShapeSettings, sample_shapes


def clouds(n: int, points: int, seed: int) -> torch.Tensor:
    return torch.randn(n, points, 3, generator=torch.Generator().manual_seed(seed))


def test_matching_is_the_cheapest_of_all_orders() -> None:
    noise, shapes = clouds(6, 5, 0), clouds(6, 5, 1)
    found = (match(noise, shapes) - noise).square().sum((1, 2))
    for index in range(6):
        costs = [float((shapes[index, list(o)] - noise[index]).square().sum()) for o in permutations(range(5))]
        assert abs(float(found[index]) - min(costs)) < 1e-4


def test_pairing_uses_each_shape_once_and_keeps_its_points() -> None:
    noise = clouds(20, 32, 0)
    shapes, _ = sample_shapes(20, ShapeSettings(points=32), torch.Generator().manual_seed(1))
    paired, order = pair(noise, shapes)
    assert sorted(order.tolist()) == list(range(20))
    for mine, theirs in zip(paired, shapes[order], strict=True):
        assert sorted(map(tuple, mine.tolist())) == sorted(map(tuple, theirs.tolist()))


def test_paired_noise_tells_its_shape_and_unpaired_does_not() -> None:
    noise = clouds(200, 64, 0)
    shapes, _ = sample_shapes(200, ShapeSettings(), torch.Generator().manual_seed(1))
    paired, _ = pair(noise, shapes)

    def alike(a: torch.Tensor, b: torch.Tensor) -> float:
        return max(abs(float(torch.corrcoef(torch.stack([a[:, i], b[:, i]]))[0, 1])) for i in range(4))

    assert alike(describe(noise), describe(paired)) > 0.6
    assert alike(describe(noise), describe(shapes)) < 0.3  # 3.9 standard errors of 200 pairs


def test_nothing_pairs_with_nothing() -> None:
    paired, order = pair(clouds(0, 8, 0), clouds(0, 8, 0))
    assert paired.shape == (0, 8, 3)
    assert len(order) == 0
    assert match(clouds(0, 8, 0), clouds(0, 8, 0)).shape == (0, 8, 3)
