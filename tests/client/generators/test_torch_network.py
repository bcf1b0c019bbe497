"""Packs whose generator runs in torch: as their source, with gradients, and safe from whoever made them."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from client.generators import manifest as manifests
from client.generators import torch_network
from client.generators.check import check
from client.generators.cli import app
from client.generators.importers import base
from client.generators.importers.base import Imported, ImportSettings
from client.generators.importers.registry import importer_of
from client.generators.manifest import LATENT_MAP, MANIFEST, NETWORK, WEIGHTS, Manifest
from client.generators.pack import GeneratorPack
from client.generators.pack_files import fingerprint, write_pack
from client.generators.speed import SpeedSettings
from client.generators.torch_network import Recipe, TorchModel, WrongWeights, build, stored
from common.errors import DamagedPack, OutOfMemory, PackError, SettingError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those of the libraries when they are imported
    from tests.client.generators.importers import diffusers_folders as folders
pytestmark = pytest.mark.filterwarnings("ignore")  # and when they save and load

D = 5


def call(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def vae(folder: Path) -> Imported:
    """The decoder of a small VAE: a dense layer and two transposed convolutions, 16 x 16 pixels, grey."""
    torch.manual_seed(3)
    layers = {
        "fc": nn.Linear(D, 8 * 16),
        "up": nn.ConvTranspose2d(8, 4, 4, 2, 1),
        "out": nn.ConvTranspose2d(4, 1, 4, 2, 1),
    }
    state = {f"{name}.{key}": 2 * value for name, layer in layers.items() for key, value in layer.state_dict().items()}
    torch.save(state, folder / "decoder.pt")
    return importer_of("vae").read(folder / "decoder.pt", ImportSettings(settings={"runtime": "torch"}))


def ddim(folder: Path, **said: str) -> Imported:
    folders.ddim(folder)
    return importer_of("diffusers").read(folder, ImportSettings(settings=said))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pack of the VAE is added, as a person does it."""
    folder = tmp_path_factory.mktemp("vae")
    vae(folder)
    home = ("--home", folder / "home")
    said = call("add", folder / "decoder.pt", "--as", "vae", "--name", "small", "--set", "runtime=torch", *home)
    assert "as its source up to" in said
    return folder / "home"


@pytest.fixture
def folder(home: Path, tmp_path: Path) -> Path:
    """A copy of its folder to damage."""
    pack = GeneratorPack.open("small", home)
    write_pack(tmp_path / "copy", pack.manifest, dict(pack.files))
    return tmp_path / "copy"


def draws(n: int, d: int = D) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1))


def rewritten(folder: Path, name: str, content: bytes) -> None:
    """Change a file as its maker could: with the manifest that names it."""
    found = Manifest.decode((folder / MANIFEST).read_bytes())
    changed = replace(found, files={**found.files, name: fingerprint(content)})
    (folder / name).write_bytes(content)
    (folder / MANIFEST).write_bytes(changed.encode())


def test_it_draws_what_its_source_draws_however_it_is_cut(home: Path, tmp_path: Path) -> None:
    pack, source = GeneratorPack.open("small", home), vae(tmp_path).network
    assert pack._proven
    assert set(pack.manifest.files) == {NETWORK, WEIGHTS}
    assert json.loads(pack.manifest.encode())["format"] == "plgl-pack-3"
    assert pack.hash == hashlib.sha256(Manifest.decode(pack.manifest.encode()).encode()).hexdigest()
    with torch.no_grad():
        wanted = source(draws(7))
    assert float(wanted.std(0).max()) > 0.01
    torch.testing.assert_close(pack.generate(draws(7)), wanted)
    torch.testing.assert_close(pack.tuned(SpeedSettings(items_at_once=2)).generate(draws(7), 16), wanted)
    assert pack.generate(draws(0)).shape == (0, 3, 16, 16)
    with pytest.raises(SettingError, match="only makes 16 x 16"):
        pack.generate(draws(1), 32)


def test_one_line_for_each_promise(home: Path) -> None:
    said = call("check", "small", "--home", home)
    assert "no code: weights are safetensors alone, plgl built the network as vae" in said
    assert "6 tensors" in said
    assert "no NaN" in said
    assert "small 1.0.0 is sound: 2 files" in said


def test_a_latent_map_may_lie_beside_it(home: Path) -> None:
    found = GeneratorPack.open("small", home).manifest
    files = {**found.files, LATENT_MAP: (8, "ab" * 32)}
    mapped = replace(found, files=files, components=1, r2=(0.5,), scale=(1.0,))
    assert Manifest.decode(mapped.encode()) == mapped
    for opset in (0, 18):  # that of ONNX says which runtime is meant
        with pytest.raises(DamagedPack, match="opset" if opset else "files"):
            replace(mapped, opset=opset, format="plgl-pack-2" if not opset else "plgl-pack-3")


