"""Progressive GAN state dicts (Karras et al. 2018): pixel norm, doubled sides, learning rates equalised at run time.

Two layouts are read. That of the PyTorch GAN Zoo (``formatLayer``, ``scaleLayers``, ``toRGBLayers``) scales a layer's
whole output by He's constant; that of the official weights (``wscale.scale``) scales before the bias. Either way the
constant goes into the weights here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.generators.importers.adapting import known_settings
from client.generators.importers.base import Imported, Importer, ImportSettings
from client.generators.importers.gan import Drawn, doubled, imported, peek, weights_of
from client.generators.importers.inert import mapping, number
from client.generators.importers.restricted_pickle import Inert, damage_of
from client.generators.importers.weights import Weights
from common.errors import SettingError, UnreadableModel

_SLOPE, _TINY = 0.2, 1e-8
Layer = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class ProGanLayers:
    """Weights with their scale folded in.

    Attributes:
        first: ``(16 c, d)`` and ``(16 c,)``, from a latent to 4 x 4.
        convolutions: ``(o, i, 3, 3)`` and ``(o,)``; the first keeps 4 x 4, then each second one doubles before it.
        colours: ``(channels, c, 1, 1)`` and ``(channels,)``.
        colours_before: the same one resolution lower, for blending; None where there is none.
    """

    first: Layer
    convolutions: list[Layer]
    colours: Layer
    colours_before: Layer | None = None


class ProGan(nn.Module):
    """The generator; ``alpha`` blends in the picture of half the side (Karras et al. 2018, figure 2)."""

    def __init__(self, layers: ProGanLayers, alpha: float) -> None:
        super().__init__()
        named = [layers.first, *layers.convolutions, layers.colours]
        if alpha and layers.colours_before is not None:
            named.append(layers.colours_before)
        for i, (weight, bias) in enumerate(named):
            self.register_buffer(f"weight_{i}", weight)
            self.register_buffer(f"bias_{i}", bias)
        self.count, self.alpha = len(layers.convolutions), alpha if layers.colours_before is not None else 0.0

    def forward(self, latent: Tensor) -> Tensor:
        """``(n, d)`` to ``(n, channels, side, side)``."""
        x = functional.linear(pixel_norm(latent), self.get_buffer("weight_0"), self.get_buffer("bias_0"))
        x = pixel_norm(functional.leaky_relu(x.reshape(latent.shape[0], -1, 4, 4), _SLOPE))
        before = x
        for i in range(self.count):
            if i % 2:
                before, x = x, doubled(x)
            x = pixel_norm(functional.leaky_relu(self._convolved(x, i + 1, 1), _SLOPE))
        picture = self._convolved(x, self.count + 1, 0)
        if not self.alpha:
            return picture
        return self.alpha * doubled(self._convolved(before, self.count + 2, 0)) + (1 - self.alpha) * picture

    def _convolved(self, x: Tensor, index: int, padding: int) -> Tensor:
        return functional.conv2d(
            x, self.get_buffer(f"weight_{index}"), self.get_buffer(f"bias_{index}"), padding=padding
        )


def pixel_norm(x: Tensor) -> Tensor:
    """Each pixel's channels with mean square 1 (Karras et al. 2018, section 4.2)."""
    return x * (x.square().mean(1, keepdim=True) + _TINY).rsqrt()


def zoo_layers(weights: Weights) -> ProGanLayers:
    """Layers of the PyTorch GAN Zoo's layout."""
    scales = len([name for name in weights.names() if name.startswith("scaleLayers.") and name.endswith(".0.weight")])
    names = ["groupScale0.0"] + [f"scaleLayers.{i}.{j}" for i in range(scales) for j in (0, 1)]
    for i in range(scales - 1):
        weights.ignore(f"toRGBLayers.{i}.weight", f"toRGBLayers.{i}.bias")
    convolutions = [_equalised(weights, name) for name in names]
    before = _equalised(weights, f"toRGBLayers.{scales - 1}") if scales else None
    last = _equalised(weights, f"toRGBLayers.{scales}")
    return ProGanLayers(
        first=_equalised(weights, "formatLayer"), convolutions=convolutions, colours=last, colours_before=before
    )


