"""Proposals: one of every kind, and how they are turned does not matter."""

import pytest
import torch

from client.flows.proposals import most_different, shape_distribution
from client.flows.shapes import ShapeSettings, shapes_of
from common.errors import SettingError


def test_a_rare_kind_has_its_place_among_the_proposals() -> None:
    """Three S-curves among 30: four at random hold one in 35 % of all cases, four chosen ones nearly always."""
    kinds = torch.tensor([0] * 27 + [1] * 3)
    held = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        clouds = shapes_of(kinds, ShapeSettings(), generator)
        held += bool((most_different(clouds, 4) >= 27).any())
    assert held >= 19


def test_the_first_is_typical_and_none_is_chosen_twice() -> None:
    kinds = torch.tensor([0] * 27 + [1] * 3)
    chosen = most_different(shapes_of(kinds, ShapeSettings(), torch.Generator().manual_seed(0)), 30).tolist()
    assert chosen[0] < 27
    assert sorted(chosen) == list(range(30))


def test_the_description_does_not_see_turns_sizes_and_order() -> None:
    cloud = torch.randn(1, 40, 3, generator=torch.Generator().manual_seed(0))
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    moved = 3 * cloud[:, torch.randperm(40)] @ turn + 1
    assert torch.allclose(shape_distribution(cloud), shape_distribution(moved), atol=1e-4)
    assert shape_distribution(cloud[:0]).shape == (0, 24)


@pytest.mark.parametrize("count", [0, 4])
def test_more_than_there_are_and_none_are_refused(count: int) -> None:
    with pytest.raises(SettingError, match="between 1 and 3"):
        most_different(torch.randn(3, 16, 3), count)
