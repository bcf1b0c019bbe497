"""Synthesis of StyleGAN2 and StyleGAN2-ADA in plain operators (Karras et al. 2020, sections 2.2 and 4.1).

The weights are modulated per picture there, which asks for one convolution per picture. The same numbers come out when
the input is scaled before, and the output after, one shared convolution: equations 1 and 3 are linear in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from client.generators.importers.inert import StoredModule
from client.generators.importers.stylegan_fir import Fir
from client.generators.importers.stylegan_mapping import SLOPE, dense, whole
from client.generators.importers.weights import Weights
from common.errors import UnreadableModel

_TINY = 1e-8
_ARCHITECTURES = ("orig", "skip", "resnet")


class StyledConvolution(nn.Module):
    """A convolution with modulation and demodulation, noise, bias and leaky ReLU; doubles the side if asked.

    Attributes:
        side: height and width of the result.
        noisy: whether it takes noise.
    """

    def __init__(
        self, stored: StoredModule, weights: Weights, name: str, *, inputs: int, styles: int, gain: float
    ) -> None:
        super().__init__()
        about = stored.find(name) or StoredModule("", {})
        if about.attributes.get("activation", "lrelu") != "lrelu":
            raise UnreadableModel(f"{weights.what}: {name} has another activation than lrelu, which is not read")
        self.side, up = whole(about, "resolution", weights.what), whole(about, "up", weights.what)
        self.outputs, _, kernel, _ = weights.shape(f"{name}.weight") or (1, 1, 3, 3)
        self.affine = dense(weights, stored, f"{name}.affine", styles, inputs)
        weight = weights.take(f"{name}.weight", self.outputs, inputs, kernel, kernel)
        self.register_buffer("weight", weight.transpose(0, 1).contiguous() if up == 2 else weight)
        self.register_buffer("energy", weight.square().sum((2, 3)).T.contiguous())
        self.register_buffer("bias", weights.take(f"{name}.bias", self.outputs)[:, None, None])
        self.gain, self.clamp, self.padding = math.sqrt(2) * gain, _clamp(about, gain), kernel // 2
        taps = resampling_filter(weights, f"{name}.resample_filter")
        before, after = (taps.shape[0] + 1) // 2 + 1 - kernel, (taps.shape[0] - 2) // 2 + 2 - kernel
        padded = (self.padding + before, self.padding + after)
        self.smooth = Fir(taps, self.outputs, before=padded[0], after=padded[1], gain=4.0) if up == 2 else None
        self.noisy = bool(about.attributes.get("use_noise", True))
        if self.noisy:
            self.register_buffer("noise", weights.take(f"{name}.noise_const", self.side, self.side))
            self.register_buffer("strength", weights.take(f"{name}.noise_strength"))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """``(n, i, h, w)``, ``(n, s)`` and ``(side, side)`` to ``(n, o, side, side)``."""
        scale = self.affine(style)
        x = x * scale[:, :, None, None]
        if self.smooth is None:
            x = functional.conv2d(x, self.get_buffer("weight"), padding=self.padding)
        else:
            x = self.smooth(functional.conv_transpose2d(x, self.get_buffer("weight"), stride=2))
        x = x * (scale.square() @ self.get_buffer("energy") + _TINY).rsqrt()[:, :, None, None]
        if noise is not None and self.noisy:
            x = x + noise * self.get_buffer("strength")
        return _limited(functional.leaky_relu(x + self.get_buffer("bias"), SLOPE) * self.gain, self.clamp)


class Colours(nn.Module):
    """A modulated 1 x 1 convolution to the channels of the picture, without demodulation."""

    def __init__(self, stored: StoredModule, weights: Weights, name: str, *, inputs: int, styles: int) -> None:
        super().__init__()
        about = stored.find(name) or StoredModule("", {})
        self.outputs = (weights.shape(f"{name}.weight") or (1,))[0]
        self.affine = dense(weights, stored, f"{name}.affine", styles, inputs)
        weight = weights.take(f"{name}.weight", self.outputs, inputs, 1, 1) / math.sqrt(inputs)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", weights.take(f"{name}.bias", self.outputs))
        self.clamp = _clamp(about, 1.0)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``(n, i, h, w)`` and ``(n, s)`` to ``(n, channels, h, w)``."""
        x = x * self.affine(style)[:, :, None, None]
        return _limited(functional.conv2d(x, self.get_buffer("weight"), self.get_buffer("bias")), self.clamp)


