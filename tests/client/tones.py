"""A tiny generator of sounds."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from client.generators.importers.base import Imported, make
from client.generators.interface import Output
from client.generators.pack_files import write_pack
from common.latents import LatentSpace

RATE, SAMPLES = 8000, 2400


class Tones(nn.Module):
    """Two latents to a tone of that pitch, fading at that rate; the third is how bright it is."""

    def forward(self, latent: Tensor) -> Tensor:
        time = torch.arange(SAMPLES) / RATE
        phase = 2 * math.pi * 300 * torch.exp(0.4 * latent[:, :1]) * time
        fade = torch.exp(-4 * torch.sigmoid(latent[:, 1:2]) * time)
        bright = torch.sigmoid(latent[:, 2:3])
        return 0.8 * fade * ((1 - bright) * torch.sin(phase) + bright * torch.sin(3 * phase))


def tones_pack(folder: Path) -> Path:
    """The folder of the pack, without a latent map."""
    output = Output(kind="audio", shape=(SAMPLES,), sample_rate=RATE)
    imported = Imported(network=Tones().eval(), latents=LatentSpace(3), output=output, licence="CC0-1.0")
    made = make(imported, name="tones")
    write_pack(folder, made.manifest, made.files)
    return folder
