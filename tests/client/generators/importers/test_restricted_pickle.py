from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from client.generators.importers.inert import module, tensor
from client.generators.importers.restricted_pickle import Inert, Name, PickleLimits, read_pickle
from client.generators.importers.stylegan import read_generator
from client.generators.importers.weights import Weights, read_checkpoint, state_dict
from common.errors import UnreadableModel
from tests.client.generators.importers import stylegan_files

LIMITS = PickleLimits()


def inert(content: bytes, limits: PickleLimits = LIMITS) -> Any:
    return read_pickle(io.BytesIO(content), "model.pkl", limits)


class Harm:
    """Makes a folder when it is loaded the usual way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_file_that_asks_to_run_something_is_refused_and_nothing_runs(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"G_ema": Harm(tmp_path / "harm")}, protocol)
    with pytest.raises(UnreadableModel, match=r"asks to run '\w+.mkdir'"):
        inert(content)
    assert not (tmp_path / "harm").exists()
    pickle.loads(content)
    assert (tmp_path / "harm").exists()  # so the file was dangerous


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02cbuiltins\neval\nU\x041+1)\x85R.",
        b"\x80\x02c__builtin__\ngetattr\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.",
        b"\x80\x02\x82\x01.",
        b"\x80\x05\x97.",
        b"Pid\n.",
        b"\x80\x02K\x01Q.",
    ],
)
def test_instructions_that_could_run_something_are_refused(content: bytes) -> None:
    with pytest.raises(UnreadableModel):
        inert(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        b"S'\\q'\n.",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02(((t.",
        b"\x80\x02]K\x01s.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02}}K\x01s.",
        b"\x80\x02]q\xffh\x00.",
        b"\x80\x02}K\x01b.",
        b"\x80\x02(K\x01d.",
        b"\x80\x02X\xff\xff\xff\x7fab.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab.",
        b"\x80\x02r\xff\xff\xff\xff.",
    ],
)
def test_damaged_pickles_are_refused_clearly(content: bytes) -> None:
    with pytest.raises(UnreadableModel, match=r"model.pkl"):
        inert(content)


def test_a_deeply_nested_key_cannot_exhaust_the_stack() -> None:
    nested = b"\x80\x02}" + b"K\x01" + b"\x85" * 60_000 + b"K\x01s."
    with pytest.raises(UnreadableModel, match="as a key"):
        inert(nested)


def test_the_number_of_instructions_is_bounded() -> None:
    with pytest.raises(UnreadableModel, match="more than 100 instructions"):
        inert(b"\x80\x02]" + b"K\x01a" * 100 + b".", PickleLimits(opcodes=100))


def test_plain_values_come_back_as_they_were() -> None:
    value = {"a": [1, -2.5, None, True, "ä", b"\x00\xff", (), (1,), (1, 2, 3, 4)], 3: {"x", "y"}, "big": 2**70}
    for protocol in (2, 3, 4, 5):
        if protocol == 2:
            assert inert(pickle.dumps({**value, "a": value["a"][:5]}, 2)[:]) is not None  # type: ignore[index]
        else:
            assert inert(pickle.dumps({k: v for k, v in value.items() if k != 3}, protocol)) == {
                k: v for k, v in value.items() if k != 3
            }
    assert inert(pickle.dumps(value, 4)) == value


def test_the_source_inside_an_official_file_is_not_run(tmp_path: Path) -> None:
    path = stylegan_files.write(tmp_path / "model.pkl", stylegan_files.stylegan2(1, side=16))
    assert stylegan_files.SOURCE.encode() in path.read_bytes()
    stored = read_generator(path)
    assert stored.kind == "Generator"
    assert set(stored.children) == {"synthesis", "mapping"}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_of_every_kind_come_back_as_they_were(protocol: int) -> None:
    base = torch.arange(24, dtype=torch.float32)
    tensors = {
        "plain": base.reshape(4, 6),
        "transposed": base.reshape(4, 6).T,
        "part": base[5:11],
        "scalar": torch.tensor(2.5),
        "half": base.half(),
        "bfloat": base.bfloat16(),
        "double": base.double(),
        "whole": torch.arange(5),
        "empty": torch.zeros(0, 3),
    }
    found = inert(pickle.dumps(tensors, protocol))
    for name, expected in tensors.items():
        got = tensor(found[name], name)
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected), name


def test_arrays_come_back_as_they_were() -> None:
    numpy = pytest.importorskip("numpy")
    for array in (numpy.arange(6.0).reshape(2, 3), numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3))):
        assert tensor(inert(pickle.dumps(array, 4)), "array").tolist() == array.tolist()


def rebuilt(offset: Any, size: Any, stride: Any) -> Inert:
    lone = inert(pickle.dumps(torch.zeros(4), 4)).args[0]
    return Inert(Name("torch._utils", "_rebuild_tensor_v2"), (lone, offset, size, stride, False, {}))


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (10**6, 10**6), (0, 0)),
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (-1, (4,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (4, 1)),
        (0, (4,), (1, 1)),
        (0, (2**40,), (1,)),
        (0, (1,) * 9, (1,) * 9),
        (0, "x", (1,)),
        (0.0, (4,), (1,)),
    ],
)
def test_a_shape_beyond_the_storage_is_refused(offset: Any, size: Any, stride: Any) -> None:
    assert tensor(rebuilt(0, (2, 2), (2, 1)), "w").shape == (2, 2)
    with pytest.raises(UnreadableModel):
        tensor(rebuilt(offset, size, stride), "w")


def test_a_storage_with_fewer_bytes_than_it_claims_is_refused() -> None:
    lone = inert(pickle.dumps(torch.zeros(4), 4)).args[0]
    content = bytearray(lone.args[0])
    position = content.rindex(struct.pack("<q", 4))
    for damaged in (content[:-1], content[: position + 8], content[:position] + struct.pack("<q", 1 << 40)):
        bad = Inert(lone.name, (bytes(damaged),))
        with pytest.raises(UnreadableModel):
            tensor(Inert(Name("torch._utils", "_rebuild_tensor_v2"), (bad, 0, (4,), (1,))), "w")


def test_networks_nested_too_deep_are_refused() -> None:
    node: Any = None
    for _ in range(40):
        state = {"_parameters": {}, "_buffers": {}, "_modules": {} if node is None else {"m": node}}
        meta = {"class_name": "Block", "state": state}
        node = Inert(Name("torch_utils.persistence", "_reconstruct_persistent_obj"), (meta,))
    with pytest.raises(UnreadableModel, match="more than 32 deep"):
        module(node, "model.pkl")


class Config:
    """A training configuration, as real checkpoints hold one."""

    def __init__(self) -> None:
        self.alpha = 0.25


Config.__module__, Config.__qualname__ = "models.utils.config", "Config"


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_are_read_with_their_configuration_left_inert(
    tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    place = types.ModuleType("models.utils.config")
    place.Config = Config  # type: ignore[attr-defined]
    for name in ("models", "models.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "models.utils.config", place)
    saved = {"config": Config(), "netG": {"module.w": torch.arange(6.0).reshape(2, 3).T}, "step": 3}
    torch.save(saved, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(tmp_path / "net.pth")
    assert found["step"] == 3
    assert found["config"].state == {"alpha": 0.25}
    weights = state_dict(found, ("netG",), "net.pth")
    assert torch.equal(weights["w"], saved["netG"]["module.w"])  # type: ignore[index]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_asks_to_run_something_is_refused(tmp_path: Path, zipped: bool) -> None:
    saved = {"netG": {"w": torch.zeros(2)}, "harm": Harm(tmp_path / "harm")}
    torch.save(saved, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnreadableModel, match="asks to run"):
        read_checkpoint(tmp_path / "net.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_cut_anywhere_is_refused(tmp_path: Path, zipped: bool) -> None:
    torch.save({"w": torch.randn(40)}, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "net.pth").read_bytes()
    for share in (0.0, 0.1, 0.4, 0.7, 0.95, 0.999):
        (tmp_path / "cut.pth").write_bytes(content[: int(share * len(content))])
        with pytest.raises(UnreadableModel):
            read_checkpoint(tmp_path / "cut.pth")


def test_weights_that_are_not_finite_or_claim_more_than_they_hold_are_refused() -> None:
    with pytest.raises(UnreadableModel, match="NaN or infinite weights in b"):
        Weights({"a": torch.zeros(2), "b": torch.tensor([0.0, float("nan")])}, "net.pth")
    with pytest.raises(UnreadableModel, match="claims more numbers than it holds in a"):
        Weights({"a": torch.zeros(1).expand(10**6, 10**6)}, "net.pth")
