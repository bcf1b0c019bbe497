"""Unconditional StackGAN-v2 state dicts (Zhang et al. 2018, "StackGAN++", section 3.1): a tree of generators.

The first stage makes 64 x 64 features from the latent, each next one joins the latent to them again and doubles the
side; the picture is that of the last branch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.generators.importers.adapting import known_settings
from client.generators.importers.base import Imported, Importer, ImportSettings
from client.generators.importers.gan import Drawn, doubled, imported, peek, weights_of
from client.generators.importers.restricted_pickle import damage_of
from client.generators.importers.weights import Weights, batch_norm
from common.errors import SettingError, UnreadableModel

_FIRST_DOUBLINGS = 4
_MOST_BRANCHES = 5


def gated(x: Tensor) -> Tensor:
    """Gated linear unit: the first half of the channels times the sigmoid of the second."""
    return functional.glu(x, 1)


class Normed(nn.Module):
    """A 3 x 3 convolution with its batch normalisation folded in."""

    def __init__(self, weights: Weights, name: str, norm: str, inputs: int, outputs: int) -> None:
        super().__init__()
        scale, shift = batch_norm(weights, norm, outputs)
        weight = weights.take(f"{name}.weight", outputs, inputs, 3, 3) * scale[:, None, None, None]
        self.register_buffer("weight", weight)
        self.register_buffer("bias", shift)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, i, h, w)`` to ``(n, o, h, w)``."""
        return functional.conv2d(x, self.get_buffer("weight"), self.get_buffer("bias"), padding=1)


class FirstStage(nn.Module):
    """A latent to ``(n, width, 64, 64)`` features."""

    def __init__(self, weights: Weights, width: int, dimension: int) -> None:
        super().__init__()
        self.channels = 16 * width
        size = 2 * 16 * self.channels
        scale, shift = batch_norm(weights, "h_net1.fc.1", size)
        self.register_buffer("weight", weights.take("h_net1.fc.0.weight", size, dimension) * scale[:, None])
        self.register_buffer("bias", shift)
        self.doublings = nn.ModuleList(
            Normed(weights, f"h_net1.upsample{i}.1", f"h_net1.upsample{i}.2", width << (5 - i), 2 * (width << (4 - i)))
            for i in range(1, _FIRST_DOUBLINGS + 1)
        )

    def forward(self, latent: Tensor) -> Tensor:
        """``(n, d)`` to ``(n, width, 64, 64)``."""
        x = gated(functional.linear(latent, self.get_buffer("weight"), self.get_buffer("bias")))
        x = x.reshape(-1, self.channels, 4, 4)
        for double in self.doublings:
            x = gated(double(doubled(x)))
        return x


class NextStage(nn.Module):
    """Features and the latent again to features of twice the side and half the channels."""

    def __init__(self, weights: Weights, name: str, width: int, dimension: int) -> None:
        super().__init__()
        self.join = Normed(weights, f"{name}.jointConv.0", f"{name}.jointConv.1", width + dimension, 2 * width)
        blocks = len([each for each in weights.names() if each.startswith(f"{name}.residual.") and ".block.0." in each])
        parts = [f"{name}.residual.{i}.block" for i in range(blocks)]
        self.widen = nn.ModuleList(Normed(weights, f"{p}.0", f"{p}.1", width, 2 * width) for p in parts)
        self.narrow = nn.ModuleList(Normed(weights, f"{p}.3", f"{p}.4", width, width) for p in parts)
        self.enlarge = Normed(weights, f"{name}.upsample.1", f"{name}.upsample.2", width, 2 * (width // 2))

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """``(n, width, h, w)`` and ``(n, d)`` to ``(n, width / 2, 2 h, 2 w)``."""
        code = latent[:, :, None, None].expand(-1, -1, x.shape[2], x.shape[3])
        x = gated(self.join(torch.cat([code, x], 1)))
        for widen, narrow in zip(self.widen, self.narrow, strict=True):
            x = x + narrow(gated(widen(x)))
        return gated(self.enlarge(doubled(x)))


class StackGan(nn.Module):
    """All stages up to a branch, and that branch's picture."""

    def __init__(self, weights: Weights, branch: int, width: int, dimension: int) -> None:
        super().__init__()
        self.first = FirstStage(weights, width, dimension)
        self.stages = nn.ModuleList(
            NextStage(weights, f"h_net{i}", width >> (i - 2), dimension) for i in range(2, branch + 1)
        )
        self.register_buffer("colours", weights.take(f"img_net{branch}.img.0.weight", 3, width >> (branch - 1), 3, 3))

    def forward(self, latent: Tensor) -> Tensor:
        """``(n, d)`` to ``(n, 3, side, side)``."""
        x = self.first(latent)
        for stage in self.stages:
            x = stage(x, latent)
        return torch.tanh(functional.conv2d(x, self.get_buffer("colours"), padding=1))


def build(weights: Weights, branch: int | None) -> Drawn:
    """The network of a state dict.

    Raises:
        UnreadableModel: another architecture, or one that takes text.
        SettingError: it does not have that branch.
    """
    if any(name.startswith("ca_net.") for name in weights.names()):
        raise UnreadableModel(f"{weights.what} takes text embeddings; only the unconditional StackGAN-v2 is read")
    branches = len([i for i in range(1, _MOST_BRANCHES + 1) if f"img_net{i}.img.0.weight" in weights])
    wanted = branches if branch is None else branch
    if branches and not 1 <= wanted <= branches:
        raise SettingError(f"branch={wanted} must lie between 1 and the {branches} of {weights.what}")
    outputs, dimension = weights.shape("h_net1.fc.0.weight") or (512, 1)
    width = outputs // 512  # 16 pixels, 16 times the width, twice for the gates
    core = StackGan(weights, max(wanted, 1), width, dimension).eval()
    others = [f"{part}_net{i}." for i in range(1, branches + 1) for part in ("h", "img") if i > wanted or part == "img"]
    weights.ignore(*(name for name in weights.names() if name.startswith(tuple(others))))
    weights.finish("unconditional StackGAN-v2")
    return Drawn(core=core, dimension=dimension, channels=3, side=64 << (wanted - 1))


def read(path: Path, settings: ImportSettings) -> Imported:
    """Read a StackGAN-v2 state dict; see `Importer.read`."""
    known_settings(settings.settings, IMPORTER.settings)
    written = settings.settings.get("branch")
    if written is not None and not written.isdigit():
        raise SettingError(f"branch={written!r} must be a number from 1; leave it out for the largest picture")
    with torch.no_grad(), damage_of(path.name):
        weights, _ = weights_of(path)
        return imported(build(weights, None if written is None else int(written)), path, settings)


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file looks like a checkpoint of a StackGAN-v2."""
    names = peek(path, head)
    return b"h_net1.fc.0.weight" in names


IMPORTER = Importer(
    kind="stackgan",
    about="unconditional StackGAN-v2 state dict, 64 to 256 pixels",
    sniff=sniff,
    read=read,
    settings={"branch": "which picture: 1 for 64 pixels, 2 for 128, 3 for 256; the largest if left out"},
)
