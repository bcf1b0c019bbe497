"""Small trainable parts in a frozen network: low-rank adapters beside its layers, or one of its modules alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """What may change in a frozen network.

    Attributes:
        rank: of the change of each linear or convolutional layer, >= 0; 0 for no such change.
        head: name of a module that is trained as a whole, such as ``out``; empty for none.
    """

    rank: int = 8
    head: str = ""

    def __post_init__(self) -> None:
        if self.rank < 0 or not (self.rank or self.head):
            raise SettingError(f"rank={self.rank} must be >= 1, or 0 together with the name of a head; try 8")


class LowRank(nn.Module):
    """A frozen layer and a change of low rank: ``layer(x) + up(down(x))`` (LoRA; Hu et al. 2022, equation 3).

    Guarantee: starts as the layer, because ``up`` starts at zero.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layer, weight = layer, layer.weight
        down: nn.Linear | nn.Conv2d
        up: nn.Linear | nn.Conv2d
        if isinstance(layer, nn.Linear):
            down = nn.Linear(layer.in_features, rank, bias=False)
            up = nn.Linear(rank, layer.out_features, bias=False)
        else:
            shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
            down = nn.Conv2d(layer.in_channels, rank, *shape, bias=False)  # type: ignore[arg-type]
            up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        with torch.no_grad():
            down.weight.copy_(torch.randn(down.weight.shape, generator=generator) / down.weight[0].numel() ** 0.5)
            up.weight.zero_()
        self.down, self.up = down.to(weight), up.to(weight)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        found: Tensor = self.layer(x) + self.up(self.down(x))
        return found


def adapted(network: nn.Module, settings: AdapterSettings, generator: torch.Generator) -> nn.Module:
    """A copy of a network in which only an adapter can learn.

    Guarantee: ``network`` is left as it is; the copy computes the same until its adapter learns.

    Args:
        network: any module; layers of exactly the types ``nn.Linear`` and ``nn.Conv2d`` (one group) get a low rank.
        settings: what may change.
        generator: of the adapter's first weights, on the CPU.

    Raises:
        SettingError: there is no layer to change, or no module of the head's name.
    """
    made = copy.deepcopy(network).requires_grad_(False).eval()
    if settings.rank:
        _lower(made, settings, generator)
    if settings.head:
        try:
            made.get_submodule(settings.head).requires_grad_(True)
        except AttributeError:
            names = ", ".join(name for name, _ in made.named_children())
            raise SettingError(f"the network has no module head={settings.head!r}; it has {names}") from None
    if not any(weight.requires_grad for weight in made.parameters()):
        raise SettingError("the network has no linear or convolutional layer to adapt; name a head")
    return made


@torch.no_grad()
def merged(network: nn.Module) -> nn.Module:
    """A copy of an adapted network without adapters: their change is added to the weights they stand beside.

    Guarantee: it computes the same up to rounding, and has the layers and names of the network before `adapted`.
    """
    made = copy.deepcopy(network)
    _merge(made)
    return made.requires_grad_(False)


def adapter_state(network: nn.Module) -> dict[str, Tensor]:
    """Copies of the trainable weights by name."""
    return {name: each.detach().clone() for name, each in network.named_parameters() if each.requires_grad}


@torch.no_grad()
def restore_adapter(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give an adapted network the weights of an `adapter_state`.

    Raises:
        SettingError: they are those of another adapter, or not finite.
    """
    own = {name: each for name, each in network.named_parameters() if each.requires_grad}
    if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
        raise SettingError("the adapter belongs to another network or another rank; train it again")
    if not all(bool(each.isfinite().all()) for each in state.values()):
        raise SettingError("the adapter holds NaN or infinite weights; train it again")
    for name, each in own.items():
        each.copy_(state[name])


def _lower(network: nn.Module, settings: AdapterSettings, generator: torch.Generator) -> None:
    for name, child in list(network.named_children()):
        if type(child) is nn.Linear or (type(child) is nn.Conv2d and child.groups == 1):
            setattr(network, name, LowRank(child, settings.rank, generator))
        else:
            _lower(child, settings, generator)


def _merge(network: nn.Module) -> None:
    for name, child in list(network.named_children()):
        if isinstance(child, LowRank):
            change = torch.tensordot(child.up.weight.flatten(1), child.down.weight, 1)
            child.layer.weight += change
            setattr(network, name, child.layer)
        else:
            _merge(child)
