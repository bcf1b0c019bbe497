import torch

from client.classifiers.base import Points
from client.taste_map import places


def seen(features: torch.Tensor) -> Points:
    return Points(torch.zeros(len(features), 2), torch.cat([features, torch.ones(len(features), 1)], dim=1))


def test_the_map_shows_what_counts_most_and_fills_the_square() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 4, generator=generator)
    found = places(seen(features), torch.tensor([3.0, 1.0, 0.01, 0.01]))
    assert torch.equal(found.amin(0), torch.zeros(2))
    torch.testing.assert_close(found.amax(0), torch.ones(2))
    for axis in (0, 1):
        together = torch.corrcoef(torch.stack([found[:, axis], features[:, axis]]))[0, 1]
        assert abs(float(together)) > 0.9


def test_few_or_equal_items_have_a_place_too() -> None:
    assert places(seen(torch.ones(1, 3)), torch.ones(3)).tolist() == [[0.0, 0.0]]
    assert places(seen(torch.ones(4, 3)), torch.ones(3)).abs().max() == 0
    assert places(seen(torch.tensor([[0.0], [2.0]])), torch.ones(1))[:, 0].sort().values.tolist() == [0.0, 1.0]
