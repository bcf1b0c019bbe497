"""Folders of diffusers: unconditional and prompted pipelines as maps from noise to picture, and AutoencoderKL alone.

A pipeline becomes its network, unrolled for a fixed number of deterministic steps. A prompt is a condition, so taste
chooses among pictures of the same prompt (the noise is the latent).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from client.generators.importers.adapting import known_settings
from client.generators.importers.base import RUNTIME, Imported, Importer, ImportSettings
from client.generators.importers.diffusers_folder import (
    CONFIG,
    INDEX,
    MODELS,
    folder_of,
    library,
    model,
    origin_of_folder,
    read_json,
    text_parts,
)
from client.generators.importers.sampling import MOST_STEPS, Denoised, Step, steps_of
from client.generators.importers.unrolling import Shown, unrolled
from client.generators.interface import Condition, Output
from client.generators.torch_network import Recipe
from common.errors import SettingError, UnreadableModel
from common.latents import LatentSpace

STEPS, GUIDANCE = 20, 7.5
_EMPTY = Step(time=0.0, clean=(0.0, 0.0), noise=(0.0, 0.0), mix=(0.0, 0.0))
_SCHEDULER = "scheduler/scheduler_config.json"


@dataclass(frozen=True, kw_only=True)
class Drawer:
    """A network from noise to pictures.

    Attributes:
        network: ``(n, d)`` latents and the conditions to ``(n, channels, h, w)``.
        latent_shape: of one latent.
        shape: of one picture, ``(channels, h, w)``.
        conditions: its further inputs.
        defaults: their values.
    """

    network: nn.Module
    latent_shape: tuple[int, ...]
    shape: tuple[int, ...]
    conditions: tuple[Condition, ...] = ()
    defaults: Mapping[str, Tensor] = field(default_factory=dict)


class Answer(nn.Module):
    """A network of diffusers as a plain function of noisy picture, time and, where it has one, prompt."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, time: Tensor, *prompt: Tensor) -> Tensor:
        """What it predicts, of the shape of ``x``."""
        answer: Tensor = self.unet(x, time, *prompt, return_dict=False)[0]
        return answer


