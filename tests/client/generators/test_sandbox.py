import json
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper

from client.generators import sandbox, sandbox_child
from client.generators.onnx import OnnxModel
from client.generators.sandbox import Limits
from common.errors import SettingError, UnreadableModel, UnsafeFile


@pytest.fixture(scope="module")
def linear() -> bytes:
    """``tanh(latent @ weight)``, ``(n, 4)`` to ``(n, 8)``."""
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32), "weight")
    nodes = [helper.make_node("MatMul", ["latent", "weight"], ["x"]), helper.make_node("Tanh", ["x"], ["media"])]
    given = [helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["n", 4])]
    made = [helper.make_tensor_value_info("media", TensorProto.FLOAT, ["n", 8])]
    graph = helper.make_graph(nodes, "graph", given, made, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def test_a_first_run_says_what_the_network_takes_and_gives(linear: bytes) -> None:
    report = sandbox.first_run(linear, "x", {"latent": torch.randn(3, 4)}, {"latent"})
    assert report["shape"] == [3, 8]
    assert report["type"] == "float32"
    assert report["finite"]
    assert report["repeats"]
    assert -1 < report["low"] < report["high"] < 1
    assert report["alone_error"] < 1e-5
    assert report["operators"] == ["MatMul", "Tanh"]
    assert "640 MiB" in report["limits"]


def test_the_report_agrees_with_a_run_here(linear: bytes) -> None:
    latents = torch.randn(3, 4)
    report = sandbox.first_run(linear, "x", {"latent": latents}, {"latent"})
    here = OnnxModel(linear, "x").run(latent=latents)
    assert (report["low"], report["high"]) == pytest.approx((float(here.min()), float(here.max())), abs=1e-6)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"z": torch.zeros(3, 4)}, "takes latent, and should take z"),
        ({"latent": torch.zeros(3, 5)}, "contradicts itself"),
        ({"latent": torch.zeros(3, 4), "more": torch.zeros(1)}, "should take latent, more"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(linear: bytes, inputs: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(UnsafeFile, match=message):
        sandbox.first_run(linear, "x", inputs, set(inputs))


def test_nothing_is_left_behind(linear: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sandbox.look(linear, "x")
    with pytest.raises(UnsafeFile, match="not an ONNX file"):
        sandbox.look(b"nothing", "x")
    assert list(tmp_path.iterdir()) == []


def test_the_child_starts_without_the_environment_and_in_a_private_folder(
    linear: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}
    run: Any = subprocess.Popen

    def spy(words: list[str], **how: object) -> object:
        seen.update(how, mode=Path(str(how["cwd"])).stat().st_mode & 0o777, words=words)
        return run(words, **how)

    monkeypatch.setenv("PLGL_PASSPHRASE", "canary")
    monkeypatch.setattr(subprocess, "Popen", spy)
    sandbox.look(linear, "x")
    assert seen["mode"] == 0o700
    environment = seen["env"]
    assert isinstance(environment, dict)
    assert "canary" not in environment.values()
    assert set(environment) <= {*sandbox._PASSED_ON, "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
                                "HOME", "TMPDIR", "CUDA_VISIBLE_DEVICES"}  # fmt: skip
    assert "canary" not in str(seen["words"])


def test_limits_are_kept_by_the_system(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(Path(sandbox_child.__file__).parents[2])!r})\n"
        "from client.generators.sandbox_child import limit\n"
        "print(limit(64 << 20, 5.0, 1000), flush=True)\n"
        "try:\n    bytearray(128 << 20)\nexcept MemoryError:\n    print('no memory', flush=True)\n"
        "try:\n    open('large', 'wb').write(bytes(2000))\nexcept OSError:\n    pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["64 MiB, 5 s", "no memory"], done
    assert (tmp_path / "large").stat().st_size <= 1000
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY  # not in this process


def test_where_the_system_keeps_no_memory_limit_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert "limits no memory" in sandbox_child.limit(1, 8.0, 1)


def test_a_child_that_hangs_is_ended(linear: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hanging = tmp_path / "child.py"
    hanging.write_text("import time; time.sleep(600)")
    monkeypatch.setattr(sandbox, "_CHILD", hanging)
    monkeypatch.setattr(sandbox, "_START_SECONDS", 0.3)
    with pytest.raises(UnsafeFile, match=r"not done within 0\.1 s"):
        sandbox.look(linear, "x", Limits(seconds=0.1))


@pytest.mark.parametrize("answer", [b"", b"[]", b"{", b'{"refused": "\\u001b[2Jhello"}', b'{"found"'])
def test_a_child_that_answers_nonsense_is_no_harm(
    answer: bytes, linear: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    odd = tmp_path / "child.py"
    odd.write_text(f"open('answer.json', 'wb').write({answer!r})")
    monkeypatch.setattr(sandbox, "_CHILD", odd)
    with pytest.raises(UnsafeFile) as caught:
        sandbox.look(linear, "x")
    assert "\x1b" not in str(caught.value)


def test_tensors_come_back_by_name(tmp_path: Path) -> None:
    weights = {"w": torch.randn(3, 4), "half": torch.ones(2, dtype=torch.bfloat16)}
    torch.save({"epoch": 3, "ema": {"netG": weights}, "config": {"name": "x"}}, tmp_path / "a.pt")
    found = sandbox.read_tensors(tmp_path / "a.pt")
    assert sorted(found) == ["ema/netG/half", "ema/netG/w"]
    assert torch.equal(found["ema/netG/w"], weights["w"])
    assert found["ema/netG/half"].dtype == torch.bfloat16
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "renamed.pt")
    assert torch.equal(sandbox.read_tensors(tmp_path / "renamed.pt")["w"], weights["w"])


def test_other_files_than_state_dicts_are_told_as_such(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableModel, match="not a plain file"):
        sandbox.read_tensors(tmp_path / "pipe")
    (tmp_path / "page.pt").write_bytes(struct.pack("<Q", 7) + b"{}" + bytes(50))
    with pytest.raises(UnreadableModel, match="no safetensors file"):
        sandbox.read_tensors(tmp_path / "page.pt")


@pytest.mark.parametrize("limits", [{"memory": 1}, {"seconds": 0.0}, {"seconds": float("nan")}, {"largest_bytes": 0}])
def test_limits_out_of_range_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="must lie between"):
        Limits(**limits)  # type: ignore[arg-type]


def test_more_memory_also_allows_larger_values() -> None:
    assert Limits.of(None, None) == Limits()
    assert Limits.of(6.0, 30.0) == Limits(memory=6 << 30, seconds=30.0, largest_bytes=2 << 30)
    assert json.dumps(Limits.of(0.1, None).largest_bytes) == str(256 << 20)
