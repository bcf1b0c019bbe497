import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from client.generators import proof
from client.generators.importers import base
from client.generators.importers.adapting import Adapted, Fit, condition_of, shape_of
from client.generators.importers.base import Imported, ImportSettings, make, normal_to_uniform, write
from client.generators.importers.onnx_file import IMPORTER
from client.generators.importers.registry import MODULES, importer_of, sniffed
from client.generators.interface import Condition, Output, SourceLaw
from client.generators.pack import GeneratorPack
from common.errors import DamagedPack, SettingError, UnreadableModel, UnsafeFile
from common.latents import LatentSpace

DRAWS = np.random.default_rng(0)


def network(
    *,
    latent: tuple[Any, ...] = ("n", 4, 1, 1),
    label: int = 0,
    out: tuple[Any, ...] = ("n", 1, 16, 16),
    last: str = "Sigmoid",
    kind: int = TensorProto.FLOAT,
    opset: int = 18,
    reshape: tuple[int, ...] | None = None,
) -> onnx.ModelProto:
    """``last(latent @ w [+ label @ v])`` in the shape of ``out``."""
    numbers = math.prod(out[1:])
    width = math.prod(side for side in latent[1:] if isinstance(side, int))
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    stored = [
        numpy_helper.from_array(DRAWS.normal(size=(width, numbers)).astype(dtype), "w"),
        numpy_helper.from_array(np.array([-1, width]), "flat"),
        numpy_helper.from_array(np.array(reshape or (-1, *out[1:])), "shape"),
    ]
    nodes = [helper.make_node("Reshape", ["z", "flat"], ["row"]), helper.make_node("MatMul", ["row", "w"], ["x"])]
    given = [helper.make_tensor_value_info("z", kind, latent)]
    if label:
        stored.append(numpy_helper.from_array(DRAWS.normal(size=(label, numbers)).astype(dtype), "v"))
        nodes += [helper.make_node("MatMul", ["class", "v"], ["y"]), helper.make_node("Add", ["x", "y"], ["xy"])]
        given.append(helper.make_tensor_value_info("class", kind, ["n", label]))
    nodes += [
        helper.make_node(last, ["xy" if label else "x"], ["media_"]),
        helper.make_node("Reshape", ["media_", "shape"], ["latent"]),  # a name of ours, on purpose
    ]
    made = [helper.make_tensor_value_info("latent", kind, out)]
    graph = helper.make_graph(nodes, "graph", given, made, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def read(model: onnx.ModelProto, folder: Path, **settings: Any) -> Imported:
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return IMPORTER.read(path, ImportSettings(**settings))


def test_a_file_with_its_own_law_shape_range_and_classes_becomes_a_pack(tmp_path: Path) -> None:
    imported = read(
        network(label=3),
        tmp_path,
        law=SourceLaw(name="uniform", low=-1, high=1),
        output_range=(0.0, 1.0),
        conditions={"class": "2/3"},
        licence="MIT",
        notice="for tests",
    )
    made = write(imported, tmp_path / "pack", name="toy")
    assert made.error < 1e-5
    pack = GeneratorPack.open(tmp_path / "pack")
    assert pack.manifest.source == SourceLaw(name="uniform", low=-1, high=1)
    assert (pack.manifest.latent_shape, pack.manifest.inputs) == ((4, 1, 1), ("latent", "class"))
    assert (pack.manifest.licence, pack.manifest.notice, pack.manifest.opset) == ("MIT", "for tests", 18)
    latents = pack.latents.sample(5, torch.Generator().manual_seed(3))
    drawn = pack.generate(latents)

    # against the formula, not against the code that was written for it
    model = onnx.load(tmp_path / "net.onnx")
    w, v = (torch.tensor(numpy_helper.to_array(t)) for t in model.graph.initializer if t.name in ("w", "v"))
    uniform = 2 * torch.special.ndtr(latents) - 1
    grey = 2 * torch.sigmoid(uniform @ w + v[2]).reshape(5, 1, 16, 16) - 1
    assert float((drawn - grey.expand(-1, 3, -1, -1)).abs().max()) < 1e-5

    other = pack.generate(latents, conditions={"class": torch.tensor([1.0, 0, 0])})
    assert float((other - drawn).abs().max()) > 0.1
    mixed = pack.generate(latents, conditions={"class": torch.eye(3)[[0, 2, 2, 2, 2]]})
    assert torch.allclose(mixed[0], other[0], atol=1e-6)
    assert torch.allclose(mixed[1:], drawn[1:], atol=1e-6)
    for bad in ({"mood": torch.ones(3)}, {"class": torch.ones(4)}, {"class": torch.full((3,), torch.nan)}):
        with pytest.raises(SettingError, match="condition"):
            pack.generate(latents, conditions=bad)
    with pytest.raises(SettingError, match="has none"):
        pack.generate(latents, truncation=0.5)


@pytest.mark.parametrize(
    ("model", "settings", "output"),
    [
        ({"kind": TensorProto.FLOAT16, "last": "Tanh"}, {}, Output(shape=(3, 16, 16))),
        ({"opset": 9, "last": "Tanh", "out": ("n", 16, 20, 3)}, {}, Output(shape=(3, 16, 20))),
        ({"last": "Identity"}, {"settings": {"clip": "yes"}}, Output(shape=(3, 16, 16))),
        ({"last": "Tanh", "latent": (1, 4), "out": (1, 1, 16, 16)}, {}, Output(shape=(3, 16, 16))),
        (
            {"last": "Tanh", "latent": ("n", 4), "out": ("n", 1, 900)},
            {"settings": {"kind": "audio", "sample_rate": "8000"}},
            Output(kind="audio", shape=(900,), sample_rate=8000),
        ),
        (
            {"latent": ("n", 4), "out": ("n", 50, 2)},
            {"output_range": (0.0, 1.0)},
            Output(kind="points", shape=(50, 2), low=0.0, high=1.0),
        ),
    ],
    ids=["half precision", "channels last, old", "clipped", "one at a time", "sound", "points"],
)
def test_other_layouts_become_packs_too(
    model: dict[str, Any], settings: dict[str, Any], output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_here(monkeypatch)
    made = make(read(network(**model), tmp_path, **settings), name="toy")
    assert made.manifest.output == output
    assert made.error < 1e-3


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], type[Exception], str]] = [
    ("two inputs", {"label": 3}, {}, SettingError, "also takes class|inputs z, class"),
    ("a class out of range", {"label": 3}, {"conditions": {"class": "3/3"}}, SettingError, "the last is 2/3"),
    ("another count", {"label": 3}, {"conditions": {"class": "1/4"}}, SettingError, "the condition has 4"),
    ("a condition it lacks", {}, {"conditions": {"mood": "1"}}, SettingError, "no input 'mood'"),
    ("another latent", {}, {"dimension": 7}, SettingError, "the file says 4"),
    ("an open latent", {"latent": ("n", "d"), "out": ("n", 1, 16, 16)}, {}, SettingError, "--latent D"),
    ("an output it lacks", {"out": ("n", 1, 16, 16)}, {"settings": {"output": "x"}}, SettingError, "no output 'x'"),
    ("a typo", {}, {"settings": {"clop": "yes"}}, SettingError, "--set clop is unknown"),
    ("W", {}, {"law": SourceLaw(name="w")}, SettingError, "StyleGAN"),
    ("no picture", {"out": ("n", 5, 16, 16)}, {}, UnreadableModel, "no picture of 1 or 3 channels"),
    ("sound without rate", {"out": ("n", 900)}, {}, SettingError, "sample_rate"),
    ("whole numbers", {"kind": TensorProto.INT64, "last": "Identity"}, {}, UnreadableModel, "floating-point"),
    (
        "one batch only",
        {"latent": (1, 4), "out": (1, 1, 16, 16), "reshape": (1, 1, 16, 16)},
        {},
        UnreadableModel,
        "batches of 1 and works for no other",
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=[case[0] for case in REFUSED])
def test_what_cannot_be_read_is_told_with_the_next_step(
    case: tuple[str, dict[str, Any], dict[str, Any], type[Exception], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, model, settings, error, message = case
    look_here(monkeypatch)
    with pytest.raises(error, match=message):
        read(network(**model), tmp_path, **settings)


def look_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Describe files in this process: the tests above did it in the child, and these are our own files."""
    from client.generators import onnx_rules, sandbox, sandbox_child

    def here(content: bytes, what: str, limits: Any = None) -> dict[str, Any]:
        return sandbox_child.look({}, content, onnx_rules)

    monkeypatch.setattr(sandbox, "look", here)


def test_a_range_that_is_not_the_networks_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look_here(monkeypatch)
    imported = read(network(), tmp_path, output_range=(0.4, 0.6))
    with pytest.raises(UnsafeFile, match="--output-range LOW HIGH"):
        make(imported, name="toy")


def test_a_source_that_says_something_else_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look_here(monkeypatch)
    imported = read(network(), tmp_path, output_range=(0.0, 1.0))
    shifted = Adapted(imported.network.network, SourceLaw(), (4, 1, 1), Fit.of((1, 16, 16), ImportSettings()))  # type: ignore[arg-type]
    object.__setattr__(imported, "network", shifted.eval())
    monkeypatch.setattr(proof, "prove_generator", lambda *_: {"finite": True, "low": 0, "high": 0, "repeats": True,
                                                              "alone_error": 0.0})  # fmt: skip
    with pytest.raises(UnreadableModel, match="differs from its source"):
        make(imported, name="toy")


def test_files_are_known_by_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"anything")
    assert sniffed(tmp_path / "a.onnx").kind == "onnx"
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UnreadableModel, match="say which with --as"):
        sniffed(tmp_path / "picture.jpg")
    with pytest.raises(UnreadableModel, match="there is no file"):
        sniffed(tmp_path / "nothing")
    with pytest.raises(UnreadableModel, match="not a plain file"):
        base.content_of(tmp_path)
    with pytest.raises(SettingError, match="--as nonsense is unknown"):
        importer_of("nonsense")


@pytest.mark.parametrize("kind", sorted(MODULES))
def test_every_importer_is_described_and_sniffs_without_raising(kind: str, tmp_path: Path) -> None:
    importer = importer_of(kind)
    assert importer.kind == kind
    assert importer.about
    for head in (b"", b"\0" * 100, b"PK\x03\x04", b"\x80\x04\x95", bytes(range(256)) * 256):
        assert importer.sniff(tmp_path / "file", head) in (True, False)


def test_the_change_of_law_is_exact() -> None:
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    u = normal_to_uniform(z, SourceLaw(name="uniform", low=-2, high=6))
    ordered = (u.sort().values + 2) / 8
    distance = float((ordered - torch.linspace(0, 1, len(u))).abs().max()) * math.sqrt(len(u))
    assert distance < 2.225  # Kolmogorov-Smirnov, alpha 1e-4
    wrong = ((torch.tanh(z) + 1) / 2).sort().values
    assert float((wrong - torch.linspace(0, 1, len(u))).abs().max()) * math.sqrt(len(u)) > 2.225
    assert normal_to_uniform(z, SourceLaw()) is z


def test_shapes_and_conditions_as_written() -> None:
    assert shape_of("4,8,8", "x") == (4, 8, 8)
    for text in ("", "4,", "a", "4;8", "-1"):
        with pytest.raises(SettingError, match="such as 4,8,8"):
            shape_of(text, "x")
    condition, value = condition_of("style", "0.5,-1")
    assert (condition, value.tolist()) == (Condition(name="style", shape=(2,)), [0.5, -1.0])
    with pytest.raises(SettingError, match="3/10"):
        condition_of("style", "blue")


def test_an_import_that_does_not_fit_together_is_refused() -> None:
    good: dict[str, Any] = {
        "network": nn.Identity().eval(),
        "latents": LatentSpace(4),
        "output": Output(shape=(3, 16, 16)),
        "licence": "MIT",
    }
    label = Condition(name="label", shape=(2,))
    Imported(**good)
    for changes, message in (
        ({"network": nn.Identity().train()}, "training mode"),
        ({"latent_shape": (3,)}, "does not hold 4"),
        ({"conditions": (label,)}, "defaults"),
        ({"conditions": (label,), "defaults": {"label": torch.ones(3)}}, "not \\(2,\\)"),
        ({"conditions": (label, label), "defaults": {"label": torch.ones(2)}}, "different names"),
    ):
        with pytest.raises(SettingError, match=message):
            Imported(**(good | changes))
    with pytest.raises(DamagedPack, match="name"):
        make(Imported(**good, onnx=network().SerializeToString()), name="../x")
