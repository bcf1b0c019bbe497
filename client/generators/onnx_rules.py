"""What a foreign ONNX file may hold: plain tensor operators on shapes that are known before it runs.

Everything here reads the file's description and runs nothing of it. It is used inside the child process of
`sandbox.py` for files nobody has looked at, and once more when a network is loaded. Needs onnx and numpy alone, so that
the child starts quickly and has little in reach.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

OLDEST_OPSET, NEWEST_OPSET = 7, 26
"""Operator sets that ONNX Runtime 1.31 runs; 27 is a draft there."""
LARGEST_FILE = (1 << 31) - 1
MOST_NODES = 200_000

_ARITHMETIC = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike "
    "Ceil Clip Constant Cos Cosh Div Equal Erf Exp Floor Greater GreaterOrEqual Identity IsInf IsNaN Less LessOrEqual "
    "Log Max Mean Min Mod Mul Neg Not Or Pow Reciprocal Round Sign Sin Sinh Sqrt Sub Sum Tan Tanh Where Xor"
)
_ACTIVATIONS = (
    "Celu Elu Gelu HardSigmoid HardSwish Hardmax LeakyRelu LogSoftmax Mish PRelu Relu Selu Shrink Sigmoid Softmax "
    "Softplus Softsign Swish ThresholdedRelu Dropout"
)
_LAYERS = (
    "Attention AveragePool BatchNormalization Conv ConvTranspose Einsum GRU Gemm GlobalAveragePool GlobalLpPool "
    "GlobalMaxPool GroupNormalization InstanceNormalization LRN LSTM LayerNormalization LpNormalization LpPool MatMul "
    "MaxPool MeanVarianceNormalization RMSNormalization RNN RotaryEmbedding"
)
_SHAPES = (
    "CenterCropPad Concat ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather GatherElements GatherND "
    "GridSample AffineGrid OneHot Pad Range Reshape Resize ReverseSequence ScatterElements ScatterND Shape Size Slice "
    "SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze Upsample TensorScatter"
)
_SUMS = (
    "ArgMax ArgMin CumProd CumSum Det ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
    "ReduceProd ReduceSum ReduceSumSquare TopK"
)
_WHOLE_NUMBERS = (
    "ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul QuantizeLinear"
)
_SOUND = "BlackmanWindow DFT HammingWindow HannWindow MelWeightMatrix STFT"
OPERATORS = frozenset(" ".join((_ARITHMETIC, _ACTIVATIONS, _LAYERS, _SHAPES, _SUMS, _WHOLE_NUMBERS, _SOUND)).split())
"""Operators a generator may use: a bounded amount of work on tensors, nothing else."""

_REASONS = {
    "loops and branches can run for ever": {"Loop", "If", "Scan", "SequenceMap"},
    "a generator must draw the same again; make its noise an input": {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    },
    "its result has a shape that is not known before it runs": {"Compress", "NonMaxSuppression", "NonZero", "Unique"},
}


class Refused(ValueError):
    """The file breaks a rule; the message says which and what to do."""


class RefusedShape(Refused):
    """A value inside the network has no known shape, too large a one, or one that does not fit."""


def parse(content: bytes) -> onnx.ModelProto:
    """Read an ONNX file and check everything that can be checked without its shapes.

    Raises:
        Refused: not an ONNX file, too large, other operators than `OPERATORS`, parts in other files, programs of its
            own, or an operator set this program cannot run.
    """
    if len(content) > LARGEST_FILE:
        raise Refused(f"has {len(content)} bytes, more than the {LARGEST_FILE} of one ONNX file")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's error type depends on its build
        raise Refused("is not an ONNX file, or is cut short; export or fetch it again") from error
    if not model.opset_import or not model.graph.output:  # empty bytes are a message without fields
        raise Refused("is not an ONNX file, or is empty; export or fetch it again")
    _check_opset(model)
    if model.functions:
        raise Refused("defines operators of its own; only standard ONNX is run, so export without functions")
    if model.training_info:
        raise Refused("holds a training program; export it for inference")
    _check_nodes(model.graph)
    if any(_is_outside(tensor) for tensor in tensors(model.graph)):
        raise Refused("keeps weights in other files; export it as one file")
    return model


def check_weights(model: onnx.ModelProto) -> None:
    """Check that stored numbers are finite and as many as their shapes say.

    Raises:
        Refused: a tensor holds NaN or an infinity, or its bytes do not fit its shape.
    """
    for tensor in tensors(model.graph):
        if any(side < 0 for side in tensor.dims):
            raise Refused(f"stores {tensor.name[:60]!r} with a negative side")
        if tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
            raise Refused(f"stores {tensor.name[:60]!r} as text; a generator works on numbers")
        try:
            values = onnx.numpy_helper.to_array(tensor)
        except Exception as error:
            raise Refused(f"stores {tensor.name[:60]!r} with bytes that do not fit its shape") from error
        # -inf masks attention and a lone infinity bounds a Clip; both are honest constants
        if values.dtype.kind == "f" and bool(np.isnan(values).any() or (values.ndim and np.isposinf(values).any())):
            raise Refused(f"holds NaN or infinite weights in {tensor.name[:60]!r}; use an earlier checkpoint")


def check_shapes(model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]], largest: int) -> int:
    """Check that every value has a known shape of a bearable size, once the inputs have theirs.

    Args:
        model: as `parse` gave it; it is not changed.
        inputs: shape of each input.
        largest: most bytes one value may take.

    Returns:
        Bytes of the largest value.

    Raises:
        RefusedShape: a shape depends on the numbers, or is too large, or the file contradicts itself.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    _fix_inputs(fixed.graph, inputs)
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:
        raise RefusedShape(f"contradicts itself: {_first_line(error)}") from error
    found = {entry.name: entry for entry in (*inferred.graph.value_info, *inferred.graph.output)}
    most = 0
    for node in fixed.graph.node:
        for name in filter(None, node.output):
            size = _bytes_of(found[name]) if name in found else None
            if size is None:
                raise RefusedShape(
                    f"computes {name[:60]!r} ({node.op_type}) with a shape that is not known before it runs; export it "
                    "with static shapes, only the batch free"
                )
            if size > largest:
                raise RefusedShape(f"computes {name[:60]!r} ({node.op_type}) of {size} bytes, more than {largest}")
            most = max(most, size)
    return most


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All tensors a graph stores: its initialisers and those in attributes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t


