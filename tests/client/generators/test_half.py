import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from client.generators import half
from client.generators.onnx import OnnxModel
from common.errors import DamagedPack

CPU = torch.device("cpu")


def network(gain: float) -> bytes:
    """Two layers; ``gain`` multiplies the weights of the first and divides those of the second: the same items."""
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randn(shape, generator=draw) / 8 for shape in ((8, 64), (64, 12)))
    stored = {"first": first * gain, "second": second / gain}
    nodes = [
        helper.make_node("MatMul", ["latent", "first"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["positive"]),
        helper.make_node("MatMul", ["positive", "second"], ["flat"]),
        helper.make_node("Tanh", ["flat"], ["media"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name, width in (("latent", 8), ("media", 12))
    ]
    weights = [numpy_helper.from_array(value.numpy(), name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


LATENTS = {"latent": torch.randn(16, 8, generator=torch.Generator().manual_seed(1))}


def test_a_network_that_keeps_its_items_runs_in_half_precision() -> None:
    content = network(1.0)
    model = OnnxModel(content, "painter", CPU)
    found = half.faster(model, content, LATENTS, 2.0)
    assert found is not model
    drawn, wanted = found.run(**LATENTS), model.run(**LATENTS)
    assert drawn.dtype == torch.float32
    assert 0 < float((drawn - wanted).abs().max()) <= 2 * half.TOLERANCE
    assert len(half.to_half(content)) < 0.8 * len(content)


def test_a_network_that_overflows_stays_in_full_precision() -> None:
    content = network(1e7)  # through weights that float16 does not have
    model = OnnxModel(content, "painter", CPU)
    assert half.faster(model, content, LATENTS, 2.0) is model


def test_a_difference_above_the_tolerance_is_refused() -> None:
    content = network(1.0)
    model = OnnxModel(content, "painter", CPU)
    candidate = OnnxModel(half.to_half(content), "painter", CPU)
    apart = half.largest_difference(model, candidate, LATENTS, 2.0)
    assert apart <= half.TOLERANCE
    tight = 2.0 * apart / (2 * half.TOLERANCE)  # a range in which the same difference is twice the tolerance
    assert half.faster(model, content, LATENTS, tight) is model


def test_what_is_no_network_is_a_clear_message() -> None:
    with pytest.raises(DamagedPack, match="cannot be converted to float16"):
        half.to_half(b"no network")
