"""Kokoro-82M (hexgrad 2025, after StyleTTS 2 by Li et al. 2023) for one sentence: a voice's style becomes sound.

What depends on the sentence alone is computed once and becomes a constant. Every voice says it in the same time: the
durations it would choose are scaled to a fixed number of frames, so that shapes do not depend on numbers. Written anew
in plain torch operations that run on batches and can be exported; the weights are those of the published file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.generators.fetched.kokoro_file import KokoroFile
from client.generators.fetched.kokoro_layers import FEATURES, Block, Convolution, Recurrence, Styled, Weight
from client.generators.fetched.kokoro_vocoder import SAMPLE_RATE, Vocoder

__all__ = ["FRAME", "SAMPLE_RATE", "Voice", "alignment"]

FRAME = 600  # samples of one frame of the sentence's alignment
STYLE = 128  # numbers for how it sounds, and as many for how it is said


class Prosody(nn.Module):
    """How long each phoneme takes, and pitch and loudness over time."""

    def __init__(self, file: KokoroFile, frames: int) -> None:
        super().__init__()
        path = "encoder.predictor"
        self.lstms = nn.ModuleList(Recurrence(file, f"{path}.text_encoder.lstms.{i}") for i in (0, 2, 4))
        self.norms = nn.ModuleList(
            Styled(file, f"{path}.text_encoder.lstms.{i}", over_channels=True) for i in (1, 3, 5)
        )
        self.lstm, self.shared = Recurrence(file, f"{path}.lstm"), Recurrence(file, "encoder.shared")
        self.duration = Weight(*file.linear(f"{path}.duration_proj.linear_layer"))
        self.register_buffer("duration_bias", file.bias(f"{path}.duration_proj.linear_layer"))
        self.pitch = nn.ModuleList(Block(file, f"{path}.F0.{i}") for i in range(3))
        self.loudness = nn.ModuleList(Block(file, f"{path}.N.{i}") for i in range(3))
        self.pitch_out, self.loudness_out = Convolution(file, f"{path}.F0_proj"), Convolution(file, f"{path}.N_proj")
        self.register_buffer("times", torch.arange(frames) + 0.5)

    def forward(self, phonemes: Tensor, style: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Alignment ``(n, s, t)`` of 0 and 1, pitch in Hz and loudness ``(n, 2 t)``; of phonemes ``(s, 512)``."""
        n, steps = style.shape[0], phonemes.shape[0]
        along = style[:, None].expand(n, steps, STYLE)
        x = torch.cat([phonemes.expand(n, steps, FEATURES), along], 2)
        for lstm, norm in zip(self.lstms, self.norms, strict=True):
            x = norm(lstm(x).transpose(1, 2), style).transpose(1, 2)
            x = torch.cat([x, along], 2)
        aligned = self._alignment(self.lstm(x))
        over_time = self.shared(aligned.transpose(1, 2) @ x).transpose(1, 2)
        pitch, loudness = over_time, over_time
        for block in self.pitch:
            pitch = block(pitch, style)
        for block in self.loudness:
            loudness = block(loudness, style)
        return aligned, self.pitch_out(pitch)[:, 0], self.loudness_out(loudness)[:, 0]

    def _alignment(self, x: Tensor) -> Tensor:
        logits = x @ self.duration() + self.get_buffer("duration_bias")
        return alignment(torch.sigmoid(logits).sum(2).clamp(min=1), self.get_buffer("times"))


def alignment(length: Tensor, times: Tensor) -> Tensor:
    """Which phoneme sounds in which frame, ``(n, s, t)`` of 0 and 1.

    Guarantee: one phoneme in every frame, in their order, each for its share of the time up to a frame.

    Args:
        length: how long each phoneme would last, ``(n, s)`` > 0.
        times: middle of each frame, ``(t,)``: 0.5, 1.5, ...
    """
    ends = length.cumsum(1) * (len(times) / length.sum(1, keepdim=True))
    starts = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
    # the last one ends behind the last frame, whatever rounding says
    last = functional.pad(torch.zeros_like(ends[:, :-1]), (0, 1), value=1.0)
    return ((times >= starts[:, :, None]) & (times < (ends + last)[:, :, None])).float()


class Voice(nn.Module):
    """Styles to sounds of one sentence.

    Args:
        file: the weights.
        sentence: what depends on the sentence alone, see `KokoroFile.sentence`.
        frames: how long every voice takes, 40 in a second.
    """

    def __init__(self, file: KokoroFile, sentence: tuple[Tensor, Tensor], frames: int) -> None:
        super().__init__()
        path = "decoder.decoder"
        self.register_buffer("prosody_text", sentence[0])
        self.register_buffer("sound_text", sentence[1])
        self.prosody, self.vocoder = Prosody(file, frames), Vocoder(file)
        self.pitch_conv = Convolution(file, f"{path}.F0_conv", stride=2, padding=1)
        self.loudness_conv = Convolution(file, f"{path}.N_conv", stride=2, padding=1)
        self.text_conv = Convolution(file, f"{path}.asr_res.0")
        self.encode = Block(file, f"{path}.encode")
        self.decode = nn.ModuleList(Block(file, f"{path}.decode.{i}") for i in range(4))

    def forward(self, style: Tensor) -> Tensor:
        """Styles ``(n, 256)`` to sounds ``(n, 600 frames)`` in [-1, 1] at 24 kHz."""
        sound, manner = style[:, :STYLE], style[:, STYLE:]
        aligned, pitch, loudness = self.prosody(self.get_buffer("prosody_text"), manner)
        text = self.get_buffer("sound_text").T @ aligned
        beside = [self.pitch_conv(pitch[:, None]), self.loudness_conv(loudness[:, None])]
        x = self.encode(torch.cat([text, *beside], 1), sound)
        rest = torch.cat([self.text_conv(text), *beside], 1)
        for block in self.decode:
            x = block(torch.cat([x, rest], 1), sound)
        made: Tensor = self.vocoder(x, sound, pitch)
        return made.clamp(-1, 1)