def operators(model: onnx.ModelProto) -> list[str]:
    """Names of the operators used, sorted."""
    return sorted({node.op_type for node in model.graph.node})


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operator set."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def needed_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that have no stored value."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [entry for entry in model.graph.input if entry.name not in stored]


def sides(entry: onnx.ValueInfoProto) -> list[int | str | None]:
    """Shape of an input or output: a number, the name of a free axis, or None; empty where there is none."""
    return [
        int(side.dim_value) if side.HasField("dim_value") else (side.dim_param or None)
        for side in entry.type.tensor_type.shape.dim
    ]


def _check_opset(model: onnx.ModelProto) -> None:
    # exporters declare domains they do not use; only a used one matters
    used = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if used:
        named = ", ".join(sorted(domain[:40] for domain in used))
        raise Refused(f"needs operators of {named}; only standard ONNX is run")
    if not OLDEST_OPSET <= opset_of(model) <= NEWEST_OPSET:
        raise Refused(
            f"needs operator set {opset_of(model)}, and this program runs {OLDEST_OPSET} to {NEWEST_OPSET}; export it "
            f"with opset_version={min(NEWEST_OPSET, 18)}, or update the program"
        )


def _check_nodes(graph: onnx.GraphProto) -> None:
    if len(graph.node) > MOST_NODES:
        raise Refused(f"has {len(graph.node)} nodes, more than {MOST_NODES}")
    if graph.sparse_initializer:
        raise Refused("stores sparse tensors; export it with plain ones")
    for node in graph.node:
        if node.op_type not in OPERATORS:
            why = next((why for why, names in _REASONS.items() if node.op_type in names), "it is not among the known")
            raise Refused(f"uses the operator {node.op_type[:40]}, which is not allowed: {why}")
        if node.op_type == "Dropout" and len(node.input) > 2:
            raise Refused("uses Dropout with a training mode; export it for inference")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise Refused(f"hides a program inside the operator {node.op_type}; only flat networks are run")
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise Refused("stores sparse tensors; export it with plain ones")


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL or bool(tensor.external_data)


def _fix_inputs(graph: onnx.GraphProto, inputs: Mapping[str, Sequence[int]]) -> None:
    """Give the inputs their shapes and forget what the file claims about everything computed from them."""
    for entry in graph.input:
        if entry.name in inputs:
            shape = entry.type.tensor_type.shape
            del shape.dim[:]
            for side in inputs[entry.name]:
                shape.dim.add().dim_value = side
    del graph.value_info[:]
    for entry in graph.output:
        entry.type.tensor_type.ClearField("shape")


def _bytes_of(entry: onnx.ValueInfoProto) -> int | None:
    kind = entry.type.tensor_type
    if not kind.HasField("shape"):
        return None
    known = [side.dim_value if side.HasField("dim_value") else None for side in kind.shape.dim]
    if any(side is None or side < 0 for side in known):
        return None
    width = int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).itemsize) if kind.elem_type else 4
    numbers: int = math.prod(side for side in known if side is not None)
    return numbers * width


def _first_line(error: Exception) -> Any:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
