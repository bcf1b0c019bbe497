import copy

import pytest
import torch
from torch import nn

from client.flows.adapters import AdapterSettings, adapted, adapter_state, merged, restore_adapter
from common.errors import SettingError


class Small(nn.Module):
    """Both kinds of layers, one of them deeper inside, and one that cannot be adapted."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 6)
        self.tail = nn.Sequential(nn.Flatten(), nn.Linear(6 * 16, 10), nn.SiLU())
        self.out = nn.Linear(10, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.tail(self.norm(self.conv(x))))
        return found


@pytest.fixture
def network() -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small()


X = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(2)


def learned(network: nn.Module) -> None:
    """One step on whatever may learn."""
    descent = torch.optim.SGD([weight for weight in network.parameters() if weight.requires_grad], 0.1)
    network(X).square().sum().backward()
    descent.step()


@pytest.mark.parametrize("settings", [AdapterSettings(rank=2), AdapterSettings(rank=0, head="out")])
def test_an_adapter_starts_as_the_network_and_only_it_learns(network: Small, settings: AdapterSettings) -> None:
    before = copy.deepcopy(network.state_dict())
    made = adapted(network, settings, rng())
    torch.testing.assert_close(made(X), network(X))
    kept = {name: each.clone() for name, each in made.named_parameters() if not each.requires_grad}
    learned(made)
    assert not torch.allclose(made(X), network(X))
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())
    assert all(torch.equal(each, kept[name]) for name, each in made.named_parameters() if name in kept)


def test_the_change_of_a_layer_has_its_rank(network: Small) -> None:
    made = adapted(network, AdapterSettings(rank=2), rng())
    for _ in range(2):  # the second step moves both factors
        learned(made)
    eye = torch.eye(6 * 16)
    with torch.no_grad():
        change = made.tail[1](eye) - network.tail[1](eye)  # type: ignore[index,operator]
    size = torch.linalg.svdvals(change)
    assert float(size[1]) > 1e-4
    assert float(size[2]) < 1e-5
    assert sum(each.numel() for each in adapter_state(made).values()) < sum(e.numel() for e in network.parameters())


def test_an_adapter_is_restored_bit_for_bit_and_another_one_refused(network: Small) -> None:
    made = adapted(network, AdapterSettings(rank=2), rng())
    learned(made)
    again = adapted(network, AdapterSettings(rank=2), torch.Generator().manual_seed(7))
    restore_adapter(again, adapter_state(made))
    assert torch.equal(again(X), made(X))
    with pytest.raises(SettingError, match="another rank"):
        restore_adapter(adapted(network, AdapterSettings(rank=3), rng()), adapter_state(made))
    broken = {name: each * torch.nan for name, each in adapter_state(made).items()}
    with pytest.raises(SettingError, match="NaN"):
        restore_adapter(again, broken)


def test_settings_without_a_place_to_learn_are_refused(network: Small) -> None:
    with pytest.raises(SettingError, match="rank=0"):
        AdapterSettings(rank=0)
    with pytest.raises(SettingError, match="head='nose'"):
        adapted(network, AdapterSettings(rank=0, head="nose"), rng())
    with pytest.raises(SettingError, match="no linear"):
        adapted(nn.GroupNorm(1, 4), AdapterSettings(), rng())


def test_a_merged_adapter_computes_the_same_with_the_layers_there_were(network: Small) -> None:
    made = adapted(network, AdapterSettings(rank=2), rng())
    for _ in range(2):
        learned(made)
    plain = merged(made)
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
    torch.testing.assert_close(plain(X), made(X), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain(X), network(X))
