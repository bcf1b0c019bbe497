"""DCGAN-style state dicts (Radford, Metz and Chintala 2016): transposed convolutions from 1 x 1 to a picture.

Sizes and channels follow from the shapes. Names do not matter, only the order:
convolution, batch normalisation or none, activation, and so on.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.generators.importers.adapting import known_settings
from client.generators.importers.base import Imported, Importer, ImportSettings
from client.generators.importers.gan import Drawn, imported, peek, weights_of
from client.generators.importers.restricted_pickle import damage_of
from client.generators.importers.weights import Weights, batch_norm
from common.errors import SettingError, UnreadableModel

KERNEL = 4
_LAST = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "none": lambda x: x}
_NAMES = re.compile(rb"netG_state_dict|(main|net|layers|model|gen)\.0(\.0)?\.weight")


class DcGan(nn.Module):
    """Transposed 4 x 4 convolutions, batch normalisation folded in; the first makes 4 x 4, each next one doubles."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]], slope: float, last: str) -> None:
        super().__init__()
        for i, (weight, bias) in enumerate(layers):
            self.register_buffer(f"weight_{i}", weight)
            self.register_buffer(f"bias_{i}", bias)
        self.count, self.slope, self.last = len(layers), slope, last

    def forward(self, latent: Tensor) -> Tensor:
        """``(n, d)`` to ``(n, channels, side, side)``."""
        x = latent[:, :, None, None]
        for i in range(self.count):
            weight, bias = self.get_buffer(f"weight_{i}"), self.get_buffer(f"bias_{i}")
            x = functional.conv_transpose2d(x, weight, bias, stride=2 if i else 1, padding=1 if i else 0)
            if i < self.count - 1:
                x = functional.leaky_relu(x, self.slope) if self.slope else functional.relu(x)
        picture: Tensor = _LAST[self.last](x)
        return picture


def build(weights: Weights, slope: float, last: str) -> Drawn:
    """The network of a state dict.

    Raises:
        UnreadableModel: another architecture.
    """
    names = list(dict.fromkeys(name.rpartition(".")[0] for name in weights.names()))
    layers: list[tuple[Tensor, Tensor]] = []
    for name in names:
        if f"{name}.running_mean" in weights and layers:
            weight, bias = layers[-1]
            scale, shift = batch_norm(weights, name, weight.shape[1])
            layers[-1] = weight * scale[:, None, None], bias * scale + shift
        elif len(weights.shape(f"{name}.weight")) == 4:
            layers.append(_convolution(weights, name, layers[-1][0].shape[1] if layers else 0))
    if len(layers) < 3:
        raise UnreadableModel(
            f"{weights.what} has {len(layers)} convolutions of {KERNEL} x {KERNEL}; a DCGAN has 3 or more"
        )
    weights.finish("DCGAN")
    channels, side = int(layers[-1][0].shape[1]), KERNEL << (len(layers) - 1)
    core = DcGan(layers, slope, last).eval()
    return Drawn(core=core, dimension=int(layers[0][0].shape[0]), channels=channels, side=side)


def _convolution(weights: Weights, name: str, inputs: int) -> tuple[Tensor, Tensor]:
    found, outputs, *_ = weights.shape(f"{name}.weight")
    weight = weights.take(f"{name}.weight", inputs or found, outputs, KERNEL, KERNEL)
    bias = weights.take(f"{name}.bias", outputs) if f"{name}.bias" in weights else torch.zeros(outputs)
    return weight, bias


def read(path: Path, settings: ImportSettings) -> Imported:
    """Read a DCGAN state dict; see `Importer.read`."""
    known_settings(settings.settings, IMPORTER.settings)
    last, slope = settings.settings.get("last", "tanh"), settings.settings.get("slope", "0")
    if last not in _LAST:
        raise SettingError(f"last={last!r} is unknown; known: {', '.join(_LAST)}")
    try:
        leak = float(slope)
    except ValueError as error:
        raise SettingError(f"slope={slope!r} must be a number such as 0.2") from error
    if not 0 <= leak < 1:
        raise SettingError(f"slope={leak} must lie between 0 and 1")
    with torch.no_grad(), damage_of(path.name):
        weights, _ = weights_of(path)
        return imported(build(weights, leak, last), path, settings)


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file looks like a checkpoint of a DCGAN."""
    names = peek(path, head)
    return b"running_mean" in names and _NAMES.search(names) is not None and b"jointConv" not in names


IMPORTER = Importer(
    kind="dcgan",
    about="DCGAN state dict, from 16 to 512 pixels",
    sniff=sniff,
    read=read,
    settings={
        "last": "activation of the last layer: tanh, sigmoid or none; give --output-range 0 1 with sigmoid",
        "slope": "of the leaky ReLU between layers; 0 for ReLU",
    },
)
