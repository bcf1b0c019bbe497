import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.generators.cli import app
from client.generators.pack import GENERATOR, GeneratorPack
from common.errors import DamagedPack, FolderError, SettingError, UnknownGenerator


def call(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_list_and_show_say_what_is_there() -> None:
    assert "art" in call("list")
    listed = json.loads(call("list", "--json"))["generators"]
    shown = json.loads(call("show", "art", "--json"))
    assert shown in listed
    assert shown["components"] == len(shown["r2"]) == 64
    assert "mean R2 of the first 32" in call("show", "art")


def test_a_pack_is_built_mapped_checked_and_sampled(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "pack"
    assert "wrote" in call("build", "art", folder)
    assert GeneratorPack.open(folder).components == 0
    about = json.loads(call("map", folder, "--components", "3", "--pictures", "1000", "--epochs", "1", "--json"))
    assert about["components"] == 3
    assert GeneratorPack.open(folder).hash == about["pack"]
    assert json.loads(call("check", folder, "--json"))["pack"] == about["pack"]
    assert "is sound" in call("check", folder)
    assert "kept" in call("build", "art", folder)  # the same generator: its map stays
    assert GeneratorPack.open(folder).components == 3
    sheet = tmp_path / "sheet.png"
    call("sample", folder, "--count", "5", "--size", "16", "--out", sheet)
    assert sheet.read_bytes().startswith(b"\x89PNG")
    first = sheet.read_bytes()
    call("sample", folder, "--count", "5", "--size", "16", "--out", sheet)
    assert sheet.read_bytes() == first
    assert sorted(path.name for path in folder.parent.iterdir()) == ["pack"]


def test_a_map_of_chosen_features_with_as_many_components_as_it_needs(tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    call("build", "art", folder)
    said = ("--components", "auto", "--features", "colour", "--pictures", "1000", "--epochs", "1")
    about = json.loads(call("map", folder, *said, "--json"))
    assert 2 <= about["components"] == len(about["r2"]) < 100
    assert 0 < about["explained"] < 1
    for odd, why in ((("--components", "many"), "'many'"), (("--features", "shape"), "'shape'")):
        with pytest.raises(SettingError, match=why):
            call("map", folder, *odd)
    assert GeneratorPack.open(folder).components == about["components"]


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FolderError, match="not empty"):
        call("build", "art", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_errors_reach_the_caller(tmp_path: Path) -> None:
    with pytest.raises(UnknownGenerator, match=r"known: .*art"):
        call("show", "nobody")
    with pytest.raises(UnknownGenerator, match="build art"):
        call("map", tmp_path / "nowhere")
    with pytest.raises(DamagedPack, match="no manifest"):
        call("check", tmp_path)


def test_an_interrupted_map_leaves_the_pack_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pack"
    call("build", "art", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("client.generators.latent_map.describe", interrupt)
    CliRunner().invoke(app, ["map", str(folder), "--pictures", "1000"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert GENERATOR in before
