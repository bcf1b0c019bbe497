"""Embedded generator of pixel avatars: the decoder of a variational autoencoder, trained on exact drawings.

The encoder is known rather than learned: the posterior of an avatar is N(0, I) cut to the cells of its attributes
(`avatar_drawing.read_latents`). So the aggregate posterior is the prior exactly, every sample lies where the decoder
was trained, and no KL term trades mouths and glasses away. What is learned is a smooth network that draws what jumps
from cell to cell: taste models and searches need its gradient.

For each pixel it answers with a mixture over the avatar's palette, white and black (softmax, cross-entropy), and for
each avatar with the palette, so that edges stay sharp whatever the colours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.generators import avatar_drawing as drawing
from client.generators.art import pixel_grid
from client.generators.interface import Output
from client.generators.manifest import FIRST_FORMAT, GENERATOR, Manifest
from client.generators.onnx import OPSET, export
from client.generators.pack_files import fingerprint
from common.errors import SettingError

SHOWN = 256  # pixels of a side, 16 for each drawn one; any other size can be asked for
COLOUR_STEPS = 2
_NEVER = -20.0
_WEIGHTS = {
    "mouth": 6.0,
    "eyes": 3.0,
    "glasses": 3.0,
    "accessories": 4.0,
}  # a mouth is five pixels, and half of what a face says


@dataclass(frozen=True, kw_only=True)
class AvatarSettings:
    """How the decoder is trained.

    Attributes:
        steps: of AdamW for the lines; colours take `COLOUR_STEPS` times as many.
        batch: avatars in a step.
        width: units in each hidden layer.
        seed: of the first weights and the latents.

    Raises:
        SettingError: a value is out of range.
    """

    steps: int = 9000
    batch: int = 128
    width: int = 400
    seed: int = 3

    def __post_init__(self) -> None:
        limits = {"steps": (1, 10_000_000), "batch": (1, 65536), "width": (8, 4096), "seed": (0, 2**62)}
        for name, (low, high) in limits.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise SettingError(f"{name}={value} must lie between {low} and {high}")


class AvatarGenerator(nn.Module):
    """Latents to pixel avatars of any size.

    Args:
        width: units in each hidden layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        slots, pixels, colours = len(drawing.SLOTS), drawing.SIDE**2, len(drawing.COLOURS)
        possible = possible_slots().flatten()
        # logits of what never occurs are one constant: fewer weights, and no stray pixels
        place = torch.where(possible, possible.cumsum(0) - 1, int(possible.sum()))
        self.register_buffer("place", place)
        self.trunk = nn.Sequential(
            nn.Linear(drawing.DIMENSION, width), nn.GELU(), nn.Linear(width, width), nn.GELU(),
            nn.Linear(width, width), nn.GELU(),
        )  # fmt: skip
        self.mixture = nn.Linear(width, int(possible.sum()))
        self.palette = nn.Sequential(
            nn.Linear(drawing.DIMENSION, width), nn.GELU(), nn.Linear(width, width // 2), nn.GELU(),
            nn.Linear(width // 2, colours * 3),
        )  # fmt: skip
        self._shape = (-1, slots, pixels)

    def logits(self, latent: Tensor) -> Tensor:
        """``(n, 24)`` to ``(n, 11, 256)``, before the softmax over slots."""
        found = self.mixture(self.trunk(latent))
        found = functional.pad(found, (0, 1), value=_NEVER)
        return found.index_select(1, self.get_buffer("place")).reshape(self._shape)

    def colours(self, latent: Tensor) -> Tensor:
        """``(n, 24)`` to palettes ``(n, 9, 3)`` in [0, 1]."""
        return torch.sigmoid(self.palette(latent)).reshape(-1, len(drawing.COLOURS), 3)

    def forward(self, latent: Tensor, grid: Tensor) -> Tensor:
        """Draw pictures.

        Args:
            latent: ``(n, 24)``, drawn from N(0, I).
            grid: ``(2, h, w)`` coordinates, see `pixel_grid`; what lies beyond the square repeats its edge.

        Returns:
            ``(n, 3, h, w)`` sRGB in [-1, 1].
        """
        small = drawing.paint(torch.softmax(self.logits(latent), 1), self.colours(latent))
        at = ((grid + 1) * (drawing.SIDE / 2)).floor().clamp(0, drawing.SIDE - 1)
        pixel = (at[0] * drawing.SIDE + at[1]).long().flatten()
        picture = (2 * small - 1).clamp(-1, 1).index_select(2, pixel)
        return picture.reshape(latent.shape[0], 3, grid.shape[1], grid.shape[2])


@cache
def possible_slots() -> Tensor:
    """``(11, 256)`` bool: which slots any avatar ever shows in which pixel; seen, not derived, from 40,000 of them."""
    latents = torch.randn(40_000, drawing.DIMENSION, generator=torch.Generator().manual_seed(0))
    seen = torch.zeros(len(drawing.SLOTS), drawing.SIDE**2, dtype=torch.bool)
    for part in torch.split(latents, 2000):
        seen |= (drawing.mixtures(drawing.read_latents(part).parts) > 0).any(0)
    return seen


def train_avatars(settings: AvatarSettings, progress: Callable[[str, int, int], None] | None = None) -> AvatarGenerator:
    """Train the decoder.

    Guarantee: the same settings give the same network on the same machine.

    Args:
        settings: how.
        progress: called with the name of the stage, steps done and steps in all.
    """
    report = progress or (lambda stage, done, total: None)
    with torch.random.fork_rng(devices=[]):  # the layers' own start draws from the global generator
        torch.manual_seed(settings.seed)
        network = AvatarGenerator(settings.width)
    weight = _pixel_weights()
    lines = [*network.trunk.parameters(), *network.mixture.parameters()]
    # lines and colours share no weights, so each is trained by itself; colours are cheap and take more steps
    _descend(lines, lambda z: _line_loss(network, z, weight), settings.steps, settings, partial(report, "drawing"))
    _descend(
        list(network.palette.parameters()),
        lambda z: (network.colours(z) - drawing.read_latents(z).palette).square().sum((1, 2)).mean(),
        COLOUR_STEPS * settings.steps,
        settings,
        partial(report, "colouring"),
    )
    return network.eval().requires_grad_(False)


def _descend(
    weights: list[nn.Parameter],
    loss: Callable[[Tensor], Tensor],
    steps: int,
    settings: AvatarSettings,
    report: Callable[[int, int], None],
) -> None:
    """AdamW with one cycle of the learning rate, on fresh latents in every step."""
    generator = torch.Generator().manual_seed(settings.seed)
    optimiser = torch.optim.AdamW(weights, lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        optimiser.zero_grad()
        loss(torch.randn(settings.batch, drawing.DIMENSION, generator=generator)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 49 or step + 1 == steps:
            report(step + 1, steps)


def _line_loss(network: AvatarGenerator, latents: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of the mixtures, weighted by pixel."""
    share = drawing.mixtures(drawing.read_latents(latents).parts)
    cross = -(share * torch.log_softmax(network.logits(latents), 1)).sum(1)
    return (cross * weight).sum(1).mean() / weight.sum()


def _pixel_weights() -> Tensor:
    """``(256,)``: pixels where mouths, eyes and glasses are drawn count more."""
    possible, weight = possible_slots(), torch.ones(drawing.SIDE**2)
    for name, factor in _WEIGHTS.items():
        weight[possible[drawing.SLOTS.index(name)]] = factor
    return weight


def export_avatars(network: AvatarGenerator) -> bytes:
    """As an ONNX file: ``latent`` ``(n, 24)``, ``grid`` ``(2, h, w)`` to ``picture`` ``(n, 3, h, w)``."""
    inputs = {"latent": torch.zeros(3, drawing.DIMENSION), "grid": pixel_grid(16, 20)}
    return export(network, inputs, "picture", {"latent": {0: "n"}, "grid": {1: "h", 2: "w"}})


def manifest_of_avatars(generator: bytes) -> Manifest:
    """Manifest of the embedded avatars without a latent map; ``generator`` is their ONNX file."""
    return Manifest(
        format=FIRST_FORMAT,
        name="avatars",
        version="1.0.0",
        dimension=drawing.DIMENSION,
        law="normal",
        output=Output(shape=(3, SHOWN, SHOWN), resizable=True),
        licence="CC0-1.0",
        opset=OPSET,
        files={GENERATOR: fingerprint(generator)},
    )
