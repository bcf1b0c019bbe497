"""Generative adversarial networks of the gallery, taught without an adversary: to draw what the avatars pack draws.

A file's format says how a network draws and not how it was trained, so regression is enough to try an importer on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.client.generators.importers import stylegan_files
from tests.client.generators.importers.gan_networks import Tree, ZooProGan, lively, official_dcgan
from tests.gallery.lessons import (
    DIMENSION,
    NATIVE,
    Effort,
    Report,
    Taught,
    descend,
    distance,
    enlarged,
    portraits,
    taught,
    unit,
    weights_of,
)
from tests.gallery.stylegan import Trainable

_WIDTH = 48
_POOL = 24_000
_SECOND = 4
"""Steps of the tree's first generator for each of the second."""


def stylegan2(folder: Path, effort: Effort, report: Report) -> Taught:
    """A small configuration F: skip connections, two mapping layers, noise maps."""
    node = stylegan_files.stylegan2(effort.seed, side=NATIVE, z=DIMENSION, w=_WIDTH, channels=32)
    for block in node.children["synthesis"].children.values():
        for layer in block.children.values():
            if "noise_strength" in layer.parameters:  # as training starts
                layer.parameters["noise_strength"].zero_()
    return _styled(Trainable(node), folder, effort, report)


def stylegan3(config: str) -> Callable[[Path, Effort, Report], Taught]:
    """A small configuration T or R."""

    def teach(folder: Path, effort: Effort, report: Report) -> Taught:
        channels = (640, 24) if config == "t" else (1024, 48)
        node = stylegan_files.stylegan3(
            effort.seed,
            config,
            side=NATIVE,
            z=DIMENSION,
            w=_WIDTH,
            layers=4,
            channels=channels,
            margin=4,
            first_cutoff=4.0,
        )
        first = node.children["synthesis"].children["input"]
        first.buffers["freqs"] = _in_a_disc(first.buffers["freqs"], first.attributes["bandwidth"])
        first.buffers["transform"] = torch.eye(3)
        first.children["affine"].parameters["weight"].zero_()  # as training starts: nothing is turned or moved
        first.children["affine"].parameters["bias"].copy_(torch.tensor([1.0, 0, 0, 0]))
        return _styled(Trainable(node), folder, effort, report)

    return teach


def _in_a_disc(directions: Tensor | None, bandwidth: float) -> Tensor:
    """Frequencies spread over the disc of a bandwidth, from normal ones scaled by it, as training starts."""
    assert directions is not None
    normal = directions / bandwidth
    radii = normal.norm(dim=1, keepdim=True)
    found: Tensor = bandwidth * normal / (radii * torch.exp(radii.square() / 4))
    return found


def _styled(network: Trainable, folder: Path, effort: Effort, report: Report) -> Taught:
    learn(network, effort, report, lambda x: x, normalised=True, groups=network.groups(effort.rate))
    network.eval()
    found = taught(network, DIMENSION)
    stylegan_files.write(folder / "network-snapshot.pkl", network.settle())
    return replace(found, file="network-snapshot.pkl")


def progan(folder: Path, effort: Effort, report: Report) -> Taught:
    """Pixel norm and equalised learning rates, in the layout of the PyTorch GAN Zoo; 32 pixels."""
    torch.manual_seed(effort.seed)
    network = ZooProGan(latent=DIMENSION, widths=(64, 64, 32, 16))
    learn(network, effort, report, lambda x: enlarged(x, 32), normalised=True)
    return _saved(network, {"config": {"alpha": 0.0}, "netG": {}, "avgG": weights_of(network)}, folder, "progan.pth")


def dcgan(folder: Path, effort: Effort, report: Report) -> Taught:
    """The generator of the PyTorch examples; 32 pixels."""
    network = official_dcgan(latent=DIMENSION, width=24, doublings=3).train()
    learn(network, effort, report, lambda x: enlarged(x, 32))
    return _saved(network, {"netG_state_dict": weights_of(network)}, folder, "netG.pth")


def stackgan(folder: Path, effort: Effort, report: Report) -> Taught:
    """Two generators of the tree, 64 and 128 pixels, which learn together; the second, dearer one less often."""
    network, turn = lively(Tree(latent=DIMENSION, width=8, branches=2)).train(), itertools.count()

    def both(latents: Tensor, wanted: Tensor) -> Tensor:
        features = network.h_net1(latents)
        apart = distance(network.img_net1.img(features), enlarged(wanted, 64))
        if next(turn) % _SECOND:
            return apart
        large = network.img_net2.img(network.h_net2(features, latents))  # type: ignore[operator, union-attr]
        return apart + distance(large, enlarged(wanted, 128))

    learn(network, effort, report, loss=both)
    named = {f"module.{name}": value for name, value in weights_of(network).items()}  # as saved from several GPUs
    return _saved(network, named, folder, "netG_100000.pth")


def learn(
    network: nn.Module,
    effort: Effort,
    report: Report,
    shown: Callable[[Tensor], Tensor] = lambda x: x,
    *,
    normalised: bool = False,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    groups: list[dict[str, Any]] | None = None,
) -> None:
    """Teach a network from latents to pictures what the avatars pack draws.

    Args:
        network: ``(n, d)`` to pictures.
        effort: how much.
        report: of progress.
        shown: what becomes of a picture of 16 pixels.
        normalised: whether the network normalises its latents, so that their length says nothing.
        loss: of latents and pictures of 16 pixels, instead of the distance.
        groups: of parameters, with learning rates.
    """
    random = effort.random()
    latents = torch.randn(max(effort.batch, min(_POOL, effort.steps * effort.batch)), DIMENSION, generator=random)
    wanted = portraits(unit(latents) if normalised else latents)

    def drawn() -> Tensor:
        chosen = torch.randint(len(latents), (effort.batch,), generator=random)
        if loss is not None:
            return loss(latents[chosen], wanted[chosen])
        return distance(network(latents[chosen]), shown(wanted[chosen]))

    descend(groups or [{"params": list(network.parameters())}], drawn, effort, report)


def _saved(network: nn.Module, value: object, folder: Path, file: str) -> Taught:
    found = taught(network.eval(), DIMENSION)
    torch.save(value, folder / file)
    return replace(found, file=file)
