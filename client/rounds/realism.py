"""How real a candidate is: what the realism filter asks, from the latent's density or from a discriminator."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from client.generators.onnx import OnnxModel
from common.errors import DamagedPack, SettingError


class Realism(Protocol):
    """Scores candidates; anything callable like this fits the slot."""

    def __call__(self, latents: Tensor, pictures: Tensor) -> Tensor:
        """``(n,)`` finite scores of latents ``(n, d)`` and their pictures ``(n, 3, h, w)``; higher is more real."""


def typicality(latents: Tensor, pictures: Tensor | None = None) -> Tensor:
    """How typical the norm is under N(0, I): the two-sided p-value of ``|z|^2`` under chi-squared with d degrees.

    Args:
        latents: ``(n, d)``.
        pictures: not looked at.

    Returns:
        ``(n,)`` from 0 (never drawn) to 1 (on the typical shell).
    """
    half = torch.tensor(latents.shape[1] / 2, dtype=torch.float64)
    below = torch.special.gammainc(half, latents.double().square().sum(1) / 2)
    return 2 * torch.minimum(below, 1 - below)


class Discriminator:
    """An ONNX file that maps pictures ``(n, 3, h, w)`` in [-1, 1] to scores ``(n,)`` or ``(n, 1)``."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            SettingError: it cannot be read, is no ONNX file of standard operators, or takes more than pictures.
        """
        self.path = path
        try:
            self.content = path.read_bytes()
            self._model = OnnxModel(self.content, path.name)
        except OSError as error:
            raise SettingError(f"cannot read {path}: {error.strerror}; choose another --discriminator") from error
        except DamagedPack as error:
            raise SettingError(f"{path} is no discriminator: {_reason(error)}; choose another one") from error
        if len(self._model.inputs) != 1:
            raise SettingError(f"{path} takes {len(self._model.inputs)} inputs; a discriminator takes pictures only")

    def __call__(self, latents: Tensor, pictures: Tensor) -> Tensor:
        """See `Realism`.

        Raises:
            SettingError: the network refuses pictures of this size, or does not answer with one number for each.
        """
        shape = " x ".join(map(str, pictures.shape))
        try:
            scores = self._model.run(**{self._model.inputs[0]: pictures})
        except DamagedPack as error:
            raise SettingError(f"{self.path} cannot judge pictures {shape}; set --size to what it takes") from error
        if scores.numel() != len(pictures) or not bool(scores.isfinite().all()):
            raise SettingError(f"{self.path} does not answer {shape} with one finite number for each; choose another")
        return scores.reshape(-1).double()


def _reason(error: DamagedPack) -> str:
    return str(error).split(";")[0]
