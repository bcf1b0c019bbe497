"""Model files made to harm. None executes anything, reads outside itself, takes 1 GB or 10 s, or leaves half a pack.

Each attack has its control: what the file would do to somebody less careful.
"""

import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper

from client.generators.importers.base import ImportSettings
from client.generators.importers.registry import MODULES, importer_of
from common.errors import PackError

SECRET = 31337.25
MEBIBYTE = 1 << 20


@dataclass
class Hostile:
    """A file, what is typed to add it, and the words it is refused with."""

    file: Path
    refused: str
    options: list[str] = field(default_factory=list)


class Canary:
    """Unpickles by writing a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def network(
    nodes: list[onnx.NodeProto], stored: list[onnx.TensorProto] | None = None, opset: int = 18, out: Any = ("n", 4)
) -> onnx.ModelProto:
    """``latent`` ``(n, 4)`` to ``media``."""
    given = [helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["n", 4])]
    made = [helper.make_tensor_value_info("media", TensorProto.FLOAT, out)]
    graph = helper.make_graph(nodes, "graph", given, made, stored or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def pointing_to(location: str, **more: str) -> onnx.ModelProto:
    """A network whose weight lies in another file."""
    weight = onnx.TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[1])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        weight.external_data.add(key=key, value=value)
    return network([helper.make_node("Add", ["latent", "weight"], ["media"])], [weight])


def filled(count: int) -> onnx.ModelProto:
    """A few bytes that ask for ``count`` numbers."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, count])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=0),
        helper.make_node("Add", ["latent", "sum"], ["media"]),
    ]
    return network(nodes, [shape])


def looping(times: int) -> onnx.ModelProto:
    """Adds one to the latent, many times."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Add", ["before", "one"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
        [helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])],
    )
    stored = [
        helper.make_tensor("times", TensorProto.INT64, [], [times]),
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
    ]
    return network([helper.make_node("Loop", ["times", "yes", "latent"], ["media"], body=body)], stored)


def safetensors_of(header: dict[str, Any], data: bytes) -> bytes:
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def entry(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


SAFETENSORS = {
    "overlap": (safetensors_of({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)), "safetensors"),
    "out of bounds": (safetensors_of({"a": entry([1000], 0, 4000)}, bytes(8)), "safetensors"),
    "wrong shape": (safetensors_of({"a": entry([1000, 1000], 0, 8)}, bytes(8)), "safetensors"),
    "hole": (safetensors_of({"a": entry([2], 0, 8), "b": entry([2], 16, 24)}, bytes(24)), "safetensors"),
    "overflow": (safetensors_of({"a": entry([2**62, 2**62], 0, 8)}, bytes(8)), "safetensors"),
    "header of 2^60": (struct.pack("<Q", 2**60) + b'{"a":1}' + bytes(64), "safetensors"),
}


def hostile_files(folder: Path, outside: Path) -> dict[str, Hostile]:
    """Every file, and what it aims at in the folder ``outside``."""
    folder.mkdir()
    outside.mkdir()
    canary = outside / "canary"
    secret = outside / "secret.bin"
    secret.write_bytes(np.float32(SECRET).tobytes())
    (folder / "net.py").write_text("import torch\nclass Net(torch.nn.Linear):\n    pass\n")
    module = ["--module", str(folder / "net.py") + ":Net", "--latent", "4", "--set", "with.in_features=4"]
    module += ["--set", "with.out_features=768"]
    made: dict[str, Hostile] = {}

    def put(name: str, content: bytes, suffix: str, refused: str, *options: str) -> None:
        path = folder / (name.replace(" ", "-").replace("/", "").replace(".", "") + suffix)
        path.write_bytes(content)
        made[name] = Hostile(path, refused, list(options))

    put("pickle as StyleGAN", pickle.dumps({"G_ema": Canary(canary)}), ".pkl", "")
    put("pickle as weights", pickle.dumps(Canary(canary)), ".pt", "", "--as", "dcgan")
    buffer = BytesIO()
    torch.save({"weight": Canary(canary)}, buffer)
    put("code in a checkpoint", buffer.getvalue(), ".pt", "which is not run", "--as", "torch", *module)
    buffer = BytesIO()
    torch.save({"weight": torch.zeros(1).expand(10**6, 10**6), "bias": torch.zeros(768)}, buffer)
    put("expand bomb", buffer.getvalue(), ".pt", "in fewer bytes than that takes", "--as", "torch", *module)
    zipped = BytesIO()
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for item in plain.namelist():
            archive.writestr(item, bytes(64 * MEBIBYTE) if item.endswith("data/0") else plain.read(item))
    put("zip bomb", zipped.getvalue(), ".pt", "is compressed", "--as", "torch", *module)
    for name, (content, refused) in SAFETENSORS.items():
        put(f"safetensors {name}", content, ".safetensors", refused, *module)
    weights = {"weight": torch.full((768, 4), float("nan")), "bias": torch.zeros(768)}
    put("NaN weights", safetensors.torch.save(weights), ".safetensors", "NaN", *module)

    (folder / "deep").mkdir()
    (folder / "link.bin").symlink_to(secret)
    (folder / "linked").symlink_to(outside)
    os.link(secret, folder / "hard.bin")
    elsewhere = "other files"
    for name, location in {
        "external ../": "../outside/secret.bin",
        "external absolute": str(secret),
        "external symlink": "link.bin",
        "external hard link": "hard.bin",
        "CVE-2022-25882 plain traversal": "../../outside/secret.bin",
        "CVE-2024-27318 traversal inside a path": "deep/../../outside/secret.bin",
        "CVE-2026-27489 symlinked folder": "linked/secret.bin",
        "CVE-2026-34446 hard link under a plain name": "./hard.bin",
    }.items():
        put(name, pointing_to(location).SerializeToString(), ".onnx", elsewhere)
    target = pointing_to("../outside/written.bin", offset="0", length="4")
    put("CVE-2025-51480 writing outside", target.SerializeToString(), ".onnx", elsewhere)
    target = pointing_to("hard.bin", __class__="str", length=str(2**62), offset=str(2**40))
    put("CVE-2026-34445 attributes of its own", target.SerializeToString(), ".onnx", elsewhere)
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive_:
        info = tarfile.TarInfo("../outside/canary")
        archive_.addfile(info, BytesIO())
    put("CVE-2024-5187 tar with traversal", packed.getvalue(), ".tar", "", "--as", "dcgan")

    sound = ["--set", "kind=audio", "--set", "sample_rate=8000"]
    put("ConstantOfShape bomb", filled(800_000_000).SerializeToString(), ".onnx", "3200000000 bytes", *sound)
    put("Loop of 2^62", looping(2**62).SerializeToString(), ".onnx", "operator Loop")
    nodes = [helper.make_node("MatMul", ["w" if k == 0 else f"a{k - 1}", "w"], [f"a{k}"]) for k in range(1000)]
    nodes += [
        helper.make_node("ReduceSum", ["a999"], ["sum"], keepdims=0),
        helper.make_node("Add", ["latent", "sum"], ["media"]),
    ]
    nodes.insert(0, helper.make_node("Expand", ["zero", "large"], ["w"]))
    stored = [
        helper.make_tensor("zero", TensorProto.FLOAT, [1, 1], [0.0]),
        helper.make_tensor("large", TensorProto.INT64, [2], [4000, 4000]),
    ]
    slow = network(nodes, stored, out=("n", 4)).SerializeToString()
    put("endless arithmetic", slow, ".onnx", "not done within 1 s", "--seconds", "1", *sound)
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def files(place: Path) -> dict[str, Hostile]:
    return hostile_files(place / "files", place / "outside")


DRIVER = """
import contextlib, io, json, resource, sys
from importlib.metadata import EntryPoint
from common.cli import GROUP, run
entries = [EntryPoint("generator", "client.generators.cli:app", GROUP)]
def peak():
    # ru_maxrss would begin at what the process took that started this one
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0])
def spent():
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    time = sum(u.ru_utime + u.ru_stime for u in (own, children))
    return time, max(peak(), children.ru_maxrss)
