"""Variational autoencoders of the gallery (Kingma and Welling 2014), trained on avatars as such networks always are."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.gallery.lessons import (
    NATIVE,
    Effort,
    Report,
    Taught,
    descend,
    distance,
    drawings,
    enlarged,
    taught,
    weights_of,
)

LATENT = 24
_POOL = 20_000
_DIVERGENCE = 0.002
"""Weight of the KL divergence, in nats for each picture, beside the mean distance of pixels."""


class PlainVae(nn.Module):
    """The layout of the PyTorch-VAE collection: its names, kernels and normalisation; 32 pixels."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        sizes = (3, width, 2 * width, 4 * width)
        self.encoder = nn.Sequential(*(_normed(nn.Conv2d(a, b, 3, 2, 1), b) for a, b in itertools.pairwise(sizes)))
        self.fc_mu, self.fc_var = nn.Linear(64 * width, LATENT), nn.Linear(64 * width, LATENT)
        self.decoder_input = nn.Linear(LATENT, 64 * width)
        up = (4 * width, 2 * width, width)
        self.decoder = nn.Sequential(
            *(_normed(nn.ConvTranspose2d(a, b, 3, 2, 1, 1), b) for a, b in itertools.pairwise(up))
        )
        last = nn.ConvTranspose2d(width, width, 3, 2, 1, 1)
        self.final_layer = nn.Sequential(
            last, nn.BatchNorm2d(width), nn.LeakyReLU(), nn.Conv2d(width, 3, 3, padding=1), nn.Tanh()
        )

    def encoded(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each ``(n, d)``."""
        features = self.encoder(pictures).flatten(1)
        return self.fc_mu(features), self.fc_var(features)

    def forward(self, latents: Tensor) -> Tensor:
        """``(n, d)`` to ``(n, 3, 32, 32)``."""
        drawn: Tensor = self.final_layer(self.decoder(self.decoder_input(latents).unflatten(1, (-1, 4, 4))))
        return drawn


def _normed(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.LeakyReLU())


def vae(folder: Path, effort: Effort, report: Report) -> Taught:
    """A whole VAE as a state dict; the importer takes the decoder out of it."""
    torch.manual_seed(effort.seed)
    network = PlainVae()
    _learn(network, network.encoded, network, effort, report, 32)
    found = taught(network.eval(), LATENT)
    torch.save({"epoch": 1, "state_dict": weights_of(network)}, folder / "vae.ckpt")
    return replace(found, file="vae.ckpt")


class Kl(nn.Module):
    """An AutoencoderKL of diffusers between pictures of 16 pixels and standardised latents.

    Args:
        widths: channels of each level; each but the first halves the side.
        channels: of the latent.
    """

    def __init__(self, widths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        levels = len(widths)
        self.side, self.channels = NATIVE >> (levels - 1), channels
        self.network: Any = importlib.import_module("diffusers").AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=channels,
            norm_num_groups=8,
            sample_size=NATIVE,
            scaling_factor=1.0,
        )

    def encoded(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each ``(n, c, h, w)``."""
        found = self.network.encode(pictures).latent_dist
        return found.mean, found.logvar

    def decoded(self, latents: Tensor) -> Tensor:
        """Latents as the encoder gives them to pictures."""
        drawn: Tensor = self.network.decode(latents).sample
        return drawn

    def forward(self, latents: Tensor) -> Tensor:
        """Standardised latents ``(n, d)`` to pictures."""
        shaped = latents.reshape(-1, self.channels, self.side, self.side)
        return self.decoded(shaped / float(self.network.config.scaling_factor))

    @torch.no_grad()
    def standardise(self, pictures: Tensor) -> None:
        """Note the factor that gives latents of pictures variance 1, as pipelines do."""
        mean, logvar = self.encoded(pictures)
        spread = float((mean.square() + logvar.exp()).mean().sqrt())
        self.network.register_to_config(scaling_factor=1 / spread)


def autoencoder(folder: Path, effort: Effort, report: Report) -> Taught:
    """An AutoencoderKL whose prior is worth drawing from: 2 x 2 latents and a fair share of the divergence."""
    torch.manual_seed(effort.seed)
    network = Kl((16, 32, 48, 64), 6)
    _learn(network, network.encoded, network.decoded, effort, report, NATIVE, divergence=_DIVERGENCE / 5)
    network.eval().network.save_pretrained(folder / "autoencoder")
    return replace(taught(network, 6 * network.side**2), file="autoencoder")


def compressor(effort: Effort, report: Report) -> Kl:
    """An AutoencoderKL that keeps all of a picture, in 8 x 8 latents, for a diffusion in them."""
    torch.manual_seed(effort.seed)
    network = Kl((16, 32), 4)
    _learn(network, network.encoded, network.decoded, effort, report, NATIVE, divergence=_DIVERGENCE / 200)
    network.eval().standardise(drawings(512, effort.random())[0])
    return network


def _learn(
    network: nn.Module,
    encoded: Callable[[Tensor], tuple[Tensor, Tensor]],
    decoded: Callable[[Tensor], Tensor],
    effort: Effort,
    report: Report,
    side: int,
    divergence: float = _DIVERGENCE,
) -> None:
    """Evidence lower bound with reparametrised latents (Kingma and Welling 2014, equation 10)."""
    random = effort.random()
    pictures, _ = drawings(max(effort.batch, min(_POOL, effort.steps * effort.batch)), random)

    def loss() -> Tensor:
        wanted = enlarged(pictures[torch.randint(len(pictures), (effort.batch,), generator=random)], side)
        mean, logvar = encoded(wanted)
        latents = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=random)
        nats = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1).mean()
        return distance(decoded(latents), wanted) + divergence * nats

    descend(network.train().parameters(), loss, effort, report)
