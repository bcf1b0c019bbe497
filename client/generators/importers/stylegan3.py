"""Synthesis of StyleGAN3, configurations T and R, in plain operators (Karras et al. 2021).

A layer's sampling rate, cutoff, transition band and size follow from the paper's rule (section 3.2, appendix C.1,
figure 4c); its filters come with the file, so they are the ones it was trained with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.generators.importers.inert import StoredModule, arguments
from client.generators.importers.stylegan_fir import Fir
from client.generators.importers.stylegan_mapping import SLOPE, dense, whole
from client.generators.importers.weights import Weights
from common.errors import UnreadableModel

_TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class AliasFreeSettings:
    """Arguments of the synthesis network that its weights do not tell; the defaults are the paper's.

    Attributes:
        img_resolution: side of the picture.
        num_layers: layers without input and colours.
        num_critical: layers at the end that are sampled critically.
        first_cutoff: cutoff frequency of the first layer, cycles per picture.
        first_stopband: stopband of the first layer.
        last_stopband_rel: stopband of the last layer as a multiple of its cutoff.
        margin_size: pixels beyond the picture on each side.
        output_scale: factor on the picture.
        channel_base: channels times cutoff, times two.
        channel_max: most channels of a layer.
        conv_kernel: side of the convolutions: 3 in T, 1 in R.
        filter_size: taps of a filter per factor it resamples by.
        lrelu_upsampling: factor of the rate at which the leaky ReLU runs.
        use_radial_filters: whether filters are radially symmetric, as in R.
        conv_clamp: bound of activations.
        magnitude_ema_beta: used in training only.
        num_fp16_res: used on old GPUs only.

    Raises:
        UnreadableModel: a value is impossible.
    """

    img_resolution: int
    num_layers: int = 14
    num_critical: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3
    margin_size: int = 10
    output_scale: float = 0.25
    channel_base: float = 32768
    channel_max: float = 512
    conv_kernel: int = 3
    filter_size: int = 6
    lrelu_upsampling: int = 2
    use_radial_filters: bool = False
    conv_clamp: float | None = 256
    magnitude_ema_beta: float = 0.999
    num_fp16_res: int = 4

    def __post_init__(self) -> None:
        checks = {
            "img_resolution": 4 <= self.img_resolution <= 4096,
            "num_layers": 1 <= self.num_layers <= 64,
            "num_critical": 0 <= self.num_critical < self.num_layers,
            "first_cutoff": 0 < self.first_cutoff < self.img_resolution / 2,
            "first_stopband": 0 < self.first_stopband < self.img_resolution,
            "last_stopband_rel": 1 <= self.last_stopband_rel < 8,
            "margin_size": 0 <= self.margin_size <= 256,
            "channel_base": 1 <= self.channel_base <= 1 << 24,
            "channel_max": 1 <= self.channel_max <= 1 << 14,
            "conv_kernel": self.conv_kernel in (1, 3, 5),
            "filter_size": 1 <= self.filter_size <= 32,
            "lrelu_upsampling": 1 <= self.lrelu_upsampling <= 8,
        }
        if wrong := [f"{name}={getattr(self, name)}" for name, good in checks.items() if not good]:
            raise UnreadableModel(f"the file was made with {', '.join(wrong)}, which cannot be right; get it again")

    @classmethod
    def of(cls, arguments: Mapping[str, Any], what: str) -> AliasFreeSettings:
        """Settings from the constructor arguments a file notes.

        Raises:
            UnreadableModel: an argument is unknown or no number.
        """
        arguments = {key: value for key, value in arguments.items() if key not in ("w_dim", "img_channels")}
        if unknown := sorted(set(arguments) - {each.name for each in fields(cls)}):
            raise UnreadableModel(f"{what} was made with {', '.join(unknown[:4])}, which StyleGAN3 does not have")
        if any(not isinstance(value, int | float | None) for value in arguments.values()):
            raise UnreadableModel(f"{what} was made with arguments that are no numbers; get the file again")
        return cls(**arguments)


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """How one layer is sampled; all frequencies in cycles per picture.

    Attributes:
        name: in the file, ``L<index>_<size>_<channels>``.
        inputs: channels that come in.
        outputs: channels that go out.
        input_size: side that comes in, with margin.
        output_size: side that goes out.
        up: factor from the incoming rate to that of the leaky ReLU.
        down: factor from there to the outgoing rate.
        up_taps: taps of the filter before the leaky ReLU.
        down_taps: taps of the filter after it.
        kernel: side of the convolution.
        before: padding above and to the left, at the rate of the leaky ReLU.
        after: padding below and to the right.
        colours: whether it is the last one, which makes the picture.
    """

    name: str
    inputs: int
    outputs: int
    input_size: int
    output_size: int
    up: int
    down: int
    up_taps: int
    down_taps: int
    kernel: int
    before: int
    after: int
    colours: bool


def sampling(settings: AliasFreeSettings) -> tuple[list[float], list[int], list[int]]:
    """Cutoff frequencies, sampling rates and sizes of all layers (Karras et al. 2021, appendix C.1).

    Cutoffs and stopbands grow geometrically up to the critically sampled layers; the rate is the next power of two
    above twice the stopband, at most the resolution.
    """
    last_cutoff = settings.img_resolution / 2
    last_stopband = last_cutoff * settings.last_stopband_rel
    steps = settings.num_layers - settings.num_critical
    growth = [min(i / steps, 1.0) for i in range(settings.num_layers + 1)]
    cutoffs = [settings.first_cutoff * (last_cutoff / settings.first_cutoff) ** g for g in growth]
    stopbands = [settings.first_stopband * (last_stopband / settings.first_stopband) ** g for g in growth]
    rates = [2 ** math.ceil(math.log2(min(2 * band, settings.img_resolution))) for band in stopbands]
    sizes = [rate + 2 * settings.margin_size for rate in rates]
    sizes[-2:] = [settings.img_resolution] * 2
    return cutoffs, rates, sizes


def plans(settings: AliasFreeSettings, channels: int) -> list[LayerPlan]:
    """Every layer of the network, the one that makes the picture last; ``channels`` of the picture."""
    cutoffs, rates, sizes = sampling(settings)
    widths = [round(min(settings.channel_base / 2 / cutoff, settings.channel_max)) for cutoff in cutoffs]
    widths[-1] = channels
    made = []
    for index in range(settings.num_layers + 1):
        before, colours = max(index - 1, 0), index == settings.num_layers
        rate = max(rates[before], rates[index]) * (1 if colours else settings.lrelu_upsampling)
        up, down, kernel = rate // rates[before], rate // rates[index], 1 if colours else settings.conv_kernel
        up_taps, down_taps = (
            settings.filter_size * factor if factor > 1 and not colours else 1 for factor in (up, down)
        )
        total = (sizes[index] - 1) * down + 1 - (sizes[before] + kernel - 1) * up + up_taps + down_taps - 2
        first = (total + up) // 2  # sample points sit symmetrically around the picture (appendix C.3)
        plan = LayerPlan(
            name=f"L{index}_{sizes[index]}_{widths[index]}",
            inputs=widths[before],
            outputs=widths[index],
            input_size=sizes[before],
            output_size=sizes[index],
            up=up,
            down=down,
            up_taps=up_taps,
            down_taps=down_taps,
            kernel=kernel,
            before=first,
            after=total - first,
            colours=colours,
        )
        made.append(plan)
    return made


class FourierInput(nn.Module):
    """Waves over the plane, turned and shifted by a style, then mixed (section 3.2 and appendix F)."""

    def __init__(
        self, stored: StoredModule, weights: Weights, *, channels: int, styles: int, size: int, rate: int, band: float
    ) -> None:
        super().__init__()
        name = "synthesis.input"
        self.affine = dense(weights, stored, f"{name}.affine", styles, 4)
        for tensor, shape in {"freqs": (channels, 2), "phases": (channels,), "transform": (3, 3)}.items():
            self.register_buffer(tensor, weights.take(f"{name}.{tensor}", *shape))
        weight = weights.take(f"{name}.weight", channels, channels) / math.sqrt(channels)
        self.register_buffer("weight", weight.T.contiguous())
        self.size, self.band, self.fall = size, band, rate / 2 - band
        axis = (torch.arange(size, dtype=torch.float64) * 2 + 1 - size) / (2 * rate)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.register_buffer("grid", torch.stack([x, y], -1).reshape(-1, 2).float())

    def forward(self, style: Tensor) -> Tensor:
        """``(n, s)`` to ``(n, channels, size, size)``."""
        rotation, shift = self._transform(style)
        freqs = self.get_buffer("freqs") @ rotation  # (n, c, 2)
        phases = (self.get_buffer("freqs") @ shift + self.get_buffer("phases")[:, None]).transpose(1, 2)  # (n, 1, c)
        damped = (1 - (freqs.square().sum(2).sqrt() - self.band) / self.fall).clamp(0, 1).unsqueeze(1)
        waves = torch.sin(2 * math.pi * (self.get_buffer("grid") @ freqs.transpose(1, 2) + phases)) * damped
        mixed = (waves @ self.get_buffer("weight")).transpose(1, 2)
        return mixed.reshape(-1, mixed.shape[1], self.size, self.size)

    def _transform(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """The turn ``(n, 2, 2)`` and shift ``(n, 2, 1)`` of the plane: the style's, after the file's own."""
        t = self.affine(style)
        t = t / t[:, :2].square().sum(1, keepdim=True).sqrt()
        c, s, x, y = t.unbind(1)
        rows = [torch.stack([c, -s, s * y - c * x], 1), torch.stack([s, c, -s * x - c * y], 1)]
        moved = torch.stack(rows, 1) @ self.get_buffer("transform")
        return moved[:, :, :2], moved[:, :, 2:]


class AliasFreeLayer(nn.Module):
    """Modulated convolution, then a leaky ReLU at a higher rate between two low-pass filters (section 3.1)."""

    def __init__(
        self, stored: StoredModule, weights: Weights, plan: LayerPlan, settings: AliasFreeSettings, styles: int
    ) -> None:
        super().__init__()
        name = f"synthesis.{plan.name}"
        self.colours, self.padding, self.clamp = plan.colours, plan.kernel - 1, settings.conv_clamp
        self.affine = dense(weights, stored, f"{name}.affine", styles, plan.inputs)
        weight = weights.take(f"{name}.weight", plan.outputs, plan.inputs, plan.kernel, plan.kernel)
        fan_in = plan.inputs * plan.kernel**2
        power = weight.square().mean((1, 2, 3), keepdim=True)
        weight = weight / math.sqrt(fan_in) if plan.colours else weight * power.clamp_min(_TINY).rsqrt()
        self.register_buffer("weight", weight)
        self.register_buffer("energy", weight.square().sum((2, 3)).T.contiguous())
        magnitude = weights.take(f"{name}.magnitude_ema")
        if f"{name}.magnitude_ema" in weights and not float(magnitude) > 0:
            raise UnreadableModel(f"{weights.what}: {name}.magnitude_ema must be > 0; use another checkpoint")
        self.input_gain = float(magnitude.clamp_min(_TINY).rsqrt())
        self.register_buffer("bias", weights.take(f"{name}.bias", plan.outputs)[:, None, None])
        up_filter = _taps(weights, f"{name}.up_filter", plan.up_taps)
        self.raise_rate = Fir(
            up_filter, plan.outputs, up=plan.up, before=plan.before, after=plan.after, gain=float(plan.up**2)
        )
        self.lower_rate = Fir(_taps(weights, f"{name}.down_filter", plan.down_taps), plan.outputs, down=plan.down)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``(n, i, h, w)`` and ``(n, s)`` to ``(n, o, h', w')``."""
        scale = self.affine(style)
        if not self.colours:
            scale = scale * scale.square().mean(1, keepdim=True).clamp_min(_TINY).rsqrt()
        x = functional.conv2d(
            x * (scale * self.input_gain)[:, :, None, None], self.get_buffer("weight"), padding=self.padding
        )
        if not self.colours:
            x = x * (scale.square() @ self.get_buffer("energy") + _TINY).rsqrt()[:, :, None, None]
        x = self.raise_rate(x + self.get_buffer("bias"))
        if not self.colours:
            x = functional.leaky_relu(x, SLOPE) * math.sqrt(2)
        lowered: Tensor = self.lower_rate(x if self.clamp is None else x.clamp(-self.clamp, self.clamp))
        return lowered


