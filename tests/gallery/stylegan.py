"""StyleGAN2 and StyleGAN3 that can be trained, over the very tree of networks that `stylegan_files` writes.

Batched and differentiable, and apart from the importer: resampling is one matrix along each axis here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.client.generators.importers.stylegan_files import Node
from tests.gallery.lessons import unit

_CLAMP, _SLOPE, _TINY = 256.0, 0.2, 1e-8
_FORGETTING = 0.01
_AVERAGED = 1 << 14


class Trainable(nn.Module):
    """A tree of networks as one of torch's; its tensors are parameters in place, so the tree can be written any time.

    Args:
        generator: from `stylegan_files.stylegan2` or ``stylegan3``.
    """

    def __init__(self, generator: Node) -> None:
        super().__init__()
        self.generator = generator
        self.aliased = "input" not in generator.children["synthesis"].children
        for name, node, key in _parameters(generator):
            learned = nn.Parameter(node.parameters[key].clone())
            self.register_parameter(f"{name}.{key}".replace(".", "_"), learned)
            node.parameters[key] = learned

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Parameters for an optimiser; those of the mapping are stored a hundredfold, and so is what they learn."""
        mapped = {
            id(value)
            for _, node, _ in _parameters(self.generator.children["mapping"])
            for value in node.parameters.values()
        }
        slow = [value for value in self.parameters() if id(value) not in mapped]
        fast = [value for value in self.parameters() if id(value) in mapped]
        return [{"params": slow, "lr": rate}, {"params": fast, "lr": 50 * rate}]

    def styles(self, latents: Tensor) -> Tensor:
        """``(n, d)`` to W, ``(n, w)``."""
        mapping, x = self.generator.children["mapping"], unit(latents)
        for i in range(mapping.attributes["num_layers"]):
            x = _fully(mapping.children[f"fc{i}"], x)
        return x

    def forward(self, latents: Tensor) -> Tensor:
        """``(n, d)`` to pictures ``(n, 3, side, side)``, without truncation."""
        return self.drawn(self.styles(latents))

    def drawn(self, styles: Tensor) -> Tensor:
        """W to pictures."""
        synthesis = self.generator.children["synthesis"]
        return _stylegan2(synthesis, styles) if self.aliased else _stylegan3(synthesis, styles, self.training)

    @torch.no_grad()
    def settle(self) -> Node:
        """The tree with the mean style, which truncation moves to, measured; gradients are let go."""
        mapping = self.generator.children["mapping"]
        random = torch.Generator().manual_seed(0)
        latents = torch.randn(_AVERAGED, mapping.attributes["z_dim"], generator=random)
        mapping.buffers["w_avg"] = self.styles(latents).mean(0)
        for _, node, key in _parameters(self.generator):
            node.parameters[key] = node.parameters[key].detach()
        return self.generator


def _parameters(node: Node, name: str = "g") -> Iterator[tuple[str, Node, str]]:
    yield from ((name, node, key) for key in node.parameters)
    for part, child in node.children.items():
        yield from _parameters(child, f"{name}.{part}")


def _fully(node: Node, x: Tensor) -> Tensor:
    about = node.attributes
    y = functional.linear(x, node.parameters["weight"] * float(about["weight_gain"]))
    y = y + node.parameters["bias"] * float(about["bias_gain"])
    return _leaky(y) if about["activation"] == "lrelu" else y


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, _SLOPE) * math.sqrt(2)


def _modulated(x: Tensor, weight: Tensor, scale: Tensor, padding: int, demodulate: bool = True) -> Tensor:
    """Equations 1 and 3 of Karras et al. 2020; both are linear in the input, so one convolution serves the batch."""
    y = functional.conv2d(x * scale[:, :, None, None], weight, padding=padding)
    if not demodulate:
        return y
    energy = scale.square() @ weight.square().sum((2, 3)).T
    return y * (energy + _TINY).rsqrt()[:, :, None, None]


@cache
def resampling(taps: tuple[float, ...], side: int, up: int, down: int, before: int, after: int) -> Tensor:
    """The matrix of one axis: ``up - 1`` zeros after each pixel, padding, true convolution, every ``down``-th pixel."""
    wide = torch.zeros(side, side * up, dtype=torch.float64)
    wide[:, ::up] = torch.eye(side, dtype=torch.float64)
    wide = functional.pad(wide, [before, after])
    kernel = torch.tensor(taps, dtype=torch.float64).flip(0)
    found = functional.conv1d(wide[:, None], kernel[None, None], stride=down)[:, 0]
    return found.T.float().contiguous() * up


def _resampled(x: Tensor, taps: Tensor | None, up: int, down: int, pads: tuple[int, int]) -> Tensor:
    """Both axes with a separable filter, brightness kept; None for a filter of one tap."""
    row = (1.0,) if taps is None else tuple((taps if taps.ndim == 1 else taps.sum(0)).tolist())
    matrix = resampling(row, x.shape[-1], up, down, *pads)
    for _ in range(2):  # rows, then columns; so each is one product of two large matrices
        x = (x @ matrix.T).transpose(2, 3)
    return x