class Block(nn.Module):
    """One resolution: a start or a doubling convolution, one more convolution, and the picture so far."""

    def __init__(
        self, stored: StoredModule, weights: Weights, name: str, *, inputs: int, styles: int, channels: int
    ) -> None:
        super().__init__()
        about = stored.find(name) or StoredModule("", {})
        architecture = about.attributes.get("architecture", "skip")
        if architecture not in _ARCHITECTURES:
            raise UnreadableModel(f"{weights.what} has the architecture {architecture!r}, not one of {_ARCHITECTURES}")
        side = whole(about, "resolution", weights.what)
        taps = resampling_filter(weights, f"{name}.resample_filter")
        self.first: StyledConvolution | None = None
        self.residual = architecture == "resnet" and inputs > 0
        if inputs:
            self.first = StyledConvolution(stored, weights, f"{name}.conv0", inputs=inputs, styles=styles, gain=1.0)
            middle = self.first.outputs
        else:
            middle = (weights.shape(f"{name}.const") or (1,))[0]
            self.register_buffer("start", weights.take(f"{name}.const", middle, side, side)[None])
        gain = math.sqrt(0.5) if self.residual else 1.0
        self.second = StyledConvolution(stored, weights, f"{name}.conv1", inputs=middle, styles=styles, gain=gain)
        self.outputs = self.second.outputs
        edges = {"before": (taps.shape[0] + 1) // 2, "after": (taps.shape[0] - 2) // 2}
        if self.residual:
            self.enlarge_features = Fir(taps, self.outputs, up=2, gain=4.0, **edges)
            weights.ignore(f"{name}.skip.resample_filter")  # the same as the block's
            shortcut = weights.take(f"{name}.skip.weight", self.outputs, inputs, 1, 1) * math.sqrt(0.5 / inputs)
            self.register_buffer("shortcut", shortcut)
        coloured = about.attributes.get("is_last", False) or architecture == "skip"
        colours = Colours(stored, weights, f"{name}.torgb", inputs=self.outputs, styles=styles) if coloured else None
        self.colours = colours
        self.enlarge = Fir(taps, channels, up=2, gain=4.0, **edges) if inputs and channels else None

    @property
    def convolutions(self) -> list[StyledConvolution]:
        """Its one or two convolutions, in the order they run."""
        return [self.second] if self.first is None else [self.first, self.second]

    def forward(
        self, x: Tensor, picture: Tensor | None, styles: Sequence[Tensor], noise: Iterator[Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        """Features and picture at half the side to those at its own; ``styles`` has one more than convolutions."""
        if self.first is None:
            x = self.second(self.get_buffer("start").expand(styles[0].shape[0], -1, -1, -1), styles[0], next(noise))
        else:
            before = x
            x = self.second(self.first(x, styles[0], next(noise)), styles[1], next(noise))
            if self.residual:
                x = x + self.enlarge_features(functional.conv2d(before, self.get_buffer("shortcut")))
        picture = None if picture is None or self.enlarge is None else self.enlarge(picture)
        if self.colours is not None:
            colours = self.colours(x, styles[len(self.convolutions)])
            picture = colours if picture is None else picture + colours
        return x, picture


class Synthesis2(nn.Module):
    """Styles to pictures.

    Attributes:
        side: height and width of a picture.
        channels: of a picture.
        styles: how many styles it takes.
        width: ``w``, numbers in a style.
    """

    def __init__(self, stored: StoredModule, weights: Weights) -> None:
        super().__init__()
        about = stored.find("synthesis") or StoredModule("", {})
        self.side, self.width = (whole(about, each, weights.what) for each in ("img_resolution", "w_dim"))
        self.channels = whole(about, "img_channels", weights.what)
        if self.side < 4 or self.side & (self.side - 1):
            raise UnreadableModel(f"{weights.what} draws {self.side} pixels, which is no power of two from 4 up")
        blocks, inputs = [], 0
        for side in (1 << i for i in range(2, self.side.bit_length())):
            blocks.append(
                Block(stored, weights, f"synthesis.b{side}", inputs=inputs, styles=self.width, channels=self.channels)
            )
            inputs = blocks[-1].outputs
        last = blocks[-1].colours
        if last is None or last.outputs != self.channels:
            raise UnreadableModel(
                f"{weights.what} has no {self.channels} colours in its last block; get the file again"
            )
        self.blocks = nn.ModuleList(blocks)
        self.convolutions = [each for block in blocks for each in block.convolutions]
        self.counts = [len(block.convolutions) for block in blocks]
        self.styles = len(self.convolutions) + 1

    def forward(self, styles: Sequence[Tensor], noise: Sequence[Tensor | None]) -> Tensor:
        """One ``(n, w)`` per style, and noise per convolution, to ``(n, channels, side, side)``."""
        x, picture, at, remaining = styles[0], None, 0, iter(noise)
        for block, count in zip(self.blocks, self.counts, strict=True):
            x, picture = block(x, picture, styles[at : at + count + 1], remaining)
            at += count
        return cast(Tensor, picture)  # the last block has colours, checked when made


def resampling_filter(weights: Weights, name: str) -> Tensor:
    """A filter of the file, square; a row where it is stored as one."""
    return weights.take(name, *(weights.shape(name) or (4,)))


def _clamp(about: StoredModule, gain: float) -> float | None:
    bound = about.attributes.get("conv_clamp")
    return None if bound is None else float(bound) * gain


def _limited(x: Tensor, bound: float | None) -> Tensor:
    return x if bound is None else x.clamp(-bound, bound)
