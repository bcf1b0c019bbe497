"""The way from a latent to the styles of a StyleGAN: mapping network, labels, truncation, and the space W.

Karras et al. 2019 (section 2, appendix B for truncation), 2020; W as a normal space after Zhu et al. 2020, "Improved
StyleGAN embedding: where are the good latents?".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.generators.importers.inert import StoredModule
from client.generators.importers.weights import Weights
from common.errors import UnreadableModel

SLOPE = 0.2
_TINY = 1e-8
_DRAWS = 1 << 16
_AT_ONCE = 1 << 12
_FLOOR = 1e-6


class Dense(nn.Module):
    """A linear layer with the equalised learning rate folded into it, and a leaky ReLU of gain ``sqrt(2)`` if asked."""

    def __init__(self, weight: Tensor, bias: Tensor, activated: bool) -> None:
        super().__init__()
        gain = math.sqrt(2) if activated else 1.0  # a positive factor goes through a leaky ReLU
        self.register_buffer("weight", weight * gain)
        self.register_buffer("bias", bias * gain)
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        """``(n, i)`` to ``(n, o)``."""
        y = functional.linear(x, self.get_buffer("weight"), self.get_buffer("bias"))
        return functional.leaky_relu(y, SLOPE) if self.activated else y


def dense(weights: Weights, stored: StoredModule, name: str, inputs: int, outputs: int) -> Dense:
    """A linear layer of the file, at a dotted name.

    Raises:
        UnreadableModel: its activation is neither linear nor a leaky ReLU.
    """
    about = stored.find(name)
    attributes = about.attributes if about else {}
    activation = attributes.get("activation", "linear")
    if activation not in ("linear", "lrelu"):
        raise UnreadableModel(f"{weights.what}: {name} has activation {activation!r}; only linear and lrelu are read")
    weight = weights.take(f"{name}.weight", outputs, inputs) * float(attributes.get("weight_gain", 1.0))
    has_bias = f"{name}.bias" in weights or attributes.get("bias", True) is not None
    bias = weights.take(f"{name}.bias", outputs) if has_bias else torch.zeros(outputs)
    return Dense(weight, bias * float(attributes.get("bias_gain", 1.0)), activation == "lrelu")


def normalised(x: Tensor) -> Tensor:
    """Each row of ``(n, d)`` with mean square 1."""
    return x * (x.square().mean(1, keepdim=True) + _TINY).rsqrt()


class MappingNetwork(nn.Module):
    """Latents, and labels where there are some, to the space W.

    Attributes:
        latent: ``d``, numbers in a latent.
        labels: ``c``, entries of a label; 0 without.
        width: ``w``, numbers in a style.
    """

    def __init__(self, stored: StoredModule, weights: Weights, width: int) -> None:
        super().__init__()
        about = stored.find("mapping") or StoredModule("", {})
        self.latent, self.labels, self.width = (
            whole(about, name, weights.what) for name in ("z_dim", "c_dim", "w_dim")
        )
        if self.width != width or self.latent < 1:
            raise UnreadableModel(
                f"{weights.what}: mapping gives {self.width} of {self.latent}, synthesis takes {width}"
            )
        layers = whole(about, "num_layers", weights.what)
        features = weights.shape("mapping.embed.weight")[:1] if self.labels else ()
        self.embed = dense(weights, stored, "mapping.embed", self.labels, features[0]) if features else None
        widths = [self.latent + sum(features)]
        widths += [(weights.shape(f"mapping.fc{i}.weight") or (width,))[0] for i in range(layers)]
        steps = itertools.pairwise(widths)
        self.layers = nn.Sequential(*(dense(weights, stored, f"mapping.fc{i}", *step) for i, step in enumerate(steps)))

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """``(n, d)`` and ``(n, c)`` to ``(n, w)``."""
        x = normalised(latent)
        if self.embed is not None and label is not None:
            x = torch.cat([x, normalised(self.embed(label))], 1)
        y: Tensor = self.layers(x)
        return y


class NormalW(nn.Module):
    """The space W standardised: from N(0, I) to styles.

    Before the mapping network's last leaky ReLU, styles are close to a normal law (Zhu et al. 2020, section 3). So a
    standard normal latent times the square root of their covariance, plus their mean, through that leaky ReLU gives
    styles with the spread and correlations the generator was trained on.
    """

    def __init__(self, mean: Tensor, root: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("root", root)

    @classmethod
    @torch.no_grad()
    def of(cls, network: MappingNetwork, label: Tensor | None, seed: int) -> NormalW:
        """Estimate the law of styles from 65,536 latents.

        Args:
            network: the mapping network.
            label: ``(c,)`` for the styles of one label; None for labels drawn evenly.
            seed: of the draws.
        """
        generator = torch.Generator().manual_seed(seed)
        total, square = torch.zeros(network.width).double(), torch.zeros(network.width, network.width).double()
        for _ in range(_DRAWS // _AT_ONCE):
            styles = network(
                torch.randn(_AT_ONCE, network.latent, generator=generator), _labels(network, label, generator)
            )
            before = torch.where(styles < 0, styles / SLOPE, styles).double()
            total, square = total + before.sum(0), square + before.T @ before
        mean = total / _DRAWS
        values, axes = torch.linalg.eigh(square / _DRAWS - torch.outer(mean, mean))
        scale = values.clamp_min(_FLOOR**2 * float(values[-1])).sqrt()
        return cls(mean.float(), (axes * scale @ axes.T).float())

    def forward(self, latent: Tensor) -> Tensor:
        """``(n, w)`` to ``(n, w)``."""
        return functional.leaky_relu(latent @ self.get_buffer("root") + self.get_buffer("mean"), SLOPE)


def _labels(network: MappingNetwork, label: Tensor | None, generator: torch.Generator) -> Tensor | None:
    if not network.labels:
        return None
    if label is not None:
        return label.expand(_AT_ONCE, -1)
    return functional.one_hot(torch.randint(network.labels, (_AT_ONCE,), generator=generator), network.labels).float()


def truncated(style: Tensor, average: Tensor, psi: Tensor, layers: int, cutoff: int) -> Sequence[Tensor]:
    """The style of each layer: the first ``cutoff`` move to the average, ``average + psi * (style - average)``.

    Args:
        style: ``(n, w)``.
        average: ``(w,)`` mean style seen in training.
        psi: ``(1,)``; 1 changes nothing, 0 gives the average.
        layers: how many styles the synthesis takes.
        cutoff: how many of them are moved.
    """
    moved = average + psi * (style - average)
    return [moved if layer < cutoff else style for layer in range(layers)]


def whole(stored: StoredModule, name: str, what: str) -> int:
    """A whole number a network of the file says about itself.

    Raises:
        UnreadableModel: it is missing or impossible.
    """
    value = stored.attributes.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1 << 16:
        raise UnreadableModel(f"{what} says {name}={str(value)[:20]}, which cannot be right; get the file again")
    return value
