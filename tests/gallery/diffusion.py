"""Folders of diffusers in the gallery: DDIM, rectified flow, and a prompted pipeline, trained on avatars."""

from __future__ import annotations

import importlib
import json
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from client.generators.avatar_drawing import COLOURS, Avatars
from tests.gallery.autoencoders import Kl, compressor
from tests.gallery.lessons import NATIVE, Effort, Report, Taught, descend, drawings, taught

if TYPE_CHECKING:  # the library it imports is heavy
    from tests.client.generators.importers.diffusers_folders import TextReference

STEPS, GUIDANCE = 12, 3.0
"""Steps of the samplers, and how strongly the prompted one follows its prompt."""
PROMPTS = ("glasses", "a hat", "dark skin", "red clothes")
_TIMES = 1000
_POOL = 20_000
TOKENS, _WIDTH, _UNSAID = 16, 32, 0.15
_SAID = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.02}
_SAID |= {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}


def _library() -> Any:
    return importlib.import_module("diffusers")


def _unet() -> Any:
    return _library().UNet2DModel(
        sample_size=NATIVE,
        layers_per_block=1,
        block_out_channels=(24, 48, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=16,
    )


def ddim(folder: Path, effort: Effort, report: Report) -> Taught:
    """An unconditional pipeline, `DDIMPipeline.save_pretrained`; learns velocities (Salimans and Ho 2022)."""
    torch.manual_seed(effort.seed)
    said = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    unet, scheduler = _unet(), _library().DDIMScheduler(**said, timestep_spacing="trailing")
    random, pictures = _pool(effort)
    levels = scheduler.alphas_cumprod

    def loss() -> Tensor:
        wanted = pictures[torch.randint(len(pictures), (effort.batch,), generator=random)]
        return _velocity_loss(lambda x, time: unet(x, time).sample, wanted, levels, random)

    descend(unet.train().parameters(), loss, effort, report)
    _library().DDIMPipeline(unet.eval(), scheduler).save_pretrained(folder / "ddim")
    return replace(taught(_Sampled(unet, scheduler), 3 * NATIVE**2), file="ddim")


def flow(folder: Path, effort: Effort, report: Report) -> Taught:
    """A rectified flow (Liu, Gong and Liu 2023, equation 1) in the layout of a pipeline."""
    torch.manual_seed(effort.seed)
    unet, scheduler = _unet(), _library().FlowMatchEulerDiscreteScheduler(shift=1.0)
    random, pictures = _pool(effort)

    def loss() -> Tensor:
        wanted = pictures[torch.randint(len(pictures), (effort.batch,), generator=random)]
        noise = torch.randn(wanted.shape, generator=random)
        # in the middle more often, where most is left open (Esser et al. 2024, section 3.1)
        sigma = torch.sigmoid(torch.randn(effort.batch, 1, 1, 1, generator=random))
        found = unet((1 - sigma) * wanted + sigma * noise, _TIMES * sigma.flatten()).sample
        apart: Tensor = found - (noise - wanted)
        return apart.square().mean()

    descend(unet.train().parameters(), loss, effort, report)
    place = folder / "flow"
    unet.eval().save_pretrained(place / "unet")
    scheduler.save_pretrained(place / "scheduler")
    _index(place, "RectifiedFlowPipeline", unet=unet, scheduler=scheduler)
    return replace(taught(_Sampled(unet, scheduler), 3 * NATIVE**2), file="flow")


def prompted(folder: Path, effort: Effort, report: Report) -> Taught:
    """Stable Diffusion's layout: a network in the latents of an AutoencoderKL that is told a text by CLIP's encoder.

    The text encoder learns together with the network, since there is none that was trained before.
    """
    from tests.client.generators.importers.diffusers_folders import TextReference

    squeeze = compressor(replace(effort, steps=max(1, effort.steps // 4)), lambda step, loss: None)
    torch.manual_seed(effort.seed)
    unet, scheduler = _told_unet(squeeze), _library().DDIMScheduler(**_SAID, clip_sample=False, set_alpha_to_one=False)
    text = TextReference(words=len(_vocabulary()), tokens=TOKENS, width=_WIDTH)
    _learn_prompted(unet, text, squeeze, scheduler, effort, report)
    place = folder / "prompted"
    unet.eval().save_pretrained(place / "unet")
    squeeze.network.save_pretrained(place / "vae")
    scheduler.save_pretrained(place / "scheduler")
    text.save(place / "text_encoder")
    write_tokenizer(place / "tokenizer")
    parts = {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    _index(place, "StableDiffusionPipeline", parts, unet=unet, vae=squeeze.network, scheduler=scheduler)
    sampled = _Sampled(unet, scheduler, squeeze, _told(text, [PROMPTS[0]]), _told(text, [""]))
    return replace(taught(sampled, squeeze.channels * squeeze.side**2), file="prompted")


def _told_unet(squeeze: Kl) -> Any:
    return _library().UNet2DConditionModel(
        sample_size=squeeze.side,
        layers_per_block=1,
        block_out_channels=(48, 64),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=_WIDTH,
        norm_num_groups=8,
        attention_head_dim=4,
    )


def _learn_prompted(
    unet: Any, text: TextReference, squeeze: Kl, scheduler: Any, effort: Effort, report: Report
) -> None:
    """With what is said left out now and then, for guidance (Ho and Salimans 2022)."""
    random = effort.random()
    pictures, about = drawings(max(effort.batch, min(_POOL, effort.steps * effort.batch)), random)
    with torch.no_grad():
        latents = torch.cat([squeeze.encoded(part)[0] for part in torch.split(pictures, 256)])
    latents = latents * float(squeeze.network.config.scaling_factor)
    said = captions(about, random)
    tokens = torch.tensor([numbers(each) for each in ("", *PROMPTS)])

    def loss() -> Tensor:
        chosen = torch.randint(len(latents), (effort.batch,), generator=random)
        prompt = text(tokens)[said[chosen]]
        return _velocity_loss(
            lambda x, time: unet(x, time, prompt).sample, latents[chosen], scheduler.alphas_cumprod, random
        )

    descend([*unet.train().parameters(), *text.train().parameters()], loss, effort, report)
    text.eval()


def captions(about: Avatars, random: torch.Generator) -> Tensor:
    """What is said of each avatar, ``(n,)`` int64: 0 for nothing, else one more than the place among `PROMPTS`."""
    skin, cloth = (about.palette[:, COLOURS.index(name)] for name in ("skin", "clothing"))
    red = (cloth[:, 0] > 0.55) & (cloth[:, 1:].amax(1) < 0.5)
    true = torch.stack([about.parts["glasses"] > 0, about.parts["hat"] > 0, skin.mean(1) < 0.5, red], 1)
    weight = torch.rand(true.shape, generator=random) * true
    unsaid = torch.rand(len(true), generator=random) < _UNSAID
    return torch.where(unsaid | ~true.any(1), 0, 1 + weight.argmax(1))


def _velocity_loss(
    answer: Callable[[Tensor, Tensor], Tensor], wanted: Tensor, levels: Tensor, random: torch.Generator
) -> Tensor:
    """Mean square of the error in ``alpha noise - sigma picture`` (Salimans and Ho 2022, section 4)."""
    time = torch.randint(len(levels), (len(wanted),), generator=random)
    alpha, sigma = (each.sqrt()[:, None, None, None] for each in (levels[time], 1 - levels[time]))
    noise = torch.randn(wanted.shape, generator=random)
    found = answer(alpha * wanted + sigma * noise, time)
    return (found - (alpha * noise - sigma * wanted)).square().mean()


class _Sampled(nn.Module):
    """The library's own sampler, to compare with; latents ``(n, d)`` to pictures."""

    def __init__(self, unet: Any, scheduler: Any, squeeze: Kl | None = None, *prompts: Tensor) -> None:
        super().__init__()
        self.unet, self.scheduler, self.squeeze, self.prompts = unet, scheduler, squeeze, prompts

    def forward(self, latents: Tensor) -> Tensor:
        sides = (self.unet.config.in_channels, self.unet.config.sample_size, self.unet.config.sample_size)
        x = latents.reshape(-1, *sides)
        self.scheduler.set_timesteps(STEPS)
        for time in self.scheduler.timesteps:
            x = self.scheduler.step(self._answer(x, time), time, x).prev_sample
        drawn: Tensor = x if self.squeeze is None else self.squeeze(x.flatten(1))
        return drawn

    def _answer(self, x: Tensor, time: Tensor) -> Tensor:
        if not self.prompts:
            alone: Tensor = self.unet(x, time).sample
            return alone
        within, without = (self.unet(x, time, told.expand(len(x), -1, -1)).sample for told in self.prompts)
        guided: Tensor = without + GUIDANCE * (within - without)
        return guided


def _pool(effort: Effort) -> tuple[torch.Generator, Tensor]:
    random = effort.random()
    return random, drawings(max(effort.batch, min(_POOL, effort.steps * effort.batch)), random)[0]


def _index(place: Path, name: str, others: dict[str, list[str]] | None = None, **parts: Any) -> None:
    """Describe a pipeline as the library does."""
    index: dict[str, Any] = {"_class_name": name, "_diffusers_version": _library().__version__}
    index |= {part: ["diffusers", type(value).__name__] for part, value in parts.items()}
    (place / "model_index.json").write_text(json.dumps(index | (others or {})))


def _merges() -> list[tuple[str, str]]:
    """Byte pairs that make each word of the prompts one token."""
    found: dict[tuple[str, str], None] = {}
    for word in dict.fromkeys(" ".join(PROMPTS).split()):
        whole = word[0] if len(word) > 1 else ""
        for i, letter in enumerate(word[1:], 2):
            after = letter + ("</w>" if i == len(word) else "")
            found[(whole, after)] = None
            whole += after
    return list(found)


def _vocabulary() -> dict[str, int]:
    letters = string.ascii_lowercase
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return {word: i for i, word in enumerate(dict.fromkeys([*words, *("".join(pair) for pair in _merges())]))}


def numbers(text: str) -> list[int]:
    """Tokens of a prompt: every word of the prompts is one."""
    vocabulary = _vocabulary()
    found = [0, *(vocabulary[f"{word}</w>"] for word in text.split())]
    return found + [1] * (TOKENS - len(found))


def _told(text: TextReference, prompts: list[str]) -> Tensor:
    with torch.no_grad():
        embedded: Tensor = text(torch.tensor([numbers(each) for each in prompts]))
        return embedded


def write_tokenizer(folder: Path) -> None:
    """Vocabulary and merges of the prompts, in the older layout."""
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(_vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in _merges()))
    said = {"model_max_length": TOKENS, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