class LatentDecoder(nn.Module):
    """The decoder of an AutoencoderKL, from latents of unit variance (its ``scaling_factor`` and ``shift_factor``)."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.config = _config(vae)
        self.after: nn.Module = vae.post_quant_conv if vae.post_quant_conv is not None else nn.Identity()
        self.decoder: nn.Module = vae.decoder
        self.scale = 1 / float(vae.config.scaling_factor)
        self.shift = float(vae.config.shift_factor or 0.0)

    def forward(self, latent: Tensor) -> Tensor:
        """``(n, c, h, w)`` to pictures."""
        drawn: Tensor = self.decoder(self.after(latent * self.scale + self.shift))
        return drawn


def read(path: Path, settings: ImportSettings) -> Imported:
    """Read a folder of diffusers, or fetch one by its name on the hub; see `Importer.read`."""
    known_settings(settings.settings, IMPORTER.settings)
    if settings.conditions or settings.truncation is not None or settings.law is not None or settings.output_range:
        raise SettingError("a pipeline says its law, range and conditions itself; leave them out, or --set prompt=TEXT")
    library("diffusers")
    folder = folder_of(path)
    drawer = _pipeline(folder, settings) if (folder / INDEX).is_file() else _autoencoder(folder, settings)
    dimension = math.prod(drawer.latent_shape)
    if settings.dimension not in (None, dimension):
        raise SettingError(f"--latent {settings.dimension}, and {folder.name} takes {dimension}; leave --latent out")
    if drawer.shape[0] not in (1, 3):
        raise UnreadableModel(f"{folder} draws {drawer.shape[0]} channels; only 1 or 3 can be shown")
    network = Shown(drawer.network, drawer.latent_shape).eval()
    return Imported(
        network=network,
        latents=LatentSpace(dimension),
        output=Output(shape=(3, *drawer.shape[1:])),
        licence=settings.licence or "NOASSERTION",
        notice=settings.notice,
        latent_shape=drawer.latent_shape,
        conditions=drawer.conditions,
        defaults=drawer.defaults,
        origin=origin_of_folder(folder),
        written=(lambda: unrolled(network, drawer.defaults)) if isinstance(drawer.network, Denoised) else None,
        recipe=recipe_of(network),
        runtime=settings.settings.get("runtime", ""),
    )


def recipe_of(shown: Shown) -> Recipe:
    """How `rebuilt` makes such a network without its weights."""
    network = shown.network
    about: dict[str, Any] = {"latent_shape": list(shown.latent_shape), "unet": None, "steps": 0, "guidance": 1.0}
    about["negative"] = None
    decoder: nn.Module = network
    if isinstance(network, Denoised):
        unet: Any = network.network.unet
        decoder, negative = network.decoder, network.state_dict().get("negative")
        about["negative"] = None if negative is None else list(negative.shape)
        about |= {"unet": {"class": type(unet).__name__, "config": _config(unet)}, "guidance": network.guidance}
        about["steps"] = len(network.get_buffer("steps"))
    about["vae"] = decoder.config if isinstance(decoder, LatentDecoder) else None
    return Recipe(builder="diffusers", settings=about)


def rebuilt(
    *,
    latent_shape: Sequence[int],
    unet: Mapping[str, Any] | None,
    vae: Mapping[str, Any] | None,
    steps: int,
    guidance: float,
    negative: Sequence[int] | None,
) -> nn.Module:
    """The network of `recipe_of`, its weights empty.

    Raises:
        ValueError, TypeError, KeyError: the settings are impossible.
        SettingError: diffusers is not installed.
    """
    shape = tuple(latent_shape)
    decoder = None if vae is None else LatentDecoder(library("diffusers").AutoencoderKL(**vae))
    if unet is None:
        if decoder is None:
            raise ValueError("neither a unet nor a decoder")
        return Shown(decoder, shape)
    if unet["class"] not in MODELS[:2] or not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"{str(unet['class'])[:40]!r} for {steps} steps")
    answer = Answer(getattr(library("diffusers"), unet["class"])(**unet["config"]))
    empty = None if negative is None else torch.empty(*negative)
    network = Denoised(answer, (_EMPTY,) * steps, shape, decoder, guidance=guidance, negative=empty)
    return Shown(network, shape)


def _config(model: Any) -> dict[str, Any]:
    """Arguments of a model of diffusers, as JSON."""
    plain: dict[str, Any] = json.loads(json.dumps({k: v for k, v in model.config.items() if not k.startswith("_")}))
    return plain


def sniff(path: Path, head: bytes) -> bool:
    """Whether it is the JSON file that describes a folder of diffusers."""
    return path.name in (INDEX, CONFIG) and b'"_diffusers_version"' in head


def prompt_embedding(folder: Path, text: str) -> Tensor:
    """What a pipeline's own text encoder makes of a prompt, ``(tokens, width)``, float32.

    Give it to `GeneratorPack.generate` as ``conditions={"prompt": ...}`` to use a pack with another prompt.

    Raises:
        UnreadableModel: the folder has no CLIP text encoder and tokenizer.
    """
    return _embeddings(folder, [text])[0]


def _pipeline(folder: Path, settings: ImportSettings) -> Drawer:
    index = read_json(folder / INDEX)
    if not isinstance(index.get("unet"), list):
        raise UnreadableModel(f"{folder} has no unet; pipelines of a UNet2DModel or UNet2DConditionModel are read")
    unet = model(folder, "unet")
    decoder, zoom, channels = _decoder(folder, index, unet)
    scheduler = read_json(folder / _SCHEDULER)
    if decoder is not None:
        scheduler["clip_sample"] = False  # what is cut are pixels; the library's own pipelines override it too
    steps = steps_of(scheduler, _whole(settings, "steps", STEPS))
    sides = _latent_sides(unet.config.sample_size, settings.size, zoom)
    shape = (int(unet.config.in_channels), *sides)
    picture = (channels, *(side * zoom for side in sides))
    if type(unet).__name__ == "UNet2DConditionModel":
        return _prompted(folder, settings, Answer(unet), steps, shape, picture, decoder)
    if unet.config.num_class_embeds or unet.config.class_embed_type:
        raise UnreadableModel(f"{folder} draws by class; only unconditional and prompted pipelines are read")
    if unused := [name for name in ("prompt", "negative", "guidance") if name in settings.settings]:
        raise SettingError(f"--set {unused[0]}: {folder.name} takes no prompt; leave it out")
    return Drawer(network=Denoised(Answer(unet), steps, shape, decoder), latent_shape=shape, shape=picture)


def _prompted(
    folder: Path,
    settings: ImportSettings,
    answer: Answer,
    steps: Any,
    shape: tuple[int, ...],
    picture: tuple[int, ...],
    decoder: nn.Module | None,
) -> Drawer:
    needed = ("time_cond_proj_dim", "addition_embed_type", "class_embed_type", "encoder_hid_dim_type")
    if extra := [name for name in needed if answer.unet.config[name]]:  # type: ignore[index]
        raise UnreadableModel(f"{folder} also needs inputs for {extra[0]}; pipelines with one prompt are read")
    text = settings.settings.get("prompt")
    if text is None:
        raise SettingError(f"{folder.name} draws what a prompt says; give one with --set prompt='a lighthouse at dusk'")
    guidance = _number(settings, "guidance", GUIDANCE)
    wanted, negative = _embeddings(folder, [text, settings.settings.get("negative", "")])
    network = Denoised(answer, steps, shape, decoder, guidance=guidance, negative=negative[None])
    about = "".join(mark if mark.isprintable() else " " for mark in f"prompt: {text}")[:200]
    condition = Condition(name="prompt", shape=tuple(wanted.shape), about=about)
    return Drawer(
        network=network, latent_shape=shape, shape=picture, conditions=(condition,), defaults={"prompt": wanted}
    )


def _autoencoder(folder: Path, settings: ImportSettings) -> Drawer:
    if unused := sorted(settings.settings.keys() - {"runtime"}):
        raise SettingError(f"--set {unused[0]}: {folder.name} is an autoencoder without steps or prompt; leave it out")
    vae = model(folder)
    if type(vae).__name__ != "AutoencoderKL":
        raise UnreadableModel(f"{folder} is a {type(vae).__name__} alone; give the folder of its pipeline")
    decoder, zoom = LatentDecoder(vae), _zoom(vae)
    sides = _latent_sides(_halved(vae.config.sample_size, zoom), settings.size, zoom)
    shape = (int(vae.config.latent_channels), *sides)
    return Drawer(
        network=decoder,
        latent_shape=shape,
        shape=(int(vae.config.out_channels), *(side * zoom for side in sides)),
    )


def _decoder(folder: Path, index: Mapping[str, Any], unet: Any) -> tuple[nn.Module | None, int, int]:
    """Decoder, how much larger its pictures are, and their channels."""
    if not isinstance(index.get("vae"), list) or index["vae"][1] is None:
        if "vqvae" in index:
            raise UnreadableModel(f"{folder} decodes with a VQModel; pipelines with an AutoencoderKL are read")
        return None, 1, int(unet.config.out_channels)
    vae = model(folder, "vae")
    return LatentDecoder(vae), _zoom(vae), int(vae.config.out_channels)


def _embeddings(folder: Path, texts: list[str]) -> Tensor:
    tokenizer, encoder = text_parts(folder)
    with torch.no_grad():
        embedded: Tensor = encoder(torch.tensor([tokenizer.numbers(text) for text in texts]))
    return embedded


def _zoom(vae: Any) -> int:
    return 1 << (len(vae.config.block_out_channels) - 1)


def _halved(size: Any, zoom: int) -> Any:
    return [side // zoom for side in size] if isinstance(size, list | tuple) else size // zoom


def _latent_sides(own: Any, size: int | None, zoom: int) -> tuple[int, int]:
    """Height and width of the latent: the network's own, or those of pictures of ``size`` pixels."""
    if size is not None:
        if size < 16 or size % zoom:
            raise SettingError(f"--size {size} must be 16 or more and a multiple of {zoom}")
        return size // zoom, size // zoom
    sides = own if isinstance(own, list | tuple) else (own, own)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise SettingError("the pipeline does not say how large its pictures are; give --size")
    return int(sides[0]), int(sides[1])


def _whole(settings: ImportSettings, name: str, usual: int) -> int:
    text = settings.settings.get(name, str(usual))
    if not text.isdigit():
        raise SettingError(f"--set {name}={text[:40]!r} must be a whole number, such as {usual}")
    return int(text)


def _number(settings: ImportSettings, name: str, usual: float) -> float:
    text = settings.settings.get(name, str(usual))
    try:
        value = float(text)
    except ValueError as error:
        raise SettingError(f"--set {name}={text[:40]!r} must be a number, such as {usual}") from error
    if not 1 <= value <= 100:
        raise SettingError(f"--set {name}={value:g} must lie between 1 (none) and 100")
    return value


IMPORTER = Importer(
    kind="diffusers",
    about="folder of diffusers: DDIM and rectified-flow pipelines, Stable Diffusion with a prompt, AutoencoderKL",
    sniff=sniff,
    read=read,
    settings={
        "steps": f"of the sampler, fixed in the pack; {STEPS} without it",
        "prompt": "what a prompted pipeline draws; another can be given later as a condition",
        "negative": "what it keeps away from",
        "guidance": f"how strongly it follows the prompt; {GUIDANCE} without it, 1 for no guidance",
        "runtime": RUNTIME,
    },
)
