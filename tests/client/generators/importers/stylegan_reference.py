"""StyleGAN2 and StyleGAN3 in float64, one picture at a time, as the papers' equations read: slow and plain."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from tests.client.generators.importers.stylegan_files import Node


def upfirdn(x: Tensor, taps: Tensor, up: int, down: int, pads: tuple[int, int], gain: float) -> Tensor:
    """Zeros between pixels, padding or cropping, true convolution, every ``down``-th pixel; ``(c, h, w)``."""
    channels, height, width = x.shape
    wide = x.new_zeros(channels, height * up, width * up)
    wide[:, ::up, ::up] = x
    low, high = pads
    wide = functional.pad(wide, [max(low, 0), max(high, 0)] * 2)
    wide = wide[:, max(-low, 0) : wide.shape[1] - max(-high, 0), max(-low, 0) : wide.shape[2] - max(-high, 0)]
    square = (torch.outer(taps, taps) if taps.ndim == 1 else taps) * gain
    count = square.shape[0]
    rows, columns = wide.shape[1] - count + 1, wide.shape[2] - count + 1
    made = wide.new_zeros(channels, -(-rows // down), -(-columns // down))
    for i in range(count):
        for j in range(count):
            made += square[count - 1 - i, count - 1 - j] * wide[:, i : i + rows : down, j : j + columns : down]
    return made


def fully(node: Node, x: Tensor) -> Tensor:
    y = node["weight"] * float(node.attributes["weight_gain"]) @ x + node["bias"] * float(node.attributes["bias_gain"])
    return torch.where(y > 0, y, 0.2 * y) * math.sqrt(2) if node.attributes["activation"] == "lrelu" else y


def unit(x: Tensor) -> Tensor:
    return x / (x.square().mean() + 1e-8).sqrt()


def styles(generator: Node, z: Tensor, label: Tensor | None, psi: float, cutoff: int | None) -> list[Tensor]:
    """One style for each layer."""
    mapping = generator.children["mapping"]
    x = unit(z)
    if label is not None:
        x = torch.cat([x, unit(fully(mapping.children["embed"], label))])
    for i in range(mapping.attributes["num_layers"]):
        x = fully(mapping.children[f"fc{i}"], x)
    count = mapping.attributes["num_ws"]
    moved = mapping["w_avg"] + psi * (x - mapping["w_avg"])
    return [moved if i < (count if cutoff is None else cutoff) else x for i in range(count)]


def modulated(weight: Tensor, style: Tensor, demodulate: bool) -> Tensor:
    """Equations 1 and 3 of Karras et al. 2020."""
    scaled = weight * style[None, :, None, None]
    return scaled / (scaled.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt() if demodulate else scaled


def activated(x: Tensor, bias: Tensor, gain: float, clamp: float) -> Tensor:
    x = x + bias[:, None, None]
    return (torch.where(x > 0, x, 0.2 * x) * math.sqrt(2) * gain).clamp(-clamp * gain, clamp * gain)


def styled(node: Node, x: Tensor, style: Tensor, noise: str, gain: float = 1.0) -> Tensor:
    weight = modulated(node["weight"], fully(node.children["affine"], style), True)
    if node.attributes["up"] == 2:  # enlarge smoothly first, then a true convolution without padding of its own
        x = upfirdn(x, node["resample_filter"], 2, 1, (3, 2), 4)
        x = functional.conv2d(x[None], weight.flip(2, 3))[0]
    else:
        x = functional.conv2d(x[None], weight, padding=1)[0]
    if noise == "const":
        x = x + node["noise_const"] * node["noise_strength"]
    return activated(x, node["bias"], gain, 256)


def stylegan2(generator: Node, z: Tensor, label: Tensor | None, psi: float, cutoff: int | None, noise: str) -> Tensor:
    """One picture ``(channels, side, side)`` from ``(d,)``."""
    ws, at = styles(generator, z, label, psi, cutoff), 0
    x = picture = torch.zeros(0)
    for block in generator.children["synthesis"].children.values():
        first, residual = "conv0" not in block.children, block.attributes["architecture"] == "resnet"
        if first:
            x = styled(block.children["conv1"], block["const"], ws[at], noise)
        else:
            gain = math.sqrt(0.5) if residual else 1.0
            before, x = x, styled(block.children["conv0"], x, ws[at], noise)
            x = styled(block.children["conv1"], x, ws[at + 1], noise, gain)
            if residual:
                skip = block.children["skip"]["weight"] / math.sqrt(before.shape[0])
                mixed = functional.conv2d(before[None], skip)[0]
                x = x + upfirdn(mixed, block["resample_filter"], 2, 1, (2, 1), 4) * gain
        at += 1 if first else 2
        if picture.numel():
            picture = upfirdn(picture, block["resample_filter"], 2, 1, (2, 1), 4)
        if "torgb" in block.children:
            colours = block.children["torgb"]
            style = fully(colours.children["affine"], ws[at]) / math.sqrt(x.shape[0])
            new = (
                functional.conv2d(x[None], modulated(colours["weight"], style, False))[0]
                + colours["bias"][:, None, None]
            )
            picture = new.clamp(-256, 256) + (picture if picture.numel() else 0)
    return picture


def waves(node: Node, style: Tensor) -> Tensor:
    """Fourier features of the transformed plane, pixel by pixel."""
    t = fully(node.children["affine"], style)
    t = t / t[:2].square().sum().sqrt()
    turn, shift = torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    turn[0, 0], turn[0, 1], turn[1, 0], turn[1, 1] = t[0], -t[1], t[1], t[0]
    shift[0, 2], shift[1, 2] = -t[2], -t[3]
    transform = turn @ shift @ node["transform"]
    phases = node["phases"] + node["freqs"] @ transform[:2, 2]
    freqs = node["freqs"] @ transform[:2, :2]
    rate, band = float(node.attributes["sampling_rate"]), float(node.attributes["bandwidth"])
    damped = (1 - (freqs.norm(dim=1) - band) / (rate / 2 - band)).clamp(0, 1)
    size = int(node.attributes["size"][0])
    theta = torch.tensor([[0.5 * size / rate, 0, 0], [0, 0.5 * size / rate, 0]], dtype=torch.float64)
    grid = functional.affine_grid(theta[None], [1, 1, size, size], align_corners=False)[0]
    x = torch.sin(2 * math.pi * (grid @ freqs.T + phases)) * damped
    mixed: Tensor = x @ (node["weight"] / math.sqrt(node["weight"].shape[0])).T
    return mixed.permute(2, 0, 1)


def alias_free(node: Node, x: Tensor, style: Tensor) -> Tensor:
    """Section 3.1 of Karras et al. 2021; input gain by the moving average of magnitudes."""
    last, weight = node.attributes["is_torgb"], node["weight"]
    scale = fully(node.children["affine"], style)
    if last:
        scale = scale / math.sqrt(weight[0].numel())
    else:
        weight = weight / weight.square().mean((1, 2, 3), keepdim=True).sqrt()
        scale = scale / scale.square().mean().sqrt()
    weight = modulated(weight, scale, not last) / node["magnitude_ema"].sqrt()
    x = functional.conv2d(x[None], weight, padding=weight.shape[2] - 1)[0] + node["bias"][:, None, None]
    one = torch.ones(1, dtype=torch.float64)
    up, down = node.attributes["up_factor"], node.attributes["down_factor"]
    low, high = node.attributes["padding"][:2]
    x = upfirdn(x, one if node.buffers["up_filter"] is None else node["up_filter"], up, 1, (low, high), up**2)
    x = x if last else torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    x = x.clamp(-256, 256)
    return upfirdn(x, one if node.buffers["down_filter"] is None else node["down_filter"], 1, down, (0, 0), 1)


def stylegan3(generator: Node, z: Tensor, label: Tensor | None, psi: float, cutoff: int | None) -> Tensor:
    """One picture ``(3, side, side)`` from ``(d,)``."""
    ws = styles(generator, z, label, psi, cutoff)
    first, *layers = generator.children["synthesis"].children.values()
    x = waves(first, ws[0])
    for layer, style in zip(layers, ws[1:], strict=True):
        x = alias_free(layer, x, style)
    return x * 0.25
