"""Decoders of variational autoencoders (Kingma and Welling 2014) as plain state dicts: layers follow from the shapes.

Dense layers come first, then convolutions. What shapes do not say is asked for: the activations, and whether a
convolution of equal channels and an odd kernel is transposed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.generators.importers.adapting import known_settings
from client.generators.importers.base import RUNTIME, Imported, Importer, ImportSettings
from client.generators.importers.gan import Drawn, PlainGan, imported, peek, weights_of
from client.generators.importers.restricted_pickle import damage_of
from client.generators.importers.weights import Weights, batch_norm
from client.generators.interface import SourceLaw
from client.generators.torch_network import Recipe
from common.errors import SettingError, UnreadableModel

_BETWEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "leaky": lambda x: functional.leaky_relu(x, 0.01),
    "silu": functional.silu,
    "elu": functional.elu,
    "tanh": torch.tanh,
}
_LAST: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": lambda x: 2 * torch.sigmoid(x) - 1,
    "none": lambda x: x,
}
_ENCODER = re.compile(r"(^|\.)(enc|encoder|encode|fc_?mu|fc_?var|fc_?logvar|mu|logvar|log_var|quant_conv)(\.|$|\d)")
_DECODER = re.compile(rb"decoder|dec\.|decode\.|fc_?mu")


@dataclass(kw_only=True)
class Layer:
    """One linear map of the decoder, batch normalisation folded in.

    Attributes:
        kind: ``dense``, ``conv`` or ``transposed``.
        weight: ``(out, in)``, ``(out, in, k, k)`` or ``(in, out, k, k)``.
        bias: ``(out,)``.
        unfold: shape a dense result takes before the next layer; empty for none.
        activated: whether the activation follows.
    """

    kind: str
    weight: Tensor
    bias: Tensor
    unfold: tuple[int, ...] = field(default=())
    activated: bool = True

    @property
    def outputs(self) -> int:
        """Channels or numbers it gives."""
        return int(self.weight.shape[1 if self.kind == "transposed" else 0])


class Decoder(nn.Module):
    """Layers with one activation between them and another after the last."""

    def __init__(self, layers: list[Layer], between: str, last: str) -> None:
        super().__init__()
        self.kinds, self.unfolds = [each.kind for each in layers], [each.unfold for each in layers]
        self.activated, self.between, self.last = [each.activated for each in layers], between, last
        for i, each in enumerate(layers):
            self.register_buffer(f"weight_{i}", each.weight)
            self.register_buffer(f"bias_{i}", each.bias)

    def forward(self, latent: Tensor) -> Tensor:
        """``(n, d)`` to ``(n, channels, side, side)``."""
        x = latent if self.kinds[0] == "dense" else latent[:, :, None, None]
        for i, kind in enumerate(self.kinds):
            x = self._applied(kind, x, self.get_buffer(f"weight_{i}"), self.get_buffer(f"bias_{i}"))
            if i == len(self.kinds) - 1:
                x = _LAST[self.last](x)
            elif self.activated[i]:
                x = _BETWEEN[self.between](x)
            if self.unfolds[i]:
                x = x.reshape(-1, *self.unfolds[i])
        return x

    def _applied(self, kind: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if kind == "dense":
            return functional.linear(x, weight, bias)
        kernel = weight.shape[-1]
        if kind == "conv":
            return functional.conv2d(x, weight, bias, padding=kernel // 2)
        if x.shape[-1] == 1 and kernel > 3:  # the first of a decoder without dense layers
            return functional.conv_transpose2d(x, weight, bias)
        padding = (kernel - 1) // 2
        return functional.conv_transpose2d(x, weight, bias, stride=2, padding=padding, output_padding=kernel % 2)


def build(weights: Weights, settings: ImportSettings) -> Drawn:
    """The network of a state dict.

    Raises:
        UnreadableModel: layers that do not follow each other, or nothing that draws.
        SettingError: a setting is unknown.
    """
    said = settings.settings
    between, last = said.get("activation", "relu"), said.get("last", "sigmoid")
    for name, value, known in (("activation", between, _BETWEEN), ("last", last, _LAST)):
        if value not in known:
            raise SettingError(f"--set {name}={value[:40]} is unknown; known: {', '.join(known)}")
    layers = _layers(weights, _decoder_names(weights, said.get("first", "")), said.get("odd", ""))
    channels, side = _unfold(layers, weights.what, settings.size)
    if (unfold := said.get("unfold", "plain")) not in ("plain", "activated"):
        raise SettingError(f"--set unfold={unfold[:40]} must be plain or activated")
    layers[0].activated = not layers[0].unfold or unfold == "activated"
    weights.finish("VAE decoder")
    first = layers[0].weight
    dimension = int(first.shape[1] if layers[0].kind == "dense" else first.shape[0])
    return Drawn(core=Decoder(layers, between, last).eval(), dimension=dimension, channels=channels, side=side)


def read(path: Path, settings: ImportSettings) -> Imported:
    """Read the decoder of a VAE; see `Importer.read`."""
    known_settings(settings.settings, IMPORTER.settings)
    if settings.output_range is not None:
        raise SettingError("the last activation says the range; leave --output-range out, or --set last=tanh")
    with torch.no_grad(), damage_of(path.name):
        weights, _ = weights_of(path)
        found = imported(build(weights, settings), path, settings)
    return replace(found, recipe=recipe_of(found.network), runtime=settings.settings.get("runtime", ""))


def recipe_of(network: nn.Module) -> Recipe:
    """How `rebuilt` makes such a network without its weights."""
    if not isinstance(network, PlainGan) or not isinstance(decoder := network.core, Decoder):
        raise SettingError("only decoders of VAEs have a recipe here")
    layers = [
        {
            "kind": kind,
            "weight": list(decoder.get_buffer(f"weight_{i}").shape),
            "unfold": list(decoder.unfolds[i]),
            "activated": decoder.activated[i],
        }
        for i, kind in enumerate(decoder.kinds)
    ]
    between = {"layers": layers, "between": decoder.between, "last": decoder.last}
    return Recipe(builder="vae", settings={**between, "law": asdict(network.law), "grey": network.grey})


def rebuilt(
    *, layers: Sequence[Mapping[str, Any]], between: str, last: str, law: Mapping[str, Any], grey: bool
) -> nn.Module:
    """The network of `recipe_of`, its weights empty.

    Raises:
        ValueError, TypeError, KeyError: the settings are impossible.
    """
    if between not in _BETWEEN or last not in _LAST:
        raise ValueError(f"activations {between[:40]!r} and {last[:40]!r}")
    core = Decoder([_empty(**each) for each in layers], between, last)
    return PlainGan(Drawn(core=core, dimension=0, channels=1 if grey else 3, side=0), SourceLaw(**law), (-1.0, 1.0))


def _empty(*, kind: str, weight: Sequence[int], unfold: Sequence[int], activated: bool) -> Layer:
    if kind not in ("dense", "conv", "transposed") or len(weight) != (2 if kind == "dense" else 4):
        raise ValueError(f"a layer {kind[:40]!r} with weights of shape {tuple(weight)}")
    layer = Layer(kind=kind, weight=torch.empty(*weight), bias=torch.empty(0), unfold=tuple(unfold))
    return replace(layer, bias=torch.empty(layer.outputs), activated=activated)


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file names the parts of a VAE."""
    names = peek(path, head)
    return _DECODER.search(names) is not None and re.search(rb"fc_?mu|fc_?var|logvar|decoder_input", names) is not None


