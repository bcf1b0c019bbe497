"""From features, style and pitch to sound: the vocoder of Kokoro-82M (iSTFTNet, Kaneko et al. 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.generators.fetched.kokoro_file import KokoroFile
from client.generators.fetched.kokoro_layers import Convolution, Styled

SAMPLE_RATE = 24_000
_PITCH_FRAME = 300  # samples
_HARMONICS, _LOUDNESS, _VOICED_HERTZ = 9, 0.1, 10.0
_WINDOW, _HOP = 20, 5
_TINY = 1e-3  # below it, the phase of a bin is rounding noise, which the network would turn into another sound
_FLAT = 1e-5  # of a bin's size: a smaller imaginary part is none, so that rounding does not turn phases by a whole turn


class Snakes(nn.Module):
    """A residual block of the vocoder, with periodic activations (Ziyin, Hartwig and Ueda 2020)."""

    def __init__(self, file: KokoroFile, path: str) -> None:
        super().__init__()
        self.first = nn.ModuleList(Convolution(file, f"{path}.convs1.{i}", dilation=2 * i + 1) for i in range(3))
        self.second = nn.ModuleList(Convolution(file, f"{path}.convs2.{i}") for i in range(3))
        self.norms1 = nn.ModuleList(Styled(file, f"{path}.adain1.{i}") for i in range(3))
        self.norms2 = nn.ModuleList(Styled(file, f"{path}.adain2.{i}") for i in range(3))
        for i in range(3):
            self.register_buffer(f"alpha1_{i}", file.tensor(f"{path}.alpha1.{i}"))
            self.register_buffer(f"alpha2_{i}", file.tensor(f"{path}.alpha2.{i}"))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``(n, c, t)``."""
        for i, (first, second, norm1, norm2) in enumerate(
            zip(self.first, self.second, self.norms1, self.norms2, strict=True)
        ):
            y = first(_snake(norm1(x, style), self.get_buffer(f"alpha1_{i}")))
            x = x + second(_snake(norm2(y, style), self.get_buffer(f"alpha2_{i}")))
        return x


def _snake(x: Tensor, alpha: Tensor) -> Tensor:
    return x + torch.sin(alpha * x).square() / alpha


