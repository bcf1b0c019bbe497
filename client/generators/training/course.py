"""What is trained and how it is scored step by step: settings, losses, and the generator that comes out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from client.generators.importers.base import Imported
from client.generators.importers.sampling import Denoised, flow_steps
from client.generators.importers.unrolling import Shown, unrolled
from client.generators.interface import Output
from client.generators.manifest import ONNX, TORCH
from client.generators.torch_network import Recipe
from client.generators.training.networks import Decoder, Encoder, PictureVelocity, VectorVelocity
from common.errors import SettingError
from common.latents import LatentSpace

KINDS, SPACES, RUNTIMES = ("vae", "flow"), ("pixels", "vae"), (ONNX, TORCH)
_DRAWN = ("kind", "space", "side", "dimension", "width", "sampler")  # settings that the generator itself depends on


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a generator is trained. All of it must stay the same when a training goes on.

    Attributes:
        kind: ``vae`` or ``flow``.
        space: of a flow, ``pixels`` or ``vae``, where a VAE is trained beside it and the flow lives in its latents.
        side: height and width of pictures, pixels: 16, 32, 64, 128 or 256.
        dimension: ``d`` of a VAE's latent; a flow on pixels has 3 side^2.
        width: channels of the first layer, a multiple of 8; time and memory grow with its square.
        steps: of the optimiser.
        batch: pictures in each step.
        rate: learning rate at its highest.
        sampler: steps of a flow's sampler, fixed in the pack.
        seed: of weights, order and noise.

    Raises:
        SettingError: a value is out of range.
    """

    kind: str = "vae"
    space: str = "pixels"
    side: int = 32
    dimension: int = 64
    width: int = 32
    steps: int = 5000
    batch: int = 64
    rate: float = 1e-3
    sampler: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingError(f"kind={self.kind[:40]!r} must be one of {', '.join(KINDS)}")
        if self.space not in SPACES or (self.kind == "vae" and self.space != "pixels"):
            raise SettingError(f"space={self.space[:40]!r} must be pixels, or vae for a flow")
        limits: dict[str, tuple[float, float]] = {
            "side": (16, 256),
            "dimension": (2, 4096),
            "width": (8, 512),
            "steps": (1, 10_000_000),
            "batch": (2, 4096),
            "rate": (1e-6, 0.1),
            "sampler": (1, 200),
            "seed": (0, 2**62),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise SettingError(f"{name}={getattr(self, name)} must lie between {low:g} and {high:g}")
        if self.width % 8 or self.side & (self.side - 1):
            raise SettingError(f"width={self.width} must be a multiple of 8, and side={self.side} a power of two")


class Course(nn.Module):
    """The networks of one training, the loss of a batch and the generator they make."""

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__()
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            if settings.kind == "vae" or settings.space == "vae":
                self.encoder = Encoder(settings.side, settings.width, settings.dimension)
                self.decoder = Decoder(settings.side, settings.width, settings.dimension)
            if settings.kind == "flow":
                self.velocity: nn.Module = (
                    VectorVelocity(settings.dimension, 8 * settings.width)
                    if settings.space == "vae"
                    else PictureVelocity(settings.side, settings.width)
                )

    @property
    def dimension(self) -> int:
        """Numbers in a latent of the generator."""
        settings = self.settings
        return 3 * settings.side**2 if settings.kind == "flow" and settings.space == "pixels" else settings.dimension

    def forward(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of a batch ``(n, 3, side, side)`` in [-1, 1], in nats for each number of a picture; a scalar.

        Args:
            pictures: the batch.
            generator: of the noise, on the device of the pictures.
        """
        if self.settings.kind == "flow" and self.settings.space == "pixels":
            return self._flow_loss(pictures, generator)
        loss, latents = self._vae_loss(pictures, generator)
        if self.settings.kind == "flow":
            loss = loss + self._flow_loss(latents.detach(), generator)
        return loss

    def network(self) -> Shown:
        """The generator, ``(n, d)`` to ``(n, 3, side, side)``; it shares the weights of the course."""
        settings = self.settings
        if settings.kind == "vae":
            return Shown(self.decoder, (settings.dimension,)).eval()
        sigmas = torch.linspace(1, 0, settings.sampler + 1, device="cpu").tolist()  # numbers also where all is shapes
        decoder = self.decoder if settings.space == "vae" else None
        shape = (settings.dimension,) if decoder is not None else (3, settings.side, settings.side)
        return Shown(Denoised(self.velocity, flow_steps(sigmas, sigmas[:-1]), shape, decoder), shape).eval()

    @property
    def recipe(self) -> Recipe:
        """How `rebuilt` makes the generator without its weights."""
        return Recipe(builder="trained", settings={name: asdict(self.settings)[name] for name in _DRAWN})

    def imported(self, licence: str, notice: str, runtime: str = "") -> Imported:
        """The generator with all a pack says about it; on the CPU.

        Args:
            licence: SPDX identifier; empty for nobody said.
            notice: what whoever uses it should read.
            runtime: what the pack runs in: ``onnx``, ``torch``, or empty for ONNX.
        """
        network, side = self.network(), self.settings.side
        return Imported(
            network=network,
            latents=LatentSpace(self.dimension),
            output=Output(shape=(3, side, side)),
            licence=licence or "NOASSERTION",
            notice=notice,
            latent_shape=network.latent_shape if len(network.latent_shape) > 1 else (),
            written=(lambda: unrolled(network, {})) if self.settings.kind == "flow" else None,
            recipe=self.recipe,
            runtime=runtime,
        )

    def _vae_loss(self, pictures: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Evidence bound with the spread of pixels at its best value (Rybkin, Daniilidis and Levine 2021, eq. 9)."""
        mean, log_variance = self.encoder(pictures).float().unbind(1)
        log_variance = log_variance.clamp(-12, 6)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        latents = mean + noise * (0.5 * log_variance).exp()
        error = (self.decoder(latents).float() - pictures).square().mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        spread = 0.5 * torch.log(error + 1e-5) + 0.5 * (1 + math.log(2 * math.pi))
        return spread + divergence / pictures[0].numel(), latents

    def _flow_loss(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of the velocity (Liu, Gong and Liu 2023, equation 1; time reversed, as in the sampler)."""
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        normal = torch.randn(clean.shape[0], generator=generator, device=clean.device)
        time = torch.sigmoid(normal)  # more in the middle (Esser et al. 2024, equation 19)
        sigma = time.reshape(-1, *[1] * (clean.ndim - 1))
        answer = self.velocity((1 - sigma) * clean + sigma * noise, time).float()
        error: Tensor = (answer - (noise - clean)).square().mean()
        return error


def rebuilt(**settings: Any) -> nn.Module:
    """The network of a `Course.recipe`, its weights those of a new course.

    Raises:
        ValueError, TypeError: the settings are impossible.
    """
    try:
        return Course(TrainingSettings(**settings)).network()
    except SettingError as error:
        raise ValueError(str(error)) from error  # they are not the person's who opens the pack
