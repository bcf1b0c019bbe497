"""Networks of no known kind: an ONNX file with a uniform latent, and weights for a class of one's own."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from client.generators.onnx import export
from tests.gallery.gans import learn
from tests.gallery.lessons import DIMENSION, NATIVE, Effort, Report, Taught, enlarged, taught, weights_of
from tests.gallery.own_network import Own

WIDTH = 24
"""Of `Own`, as the command has to say it."""


class Uniform(nn.Module):
    """Dense layers from a latent that is uniform on [-1, 1] to pictures in [0, 1]."""

    def __init__(self, width: int = 320) -> None:
        super().__init__()
        sizes = (DIMENSION, width, width, width)
        layers = [[nn.Linear(a, b), nn.GELU()] for a, b in itertools.pairwise(sizes)]
        self.layers = nn.Sequential(*(each for pair in layers for each in pair), nn.Linear(width, 3 * NATIVE**2))

    def forward(self, latents: Tensor) -> Tensor:
        """``(n, d)`` to ``(n, 3, 16, 16)``."""
        levels: Tensor = torch.sigmoid(self.layers(latents))
        return levels.reshape(-1, 3, NATIVE, NATIVE)


class _FromNormal(nn.Module):
    """The same from N(0, I) to [-1, 1], as the importer makes it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, latents: Tensor) -> Tensor:
        drawn: Tensor = self.inner(torch.erf(latents / math.sqrt(2)))
        return 2 * drawn - 1


def onnx_file(folder: Path, effort: Effort, report: Report) -> Taught:
    """A file as any exporter writes it."""
    torch.manual_seed(effort.seed)
    network = Uniform()
    shown = _FromNormal(network)
    learn(shown, effort, report)
    found = taught(shown.eval(), DIMENSION)
    content = export(network, {"latent": torch.zeros(2, DIMENSION)}, "picture", {"latent": {0: "n"}})
    (folder / "network.onnx").write_bytes(content)
    return replace(found, file="network.onnx")


def torch_module(folder: Path, effort: Effort, report: Report) -> Taught:
    """Weights as safetensors."""
    torch.manual_seed(effort.seed)
    network = Own(DIMENSION, WIDTH)
    shown = _Unfolded(network)
    learn(shown, effort, report, lambda x: enlarged(x, 32))
    found = taught(shown.eval(), DIMENSION)
    save_file(weights_of(network), folder / "own.safetensors")
    return replace(found, file="own.safetensors")


class _Unfolded(nn.Module):
    """Plain latents to the shape the class takes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, latents: Tensor) -> Tensor:
        drawn: Tensor = self.inner(latents[:, :, None, None])
        return drawn
