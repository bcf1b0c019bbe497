from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from client.generators.onnx_rules import (
    NEWEST_OPSET,
    OPERATORS,
    Refused,
    RefusedShape,
    check_shapes,
    check_weights,
    parse,
)


def model(*nodes: onnx.NodeProto, stored: Any = (), opset: int = 18, domain: str = "") -> onnx.ModelProto:
    given = [helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["n", 4])]
    made = [helper.make_tensor_value_info("media", TensorProto.FLOAT, None)]
    graph = helper.make_graph(list(nodes), "graph", given, made, list(stored))
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def node(kind: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs) or ["latent"], ["media"], **attributes)


def nested() -> onnx.ModelProto:
    """An allowed operator that carries a graph no operator set gives it."""
    made = node("Relu")
    graph = helper.make_graph([], "inner", [], [])
    made.attribute.append(helper.make_attribute("body", graph))
    return model(made)


def sparse() -> onnx.ModelProto:
    found = model(node("Relu"))
    found.graph.sparse_initializer.add()
    return found


def with_functions() -> onnx.ModelProto:
    found = model(node("Relu"))
    found.functions.add(name="Relu")
    return found


def training() -> onnx.ModelProto:
    found = model(node("Relu"))
    found.training_info.add()
    return found


def hidden_outside() -> onnx.ModelProto:
    """External data in an attribute instead of an initialiser."""
    tensor = onnx.TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    return model(helper.make_node("Constant", [], ["c"], value=tensor), node("Add", "latent", "c"))


FORBIDDEN = {
    "Loop": (model(node("Loop")), "run for ever"),
    "If": (model(node("If")), "run for ever"),
    "Scan": (model(node("Scan")), "run for ever"),
    "SequenceMap": (model(node("SequenceMap")), "run for ever"),
    "RandomNormal": (model(node("RandomNormalLike")), "make its noise an input"),
    "NonZero": (model(node("NonZero")), "not known before it runs"),
    "ImageDecoder": (model(node("ImageDecoder")), "not among the known"),
    "StringConcat": (model(node("StringConcat")), "not among the known"),
    "a domain of its own": (model(node("Relu", domain="com.evil"), domain="com.evil"), "operators of com.evil"),
    "a nested graph": (nested(), "hides a program"),
    "a sparse tensor": (sparse(), "sparse"),
    "functions": (with_functions(), "operators of its own"),
    "a training program": (training(), "for inference"),
    "training dropout": (model(node("Dropout", "latent", "", "yes")), "for inference"),
    "outside in an attribute": (hidden_outside(), "other files"),
    "a newer operator set": (model(node("Relu"), opset=NEWEST_OPSET + 1), "opset_version=18"),
    "an ancient operator set": (model(node("Relu"), opset=1), "operator set 1"),
}


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_what_a_generator_does_not_need_is_refused(kind: str) -> None:
    content, message = FORBIDDEN[kind]
    with pytest.raises(Refused, match=message):
        parse(content.SerializeToString())


def test_a_plain_network_is_accepted_in_every_operator_set_that_runs() -> None:
    for opset in (7, 13, 18, NEWEST_OPSET):
        assert parse(model(node("Relu"), opset=opset).SerializeToString()).graph.node[0].op_type == "Relu"


def test_every_allowed_operator_is_a_standard_one() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert sorted(OPERATORS - known) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"<!DOCTYPE html><html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\xff\xd8\xff\xe0JFIF",
    ],
)
def test_other_files_are_told_as_such(content: bytes) -> None:
    with pytest.raises(Refused, match="not an ONNX file"):
        parse(content)


def test_every_cut_of_a_file_is_refused_or_still_keeps_the_rules() -> None:
    content = model(node("Add", "latent", "w"), stored=[helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])])
    whole = content.SerializeToString()
    refused = 0
    for end in range(len(whole)):
        try:
            parse(whole[:end])
        except Refused:
            refused += 1
    assert refused > len(whole) * 0.9


@pytest.mark.parametrize(
    ("values", "good"),
    [
        (np.array([1.0, np.nan], np.float32), False),
        (np.array([1.0, np.inf], np.float16), False),
        (np.array([0.0, -np.inf], np.float32), True),  # a mask
        (np.array(np.inf, np.float32), True),  # a bound
        (np.array([1, 2], np.int64), True),
    ],
)
def test_weights_are_numbers(values: Any, good: bool) -> None:
    stored = model(node("Relu"), stored=[numpy_helper.from_array(values, "w")])
    if good:
        check_weights(stored)
        return
    with pytest.raises(Refused, match="NaN or infinite weights in 'w'"):
        check_weights(stored)


def test_weights_fill_their_shape() -> None:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1000, 1000], raw_data=bytes(8))
    with pytest.raises(Refused, match="do not fit"):
        check_weights(model(node("Relu"), stored=[tensor]))


def test_shapes_that_depend_on_numbers_are_refused() -> None:
    cast = helper.make_node("Cast", ["latent"], ["whole"], to=TensorProto.INT64)
    flat = helper.make_node("ReduceMax", ["whole"], ["side"], keepdims=0)
    row = helper.make_node("Unsqueeze", ["side", "axis"], ["shape"])
    stored = [helper.make_tensor("axis", TensorProto.INT64, [1], [0])]
    with pytest.raises(RefusedShape, match="not known before it runs"):
        check_shapes(
            model(cast, flat, row, node("ConstantOfShape", "shape"), stored=stored), {"latent": (3, 4)}, 1 << 20
        )


def test_shapes_follow_the_batch_and_are_bounded() -> None:
    stored = [helper.make_tensor("times", TensorProto.INT64, [2], [1, 1000])]
    tiled = model(node("Tile", "latent", "times"), stored=stored)
    assert check_shapes(tiled, {"latent": (3, 4)}, 1 << 20) == 3 * 4 * 1000 * 4
    with pytest.raises(RefusedShape, match="48000 bytes, more than 47999"):
        check_shapes(tiled, {"latent": (3, 4)}, 47_999)


def test_a_claimed_shape_counts_for_nothing() -> None:
    """A file may lie about what it computes; the shape is computed, not read."""
    stored = [helper.make_tensor("shape", TensorProto.INT64, [1], [10**9])]
    lying = model(helper.make_node("ConstantOfShape", ["shape"], ["big"]), node("ReduceSum", "big"), stored=stored)
    lying.graph.value_info.append(helper.make_tensor_value_info("big", TensorProto.FLOAT, [1]))
    with pytest.raises(Refused):
        check_shapes(lying, {"latent": (3, 4)}, 1 << 20)
