"""What people see in a picture, as numbers: layout, colour, edges, symmetry and texture.

These features describe pictures only; no person was involved in choosing them. A latent map learns to predict their
principal components from the latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

TEXTURE_SEED = 20_240_229
_ORIENTATIONS, _HUES, _TONES = 8, 12, 8


def picture_blocks(pictures: Tensor) -> dict[str, Tensor]:
    """Perceptual features by kind.

    Guarantee: a picture gives the same numbers whatever else is in the batch; a plain one gives finite ones.

    Args:
        pictures: ``(n, 3, h, w)`` in [-1, 1], h and w at least 16.

    Returns:
        Each ``(n, f)``, float32: ``layout`` 192, ``colour`` 43, ``edges`` 50, ``symmetry`` 8, ``texture`` 288.
    """
    opponent = _opponent(pictures.float())
    return {
        "layout": functional.adaptive_avg_pool2d(opponent, 8).flatten(1),
        "colour": _colour(opponent),
        "edges": _edges(opponent),
        "symmetry": _symmetry(opponent),
        "texture": _texture(pictures.float()),
    }


@dataclass(frozen=True, kw_only=True)
class FeatureScale:
    """Centre and scale of each kind of features, so that every kind has the same total variance.

    Attributes:
        mean: for each kind, ``(f,)``.
        factor: for each kind, what brings its total variance over the reference pictures to 1.
    """

    mean: dict[str, Tensor]
    factor: dict[str, float]

    @classmethod
    def fit(cls, blocks: dict[str, Tensor]) -> FeatureScale:
        """Measure on reference pictures; ``blocks`` as from `picture_blocks`."""
        return cls(
            mean={kind: block.mean(0) for kind, block in blocks.items()},
            factor={kind: 1 / math.sqrt(float(block.var(0).sum()) + 1e-12) for kind, block in blocks.items()},
        )

    def apply(self, blocks: dict[str, Tensor]) -> Tensor:
        """Features of all kinds side by side, ``(n, f)``, balanced."""
        return torch.cat([(block - self.mean[kind]) * self.factor[kind] for kind, block in blocks.items()], 1)


def _opponent(pictures: Tensor) -> Tensor:
    """Lightness, red-green, yellow-blue: ``(n, 3, h, w)``."""
    red, green, blue = pictures.unbind(1)
    return torch.stack([0.3 * red + 0.59 * green + 0.11 * blue, (red - green) / 2, (red + green) / 4 - blue / 2], 1)


def _colour(opponent: Tensor) -> Tensor:
    """Moments of each channel, histograms of tone, of hue weighted by chroma, and of chroma."""
    flat = opponent.flatten(2)
    mean, spread = flat.mean(2), flat.std(2, correction=0)
    skew = ((flat - mean[..., None]) / (spread[..., None] + 0.05)).pow(3).mean(2).clamp(-4, 4)
    lightness, a, b = flat.unbind(1)
    tone = _soft_histogram(lightness, -0.9, 0.9, _TONES)
    chroma = torch.sqrt(a * a + b * b + 1e-8)
    strength = _soft_histogram(chroma, 0.0, 0.7, 6)
    steps = torch.arange(_HUES) * (2 * math.pi / _HUES)
    toward = (a[:, None] * steps.cos()[:, None] + b[:, None] * steps.sin()[:, None]) / chroma[:, None]
    hue = (torch.exp(6 * (toward - 1)) * chroma[:, None]).mean(2)
    brightness_of_hue = functional.relu(a).mean(1), functional.relu(-a).mean(1), functional.relu(b).mean(1)
    covariance = torch.stack([(lightness * a).mean(1), (lightness * b).mean(1), (a * b).mean(1)], 1)
    extra = torch.stack([*brightness_of_hue, functional.relu(-b).mean(1), chroma.mean(1)], 1)
    return torch.cat([mean, spread, 0.3 * skew, tone, strength, hue, covariance, extra], 1)


def _soft_histogram(values: Tensor, low: float, high: float, bins: int) -> Tensor:
    """Share of ``(n, pixels)`` values near each of ``bins`` centres."""
    centres = torch.linspace(low, high, bins)
    width = (high - low) / (bins - 1)
    return torch.stack([torch.exp(-(((values - centre) / width) ** 2)).mean(1) for centre in centres], 1)


def _edges(opponent: Tensor) -> Tensor:
    """Energy of lightness edges by direction, in the whole picture and its quarters, and at two scales."""
    lightness = opponent[:, :1]
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    kernels = torch.stack([kernel, kernel.T])[:, None]
    found = []
    for scale in (1, 2):
        shrunk = functional.avg_pool2d(lightness, scale)
        gradient = functional.conv2d(shrunk, kernels)
        energy = torch.sqrt(gradient.square().sum(1) + 1e-8)
        steps = torch.arange(_ORIENTATIONS) * (math.pi / _ORIENTATIONS)
        along = gradient[:, :1] * steps.cos()[:, None, None] + gradient[:, 1:] * steps.sin()[:, None, None]
        directed = along.square() / energy[:, None] * (along.abs() / energy[:, None]) ** 2
        found.append(directed.mean((2, 3)).sqrt())
        found.append(energy.mean((1, 2))[:, None].sqrt())
        if scale == 1:
            found.append(functional.adaptive_avg_pool2d(directed, 2).flatten(1).sqrt())
    return torch.cat(found, 1)


def _symmetry(opponent: Tensor) -> Tensor:
    """Likeness of a picture to itself mirrored, turned by half and transposed: in lightness and in colour."""
    side = min(opponent.shape[2:])
    centred = functional.adaptive_avg_pool2d(opponent, min(side, 24))
    centred = centred - centred.mean((2, 3), keepdim=True)
    found = []
    for channels in (centred[:, :1], centred[:, 1:]):
        size = channels.square().mean((1, 2, 3)) + 1e-3
        for other in (channels.flip(3), channels.flip(2), channels.flip(2, 3), channels.transpose(2, 3)):
            found.append((channels * other).mean((1, 2, 3)) / size)
    return torch.stack(found, 1)


def _texture(pictures: Tensor) -> Tensor:
    """Responses of a fixed random convolutional network, pooled over the picture and over its quarters."""
    generator = torch.Generator().manual_seed(TEXTURE_SEED)
    first = torch.randn(32, 3, 5, 5, generator=generator)
    first = (first - 0.8 * first.mean((2, 3), keepdim=True)) / 5
    second = torch.randn(48, 32, 3, 3, generator=generator) / math.sqrt(32 * 9 / 2)
    middle = functional.relu(functional.conv2d(pictures, first, stride=2))
    top = functional.relu(functional.conv2d(middle, second, stride=2))
    quarters = functional.adaptive_avg_pool2d(top, 2).flatten(1)
    return torch.cat([top.mean((2, 3)), top.std((2, 3), correction=0), quarters], 1)
