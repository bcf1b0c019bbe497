"""Fixed steps as one ONNX file: a step is exported once and repeated with shared weights, so many steps cost little."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from client.generators.importers.sampling import NUMBERS, Denoised
from client.generators.onnx import OPSET, export
from client.generators.proof import BATCH
from client.generators.sandbox import LARGEST_FILE
from common.errors import UnreadableModel


class Shown(nn.Module):
    """A network whose pictures are cut to [-1, 1] and have three channels, from a plain latent.

    Args:
        network: ``(n, *latent_shape)`` and further inputs to ``(n, 1 or 3, h, w)``.
        latent_shape: of one latent.
    """

    def __init__(self, network: nn.Module, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.latent_shape = network, latent_shape

    def forward(self, latent: Tensor, *others: Tensor) -> Tensor:
        """``(n, d)`` to ``(n, 3, h, w)``."""
        made: Tensor = self.network(latent.reshape(-1, *self.latent_shape), *others)
        return shown(made)


def shown(pictures: Tensor) -> Tensor:
    """Pictures of 1 or 3 channels with 3, in [-1, 1]."""
    return pictures.clamp(-1, 1).expand(-1, 3, -1, -1)


class _Step(nn.Module):
    def __init__(self, network: Denoised) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, numbers: Tensor, *others: Tensor) -> Tensor:
        return self.network.step(x, numbers, *others)


class _Last(nn.Module):
    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        return shown(self.decoder(x))


def unrolled(network: Shown, conditions: Mapping[str, Tensor]) -> bytes:
    """A `Denoised` inside `Shown` as an ONNX file: ``latent`` and the conditions to ``media``.

    Args:
        network: of pictures.
        conditions: default of each further input, without a batch.

    Raises:
        UnreadableModel: its weights are more than one file holds.
    """
    inside = network.network
    assert isinstance(inside, Denoised)
    size = 4 * sum(value.numel() for value in network.state_dict().values())
    if size > LARGEST_FILE:
        raise UnreadableModel(
            f"it has {size / 2**30:.1f} GiB of weights, and one ONNX file holds 2; import a smaller one"
        )
    shape, steps = network.latent_shape, inside.get_buffer("steps")
    x = torch.zeros(BATCH, *shape)
    others = {name: value.expand(BATCH, *value.shape) for name, value in conditions.items()}
    batched = {name: {0: "n"} for name in ("x", *others)}
    step = export(_Step(inside).eval(), {"x": x, "numbers": torch.zeros(NUMBERS), **others}, "next", batched)
    last = export(_Last(inside.decoder).eval(), {"x": x}, "media", {"x": {0: "n"}})
    return _chained(
        onnx.load_model_from_string(step),
        onnx.load_model_from_string(last),
        steps,
        shape,
        {name: tuple(value.shape) for name, value in conditions.items()},
    )


def _chained(
    step: onnx.ModelProto,
    last: onnx.ModelProto,
    steps: Tensor,
    shape: tuple[int, ...],
    conditions: Mapping[str, tuple[int, ...]],
) -> bytes:
    constants = [_renamed(tensor, "step/") for tensor in step.graph.initializer]
    constants += [_renamed(tensor, "last/") for tensor in last.graph.initializer]
    constants += [numpy_helper.from_array(row.numpy(), f"numbers/{i}") for i, row in enumerate(steps)]
    constants.append(numpy_helper.from_array(np.array([-1, *shape], np.int64), "latent_shape"))
    nodes = [helper.make_node("Reshape", ["latent", "latent_shape"], ["x/0"])]
    for i in range(len(steps)):
        own = {"x": f"x/{i}", "numbers": f"numbers/{i}", "next": f"x/{i + 1}", **{name: name for name in conditions}}
        nodes += _repeated(step.graph, own, "step/", f"{i}/")
    nodes += _repeated(last.graph, {"x": f"x/{len(steps)}", "media": "media"}, "last/", "last/")
    inputs = [helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["n", math.prod(shape)])]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *of]) for name, of in conditions.items()]
    media = [side.dim_value for side in last.graph.output[0].type.tensor_type.shape.dim[1:]]
    output = helper.make_tensor_value_info("media", TensorProto.FLOAT, ["n", *media])
    graph = helper.make_graph(nodes, "generator", inputs, [output], constants)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=step.ir_version)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _repeated(graph: onnx.GraphProto, own: Mapping[str, str], shared: str, prefix: str) -> list[NodeProto]:
    """Nodes of a graph once more: weights shared, inputs and output named as ``own`` says, the rest new."""
    weights = {tensor.name: shared + tensor.name for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = prefix + node.name
        for names in (copy.input, copy.output):
            new = [weights.get(name) or own.get(name) or (prefix + name if name else "") for name in names]
            del names[:]
            names.extend(new)
        nodes.append(copy)
    return nodes


def _renamed(tensor: TensorProto, prefix: str) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = prefix + tensor.name
    return copy