class Synthesis3(nn.Module):
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
        self.width, self.channels = (whole(about, name, weights.what) for name in ("w_dim", "img_channels"))
        settings = AliasFreeSettings.of(arguments(about), weights.what)
        layers = plans(settings, self.channels)
        cutoffs, rates, sizes = sampling(settings)
        self.input = FourierInput(
            stored,
            weights,
            channels=layers[0].inputs,
            styles=self.width,
            size=sizes[0],
            rate=rates[0],
            band=cutoffs[0],
        )
        self.layers = nn.ModuleList(AliasFreeLayer(stored, weights, plan, settings, self.width) for plan in layers)
        self.side, self.styles, self.scale = settings.img_resolution, len(layers) + 1, settings.output_scale

    def forward(self, styles: Sequence[Tensor], noise: Sequence[Tensor | None] = ()) -> Tensor:
        """One ``(n, w)`` per style to ``(n, channels, side, side)``; StyleGAN3 has no noise."""
        x: Tensor = self.input(styles[0])
        for layer, style in zip(self.layers, styles[1:], strict=True):
            x = layer(x, style)
        return x * self.scale


def _taps(weights: Weights, name: str, taps: int) -> Tensor:
    """A filter of the file: ``(taps,)``, or ``(taps, taps)`` where it is radially symmetric; 1 where none is needed."""
    if taps == 1 and name not in weights:
        return torch.ones(1)
    return weights.take(name, *([taps] * len(weights.shape(name) or (0,))))
