from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from client.generators.importers.base import ImportSettings, write
from client.generators.importers.torch_module import IMPORTER
from client.generators.pack import GeneratorPack
from common.errors import SettingError, UnreadableModel

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, bias=True):
        super().__init__()
        self.start = nn.ConvTranspose2d(6, width, 4, bias=bias)
        self.end = nn.ConvTranspose2d(width, 3, 4, 4)

    def forward(self, z, style):
        return torch.tanh(self.end(torch.relu(self.start(z)) * style[:, :1, None, None]))

class NoModule:
    pass
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The person's own code, and weights for it."""
    folder = tmp_path_factory.mktemp("torch")
    (folder / "net.py").write_text(CODE)
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    torch.manual_seed(0)
    weights = namespace["Net"](width=8).state_dict()
    nested = {f"{part}/module.{name}": value for name, value in weights.items() for part in ("netG", "ema")}
    safetensors.torch.save_file({name: value.clone() for name, value in nested.items()}, folder / "nested.safetensors")
    safetensors.torch.save_file(weights, folder / "w.safetensors")
    return folder


def settings(folder: Path, **changes: Any) -> ImportSettings:
    own = {"with.width": "8", "latent_shape": "6,1,1"} | changes.pop("settings", {})
    own = {name: value for name, value in own.items() if value}
    module = str(folder / "net.py") + changes.pop("name", ":Net")
    return ImportSettings(**{"module": module, "conditions": {"style": "1,0"}, "settings": own, **changes})


def test_weights_for_a_named_class_become_a_pack(folder: Path, tmp_path: Path) -> None:
    imported = IMPORTER.read(folder / "w.safetensors", settings(folder))
    made = write(imported, tmp_path / "pack", name="toy")
    assert made.error < 1e-4
    pack = GeneratorPack.open(tmp_path / "pack")
    assert pack.manifest.latent_shape == (6, 1, 1)
    assert pack.manifest.origin is not None
    assert pack.manifest.origin.file == "w.safetensors"
    latents = pack.latents.sample(3, torch.Generator().manual_seed(0))
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    net = namespace["Net"](width=8)
    net.load_state_dict(safetensors.torch.load_file(folder / "w.safetensors"))
    with torch.no_grad():
        wanted = net(latents.reshape(3, 6, 1, 1), torch.tensor([[1.0, 0]]).expand(3, 2))
    assert float((pack.generate(latents) - wanted).abs().max()) < 1e-5


def test_weights_deeper_in_a_file_are_chosen_by_name(folder: Path) -> None:
    with pytest.raises(SettingError, match="weights under ema, netG; choose with --set key=NAME"):
        IMPORTER.read(folder / "nested.safetensors", settings(folder))
    assert (
        IMPORTER.read(folder / "nested.safetensors", settings(folder, settings={"key": "ema"})).latents.dimension == 6
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"module": ""}, SettingError, "--module package.module:Class"),
        ({"module": "net"}, SettingError, "package.module:Class or file.py:Class"),
        ({"module": "no.such.package:Net"}, SettingError, "cannot be imported"),
        ({"module": "nowhere/net.py:Net"}, SettingError, "no such file"),
        ({"name": ":Other"}, SettingError, "Other"),
        ({"name": ":NoModule", "settings": {"with.width": ""}}, SettingError, "no torch.nn.Module"),
        ({"settings": {"with.colour": "2"}}, SettingError, "refuses its arguments"),
        ({"settings": {"with.width": "5"}}, UnreadableModel, r"of another shape .*instead of \(6, 5, 4, 4\)"),
        ({"settings": {"with.bias": "no"}}, UnreadableModel, "extra start.bias"),
        ({"settings": {"key": "netD"}}, SettingError, "choose with --set key=NAME"),
        ({"settings": {"latent_shape": ""}}, SettingError, "--latent D"),
        ({"settings": {"latent_shape": "7,1,1"}}, UnreadableModel, "give another --latent"),
        ({"settings": {"depth": "7"}}, SettingError, "--set depth is unknown"),
    ],
)
def test_what_cannot_be_read_is_told_with_the_next_step(
    changes: dict[str, Any], error: type[Exception], message: str, folder: Path
) -> None:
    with pytest.raises(error, match=message):
        IMPORTER.read(folder / "w.safetensors", settings(folder, **changes))


def test_an_exported_program_is_not_opened(folder: Path) -> None:
    (folder / "w.pt2").write_bytes(b"PK")
    with pytest.raises(UnreadableModel, match="export it to ONNX"):
        IMPORTER.read(folder / "w.pt2", settings(folder))


def test_a_network_that_was_traced_for_one_batch_alone_says_why(tmp_path: Path) -> None:
    code = CODE.replace("self.start(z)", "self.start(z.reshape(len(z), 6, 1, 1))")
    assert code != CODE
    (tmp_path / "net.py").write_text(code)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    safetensors.torch.save_file(namespace["Net"](width=8).state_dict(), tmp_path / "w.safetensors")
    imported = IMPORTER.read(tmp_path / "w.safetensors", settings(tmp_path))
    with pytest.raises(UnreadableModel, match=r"at once and no other number, .* write x.shape\[0\]"):
        write(imported, tmp_path / "pack", name="toy")
    assert not (tmp_path / "pack").exists()