def _decoder_names(weights: Weights, first: str) -> list[str]:
    """Names of the decoder's layers in the order of the file; the others are left."""
    names = list(dict.fromkeys(name.rpartition(".")[0] for name in weights.names()))
    if first:
        if first not in names:
            raise SettingError(f"--set first={first[:60]}: {weights.what} has {', '.join(names[:8])}")
        start = names.index(first)
    else:
        start = next((i for i, name in enumerate(names) if not _ENCODER.search(name)), 0)
    chosen = [name for name in names[start:] if first or not _ENCODER.search(name)]
    weights.ignore(*(name for name in weights.names() if name.rpartition(".")[0] not in chosen))
    return chosen


def _layers(weights: Weights, names: list[str], odd: str) -> list[Layer]:
    if odd not in ("", "conv", "transposed"):
        raise SettingError(f"--set odd={odd[:40]} must be conv or transposed")
    layers: list[Layer] = []
    for name in names:
        shape = weights.shape(f"{name}.weight")
        if f"{name}.running_mean" in weights and layers:
            _normalise(layers[-1], *batch_norm(weights, name, layers[-1].outputs))
        elif len(shape) in (2, 4):
            layers.append(_layer(weights, name, shape, layers[-1] if layers else None, odd))
        else:
            raise UnreadableModel(
                f"{weights.what}: {name} of shape {shape} is no layer of a plain decoder; try --as torch"
            )
    return layers


