"""What importers of plain GANs share: reading a state dict, and the way from N(0, I) to a picture in [-1, 1]."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from client.generators.importers.base import Imported, ImportSettings, normal_to_uniform, origin_of
from client.generators.importers.weights import Weights, read_checkpoint, state_dict
from client.generators.interface import Output, SourceLaw
from common.errors import SettingError, UnreadableModel
from common.latents import LatentSpace

KEYS = ("netG_state_dict", "avgG", "g_ema", "G_ema", "netG", "generator", "G", "model_state_dict", "state_dict")
"""Where checkpoints keep the weights of their generator, the averaged ones first."""
_PEEK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A generator's core and what it draws.

    Attributes:
        core: ``(n, d)`` latents to ``(n, channels, side, side)``.
        dimension: ``d``.
        channels: 1 or 3.
        side: height and width.
    """

    core: nn.Module
    dimension: int
    channels: int
    side: int


class PlainGan(nn.Module):
    """A core between the law it was trained with and the range of pictures."""

    def __init__(self, drawn: Drawn, law: SourceLaw, output_range: tuple[float, float]) -> None:
        super().__init__()
        self.core, self.law, self.grey = drawn.core, law, drawn.channels == 1
        self.low, self.high = output_range

    def forward(self, latent: Tensor) -> Tensor:
        """``(n, d)`` from N(0, I) to ``(n, 3, side, side)`` in [-1, 1]."""
        picture: Tensor = self.core(normal_to_uniform(latent, self.law))
        if (self.low, self.high) != (-1.0, 1.0):
            picture = (picture - self.low) * (2 / (self.high - self.low)) - 1
        picture = picture.clamp(-1, 1)
        return picture.expand(-1, 3, -1, -1) if self.grey else picture


def weights_of(path: Path) -> tuple[Weights, object]:
    """The generator's weights in a checkpoint, and the whole checkpoint.

    Names lose the ``.module`` that wrappers of layers leave, as in ``formatLayer.module.weight``.

    Raises:
        UnreadableModel: see `read_checkpoint`, `state_dict` and `Weights`.
    """
    saved = read_checkpoint(path)
    named = state_dict(saved, KEYS, path.name)
    return Weights({name.replace(".module.", "."): tensor for name, tensor in named.items()}, path.name), saved


def imported(drawn: Drawn, path: Path, settings: ImportSettings) -> Imported:
    """The record of a plain GAN.

    Raises:
        SettingError: the person expects another latent, size or input than the file has.
        UnreadableModel: it draws another number of channels than 1 or 3.
    """
    if drawn.channels not in (1, 3):
        raise UnreadableModel(f"{path.name} draws {drawn.channels} channels; only 1 or 3 can be shown")
    for said, found, what in ((settings.dimension, drawn.dimension, "latent"), (settings.size, drawn.side, "side")):
        if said is not None and said != found:
            raise SettingError(f"{what} {said} is not the {found} of {path.name}; leave it out")
    if settings.conditions or settings.truncation is not None:
        raise SettingError(f"{path.name} has neither conditions nor truncation; leave them out")
    law = settings.law or SourceLaw()
    if law.name == "w":
        raise SettingError("law='w' is for StyleGAN; leave it out")
    return Imported(
        network=PlainGan(drawn, law, settings.output_range or (-1.0, 1.0)).eval(),
        latents=LatentSpace(drawn.dimension),
        output=Output(shape=(3, drawn.side, drawn.side)),
        licence=settings.licence or "NOASSERTION",
        notice=settings.notice,
        source=law,
        origin=origin_of(path),
    )


def peek(path: Path, head: bytes) -> bytes:
    """The part of a checkpoint that names its tensors; runs nothing, never raises."""
    if not head.startswith(b"PK"):
        return head
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(entry for entry in archive.namelist() if entry.endswith("data.pkl"))
            with archive.open(name) as file:
                return file.read(_PEEK)
    except (zipfile.BadZipFile, StopIteration, OSError, ValueError, RuntimeError, NotImplementedError):
        return b""


def doubled(x: Tensor) -> Tensor:
    """Each pixel four times: ``(n, c, h, w)`` to ``(n, c, 2 h, 2 w)``."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
