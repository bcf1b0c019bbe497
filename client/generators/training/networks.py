"""The networks that are trained: encoder and decoder of pictures, and velocities of pictures and of vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_GROUPS, _TIMES = 8, 64


def level_count(side: int) -> int:
    """Halvings from a side to 4."""
    return int(math.log2(side)) - 2


class Encoder(nn.Module):
    """``(n, 3, side, side)`` to mean and log variance of a Gaussian, ``(n, 2, d)``."""

    def __init__(self, side: int, width: int, dimension: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.SiLU()]
        channels = width
        for level in range(level_count(side)):
            wider = min(width << (level + 1), 8 * width)
            layers += [nn.Conv2d(channels, wider, 4, 2, 1), nn.GroupNorm(_GROUPS, wider), nn.SiLU()]
            channels = wider
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(channels * 16, 2 * dimension)

    def forward(self, pictures: Tensor) -> Tensor:
        """Mean and log variance."""
        found: Tensor = self.last(self.layers(pictures).flatten(1))
        return found.reshape(found.shape[0], 2, -1)


class Decoder(nn.Module):
    """Latents ``(n, d)`` to ``(n, 3, side, side)`` in (-1, 1)."""

    def __init__(self, side: int, width: int, dimension: int) -> None:
        super().__init__()
        levels = level_count(side)
        channels = min(width << levels, 8 * width)
        self.first = nn.Linear(dimension, channels * 16)
        layers: list[nn.Module] = []
        for level in reversed(range(levels)):
            thinner = min(width << level, 8 * width)
            layers += [nn.Upsample(scale_factor=2.0), nn.Conv2d(channels, thinner, 3, padding=1)]
            layers += [nn.GroupNorm(_GROUPS, thinner), nn.SiLU()]
            channels = thinner
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 3, 3, padding=1))

    def forward(self, latent: Tensor) -> Tensor:
        """Pictures of latents."""
        unfolded = self.first(latent).unflatten(1, (-1, 4, 4))
        return torch.tanh(self.layers(unfolded))


class TimeEmbedding(nn.Module):
    """Times ``(n,)`` in [0, 1] to ``(n, width)``, by sines and cosines of rising frequency."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(200.0), _TIMES // 2)))
        self.layers = nn.Sequential(nn.Linear(_TIMES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        """Embeddings of times."""
        angles = time[:, None] * self.get_buffer("frequencies")
        embedded: Tensor = self.layers(torch.cat([angles.sin(), angles.cos()], 1))
        return embedded


class Residual(nn.Module):
    """Two convolutions beside a short cut, scaled and shifted by the time."""

    def __init__(self, inputs: int, outputs: int, times: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(_GROUPS, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(times, 2 * outputs)
        self.norm_again, self.conv_again = nn.GroupNorm(_GROUPS, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.short = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``(n, inputs, h, w)`` and embedded times to ``(n, outputs, h, w)``."""
        scale, shift = self.time(time)[:, :, None, None].chunk(2, 1)
        inner = self.norm_again(self.conv(functional.silu(self.norm(x)))) * (1 + scale) + shift
        out: Tensor = self.short(x) + self.conv_again(functional.silu(inner))
        return out


class PictureVelocity(nn.Module):
    """A small U-Net (Ronneberger, Fischer and Brox 2015): ``(n, 3, side, side)`` and times ``(n,)`` to the velocity."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        times = 4 * width
        sizes = [width << min(level, 2) for level in range(level_count(side))]
        self.time, self.first = TimeEmbedding(times), nn.Conv2d(3, width, 3, padding=1)
        channels = [width, *sizes]
        self.down = nn.ModuleList(Residual(a, b, times) for a, b in zip(channels, sizes, strict=False))
        self.middle = nn.ModuleList([Residual(sizes[-1], sizes[-1], times) for _ in range(2)])
        pairs = zip(sizes[::-1], [*sizes[-2::-1], width], strict=True)
        self.up = nn.ModuleList(Residual(2 * a, b, times) for a, b in pairs)
        self.last = nn.Sequential(nn.GroupNorm(_GROUPS, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """What brings a picture towards noise: noise minus picture."""
        embedded, x = self.time(time), self.first(x)
        skipped: list[Tensor] = []
        for block in self.down:
            x = block(x, embedded)
            skipped.append(x)
            x = functional.avg_pool2d(x, 2)
        for block in self.middle:
            x = block(x, embedded)
        for block in self.up:
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, skipped.pop()], 1), embedded)
        velocity: Tensor = self.last(x)
        return velocity


class VectorVelocity(nn.Module):
    """A multilayer perceptron: ``(n, d)`` and times ``(n,)`` to the velocity ``(n, d)``."""

    def __init__(self, dimension: int, width: int) -> None:
        super().__init__()
        self.time = TimeEmbedding(width)
        self.first, self.last = nn.Linear(dimension, width), nn.Linear(width, dimension)
        self.middle = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Noise minus latent."""
        embedded, hidden = self.time(time), self.first(x)
        for layer in self.middle:
            hidden = hidden + layer(functional.silu(hidden + embedded))
        velocity: Tensor = self.last(functional.silu(hidden))
        return velocity