def _styled(node: Node, x: Tensor, style: Tensor) -> Tensor:
    """One convolution of StyleGAN2 (Karras et al. 2020, figure 2c)."""
    scale, weight, padding = _fully(node.children["affine"], style), node.parameters["weight"], 1
    if node.attributes["up"] == 2:
        x = _resampled(x, node.buffers["resample_filter"], 2, 1, (3, 2))
        weight, padding = weight.flip(2, 3), 0
    x = _modulated(x, weight, scale, padding)
    noise = node.buffers["noise_const"]
    assert noise is not None
    x = x + noise * node.parameters["noise_strength"] + node.parameters["bias"][:, None, None]
    return _leaky(x).clamp(-_CLAMP, _CLAMP)


def _stylegan2(synthesis: Node, style: Tensor) -> Tensor:
    """Skip architecture: every resolution adds its colours."""
    picture: Tensor | None = None
    x = torch.zeros(0)
    for block in synthesis.children.values():
        if "conv0" in block.children:
            x = _styled(block.children["conv0"], x, style)
        else:
            x = block.parameters["const"].expand(len(style), -1, -1, -1)
        x = _styled(block.children["conv1"], x, style)
        colours = block.children["torgb"]
        scale = _fully(colours.children["affine"], style) / math.sqrt(x.shape[1])
        new = _modulated(x, colours.parameters["weight"], scale, 0, demodulate=False)
        new = (new + colours.parameters["bias"][:, None, None]).clamp(-_CLAMP, _CLAMP)
        taps = block.buffers["resample_filter"]
        picture = new if picture is None else new + _resampled(picture, taps, 2, 1, (2, 1))
    assert picture is not None
    return picture


def _waves(node: Node, style: Tensor) -> Tensor:
    """Fourier features of the plane that a style turns and shifts (Karras et al. 2021, section 3.2)."""
    transform, freqs, phases = (node.buffers[name] for name in ("transform", "freqs", "phases"))
    assert transform is not None
    assert freqs is not None
    assert phases is not None
    t = _fully(node.children["affine"], style)
    c, s, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    turn = torch.stack([c, -s, zero, s, c, zero, zero, zero, one], 1).reshape(-1, 3, 3)
    shift = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], 1).reshape(-1, 3, 3)
    whole = turn @ shift @ transform
    phases = phases + (freqs @ whole[:, :2, 2:])[:, :, 0]  # (n, c)
    freqs = freqs @ whole[:, :2, :2]  # (n, c, 2)
    rate, band = float(node.attributes["sampling_rate"]), float(node.attributes["bandwidth"])
    damped = (1 - (freqs.norm(dim=2) - band) / (rate / 2 - band)).clamp(0, 1)
    size = int(node.attributes["size"][0])
    axis = (torch.arange(size) * 2 + 1 - size) / (2 * rate)
    grid = torch.stack([axis.expand(size, size), axis[:, None].expand(size, size)], -1).reshape(-1, 2)
    seen = torch.sin(2 * math.pi * (grid @ freqs.transpose(1, 2) + phases[:, None])) * damped[:, None]
    weight = node.parameters["weight"]
    mixed = seen @ (weight / math.sqrt(len(weight))).T
    features: Tensor = mixed.transpose(1, 2).reshape(len(style), -1, size, size)
    return features


def _alias_free(node: Node, x: Tensor, style: Tensor, training: bool) -> Tensor:
    """One layer of StyleGAN3 (Karras et al. 2021, section 3.1 and appendix B)."""
    about, weight, magnitude = node.attributes, node.parameters["weight"], node.buffers["magnitude_ema"]
    assert magnitude is not None
    if training:
        magnitude.lerp_(x.detach().square().mean(), _FORGETTING)
    last, scale = about["is_torgb"], _fully(node.children["affine"], style)
    if last:
        scale = scale / math.sqrt(weight[0].numel())
    else:
        weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
        scale = scale * scale.square().mean(1, keepdim=True).rsqrt()
    x = _modulated(x, weight, scale, weight.shape[2] - 1, demodulate=not last) * magnitude.rsqrt()
    low, high = about["padding"][:2]
    x = x + node.parameters["bias"][:, None, None]
    x = _resampled(x, node.buffers["up_filter"], about["up_factor"], 1, (low, high))
    x = x if last else _leaky(x)
    x = x if training else x.clamp(-_CLAMP, _CLAMP)  # far away, and a pass over the largest tensors
    down = node.buffers["down_filter"]
    if down is None or down.ndim == 1:
        return _resampled(x, down, 1, about["down_factor"], (0, 0))
    square = down.flip(0, 1).expand(x.shape[1], 1, -1, -1)
    return functional.conv2d(x, square, stride=about["down_factor"], groups=x.shape[1])


def _stylegan3(synthesis: Node, style: Tensor, training: bool) -> Tensor:
    first, *layers = synthesis.children.values()
    x = _waves(first, style)
    for layer in layers:
        x = _alias_free(layer, x, style, training)
    return x * float(synthesis.attributes["output_scale"])