def _layer(weights: Weights, name: str, shape: tuple[int, ...], before: Layer | None, odd: str) -> Layer:
    kind = "dense"
    if len(shape) == 4:
        channels = before.outputs if before is not None and before.kind != "dense" else None
        kind = _convolution(shape, channels, odd)
        if not kind:
            raise SettingError(
                f"{name} {shape} may be a convolution or a transposed one, which doubles the side; the shape does not "
                "tell: give --set odd=conv or --set odd=transposed"
            )
    weight = weights.take(f"{name}.weight", *shape)
    outputs = shape[1] if kind == "transposed" else shape[0]
    bias = weights.take(f"{name}.bias", outputs) if f"{name}.bias" in weights else torch.zeros(outputs)
    wanted = shape[0] if kind == "transposed" else shape[1]
    if before is not None and before.kind != "dense" and before.outputs != wanted:
        raise UnreadableModel(
            f"{weights.what}: {name} takes {wanted} channels, and {before.outputs} come; try --as torch"
        )
    return Layer(kind=kind, weight=weight, bias=bias)


def _convolution(shape: tuple[int, ...], channels: int | None, odd: str) -> str:
    """Whether a kernel ``(a, b, k, k)`` is transposed: where ``a`` alone fits what comes in, or k is even.

    Empty where ``a == b``, k is odd, and ``odd`` does not say it: a guess would draw another picture.
    """
    if shape[-1] % 2 == 0:
        return "transposed"
    if shape[0] == shape[1]:
        return odd
    if channels is None:  # after dense layers or at the start: decoders lose channels on their way
        return "transposed" if shape[0] > shape[1] else "conv"
    return "transposed" if shape[0] == channels else "conv"


def _normalise(layer: Layer, scale: Tensor, shift: Tensor) -> None:
    across = (1, -1, 1, 1) if layer.kind == "transposed" else (-1, *[1] * (layer.weight.ndim - 1))
    layer.weight, layer.bias = layer.weight * scale.reshape(across), layer.bias * scale + shift


def _unfold(layers: list[Layer], what: str, size: int | None) -> tuple[int, int]:
    """Give dense layers the shape of what follows; channels and side of the pictures."""
    if not layers:
        raise UnreadableModel(f"{what} has no decoder; name its first layer with --set first=NAME")
    dense = [each for each in layers if each.kind == "dense"]
    if dense != layers[: len(dense)]:
        raise UnreadableModel(f"{what} has dense layers after convolutions; try --as torch")
    if len(dense) == len(layers):
        layers[-1].unfold = _square(layers[-1].outputs, what)
        return layers[-1].unfold[0], layers[-1].unfold[1]
    side = 1
    if dense:
        following = layers[len(dense)]
        channels = int(following.weight.shape[0 if following.kind == "transposed" else 1])
        side = _side(dense[-1].outputs, channels, what)
        dense[-1].unfold = (channels, side, side)
    for each in layers[len(dense) :]:
        kernel = each.weight.shape[-1]
        if each.kind == "transposed":
            side = kernel if side == 1 and kernel > 3 else 2 * side
    if size is not None and size != side:
        raise SettingError(f"--size {size}: the layers of {what} draw {side}; try --set odd=transposed or --as torch")
    return layers[-1].outputs, side


def _side(numbers: int, channels: int, what: str) -> int:
    side = math.isqrt(numbers // channels)
    if side * side * channels != numbers:
        raise UnreadableModel(f"{what}: {numbers} numbers do not unfold to {channels} square channels; try --as torch")
    return side


def _square(numbers: int, what: str) -> tuple[int, int, int]:
    for channels in (1, 3):
        side = math.isqrt(numbers // channels)
        if side * side * channels == numbers:
            return channels, side, side
    raise UnreadableModel(f"{what} draws {numbers} numbers, no square picture of 1 or 3 channels; try --as torch")


IMPORTER = Importer(
    kind="vae",
    about="plain state dict of a VAE, or of its decoder alone",
    sniff=sniff,
    read=read,
    settings={
        "activation": f"between layers: {', '.join(_BETWEEN)}; relu without it",
        "last": f"activation of the last layer: {', '.join(_LAST)}; sigmoid without it",
        "first": "name of the decoder's first layer, such as fc3, where names do not tell",
        "unfold": "whether the activation follows a single dense layer: plain (without it) or activated",
        "runtime": RUNTIME,
        "odd": "what a convolution of equal channels and an odd kernel is: conv or transposed; to be said",
    },
)
