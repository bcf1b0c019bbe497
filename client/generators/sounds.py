"""Sounds: as files, as pictures of their spectrum over time, and as numbers that describe what people hear.

The picture stands for the sound wherever pictures are shown (page, wall, history, terminal); the sound itself is
played from a WAV file. A latent map learns the numbers, as it learns those of `pictures` for pictures.
"""

from __future__ import annotations

import io
import math
import wave
from functools import cache

import torch
from torch import Tensor

BANDS = 32
"""Mel bands: steps of pitch that people hear as about equal (Stevens, Volkmann and Newman 1937)."""
_FRAMES = 16  # stretches of time a description tells apart
_WINDOW_SECONDS = 0.032
_QUIETEST = -80.0  # decibels below full scale, shown as black
_FROM_HERTZ = 50.0
# from silence to loud: near black, violet, orange, pale yellow
_COLOURS = ((0.03, 0.03, 0.10), (0.32, 0.13, 0.48), (0.85, 0.32, 0.33), (0.99, 0.72, 0.30), (1.0, 0.98, 0.80))


def wav_file(sound: Tensor, sample_rate: int) -> bytes:
    """A sound ``(samples,)`` in [-1, 1] as a WAV file: one channel, 16 bits, ``sample_rate`` in samples per second."""
    levels = (sound.detach().cpu().clamp(-1, 1) * 32767).round().to(torch.int16)
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(levels.numpy().astype("<i2").tobytes())
    return content.getvalue()


def spectra(sounds: Tensor, sample_rate: int) -> Tensor:
    """Loudness over time by band, in decibels.

    Guarantee: silence is the quietest value everywhere; a sound shorter than one window is padded.

    Args:
        sounds: ``(n, samples)`` in [-1, 1].
        sample_rate: samples per second.

    Returns:
        ``(n, 32, frames)`` from -80 to about 0; band 0 is the lowest.
    """
    window = 1 << max(6, round(math.log2(_WINDOW_SECONDS * sample_rate)))
    short = max(0, window - sounds.shape[1])
    padded = torch.nn.functional.pad(sounds.float(), (0, short))
    shape = torch.hann_window(window)
    found = torch.stft(padded, window, window // 2, window=shape, center=False, return_complex=True)
    power = found.abs().square() / shape.sum().square() * 4  # a full sine has power 1 in its band
    bands = _mel_filters(window // 2 + 1, sample_rate) @ power
    return (10 * torch.log10(bands.clamp(min=10 ** (_QUIETEST / 10)))).clamp(min=_QUIETEST)


def sound_pictures(sounds: Tensor, sample_rate: int, size: int) -> Tensor:
    """Pictures ``(n, 3, size, size)`` in [-1, 1] of sounds ``(n, samples)``: time to the right, pitch upwards."""
    level = 1 - spectra(sounds, sample_rate).flip(1)[:, None] / _QUIETEST
    level = torch.nn.functional.interpolate(level, (size, size), mode="bilinear", align_corners=False)
    table = torch.tensor(_COLOURS)
    at = level[:, 0].clamp(0, 1) * (len(table) - 1)
    low = at.long().clamp(max=len(table) - 2)
    part = (at - low).unsqueeze(-1)
    picture = (1 - part) * table[low] + part * table[low + 1]
    return (2 * picture - 1).permute(0, 3, 1, 2)


def sound_blocks(sounds: Tensor, sample_rate: int) -> dict[str, Tensor]:
    """What people hear in a sound, by kind; as `pictures.picture_blocks` for pictures.

    Guarantee: a sound gives the same numbers whatever else is in the batch; silence gives finite ones.

    Args:
        sounds: ``(n, samples)`` in [-1, 1].
        sample_rate: samples per second.

    Returns:
        Each ``(n, f)`` float32: ``course`` 512 (bands over time), ``timbre`` 64 (mean and spread of each band),
        ``voice`` 14 (cosine transform of the mean spectrum, which tells voices apart), ``pitch`` 33 (how periodic, at
        which lags), ``rhythm`` 19 (loudness over time, and how it changes).
    """
    bands = spectra(sounds, sample_rate)
    course = torch.nn.functional.adaptive_avg_pool1d(bands, _FRAMES)
    mean, spread = bands.mean(2), bands.std(2, correction=0)
    loudness = torch.nn.functional.adaptive_avg_pool1d(bands.mean(1, keepdim=True), _FRAMES)[:, 0]
    change = (loudness[:, 1:] - loudness[:, :-1]).abs()
    rhythm = [loudness, change.mean(1, keepdim=True), loudness.amax(1, keepdim=True), loudness.amin(1, keepdim=True)]
    return {
        "course": course.flatten(1),
        "timbre": torch.cat([mean, spread], 1),
        "voice": mean @ _cosines(),
        "pitch": _pitch(sounds.float(), sample_rate),
        "rhythm": torch.cat(rhythm, 1),
    }


@cache
def _mel_filters(bins: int, sample_rate: int) -> Tensor:
    """``(32, bins)`` triangles, evenly spaced in mels up to half the sample rate."""
    top = sample_rate / 2
    mels = torch.linspace(_mel(_FROM_HERTZ), _mel(top), BANDS + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    hertz = torch.linspace(0, top, bins, dtype=torch.float64)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
    filters = torch.minimum(rising, falling).clamp(min=0)
    # a low band can lie between two bins; it then takes the nearest
    nearest = (hertz[None] - middle).abs().argmin(1)
    empty = filters.sum(1) == 0
    filters[empty, nearest[empty]] = 1.0
    return filters.float()


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


@cache
def _cosines() -> Tensor:
    """``(32, 14)``: the first cosines over the bands, without the constant (Davis and Mermelstein 1980)."""
    place = (torch.arange(BANDS) + 0.5) / BANDS
    return torch.cos(math.pi * place[:, None] * torch.arange(1, 15)) / BANDS


def _pitch(sounds: Tensor, sample_rate: int) -> Tensor:
    """Autocorrelation ``(n, 32)`` at lags from 60 to 500 Hz, evenly on a scale of octaves, and its largest value."""
    samples = sounds.shape[1]
    spectrum = torch.fft.rfft(sounds - sounds.mean(1, keepdim=True), n=2 * samples)
    correlation = torch.fft.irfft(spectrum.abs().square(), n=2 * samples)[:, :samples]
    correlation = correlation / (correlation[:, :1] + 1e-6)
    lags = sample_rate / torch.logspace(math.log10(60), math.log10(500), 32)
    chosen = correlation[:, lags.round().long().clamp(max=samples - 1)]
    return torch.cat([chosen, chosen.amax(1, keepdim=True)], 1)
