"""DCGAN, ProGAN and StackGAN-v2 against networks built the way their authors build them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from client.generators.importers import dcgan, progan, stackgan
from client.generators.importers.base import Imported, ImportSettings
from client.generators.importers.registry import sniffed
from client.generators.interface import SourceLaw
from common.errors import SettingError, UnreadableModel
from tests.client.generators.importers.gan_networks import (
    OfficialProGan,
    Tree,
    ZooProGan,
    lively,
    official_dcgan,
)

Make = Callable[[], nn.Module]


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def drawn(record: Imported, n: int = 4) -> tuple[Tensor, Tensor]:
    z = record.latents.sample(n, torch.Generator().manual_seed(1))
    with torch.no_grad():
        return z, record.network(z)


@torch.no_grad()
def worst(record: Imported, source: Callable[[Tensor], Tensor]) -> float:
    z, found = drawn(record)
    wanted = source(z)
    assert float(wanted.std()) > 0.02
    return float((found - wanted.clamp(-1, 1)).abs().max())


@pytest.mark.parametrize(("channels", "doublings"), [(3, 3), (1, 2), (3, 4)])
def test_a_dcgan_is_read_by_its_shapes(tmp_path: Path, channels: int, doublings: int) -> None:
    network = official_dcgan(channels=channels, doublings=doublings)
    path = saved(tmp_path / "netG.pth", network.state_dict())
    assert sniffed(path).kind == "dcgan"
    record = dcgan.read(path, ImportSettings())
    assert record.latents.dimension == 7
    assert record.output.shape == (3, 4 << doublings, 4 << doublings)
    assert worst(record, network) < 1e-4


def test_the_layout_of_the_faces_checkpoint_is_read(tmp_path: Path) -> None:
    network = official_dcgan(latent=100, doublings=4)
    others = {"netD_state_dict": {"main.0.weight": torch.zeros(2, 2, 4, 4)}, "epoch": 7}
    path = saved(tmp_path / "weights.tar", {**others, "netG_state_dict": network.state_dict()})
    assert sniffed(path).kind == "dcgan"
    record = dcgan.read(path, ImportSettings(licence="MIT"))
    assert (record.latents.dimension, record.output.shape, record.licence) == (100, (3, 64, 64), "MIT")
    assert worst(record, network) < 1e-4


def test_weights_trained_on_several_gpus_lose_their_prefix(tmp_path: Path) -> None:
    network = official_dcgan()
    path = saved(tmp_path / "netG.pth", {f"module.{k}": v.half() for k, v in network.state_dict().items()})
    assert worst(dcgan.read(path, ImportSettings()), network) < 2e-2


def test_a_uniform_law_and_a_sigmoid_are_layers_of_the_network(tmp_path: Path) -> None:
    network = official_dcgan()
    path = saved(tmp_path / "netG.pth", network.state_dict())
    said = ImportSettings(
        law=SourceLaw(name="uniform", low=-1, high=1), output_range=(0, 1), settings={"last": "sigmoid"}
    )

    def source(z: Tensor) -> Tensor:
        before_tanh = network.main[:-1]((2 * torch.special.ndtr(z) - 1)[:, :, None, None])
        return 2 * torch.sigmoid(before_tanh) - 1

    record = dcgan.read(path, said)
    assert worst(record, source) < 1e-4
    assert worst(record, network) > 1e-2


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_a_progan_of_the_zoo_is_read_with_its_blending(tmp_path: Path, alpha: float) -> None:
    network = ZooProGan(alpha=alpha)
    config = {"alpha": alpha}
    path = saved(tmp_path / "progan.pth", {"config": config, "netG": {}, "avgG": network.state_dict()})
    assert sniffed(path).kind == "progan"
    record = progan.read(path, ImportSettings())
    assert record.output.shape == (3, 16, 16)
    assert worst(record, network) < 1e-4
    other = progan.read(path, ImportSettings(settings={"alpha": "0.9"}))
    assert worst(other, network) > 1e-2


def test_names_of_wrapped_layers_are_read_too(tmp_path: Path) -> None:
    network = ZooProGan()
    plain = {name.replace(".module.", "."): tensor for name, tensor in network.state_dict().items()}
    assert worst(progan.read(saved(tmp_path / "progan.pth", plain), ImportSettings()), network) < 1e-4


def test_a_progan_of_the_official_layout_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = OfficialProGan()
    path = saved(tmp_path / "progan.pth", network.state_dict())
    assert sniffed(path).kind == "progan"
    assert worst(progan.read(path, ImportSettings()), network) < 1e-4


@pytest.mark.parametrize("branch", [1, 2])
def test_each_branch_of_a_stackgan_is_read(tmp_path: Path, branch: int) -> None:
    network = lively(Tree())
    path = saved(tmp_path / "netG.pth", {f"module.{k}": v for k, v in network.state_dict().items()})
    assert sniffed(path).kind == "stackgan"
    record = stackgan.read(path, ImportSettings(settings={"branch": str(branch)}))
    assert record.output.shape == (3, 32 << branch, 32 << branch)
    assert worst(record, lambda z: network(z, branch)) < 1e-4


def test_a_stackgan_of_three_branches_draws_256_pixels(tmp_path: Path) -> None:
    network = lively(Tree(branches=3))
    record = stackgan.read(saved(tmp_path / "netG.pth", network.state_dict()), ImportSettings())
    assert record.output.shape == (3, 256, 256)
    assert worst(record, network) < 1e-4


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key != name}


def test_another_architecture_is_refused_by_what_is_missing_or_left(tmp_path: Path) -> None:
    cases: list[tuple[Any, dict[str, Tensor], str]] = []
    tree, zoo, plain = lively(Tree()).state_dict(), ZooProGan().state_dict(), official_dcgan().state_dict()
    cases.append((stackgan, without(tree, "h_net2.jointConv.1.bias"), "missing h_net2.jointConv.1.bias"))
    cases.append((stackgan, tree | {"ca_net.fc.weight": torch.zeros(2)}, "text embeddings"))
    cases.append((stackgan, plain, "missing h_net1"))
    cases.append((progan, without(zoo, "toRGBLayers.2.module.bias"), "missing toRGBLayers.2.bias"))
    cases.append((progan, zoo | {"attention.weight": torch.zeros(2)}, "extra attention.weight"))
    cases.append((progan, plain, "missing"))
    cases.append((dcgan, without(plain, "main.1.running_var"), "missing main.1.running_var"))
    cases.append((dcgan, plain | {"attention.weight": torch.zeros(2)}, "extra attention.weight"))
    cases.append((dcgan, plain | {"main.3.weight": torch.zeros(5, 8, 4, 4)}, "of wrong shape main.3.weight"))
    cases.append((dcgan, {"fc.weight": torch.zeros(3, 3)}, "0 convolutions"))
    cases.append((dcgan, plain | {"main.0.weight": torch.full((7, 16, 4, 4), math.nan)}, "NaN"))
    cases.append((dcgan, {}, "no weights by name"))
    for importer, tensors, message in cases:
        with pytest.raises(UnreadableModel, match=message):
            importer.read(saved(tmp_path / "net.pth", tensors), ImportSettings())


@pytest.mark.parametrize(
    ("importer", "said", "message"),
    [
        (dcgan, {"dimension": 8}, "latent 8 is not the 7"),
        (dcgan, {"size": 64}, "side 64 is not the 32"),
        (dcgan, {"settings": {"slope": "x"}}, "slope='x'"),
        (dcgan, {"settings": {"last": "relu"}}, "last='relu'"),
        (dcgan, {"law": SourceLaw(name="w")}, "StyleGAN"),
        (dcgan, {"truncation": 0.7}, "neither conditions nor truncation"),
        (progan, {"settings": {"alpha": "2"}}, "alpha=2"),
        (progan, {"settings": {"branch": "2"}}, "branch is unknown"),
        (stackgan, {"settings": {"branch": "4"}}, "branch=4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, importer: Any, said: dict[str, Any], message: str
) -> None:
    made: dict[Any, Make] = {dcgan: official_dcgan, progan: ZooProGan, stackgan: lambda: lively(Tree())}
    path = saved(tmp_path / "net.pth", made[importer]().state_dict())
    with pytest.raises(SettingError, match=message):
        importer.read(path, ImportSettings(**said))
