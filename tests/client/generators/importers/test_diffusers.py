"""Folders of diffusers, tiny and with random weights: the same pictures as the library's own pipelines draw."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from client.generators.importers.base import ImportSettings, make
from client.generators.importers.diffusers_pipeline import prompt_embedding
from client.generators.importers.registry import importer_of, sniffed
from client.generators.importers.sampling import Denoised
from common.errors import SettingError, UnreadableModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those of the libraries when they are imported
    from tests.client.generators.importers import diffusers_folders as folders
pytestmark = pytest.mark.filterwarnings("ignore")  # and when they save and load

SIDE = folders.SIDE


def read(folder: Path, **said: str) -> Any:
    return importer_of("diffusers").read(folder, ImportSettings(settings=said))


def latents(read: Any, n: int = 64) -> Any:
    return read.latents.sample(n, torch.Generator().manual_seed(7))


def difference(found: Any, wanted: Any) -> float:
    assert float(wanted.std(0).mean()) > 0.02  # the latents matter, so that agreement says something
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(
    "scheduler",
    [
        {},
        {"prediction_type": "v_prediction", "clip_sample": False, "timestep_spacing": "trailing"},
        {"prediction_type": "sample", "set_alpha_to_one": False, "steps_offset": 1},
    ],
    ids=["noise", "velocity", "picture"],
)
@torch.no_grad()
def test_ddim_draws_what_the_library_draws(tmp_path: Path, scheduler: dict[str, Any]) -> None:
    pipe = folders.ddim(tmp_path / "ddim", **scheduler)
    imported = read(tmp_path / "ddim", steps="3")
    z = latents(imported)
    pipe.scheduler.set_timesteps(3)
    x = z.reshape(-1, 3, SIDE, SIDE)
    for time in pipe.scheduler.timesteps:
        x = pipe.scheduler.step(pipe.unet(x, time).sample, time, x, eta=0.0).prev_sample
    assert difference(imported.network(z), x.clamp(-1, 1)) < 1e-3


@torch.no_grad()
def test_a_rectified_flow_draws_what_the_library_draws(tmp_path: Path) -> None:
    network, scheduler = folders.flow(tmp_path / "flow")
    imported = read(tmp_path / "flow", steps="3")
    z = latents(imported)
    scheduler.set_timesteps(3)
    x = z.reshape(-1, 3, SIDE, SIDE)
    for time in scheduler.timesteps:
        x = scheduler.step(network(x, time).sample, time, x).prev_sample
    assert difference(imported.network(z), x.clamp(-1, 1)) < 1e-3
    other = read(tmp_path / "flow", steps="4").network(z)
    assert difference(other, x.clamp(-1, 1)) > 1e-2  # another number of steps is another generator


@torch.no_grad()
def test_an_autoencoder_draws_what_the_library_draws(tmp_path: Path) -> None:
    vae = folders.vae()
    vae.save_pretrained(tmp_path / "vae")
    imported = read(tmp_path / "vae")
    z = latents(imported)
    wanted = vae.decode(z.reshape(-1, 4, SIDE // 2, SIDE // 2) / vae.config.scaling_factor).sample
    assert difference(imported.network(z), wanted.clamp(-1, 1)) < 1e-3
    assert imported.latent_shape == (4, SIDE // 2, SIDE // 2)
    larger = importer_of("diffusers").read(tmp_path / "vae", ImportSettings(size=32))
    assert larger.output.shape == (3, 32, 32)


@torch.no_grad()
def test_a_prompt_is_a_condition_beside_the_noise(tmp_path: Path) -> None:
    """Tokens by hand: 'abc' is one word of the vocabulary, 'b' and 'd' are letters that end a word."""
    unet, vae, text = folders.stable(tmp_path / "stable")
    imported = read(tmp_path / "stable", steps="2", prompt="ABC b", negative="d", guidance="3")
    z = latents(imported, 16)
    scheduler = folders.diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **folders.SAID)
    scheduler.set_timesteps(2)

    def drawn(tokens: list[int]) -> Any:
        told = text(torch.tensor([[0, 19, 1, 1, 1, 1, 1, 1], tokens])).repeat_interleave(len(z), 0)
        x = z.reshape(-1, 4, SIDE // 2, SIDE // 2)
        for time in scheduler.timesteps:
            without, within = unet(torch.cat([x, x]), time, told).sample.chunk(2)
            x = scheduler.step(without + 3 * (within - without), time, x, eta=0.0).prev_sample
        return vae.decode(x / vae.config.scaling_factor).sample.clamp(-1, 1)

    abc_b, k_l = [0, 31, 17, 1, 1, 1, 1, 1], [0, 26, 27, 1, 1, 1, 1, 1]
    prompt = imported.defaults["prompt"].expand(len(z), -1, -1)
    assert difference(imported.network(z, prompt), drawn(abc_b)) < 1e-3
    other = prompt_embedding(tmp_path / "stable", "k l").expand(len(z), -1, -1)
    assert difference(imported.network(z, other), drawn(k_l)) < 1e-3
    assert difference(imported.network(z, other), drawn(abc_b)) > 1e-2


def test_checkpointing_changes_no_gradient(tmp_path: Path) -> None:
    folders.flow(tmp_path / "flow")
    network = read(tmp_path / "flow", steps="2").network
    inside = network.network
    assert isinstance(inside, Denoised)
    gradients = []
    for checkpointing in (False, True):
        inside.checkpointing = checkpointing
        z = torch.randn(2, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(2)).requires_grad_()
        network(z).square().sum().backward()
        assert z.grad is not None
        gradients.append(z.grad)
    assert torch.equal(gradients[0], gradients[1])
    assert float(gradients[0].abs().max()) > 0


def test_a_pipeline_becomes_a_pack_unrolled_with_shared_weights(tmp_path: Path) -> None:
    network = folders.lively(folders.plain_unet(), 5)
    folders.diffusers.DDIMPipeline(network, folders.diffusers.DDIMScheduler()).save_pretrained(tmp_path / "ddim")
    assert sniffed(tmp_path / "ddim").kind == sniffed(tmp_path / "ddim" / "model_index.json").kind == "diffusers"
    imported = read(tmp_path / "ddim", steps="6")
    made = make(imported, name="ddim")
    assert made.error < 1e-3
    weights = 4 * sum(value.numel() for value in network.parameters())
    assert weights < len(made.files["generator.onnx"]) < 2 * weights + 200_000  # not six times the weights


def _broken(folder: Path, how: str) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if how == "pickle":
        weights.rename(weights.with_suffix(".bin"))
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "class":
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, "unet": ["evil", "Runner"]}))
    else:
        about = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**about, "use_dynamic_shifting": True}))


@pytest.mark.parametrize(
    ("how", "why"),
    [("pickle", "no safetensors"), ("cut", "cannot be loaded"), ("class", "'Runner'"), ("shift", "dynamic_shifting")],
)
def test_damaged_and_foreign_folders_are_refused(tmp_path: Path, how: str, why: str) -> None:
    folders.flow(tmp_path / "flow")
    _broken(tmp_path / "flow", how)
    with pytest.raises(UnreadableModel, match=why):
        read(tmp_path / "flow", steps="2")


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    folders.flow(tmp_path / "flow")
    for said, why in (({"steps": "0"}, "steps=0"), ({"steps": "few"}, "few"), ({"prompt": "a cat"}, "no prompt")):
        with pytest.raises(SettingError, match=why):
            read(tmp_path / "flow", **said)
    with pytest.raises(UnreadableModel, match="owner/name"):
        read(tmp_path / "nowhere")


def test_without_the_library_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(SettingError, match=r"plgl\[diffusers\]"):
        read(tmp_path)
