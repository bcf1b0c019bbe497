"""The flow that is shipped, and files that are no flow."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from client.flows.checkpoint import SHIPPED, open_checkpoint, write_checkpoint
from client.flows.network import NetworkSettings
from client.flows.shapes import ShapeSettings
from client.flows.training import Training, TrainSettings
from common.errors import DamagedPack, StorageError


def test_the_shipped_flow_is_small_and_names_its_command() -> None:
    shipped = open_checkpoint()
    assert SHIPPED.stat().st_size < 2 * 2**20
    assert shipped.settings == TrainSettings()
    assert shipped.command.startswith("plgl toy --train ")
    assert 0 < shipped.loss < 0.1


def test_a_flow_comes_back_as_it_was_written(tmp_path: Path) -> None:
    settings = TrainSettings(shapes=ShapeSettings(points=16), network=NetworkSettings(width=8, blocks=1), batch=2)
    training = Training(settings, torch.device("cpu"))
    training.advance()
    write_checkpoint(tmp_path / "flow.safetensors", training, "command")
    found = open_checkpoint(tmp_path / "flow.safetensors")
    assert (found.settings, found.command) == (settings, "command")
    for name, value in training.flow.state_dict().items():
        assert torch.equal(value, found.flow.state_dict()[name])


def test_files_that_are_no_flow_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "flow.safetensors"
    with pytest.raises(StorageError, match="cannot read"):
        open_checkpoint(path)
    for content in (b"", b"not a flow", SHIPPED.read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(DamagedPack, match="is damaged"):
            open_checkpoint(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(DamagedPack, match="not a flow of format plgl-flow-1"):
        open_checkpoint(path)


def test_other_weights_and_nan_are_refused(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "flow.safetensors"
    with safe_open(SHIPPED, framework="pt") as file:
        about = file.metadata()
    weights = load_file(SHIPPED)
    save_file({**weights, "out.bias": torch.full((3,), torch.nan)}, path, about)
    with pytest.raises(DamagedPack, match="NaN"):
        open_checkpoint(path)
    save_file({name: value for name, value in weights.items() if name != "out.bias"}, path, about)
    with pytest.raises(DamagedPack, match=r"out\.bias|Error"):
        open_checkpoint(path)
    save_file(weights, path, {"about": about["about"].replace("shapes", "shape")})
    with pytest.raises(DamagedPack, match="is damaged"):
        open_checkpoint(path)
