import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from client.generators.onnx import OPSET, OnnxModel, export
from common.errors import DamagedPack


@pytest.fixture(scope="module")
def content() -> bytes:
    torch.manual_seed(0)
    return export(nn.Linear(4, 2), {"latent": torch.zeros(3, 4)}, "features", {"latent": {0: "n"}})


def test_an_exported_module_runs_for_any_number_of_latents(content: bytes) -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 2)
    model = OnnxModel(content, "linear")
    assert model.inputs == ("latent",)
    for n in (1, 2, 100):
        latents = torch.randn(n, 4)
        assert torch.allclose(model.run(latent=latents), module(latents), atol=1e-5)


def test_without_a_gpu_the_cpu_runs_it(content: bytes) -> None:
    expected = "CUDAExecutionProvider" if torch.cuda.is_available() else "CPUExecutionProvider"
    assert OnnxModel(content, "linear").provider == expected


def test_wrong_shapes_are_a_clear_message(content: bytes) -> None:
    with pytest.raises(DamagedPack, match="linear cannot be run"):
        OnnxModel(content, "linear").run(latent=torch.zeros(2, 5))


@pytest.mark.parametrize("content", [b"", b"no network", b"\x00" * 100])
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(DamagedPack, match=r"x cannot be loaded|x is not an ONNX file"):
        OnnxModel(content, "x")


def model_with(*, domain: str = "", external: bool = False) -> bytes:
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [1], [1.0])
    if external:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="secret")
    node = helper.make_node("Add" if not domain else "Mine", ["latent", "weight"], ["out"], domain=domain)
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("latent", "out")]
    graph = helper.make_graph([node], "graph", shape[:1], shape[1:], [weight])
    opsets = [helper.make_opsetid("", OPSET)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return made


def test_weights_in_other_files_are_refused() -> None:
    assert OnnxModel(model_with(), "x").run(latent=torch.ones(2)).tolist() == [2, 2]
    with pytest.raises(DamagedPack, match="other files"):
        OnnxModel(model_with(external=True), "x")


def test_operators_of_others_are_refused() -> None:
    with pytest.raises(DamagedPack, match=r"operators of org\.other"):
        OnnxModel(model_with(domain="org.other"), "x")


def test_functions_inside_a_file_are_refused() -> None:
    model = onnx.load_model_from_string(model_with())
    model.functions.add(name="Mine", domain="")
    with pytest.raises(DamagedPack, match="operators of its own"):
        OnnxModel(model.SerializeToString(), "x")