def _equalised(weights: Weights, name: str) -> Layer:
    shape = weights.shape(f"{name}.weight") or (1, 1)
    scale = math.sqrt(2 / math.prod(shape[1:]))
    return weights.take(f"{name}.weight", *shape) * scale, weights.take(f"{name}.bias", shape[0]) * scale


def official_layers(weights: Weights) -> ProGanLayers:
    """Layers of the official weights, as converted for PyTorch."""
    count = len([name for name in weights.names() if name.endswith(".conv.weight")])
    convolutions = [
        _scaled(weights, f"upsampling_layers.{i}.conv", f"upsampling_layers.{i}.wscale") for i in range(count)
    ]
    weight, bias = _scaled(weights, "in_layer.1", "in_layer.2")  # a full 4 x 4 convolution of one pixel
    outputs, inputs = weight.shape[:2]
    first = weight.flip(2, 3).permute(0, 2, 3, 1).reshape(16 * outputs, inputs), bias.repeat_interleave(16)
    return ProGanLayers(first=first, convolutions=convolutions, colours=_scaled(weights, "out_layer.1", "out_layer.2"))


def _scaled(weights: Weights, name: str, scale: str) -> Layer:
    shape = weights.shape(f"{name}.weight") or (1, 1, 4, 4)
    return weights.take(f"{name}.weight", *shape) * weights.take(f"{scale}.scale", 1), weights.take(
        f"{scale}.b", shape[0]
    )


def build(weights: Weights, alpha: float) -> Drawn:
    """The network of a state dict.

    Raises:
        UnreadableModel: another architecture, or layers that do not fit each other.
    """
    layers = official_layers(weights) if "in_layer.1.weight" in weights else zoo_layers(weights)
    weights.finish("ProGAN")
    (first, _), (colours, _) = layers.first, layers.colours
    flow = [(first.shape[0] // 16, 0)] + [(int(w.shape[0]), int(w.shape[1])) for w, _ in layers.convolutions]
    flow.append((int(colours.shape[0]), int(colours.shape[1])))
    fits = all(flow[i][0] == flow[i + 1][1] for i in range(len(flow) - 1)) and first.ndim == 2 and colours.ndim == 4
    if (
        not fits
        or len(layers.convolutions) % 2 == 0
        or any(w.ndim != 4 or w.shape[2] != 3 for w, _ in layers.convolutions)
    ):
        raise UnreadableModel(f"the layers of {weights.what} do not fit each other; it is no ProGAN generator")
    side = 4 << (len(layers.convolutions) // 2)
    core = ProGan(layers, alpha).eval()
    return Drawn(core=core, dimension=int(first.shape[1]), channels=int(colours.shape[0]), side=side)


def noted_alpha(saved: object) -> float:
    """The blending factor in a checkpoint's training configuration; 0 where there is none."""
    config = saved.get("config") if isinstance(saved, dict) else None
    state = mapping(config.state) if isinstance(config, Inert) else mapping(config)
    alpha = number((state or {}).get("alpha", 0.0))
    return float(alpha) if isinstance(alpha, int | float) else 0.0


def read(path: Path, settings: ImportSettings) -> Imported:
    """Read a ProGAN state dict; see `Importer.read`."""
    known_settings(settings.settings, IMPORTER.settings)
    with torch.no_grad(), damage_of(path.name):
        weights, saved = weights_of(path)
        written = settings.settings.get("alpha")
        try:
            alpha = noted_alpha(saved) if written is None else float(written)
        except ValueError as error:
            raise SettingError(f"alpha={written!r} must be a number from 0 to 1") from error
        if not 0 <= alpha <= 1:
            raise SettingError(f"alpha={alpha} must lie between 0 (the finest layer alone) and 1")
        return imported(build(weights, alpha), path, settings)


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file looks like a checkpoint of a ProGAN."""
    names = peek(path, head)
    return b"formatLayer" in names or b"wscale.scale" in names


IMPORTER = Importer(
    kind="progan",
    about="Progressive GAN state dict, of the PyTorch GAN Zoo or the official weights",
    sniff=sniff,
    read=read,
    settings={"alpha": "share of the picture of half the side, 0 to 1; as the file says, else 0"},
)
