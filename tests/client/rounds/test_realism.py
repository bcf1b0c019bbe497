from pathlib import Path

import pytest
import torch
from scipy.stats import kstest  # type: ignore[import-untyped]
from torch import Tensor, nn

from client.generators.onnx import export
from client.rounds.realism import Discriminator, typicality
from common.errors import SettingError
from common.latents import LatentSpace

SPACE = LatentSpace(24)


class Bright(nn.Module):
    def forward(self, picture: Tensor) -> Tensor:
        return picture.mean((1, 2, 3))


class Flat(nn.Module):
    def forward(self, picture: Tensor) -> Tensor:
        return picture * 2


def written(folder: Path, module: nn.Module) -> Path:
    path = folder / "network.onnx"
    path.write_bytes(export(module, {"picture": torch.zeros(3, 3, 24, 24)}, "score", {"picture": {0: "n"}}))
    return path


def test_typicality_is_the_two_sided_p_value_of_the_norm() -> None:
    latents = SPACE.sample(4000, torch.Generator().manual_seed(0))
    assert kstest(typicality(latents).numpy(), "uniform").pvalue > 1e-4
    assert kstest(typicality(1.1 * latents).numpy(), "uniform").pvalue < 1e-4


def test_the_shell_is_typical_and_far_and_zero_latents_are_not() -> None:
    shell = SPACE.project(SPACE.sample(1, torch.Generator().manual_seed(0)))
    found = typicality(torch.cat([shell, 2 * shell, 0 * shell]))
    assert float(found[0]) > 0.9
    assert float(found[1:].max()) < 1e-6


def test_a_discriminator_scores_pictures(tmp_path: Path) -> None:
    pictures = torch.rand(5, 3, 24, 24)
    scores = Discriminator(written(tmp_path, Bright()))(torch.zeros(5, 24), pictures)
    assert torch.allclose(scores, pictures.mean((1, 2, 3)).double(), atol=1e-5)


def test_files_that_are_no_discriminator_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot read"):
        Discriminator(tmp_path / "missing.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"not a network")
    with pytest.raises(SettingError, match=r"noise\.onnx is no discriminator: noise\.onnx is not an ONNX file"):
        Discriminator(tmp_path / "noise.onnx")
    with pytest.raises(SettingError, match="one finite number for each"):
        Discriminator(written(tmp_path, Flat()))(torch.zeros(2, 24), torch.zeros(2, 3, 24, 24))
    with pytest.raises(SettingError, match="cannot judge pictures 2 x 3 x 32 x 32"):
        Discriminator(written(tmp_path, Bright()))(torch.zeros(2, 24), torch.zeros(2, 3, 32, 32))
