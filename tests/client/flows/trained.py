"""Trainings of ``plgl generator train`` without the training: weights that are random, and the pack made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from client.generators.manifest import TORCH_FORMAT, Manifest
from client.generators.pack_files import fingerprint, write_pack
from client.generators.torch_network import stored
from client.generators.training import checkpoint
from client.generators.training.checkpoint import Checkpoint
from client.generators.training.cli import PACK
from client.generators.training.course import Course, TrainingSettings


def course(seed: int = 1, **said: Any) -> Course:
    """A flow of 16 pixels in three steps, or what is said, with weights that draw something."""
    usual = {"kind": "flow", "side": 16, "width": 8, "dimension": 6, "sampler": 3}
    made = Course(TrainingSettings(**{**usual, **said})).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for weight in made.parameters():
        weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return made


def write_torch_pack(folder: Path, made: Course, name: str = "mine") -> Manifest:
    """A pack that runs in torch, without the looks that `importers.base.make` takes at it."""
    imported = made.imported("CC0-1.0", "", "torch")
    files = stored(made.recipe, imported.network)
    manifest = Manifest(
        name=name,
        version="1.0.0",
        dimension=imported.latents.dimension,
        law="normal",
        output=imported.output,
        licence="CC0-1.0",
        opset=0,
        format=TORCH_FORMAT,
        files={each: fingerprint(content) for each, content in files.items()},
        latent_shape=imported.latent_shape,
    )
    write_pack(folder, manifest, files)
    return manifest


def training(folder: Path, made: Course) -> Path:
    """The folder a training leaves, with a pack that runs in torch."""
    folder.mkdir()
    average = {f"average/{name}": value for name, value in made.state_dict().items()}
    checkpoint.save(folder, checkpoint.note(made.settings, "a" * 64), Checkpoint(step=1, tensors=average))
    write_torch_pack(folder / PACK, made)
    return folder