for name, words in json.load(sys.stdin).items():
    before = spent()[0]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["generator", "add", *words, "--json"], entries)
    after, most = spent()
    said = out.getvalue() + err.getvalue()
    print(json.dumps([name, {"code": code, "said": said, "seconds": after - before, "kib": most}]))
"""


@pytest.fixture(scope="module")
def outcomes(place: Path, files: dict[str, Hostile]) -> dict[str, dict[str, Any]]:
    """What `plgl generator add` does with each file, in one process; its memory is the most any file took."""
    words = {name: [str(each.file), *each.options, "--home", str(place / "home")] for name, each in files.items()}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(words),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


NAMES = [
    "pickle as StyleGAN",
    "pickle as weights",
    "code in a checkpoint",
    "expand bomb",
    "zip bomb",
    *(f"safetensors {name}" for name in SAFETENSORS),
    "NaN weights",
    "external ../",
    "external absolute",
    "external symlink",
    "external hard link",
    "CVE-2022-25882 plain traversal",
    "CVE-2024-27318 traversal inside a path",
    "CVE-2026-27489 symlinked folder",
    "CVE-2026-34446 hard link under a plain name",
    "CVE-2025-51480 writing outside",
    "CVE-2026-34445 attributes of its own",
    "CVE-2024-5187 tar with traversal",
    "ConstantOfShape bomb",
    "Loop of 2^62",
    "endless arithmetic",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_is_refused_with_its_reason(
    name: str, files: dict[str, Hostile], outcomes: dict[str, dict[str, Any]]
) -> None:
    outcome = outcomes[name]
    said = json.loads(outcome["said"])
    assert outcome["code"] == 1, outcome
    assert said["success"] is False
    assert any(words in said["error-message"] for words in files[name].refused.split("|")), said
    assert str(SECRET) not in outcome["said"]
    assert outcome["seconds"] < 10


def test_every_file_is_among_the_refused(files: dict[str, Hostile]) -> None:
    assert sorted(files) == sorted(NAMES)


def test_nothing_was_executed_written_or_added(place: Path, outcomes: dict[str, dict[str, Any]]) -> None:
    assert outcomes
    assert sorted(path.name for path in (place / "outside").iterdir()) == ["secret.bin"]
    assert (place / "outside" / "secret.bin").read_bytes() == np.float32(SECRET).tobytes()
    assert list((place / "home").rglob("*")) == []


def test_none_took_a_gigabyte(outcomes: dict[str, dict[str, Any]]) -> None:
    most = max(outcome["kib"] for outcome in outcomes.values())
    assert 10_000 < most < 1024 * 1024


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's about odd escapes inside them
@pytest.mark.parametrize("kind", sorted(set(MODULES) - {"onnx", "torch"}))
def test_importers_of_checkpoints_refuse_them_too(kind: str, place: Path, files: dict[str, Hostile]) -> None:
    for hostile in files.values():
        if hostile.file.suffix in (".pkl", ".pt", ".tar"):
            with pytest.raises(PackError):
                importer_of(kind).read(hostile.file, ImportSettings())
    assert sorted(path.name for path in (place / "outside").iterdir()) == ["secret.bin"]


# Controls: the same files, met without care.


@pytest.mark.parametrize("name", ["pickle as StyleGAN", "pickle as weights", "code in a checkpoint"])
def test_unpickling_them_would_execute_code(name: str, place: Path, files: dict[str, Hostile]) -> None:
    canary, file = place / "outside" / "canary", files[name].file
    assert not canary.exists()
    if name == "code in a checkpoint":
        torch.load(file, weights_only=False)
    else:
        pickle.loads(file.read_bytes())
    assert canary.exists()
    canary.unlink()


def test_weights_only_alone_lets_the_expand_bomb_in(files: dict[str, Hostile]) -> None:
    file = files["expand bomb"].file
    assert file.stat().st_size < 10_000
    assert torch.load(file, weights_only=True)["weight"].shape == (10**6, 10**6)


def test_safetensors_alone_lets_nan_in(files: dict[str, Hostile]) -> None:
    assert bool(safetensors.torch.load_file(files["NaN weights"].file)["weight"].isnan().all())


def test_the_same_safetensors_without_its_fault_is_read(tmp_path: Path) -> None:
    good = safetensors_of({"a": entry([2], 0, 8), "b": entry([2], 8, 16)}, bytes(16))
    assert safetensors.torch.load(good)["b"].shape == (2,)


def test_onnx_runtime_alone_reads_the_secret_through_a_hard_link(files: dict[str, Hostile]) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        files["external hard link"].file, options, providers=["CPUExecutionProvider"]
    )
    assert float(session.run(None, {"latent": np.zeros((1, 4), np.float32)})[0][0, 0]) == SECRET


def test_the_bomb_and_the_loop_are_honest_networks_when_small() -> None:
    for model, wanted in ((filled(3), 0.0), (looping(3), 3.0)):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        assert float(session.run(None, {"latent": np.zeros((1, 4), np.float32)})[0][0, 0]) == wanted


def test_a_bomb_that_no_rule_foresaw_is_ended_by_the_limits_of_the_child() -> None:
    from client.generators import sandbox
    from common.errors import UnsafeFile

    inputs = {"latent": torch.zeros(3, 4)}
    lax = sandbox.Limits(largest_bytes=1 << 40)
    with pytest.raises(UnsafeFile, match="needs more than the 640 MiB"):
        sandbox.first_run(filled(800_000_000).SerializeToString(), "bomb", inputs, {"latent"}, lax)
    assert sandbox.first_run(filled(1000).SerializeToString(), "small", inputs, {"latent"}, lax)["finite"]


PACKS: dict[str, Callable[[Path], object]] = {
    "a pipe": lambda folder: os.mkfifo(folder / "generator.onnx"),
    "a device": lambda folder: (folder / "generator.onnx").symlink_to("/dev/zero"),
    "another file": lambda folder: (folder / "generator.onnx").symlink_to("/etc/hostname"),
    "a folder": lambda folder: (folder / "generator.onnx").mkdir(),
}


@pytest.mark.parametrize("kind", PACKS)
def test_a_pack_whose_network_is_something_else_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    from client.generators.pack import PACKS as SHIPPED
    from client.generators.pack import GeneratorPack
    from common.errors import DamagedPack

    folder = tmp_path / "pack"
    folder.mkdir()
    for name in ("manifest.json", "latent_map.onnx"):
        (folder / name).write_bytes((SHIPPED / "art" / name).read_bytes())
    PACKS[kind](folder)
    with pytest.raises(DamagedPack):
        GeneratorPack.open(folder)