def test_gradients_reach_the_latent_through_chunks_and_checkpoints(home: Path, tmp_path: Path) -> None:
    asked = draws(5).requires_grad_()
    (wanted,) = torch.autograd.grad(vae(tmp_path).network(asked).square().sum(), asked)
    for checkpointing in (False, True):
        speed = SpeedSettings(items_at_once=2, gradient_checkpointing=checkpointing)
        latents = draws(5).requires_grad_()
        drawn = GeneratorPack.open("small", home, speed=speed).generate(latents)
        torch.testing.assert_close(torch.autograd.grad(drawn.square().sum(), latents)[0], wanted)
        with torch.no_grad():
            assert not GeneratorPack.open("small", home).generate(latents).requires_grad
    assert float(wanted.abs().max()) > 0.01


def test_a_chunk_that_does_not_fit_is_cut_in_half(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack, sizes = GeneratorPack.open("small", home), []
    wanted = pack.generate(draws(8))

    class Narrow(nn.Module):
        def __init__(self, inside: nn.Module, most: int) -> None:
            super().__init__()
            self.inside, self.most = inside, most

        def forward(self, latent: Tensor) -> Tensor:
            sizes.append(len(latent))
            if len(latent) > self.most:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
            made: Tensor = self.inside(latent)
            return made

    assert isinstance(pack.generator, TorchModel)
    inside = pack.generator.network
    monkeypatch.setattr(pack.generator, "network", Narrow(inside, 2))
    torch.testing.assert_close(pack.generate(draws(8)), wanted)
    assert sizes == [8, 4, 2, 2, 2, 2]
    monkeypatch.setattr(pack.generator, "network", Narrow(inside, 0))
    with pytest.raises(OutOfMemory, match="one item"):
        pack.generate(draws(8))


def held(network: TorchModel, latents: Tensor) -> tuple[int, Tensor]:
    """Bytes autograd keeps for the backward pass, each storage once, and the gradient."""
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value
        return value

    latents = latents.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        made = network.traced(latent=latents)
    size = sum(value.untyped_storage().nbytes() for value in kept.values())
    return size, torch.autograd.grad(made.square().sum(), latents)[0]


def test_more_weights_than_onnx_holds_run_in_torch_and_checkpoints_save_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = ddim(tmp_path, steps="2")
    monkeypatch.setattr(base, "LARGEST_FILE", torch_network.bytes_of(imported.network) - 1)
    made = base.make(imported, name="ddim")
    assert made.manifest.runtime == "torch"
    assert made.error < 1e-5
    latents = draws(2, imported.latents.dimension)
    plain, wanted = held(TorchModel(made.files, made.manifest.inputs), latents)
    saved, found = held(TorchModel(made.files, made.manifest.inputs, checkpointing=True), latents)
    torch.testing.assert_close(found, wanted)
    assert saved < plain / 4
    monkeypatch.setattr(base, "LARGEST_WEIGHTS", 1000)
    with pytest.raises(PackError, match="GiB of weights"):
        base.make(imported, name="ddim")


@torch.no_grad()
def test_prompted_pipelines_and_autoencoders_are_built_again_as_they_were(tmp_path: Path) -> None:
    _, decoder, _ = folders.stable(tmp_path / "stable")
    decoder.save_pretrained(tmp_path / "decoder")
    for name, said in (("stable", {"prompt": "a cat", "steps": "2"}), ("decoder", {})):
        imported = importer_of("diffusers").read(tmp_path / name, ImportSettings(settings=said))
        assert imported.recipe is not None
        files = stored(imported.recipe, imported.network)
        again = build(Recipe.decode(files[NETWORK]), files[WEIGHTS])
        inputs = [draws(2, imported.latents.dimension), *(v.expand(2, *v.shape) for v in imported.defaults.values())]
        torch.testing.assert_close(again(*inputs), imported.network(*inputs))


def _settings(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda about: change(about["settings"])


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "builder": (lambda about: about.update(builder="os.system"), "builder 'os.system'"),
    "format": (lambda about: about.update(format="plgl-network-9"), "no network"),
    "code": (lambda about: about.update(code="import os"), "no network"),
    "setting": (_settings(lambda said: said.update(hook="x")), "makes no network"),
    "activation": (_settings(lambda said: said.update(between="__import__")), "makes no network"),
    "layer": (_settings(lambda said: said["layers"][0].update(kind="lambda")), "makes no network"),
    "huge": (
        _settings(lambda said: said["layers"][0].update(weight=[1 << 40, 1 << 20])),
        r"not float32 \(1099511627776",
    ),
    "endless": (_settings(lambda said: said["layers"][0].update(weight=[1 << 62, 1 << 62])), "makes no network"),
    "shape": (_settings(lambda said: said["layers"][1].update(weight=[8, 4, 6, 6])), "not float32"),
    "fewer": (_settings(lambda said: said["layers"].pop()), "holds 'core.bias_2'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_descriptions_are_refused(folder: Path, case: str) -> None:
    change, why = HOSTILE[case]
    about = json.loads((folder / NETWORK).read_bytes())
    change(about)
    with pytest.raises(DamagedPack, match=why):
        build(Recipe.decode(json.dumps(about).encode()), (folder / WEIGHTS).read_bytes())


def test_descriptions_of_diffusers_are_bounded_too(tmp_path: Path) -> None:
    imported = ddim(tmp_path, steps="2")
    assert imported.recipe is not None
    files = stored(imported.recipe, imported.network)
    changes: list[tuple[Callable[[Any], Any], str]] = [
        (lambda said: said["unet"].update({"class": "DiffusionPipeline"}), "makes no network"),
        (lambda said: said["unet"]["config"].update(trust_remote_code=True), "makes no network"),
        (lambda said: said["unet"]["config"].update(block_out_channels=[8, 32]), "not float32"),
        (lambda said: said.update(code="x"), "makes no network"),
        (lambda said: said.update(steps=10**9), "makes no network"),
        (lambda said: said.update(unet=None), "neither a unet nor a decoder"),
    ]
    for change, why in changes:
        about = json.loads(files[NETWORK])
        change(about["settings"])
        with pytest.raises(DamagedPack, match=why):
            build(Recipe.decode(json.dumps(about).encode()), files[WEIGHTS])


def _weights(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        found = safetensors.torch.load(content)
        change(found)
        return safetensors.torch.save(found)

    return changed


WEIGHTS_CASES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nan": (_weights(lambda w: w["core.weight_1"].view(-1)[3].fill_(float("nan"))), "NaN or infinite"),
    "more": (_weights(lambda w: w.update(payload=torch.zeros(3))), "holds 'payload'"),
    "fewer": (_weights(lambda w: w.pop("core.bias_0")), "lacks 'core.bias_0'"),
    "doubles": (_weights(lambda w: w.update({"core.bias_0": w["core.bias_0"].double()})), "torch.float64"),
    "pickle": (lambda _: b"\x80\x04cos\nsystem\n.", "no safetensors"),
    "cut": (lambda content: content[:-8], "no safetensors"),
}


@pytest.mark.parametrize("case", WEIGHTS_CASES)
def test_weights_that_are_not_the_networks_are_refused(folder: Path, case: str) -> None:
    change, why = WEIGHTS_CASES[case]
    with pytest.raises(WrongWeights, match=why):
        build(Recipe.decode((folder / NETWORK).read_bytes()), change((folder / WEIGHTS).read_bytes()))


def test_a_foreign_pack_is_first_built_in_a_child_and_its_faults_are_named(folder: Path) -> None:
    assert not GeneratorPack.open(folder)._proven
    rewritten(folder, WEIGHTS, WEIGHTS_CASES["nan"][0]((folder / WEIGHTS).read_bytes()))
    checked = check(folder)
    assert [promise.name for promise in checked.broken] == ["shapes"]
    assert "NaN or infinite weights in 'core.weight_1'" in checked.broken[0].says


def test_files_the_manifest_does_not_name_and_sizes_beyond_the_limit_are_refused(folder: Path) -> None:
    found = Manifest.decode((folder / MANIFEST).read_bytes())
    for name, size in ((WEIGHTS, manifests.LARGEST_WEIGHTS), (NETWORK, manifests.LARGEST_MANIFEST)):
        assert replace(found, files={**found.files, name: (size, "ab" * 32)})
        with pytest.raises(DamagedPack, match="files"):
            replace(found, files={**found.files, name: (size + 1, "ab" * 32)})
    for files in ({"code.py": (1, "ab" * 32)}, {"generator.onnx": (1, "ab" * 32)}):
        with pytest.raises(DamagedPack, match="files"):
            replace(found, files={**found.files, **files})
    (folder / "__init__.py").write_text("raise SystemExit")
    with pytest.raises(DamagedPack, match=r"also holds '__init__\.py'"):
        GeneratorPack.open(folder)
    assert [promise.name for promise in check(folder).broken] == ["hashes"]


def test_only_networks_with_a_recipe_run_in_torch(tmp_path: Path) -> None:
    imported = vae(tmp_path)
    for wrong in ({"runtime": "tensorrt"}, {"recipe": None}):
        with pytest.raises(SettingError, match="runtime"):
            replace(imported, **wrong)
    with pytest.raises(SettingError, match="--set runtime is unknown"):
        importer_of("dcgan").read(tmp_path / "decoder.pt", ImportSettings(settings={"runtime": "torch"}))
