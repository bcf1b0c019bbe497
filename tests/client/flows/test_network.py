"""The network knows sets, not lists."""

import pytest
import torch

from client.flows.network import NetworkSettings, PointFlow, _moments
from common.errors import SettingError


def test_the_order_of_the_points_means_nothing() -> None:
    torch.manual_seed(0)
    network = PointFlow(NetworkSettings(width=16, blocks=2))
    torch.nn.init.normal_(network.out.weight)
    clouds, time = torch.randn(3, 20, 3), torch.rand(3)
    order = torch.randperm(20)
    velocity = network(clouds, time)
    assert torch.allclose(network(clouds[:, order], time), velocity[:, order], atol=1e-5)
    assert float((velocity[:, order] - velocity).detach().abs().max()) > 0.1


def test_it_starts_with_no_velocity_and_takes_any_number_of_points() -> None:
    network = PointFlow(NetworkSettings(width=8, blocks=1))
    for points in (3, 50):
        assert not bool(network(torch.randn(2, points, 3), torch.rand(2)).any())


def test_moments_of_noise_are_standard() -> None:
    moments = _moments(torch.randn(4000, 64, 3, generator=torch.Generator().manual_seed(0)))
    spread = moments.std(0)
    off_diagonal = [4, 5, 7]  # of the second moments; those on the diagonal have a variance of 2
    assert float(moments.mean(0).abs().max()) < 0.12
    assert torch.allclose(spread[[0, 1, 2, *off_diagonal, 9, 10, 11]], torch.ones(9), atol=0.06)
    assert torch.allclose(spread[[3, 6, 8]], torch.full((3,), 2**0.5), atol=0.08)


@pytest.mark.parametrize("wrong", [{"width": 2}, {"blocks": 0}])
def test_wrong_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingError):
        NetworkSettings(**wrong)
