"""``plgl generator train``: from a folder of pictures to a pack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from client.generators.cli import app
from client.generators.pack import GeneratorPack
from common.errors import FolderError, PlglError, SettingError, UnreadableModel

TINY = (
    "--size",
    "16",
    "--sampler",
    "2",
    "--width",
    "8",
    "--latent",
    "4",
    "--batch",
    "4",
    "--steps",
    "4",
    "--every",
    "2",
)


def call(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["train", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(20):
        Image.new("RGB", (16, 16), (12 * i, 100, 200 - 9 * i)).save(folder / f"{i:02d}.png")
    (folder / "torn.png").write_bytes((folder / "00.png").read_bytes()[:40])
    return folder


def test_a_training_leaves_a_pack_samples_and_scores_and_goes_on_with_its_settings_alone(
    pictures: Path, tmp_path: Path
) -> None:
    said = ("--pictures", pictures, "--out", tmp_path / "out", *TINY, "--kind", "flow", "--space", "vae")
    record = json.loads(call(*said, "--licence", "CC0-1.0", "--name", "plain", "--json"))
    assert set(record["scores"]) == {"2", "4"}
    assert set(record["skipped"]) == {"torn.png"}
    assert record["pictures"] == 20
    assert record["error"] < 1e-3
    assert sorted(path.name for path in (tmp_path / "out" / "samples").iterdir()) == [
        "step-0000002.png",
        "step-0000004.png",
    ]
    pack = GeneratorPack.open(tmp_path / "out" / "pack")
    assert (pack.name, pack.manifest.licence, pack.latents.dimension) == ("plain", "CC0-1.0", 4)
    assert pack.generate(torch.zeros(2, 4)).shape == (2, 3, 16, 16)
    with pytest.raises(FolderError, match="dimension=4, not 5"):
        call(*said, "--latent", "5")


@pytest.mark.parametrize(
    ("said", "error", "why"),
    [
        (("--kind", "gan"), SettingError, "kind='gan'"),
        (("--size", "50"), SettingError, "side=50"),
        (("--device", "tpu"), SettingError, "device='tpu'"),
        (("--runtime", "jax"), SettingError, "runtime='jax' must be one of onnx, torch"),
        (("--pictures", "nowhere"), UnreadableModel, "no folder nowhere"),
    ],
)
def test_what_cannot_be_trained_is_said_and_leaves_no_folder(
    pictures: Path, tmp_path: Path, said: tuple[str, ...], error: type[PlglError], why: str
) -> None:
    with pytest.raises(error, match=why):
        call("--pictures", pictures, "--out", tmp_path / "out", *TINY, *said)
    assert not (tmp_path / "out").exists()
