"""Every source of the gallery: how its network is trained, and with which options `plgl generator add` takes it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.gallery import autoencoders, diffusion, gans, plain
from tests.gallery.lessons import DIMENSION, Effort, Report, Taught

SETTINGS, COMPARED = "settings.json", "drawn-by-the-source.safetensors"


@dataclass(frozen=True, kw_only=True)
class PackOf:
    """One way to import a source.

    Attributes:
        name: of the pack.
        label: what the picture says.
        options: of `plgl generator add`, after file and ``--as``.
        shown: of the options, what the picture says too.
        prompts: further ones that the same pack is given as a condition, each a row of the picture.
        same: whether its latents and inputs are those that the trained network itself was drawn with.
    """

    name: str
    label: str
    options: tuple[str, ...] = ()
    shown: str = ""
    prompts: tuple[str, ...] = ()
    same: bool = True


@dataclass(frozen=True, kw_only=True)
class Source:
    """A network in the format of its kind.

    Attributes:
        name: of its folder.
        kind: as in ``--as``.
        teach: trains it and writes it to a folder.
        effort: how much is spent on it; a few minutes of one core.
        packs: the ways it is imported.
    """

    name: str
    kind: str
    teach: Callable[[Path, Effort, Report], Taught]
    effort: Effort
    packs: tuple[PackOf, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Written:
    """A trained source on disk.

    Attributes:
        path: file or folder to import.
        latents: ``(n, d)``.
        pictures: ``(n, 3, h, w)`` that the trained network draws for them.
        about: settings, seconds of training and parameters, as in `SETTINGS`.
    """

    path: Path
    latents: Tensor
    pictures: Tensor
    about: dict[str, Any]


def train(source: Source, out: Path, effort: Effort, report: Report) -> Written:
    """Train a source, unless its folder holds it with the same settings already.

    Args:
        source: what to train.
        out: folder of all sources.
        effort: how much, usually the source's own.
        report: of progress.
    """
    folder = out / source.name
    if (found := finished(folder, effort)) is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    started, losses = time.process_time(), []

    def follow(step: int, loss: float) -> None:
        losses.append(loss)
        report(step, loss)

    taught = source.teach(folder, effort, follow)
    seconds = time.process_time() - started
    save_file({"latents": taught.latents, "pictures": taught.pictures.contiguous()}, folder / COMPARED)
    about = {
        "effort": asdict(effort),
        "file": taught.file,
        "parameters": taught.parameters,
        "seconds": round(seconds, 1),
    }
    about |= {"loss": losses[-1], "torch": torch.__version__}
    (folder / SETTINGS).write_text(
        json.dumps(about, indent=2) + "\n"
    )  # last, so that it is there or the folder is not done
    found = finished(folder, effort)
    assert found is not None
    return found


def finished(folder: Path, effort: Effort) -> Written | None:
    """What a folder holds, if it was trained to the end with these settings."""
    if not (folder / SETTINGS).is_file():
        return None
    about = json.loads((folder / SETTINGS).read_text())
    if about["effort"] != asdict(effort):
        return None
    drawn = load_file(folder / COMPARED)
    return Written(path=folder / about["file"], latents=drawn["latents"], pictures=drawn["pictures"], about=about)


_OWN = str(Path(__file__).with_name("own_network.py"))


def _set(**settings: object) -> tuple[str, ...]:
    """Options ``--set name=value``."""
    return tuple(each for name, value in settings.items() for each in ("--set", f"{name}={value}"))


_STEPS, _FEW = _set(steps=diffusion.STEPS), f"{diffusion.STEPS} steps"
_GUIDED = (*_STEPS, *_set(guidance=f"{diffusion.GUIDANCE:g}"))

SOURCES = (
    Source(
        name="stylegan2",
        kind="stylegan",
        teach=gans.stylegan2,
        effort=Effort(steps=2000, batch=32, rate=8e-3),
        packs=(
            PackOf(name="stylegan2", label="StyleGAN2, Z"),
            PackOf(name="stylegan2-w", label="StyleGAN2, W", options=("--law", "w"), shown="--law w", same=False),
        ),
    ),
    Source(
        name="stylegan3-t",
        kind="stylegan",
        teach=gans.stylegan3("t"),
        effort=Effort(steps=900, batch=16, rate=1e-2),
        packs=(PackOf(name="stylegan3-t", label="StyleGAN3-T"),),
    ),
    Source(
        name="progan",
        kind="progan",
        teach=gans.progan,
        effort=Effort(steps=800, batch=32, rate=1e-2),
        packs=(PackOf(name="progan", label="ProGAN"),),
    ),
    Source(
        name="dcgan",
        kind="dcgan",
        teach=gans.dcgan,
        effort=Effort(steps=2000, batch=64, rate=4e-3),
        packs=(PackOf(name="dcgan", label="DCGAN"),),
    ),
    Source(
        name="stackgan",
        kind="stackgan",
        teach=gans.stackgan,
        effort=Effort(steps=400, batch=16, rate=5e-3),
        packs=(PackOf(name="stackgan", label="StackGAN-v2"),),
    ),
    Source(
        name="vae",
        kind="vae",
        teach=autoencoders.vae,
        effort=Effort(steps=1500, batch=32, rate=3e-3),
        packs=(
            PackOf(
                name="vae",
                label="VAE",
                options=("--set", "activation=leaky", "--set", "last=tanh", "--set", "odd=transposed"),
            ),
        ),
    ),
    Source(
        name="autoencoder",
        kind="diffusers",
        teach=autoencoders.autoencoder,
        effort=Effort(steps=450, batch=32, rate=2e-3),
        packs=(PackOf(name="autoencoder-kl", label="AutoencoderKL"),),
    ),
    Source(
        name="ddim",
        kind="diffusers",
        teach=diffusion.ddim,
        effort=Effort(steps=700, batch=32, rate=2e-3),
        packs=(PackOf(name="ddim", label="DDIM", options=_STEPS, shown=_FEW),),
    ),
    Source(
        name="flow",
        kind="diffusers",
        teach=diffusion.flow,
        effort=Effort(steps=500, batch=32, rate=2e-3),
        packs=(PackOf(name="flow", label="Rectified flow", options=_STEPS, shown=_FEW),),
    ),
    Source(
        name="prompted",
        kind="diffusers",
        teach=diffusion.prompted,
        effort=Effort(steps=700, batch=32, rate=2e-3),
        packs=(
            PackOf(
                name="prompted",
                label=f"“{diffusion.PROMPTS[0]}”",
                options=(
                    *_GUIDED,
                    *_set(prompt=diffusion.PROMPTS[0], runtime="torch"),
                ),  # 24 networks in a row load slowly
                shown="runtime=torch",
                prompts=diffusion.PROMPTS[2:3],  # hats and red clothes are too rare to be learned in this time
            ),
        ),
    ),
    Source(
        name="onnx",
        kind="onnx",
        teach=plain.onnx_file,
        effort=Effort(steps=4000, batch=64, rate=2e-3),
        packs=(
            PackOf(
                name="onnx",
                label="An ONNX file",
                options=("--law", "uniform", "--range", "-1", "1", "--output-range", "0", "1"),
                shown="--law uniform",
            ),
        ),
    ),
    Source(
        name="torch",
        kind="torch",
        teach=plain.torch_module,
        effort=Effort(steps=2000, batch=32, rate=3e-3),
        packs=(
            PackOf(
                name="torch",
                label="A class of your own",
                shown="--module",
                options=(
                    *("--module", f"{_OWN}:Own", "--set", f"latent_shape={DIMENSION},1,1"),
                    *("--set", f"with.width={plain.WIDTH}"),
                ),
            ),
        ),
    ),
)
"""In the order of the picture."""