class Source(nn.Module):
    """Sines at the harmonics of a pitch.

    Args:
        mix: how loud each is, ``(9, 1)``.
        bias: added to their sum, ``(1,)``.
    """

    def __init__(self, mix: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("mix", mix)
        self.register_buffer("bias", bias)
        self.register_buffer("within", (torch.arange(_PITCH_FRAME) + 0.5) / _PITCH_FRAME - 0.5)

    def forward(self, pitch: Tensor) -> Tensor:
        """Pitch ``(n, frames)`` in Hz to a wave ``(n, 300 frames)``; nothing but the bias below 10 Hz.

        Phases are kept within a turn: whole turns of the start of each frame are dropped before they cost precision.
        """
        rate = pitch[:, None] * torch.arange(1, _HARMONICS + 1, device=pitch.device)[:, None] / SAMPLE_RATE
        rate = _fraction(rate)  # turns in a sample, (n, 9, frames)
        middle = torch.cumsum(_fraction(_PITCH_FRAME * rate), 2)
        none = torch.zeros_like(rate[:, :, :1])
        before = torch.cat([none, rate[:, :, 1:]], 2)[..., None]
        after = torch.cat([rate[:, :, 1:], none], 2)[..., None]
        within = self.get_buffer("within")
        turns = _fraction(middle)[..., None] + _PITCH_FRAME * torch.where(within < 0, within * before, within * after)
        voiced = (pitch > _VOICED_HERTZ).float()[:, None, :, None]
        sines = (_LOUDNESS * voiced * torch.sin(2 * math.pi * turns)).flatten(2)
        return torch.tanh((sines * self.get_buffer("mix")).sum(1) + self.get_buffer("bias"))


class Spectrum(nn.Module):
    """Size and phase of a short Fourier transform, 20 samples with a Hann window, every 5 samples."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fourier", _fourier())

    def forward(self, sound: Tensor) -> Tensor:
        """Sound ``(n, samples)`` to 11 sizes and 11 phases, ``(n, 22, samples / 5 + 1)``; no size, no phase."""
        half = _WINDOW // 2
        padded = torch.cat([sound[:, 1 : half + 1].flip(1), sound, sound[:, -half - 1 : -1].flip(1)], 1)
        found = functional.conv1d(padded[:, None], self.get_buffer("fourier"), stride=_HOP)
        real, imaginary = found.chunk(2, 1)
        size = torch.sqrt(real.square() + imaginary.square() + 1e-14)
        imaginary = torch.where(imaginary.abs() > _FLAT * size, imaginary, 0.0)
        angle = torch.atan(imaginary / torch.where(real == 0, torch.full_like(real, 1e-10), real))
        around = torch.where(imaginary > 0, angle + math.pi, angle - math.pi)
        phase = torch.where(size > _TINY, torch.where(real < 0, around, angle), 0.0)
        return torch.cat([size, phase], 1)


class Vocoder(nn.Module):
    """A harmonic source, filtered into speech (iSTFTNet, Kaneko et al. 2022)."""

    def __init__(self, file: KokoroFile) -> None:
        super().__init__()
        path = "decoder.decoder.generator"
        self.noise_convs = nn.ModuleList(
            [
                Convolution(file, f"{path}.noise_convs.0", stride=6, padding=3),
                Convolution(file, f"{path}.noise_convs.1"),
            ]
        )
        self.noise_blocks = nn.ModuleList(Snakes(file, f"{path}.noise_res.{i}") for i in range(2))
        self.blocks = nn.ModuleList(Snakes(file, f"{path}.resblocks.{i}") for i in range(6))
        for i in range(2):
            weight, bias = file.transposed(f"{path}.ups.{i}")
            self.register_buffer(f"up_weight_{i}", weight)
            self.register_buffer(f"up_bias_{i}", bias)
        weight, bias = file.plain_convolution(f"{path}.conv_post")
        self.register_buffer("post_weight", weight)
        self.register_buffer("post_bias", bias)
        self.source = Source(file.harmonics(), file.tensor(f"{path}.m_source.l_linear.bias"))
        self.spectrum = Spectrum()
        self.register_buffer("inverse", file.tensor(f"{path}.stft.istft.stft.inverse_basis"))

    def forward(self, x: Tensor, style: Tensor, pitch: Tensor) -> Tensor:
        """Features ``(n, 512, 2 t)``, styles and pitch ``(n, 2 t)`` to sound ``(n, 600 t)``."""
        source = self.spectrum(self.source(pitch))
        for i, (rate, kernel) in enumerate(((10, 20), (6, 12))):
            x = functional.leaky_relu(x, 0.1)
            weight, bias = self.get_buffer(f"up_weight_{i}"), self.get_buffer(f"up_bias_{i}")
            x = functional.conv_transpose1d(x, weight, bias, rate, (kernel - rate) // 2)
            if i == 1:
                x = torch.cat([x[:, :, 1:2], x], 2)  # one frame mirrored at the start
            x = x + self.noise_blocks[i](self.noise_convs[i](source), style)
            x = sum((block(x, style) for block in self.blocks[3 * i + 1 : 3 * i + 3]), self.blocks[3 * i](x, style)) / 3
        x = functional.conv1d(
            functional.leaky_relu(x, 0.01), self.get_buffer("post_weight"), self.get_buffer("post_bias"), padding=3
        )
        size, phase = torch.exp(x[:, : _WINDOW // 2 + 1]), torch.sin(x[:, _WINDOW // 2 + 1 :])
        both = torch.cat([size * torch.cos(phase), size * torch.sin(phase)], 1)
        sound = functional.conv_transpose1d(both, self.get_buffer("inverse"), stride=_HOP)[:, 0]
        return sound[:, _WINDOW // 2 : -_WINDOW // 2] * (_WINDOW / _HOP)


def _fraction(x: Tensor) -> Tensor:
    return x - torch.floor(x)


def _fourier() -> Tensor:
    """``(22, 1, 20)``: real and imaginary parts of the transform, with a Hann window."""
    n = torch.arange(_WINDOW, dtype=torch.float64)
    angle = 2 * math.pi * torch.arange(_WINDOW // 2 + 1, dtype=torch.float64)[:, None] * n / _WINDOW
    window = torch.hann_window(_WINDOW, dtype=torch.float64)
    imaginary = -torch.sin(angle) * window
    imaginary[0], imaginary[-1] = 0, 0  # exactly: the sign of rounding noise would turn their phase
    return torch.cat([torch.cos(angle) * window, imaginary])[:, None].float()
