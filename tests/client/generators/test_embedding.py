"""What a latent map may learn to predict: features of this program, or of an ONNX file that is opened with care."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import TensorProto, helper
from torch.nn import functional

from client.generators.embedding import BUILT_IN, Embedder, picture_features
from client.generators.pictures import picture_blocks
from common.errors import SettingError, UnreadableModel, UnsafeFile


def network(
    sides: tuple[Any, ...] = ("n", 3, 8, 8),
    nodes: list[Any] | None = None,
    kind: int = TensorProto.FLOAT,
    inputs: int = 1,
) -> bytes:
    """Means of quarters, ``(n, 12)``, unless other nodes are given."""
    nodes = nodes or [
        helper.make_node("AveragePool", ["picture"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
    ]
    more = [helper.make_tensor_value_info(f"more{i}", TensorProto.FLOAT, ["n", 2]) for i in range(inputs - 1)]
    graph = helper.make_graph(
        nodes,
        "embedder",
        [helper.make_tensor_value_info("picture", kind, list(sides)), *more],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def pictures(n: int = 5, side: int = 32) -> torch.Tensor:
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return functional.interpolate(coarse, (side, side), mode="bilinear")


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_features_are_those_of_their_kinds(name: str) -> None:
    found, whole = picture_features(name)(pictures()), picture_blocks(pictures())
    assert list(found) == list(BUILT_IN[name])
    assert all(torch.equal(found[kind], whole[kind]) for kind in found)
    assert (set(found) == set(whole)) == (name == "both")


def test_a_network_sees_pictures_of_its_size_and_levels() -> None:
    embedder = Embedder(network(), "means.onnx", (0.0, 2.0))
    seen = pictures()
    (vector,) = embedder(seen).values()
    smaller = functional.interpolate(seen, (8, 8), mode="bilinear", antialias=True) + 1  # black 0, white 2
    wanted = functional.avg_pool2d(smaller, 4).flatten(1)
    assert float((vector - wanted).abs().max()) < 1e-5
    assert float((vector - (wanted - 1)).abs().max()) > 0.5


def test_a_network_may_leave_the_size_open() -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["picture"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
    ]
    (vector,) = Embedder(network(("n", 3, "h", "w"), nodes), "free.onnx")(pictures()).values()
    assert vector.shape == (5, 3)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"sides": ("n", 1, 8, 8)}, "takes no pictures"),
        ({"sides": ("n", 192)}, "takes no pictures"),
        ({"sides": (1, 3, 8, 8)}, "takes 1 pictures at once"),
        ({"sides": ("n", 3, 5000, 5000)}, "5000 x 5000"),
        ({"inputs": 2}, "has 2 inputs"),
        ({"kind": TensorProto.DOUBLE}, "float32"),
    ],
    ids=["grey", "vector", "batch", "size", "inputs", "double"],
)
def test_networks_of_something_else_are_refused(said: dict[str, Any], why: str) -> None:
    with pytest.raises(UnreadableModel, match=why):
        Embedder(network(**said), "odd.onnx")


def test_networks_that_break_a_rule_or_give_nan_are_refused() -> None:
    with pytest.raises(UnsafeFile, match="operators of my"):
        Embedder(network(nodes=[helper.make_node("Custom", ["picture"], ["vector"], domain="my")]), "odd.onnx")
    broken = [
        helper.make_node("Neg", ["picture"], ["below"]),
        helper.make_node("Sqrt", ["below"], ["lost"]),
        helper.make_node("Flatten", ["lost"], ["vector"]),
    ]
    with pytest.raises(UnsafeFile, match="NaN"):
        Embedder(network(nodes=broken), "odd.onnx")


def test_what_is_neither_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="features='shape' must be both, random, colour"):
        picture_features("shape")
    with pytest.raises(UnreadableModel, match="there is no file"):
        picture_features(str(tmp_path / "none.onnx"))
    with pytest.raises(SettingError, match="levels"):
        Embedder(network(), "means.onnx", (1.0, 1.0))
