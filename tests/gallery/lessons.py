"""What the gallery's networks learn from: the CC0 avatars that come with the program, and how they learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.generators import avatar_drawing as drawing
from client.generators.avatars import possible_slots
from client.generators.pack import GeneratorPack

NATIVE = drawing.SIDE
"""Pixels of an avatar's side as it is drawn; more are the same pixels larger."""
_LEARNED = (*range(4), 8, 9, 11, 12, *range(14, 24))
"""Directions of an avatar's latent that are learned: hair, glasses, hat, clothing and all colours."""
_SMILE, _LOOK = 0.5 / 8, 4.5 / 8
"""The others rest: a mouth and a pair of eyes in the middle of their sectors, neither beard nor jewellery."""
DIMENSION = len(_LEARNED)
"""Numbers in a latent of the networks that learn from the avatars pack."""
COMPARED = 64
"""Latents on which a pack is compared with the network that was trained."""
_FINE = ("mouth", "eyes", "glasses", "accessories")
_FINE_WEIGHT = 4.0
_AT_ONCE, _DRAWN_AT_ONCE = 256, 8


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is spent on one network.

    Attributes:
        steps: of the optimiser.
        batch: pictures in each step.
        rate: learning rate at its highest.
        seed: of weights, latents and noise.
    """

    steps: int
    batch: int = 32
    rate: float = 3e-3
    seed: int = 1

    def random(self) -> torch.Generator:
        """Of everything that is drawn while training."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class Taught:
    """A network that was trained and written.

    Attributes:
        file: name of the file or folder it was written to; ``.`` for the folder it was given.
        latents: ``(n, d)``.
        pictures: ``(n, 3, h, w)`` in [-1, 1], what the trained network itself draws for them.
        parameters: numbers that were learned.
    """

    file: str
    latents: Tensor
    pictures: Tensor
    parameters: int


Report = Callable[[int, float], None]
"""Called with steps done and the loss of the last."""


@cache
def avatars() -> GeneratorPack:
    """The pack that comes with the program."""
    return GeneratorPack.open("avatars")


def portraits(latents: Tensor) -> Tensor:
    """What the avatars pack draws for latents ``(n, d)``, mapped: ``(n, 3, 16, 16)`` in [-1, 1]."""
    return torch.cat([avatars().generate(part, NATIVE) for part in torch.split(mapped(latents), _AT_ONCE)])


def mapped(latents: Tensor) -> Tensor:
    """The avatars' latents ``(n, 24)`` of latents ``(n, d)``: a fixed affine map, whose other directions rest."""
    resting = torch.zeros(drawing.DIMENSION)
    for first, angle in ((4, _SMILE), (6, _LOOK)):
        resting[first], resting[first + 1] = math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle)
    turned = resting.expand(len(latents), -1).clone()
    turned[:, list(_LEARNED)] = latents
    return turned @ drawing.turn().T


def drawings(count: int, random: torch.Generator) -> tuple[Tensor, drawing.Avatars]:
    """Avatars drawn exactly, ``(n, 3, 16, 16)`` in [-1, 1], and what they are."""
    found = drawing.read_latents(mapped(torch.randn(count, DIMENSION, generator=random)))
    parts = {name: torch.split(value, _AT_ONCE) for name, value in found.parts.items()}
    small = [
        drawing.paint(drawing.mixtures({name: value[i] for name, value in parts.items()}), palette)
        for i, palette in enumerate(torch.split(found.palette, _AT_ONCE))
    ]
    return 2 * torch.cat(small).reshape(count, 3, NATIVE, NATIVE) - 1, found


def enlarged(pictures: Tensor, side: int) -> Tensor:
    """Each pixel ``side / 16`` times wider and higher."""
    return functional.interpolate(pictures, scale_factor=side // pictures.shape[-1], mode="nearest")


@cache
def importance(side: int = NATIVE) -> Tensor:
    """``(side, side)`` weights of pixels, mean 1: a mouth is five pixels, and half of what a face says."""
    possible = possible_slots()
    weight = torch.ones(NATIVE**2)
    for name in _FINE:
        weight[possible[drawing.SLOTS.index(name)]] = _FINE_WEIGHT
    return enlarged((weight / weight.mean()).reshape(1, 1, NATIVE, NATIVE), side)[0, 0]


def distance(found: Tensor, wanted: Tensor) -> Tensor:
    """L1 plus L2 between pictures, weighted by `importance`; a scalar."""
    apart = (found - wanted).abs()
    return ((apart + apart.square()) * importance(wanted.shape[-1])).mean()


def unit(latents: Tensor) -> Tensor:
    """Rows with mean square 1, which is all that a network sees that normalises its latent."""
    return latents * (latents.square().mean(1, keepdim=True) + 1e-8).rsqrt()


@torch.no_grad()
def taught(network: nn.Module, dimension: int) -> Taught:
    """What a trained network draws for `COMPARED` latents; it is not written yet."""
    latents = torch.randn(COMPARED, dimension, generator=torch.Generator().manual_seed(11))
    parts = [network(part) for part in torch.split(latents, _DRAWN_AT_ONCE)]
    learned = sum(value.numel() for value in network.parameters())
    return Taught(file=".", latents=latents, pictures=torch.cat(parts).clamp(-1, 1), parameters=learned)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Its state dict, without the graph."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def descend(
    weights: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    loss: Callable[[], Tensor],
    effort: Effort,
    report: Report,
) -> None:
    """AdamW with one cycle of the learning rate; ``loss`` draws its own batch."""
    optimiser = torch.optim.AdamW(weights, lr=effort.rate, betas=(0.9, 0.99), weight_decay=1e-5)
    trained = [value for group in optimiser.param_groups for value in group["params"]]
    highest, steps = [float(group["lr"]) for group in optimiser.param_groups], max(effort.steps, 2)
    rising = max(0.1, min(0.9, 1.5 / steps))  # it divides by the steps of rising less one
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, highest, total_steps=steps, pct_start=rising)
    for step in range(effort.steps):
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        report(step + 1, value.item())
