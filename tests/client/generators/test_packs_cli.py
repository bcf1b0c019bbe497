import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from client.generators.cli import app
from client.generators.pack import PACKS, GeneratorPack
from common.errors import PackError, SettingError, SignatureError, UnknownGenerator


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLGL_GENERATORS", str(tmp_path / "home"))
    return tmp_path / "home"


def call(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tanh(latent @ w)`` as grey pictures of 16 x 16."""
    w = numpy_helper.from_array(np.random.default_rng(0).normal(size=(5, 256)).astype(np.float32), "w")
    shape = numpy_helper.from_array(np.array([-1, 1, 16, 16]), "shape")
    nodes = [
        helper.make_node("MatMul", ["z", "w"], ["x"]),
        helper.make_node("Tanh", ["x"], ["y"]),
        helper.make_node("Reshape", ["y", "shape"], ["out"]),
    ]
    given = [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 5])]
    made = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 1, 16, 16])]
    graph = helper.make_graph(nodes, "graph", given, made, [w, shape])
    path = tmp_path_factory.mktemp("model") / "My Net.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    )
    return path


def test_a_file_is_added_mapped_signed_shared_checked_and_removed(home: Path, model: Path, tmp_path: Path) -> None:
    said = call("add", model, "--licence", "MIT", "--notice", "be kind")
    assert "added my-net 1.0.0" in said
    assert "notice: be kind" in said
    assert "plgl generator map my-net" in said
    call("map", "my-net", "--components", "2", "--pictures", "1000", "--epochs", "1")
    assert GeneratorPack.open("my-net").components == 2
    assert GeneratorPack.open("my-net")._proven

    signed = json.loads(call("sign", "my-net", "--key", tmp_path / "key", "--json"))
    shared = Path(shutil.copytree(home / "my-net", tmp_path / "shared"))
    elsewhere = ("--home", tmp_path / "elsewhere")
    with pytest.raises(SignatureError, match="not by"):
        call("add", shared, "--key", "ab" * 32, *elsewhere)
    about = json.loads(call("add", shared, "--key", signed["key"], "--json", *elsewhere))
    assert about["sound"]
    assert about["pack"] == signed["pack"] == GeneratorPack.open("my-net", tmp_path / "elsewhere").hash

    assert "900 s" in call("check", "my-net")  # what it needs was allowed when it was added
    promises = {each["promise"]: each["kept"] for each in about["promises"]}
    assert list(promises) == ["hashes", "signature", "operators", "shapes", "first run", "value range", "finite",
                              "deterministic", "latent map"]  # fmt: skip
    assert set(promises.values()) == {True}
    shown = call("show", "my-net")
    learned = "features both; 2 components; from 1,000 items, seed 0"
    for words in ("16 x 16 pixels", "My Net.onnx", "be kind", learned, signed["fingerprint"]):
        assert words in shown
    listed = json.loads(call("list", "--json"))
    assert [each["name"] for each in listed["generators"]] == ["art", "avatars", "my-net"]
    (home / "my-net" / "generator.onnx").write_bytes(b"")
    assert json.loads(call("list", "--json"))["damaged"].keys() == {"my-net"}
    assert json.loads(call("remove", "my-net", "--yes", "--json"))["removed"] == "my-net"
    assert "my-net" not in call("list")
    with pytest.raises(UnknownGenerator):
        call("show", "my-net")


def test_check_prints_one_line_for_each_promise(home: Path) -> None:
    lines = call("check", "art").splitlines()
    assert [line[0] for line in lines[:9]] == ["✓", "–", *"✓✓✓✓✓✓✓"]
    assert "art 1.0.0 is sound" in lines[9]


WORDS = {
    "altered": "hashes: .*was altered",
    "signature": "names no key",
    "network": "operators: .*not an ONNX file",
    "other shape": "shapes: .*contradicts itself",
}


@pytest.mark.parametrize(
    ("kind", "promise"),
    [("altered", "hashes"), ("signature", "signature"), ("network", "operators"), ("other shape", "shapes")],
)
def test_check_names_the_promise_that_is_broken(kind: str, promise: str, home: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(PACKS / "art", tmp_path / "pack"))
    manifest = folder / "manifest.json"
    about = json.loads(manifest.read_text())
    if kind == "altered":
        (folder / "generator.onnx").write_bytes(bytes(about["files"]["generator.onnx"]["size"]))
    elif kind == "signature":
        (folder / "signature.json").write_text("{}")
    elif kind == "network":
        (folder / "generator.onnx").write_bytes(b"no network")
        sha = hashlib.sha256(b"no network").hexdigest()
        about["files"]["generator.onnx"] = {"size": 10, "sha256": sha}
        manifest.write_text(json.dumps(about))
    else:
        about["latent"]["dimension"] = 25
        manifest.write_text(json.dumps(about))
    found = json.loads(call("check", folder, "--json", code=1))
    assert not found["sound"]
    assert [each["promise"] for each in found["promises"] if each["kept"] is False] == [promise]
    about["name"] = "mine"
    manifest.write_text(json.dumps(about))
    with pytest.raises(PackError if kind != "signature" else SignatureError, match=WORDS[kind]):
        call("add", folder)
    assert not home.exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--name", "art"], SettingError, "came with the program"),
        (["--range", "1", "0"], SettingError, "must be finite and increasing"),
        (["--law", "normal", "--range", "0", "1"], SettingError, "leave --range out"),
        (["--law", "cauchy"], SettingError, "known: normal, uniform, w"),
        (["--set", "clip"], SettingError, "must be name=value"),
        (["--as", "stylegan9"], SettingError, "--as stylegan9 is unknown"),
        (["--key", "ab" * 32], SettingError, "does not go with a model file"),
        (["--seconds", "0"], SettingError, "seconds=0"),
        (["--name", "Über"], PackError, "name"),
        (["--version", "1"], PackError, "version"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(
    options: list[str], error: type[Exception], message: str, home: Path, model: Path
) -> None:
    with pytest.raises(error, match=message):
        call("add", model, *options)
    assert not home.exists()


def test_an_option_for_a_file_does_not_go_with_a_folder(home: Path) -> None:
    with pytest.raises(SettingError, match="--latent does not go with a pack's folder"):
        call("add", PACKS / "art", "--latent", "3")
    with pytest.raises(SettingError, match="came with the program"):
        call("add", PACKS / "art")
    with pytest.raises(SettingError, match="came with the program"):
        call("sign", "art", "--key", home / "key")
    with pytest.raises(SettingError, match="add --yes"):
        call("remove", "art", "--json")
    with pytest.raises(UnknownGenerator, match="no added generator 'art'"):
        call("remove", "art", "--yes")
    assert not home.exists()


def test_the_folder_of_a_pipeline_is_no_pack(home: Path, tmp_path: Path) -> None:
    """It goes to the importer that its description names, which refuses this one, and nothing is added."""
    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_diffusers_version": "0.42.1", "transformer": ["a", "B"]}))
    with pytest.raises(PackError, match="has no unet"):
        call("add", folder, "--name", "mine")
    assert not (home / "mine").exists()
    with pytest.raises(PackError, match="no manifest"):
        call("add", tmp_path)


def test_items_are_prepared_once_and_only_where_that_helps(home: Path, model: Path, tmp_path: Path) -> None:
    call("add", model, "--licence", "MIT")
    folder = ("--folder", tmp_path / "items")
    first = json.loads(call("prepare", "my-net", "--count", "20", *folder, "--json"))
    assert (first["ready"], first["drawn"], first["bytes"]) == (20, 20, 20 * (32 + 4 * 3 * 16 * 16))
    assert "0 of them drawn now" in call("prepare", "my-net", "--count", "20", *folder)
    with pytest.raises(SettingError, match="nothing to prepare"):
        call("prepare", "art", *folder)
    with pytest.raises(SettingError, match=r"limit=0\.0"):
        call("prepare", "my-net", "--limit", "0", *folder)
