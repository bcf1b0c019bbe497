"""ONNX files: written from torch modules, and run with ONNX Runtime on the GPU when there is one, else on the CPU."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

from client.generators.onnx_rules import Refused, parse
from common.errors import DamagedPack

OPSET = 18
_ERRORS_ONLY = 3


class OnnxModel:
    """One ONNX network with named float32 inputs and one float32 output.

    Guarantee: nothing outside the given bytes is read, only the operators of `onnx_rules` run, and nothing is printed.

    Attributes:
        inputs: names of the inputs, in order.
        provider: what runs it, ``"CUDAExecutionProvider"`` or ``"CPUExecutionProvider"``.
        session: ONNX Runtime's own, for inputs and outputs of other types.
    """

    def __init__(self, content: bytes, name: str) -> None:
        """Load a network.

        Args:
            content: bytes of the ONNX file.
            name: what messages call it.

        Raises:
            DamagedPack: not an ONNX file, one that points to other files, or one with operators that are not allowed.
        """
        self.name = name
        self._content = content
        _refuse_foreign(content, name)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores alone
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=_providers())
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise DamagedPack(f"{name} cannot be loaded: {_first_line(error)}; fetch the pack again") from error
        self.inputs = tuple(entry.name for entry in self.session.get_inputs())
        self.provider: str = self.session.get_providers()[0]

    def weights(self) -> dict[str, Tensor]:
        """The network's stored tensors by name."""
        stored = onnx.load_model_from_string(self._content).graph.initializer
        return {tensor.name: torch.tensor(onnx.numpy_helper.to_array(tensor)) for tensor in stored}

    def run(self, **inputs: Tensor) -> Tensor:
        """Run the network.

        Args:
            inputs: one tensor for each name in `inputs`.

        Returns:
            Its output, float32 on the CPU.

        Raises:
            DamagedPack: the network refuses inputs of these shapes.
        """
        arrays = {
            name: tensor.detach().to("cpu", torch.float32).contiguous().numpy() for name, tensor in inputs.items()
        }
        try:
            return torch.from_numpy(self.session.run(None, arrays)[0])
        except Exception as error:
            raise DamagedPack(f"{self.name} cannot be run: {_first_line(error)}; fetch the pack again") from error


def export(
    module: nn.Module, inputs: Mapping[str, Tensor], output: str, dynamic: Mapping[str, Mapping[int, str]]
) -> bytes:
    """Write a torch module as one ONNX file.

    Guarantee: weights are inside, no trace of the machine that wrote it; the same module gives the same bytes.

    Args:
        module: called with the inputs in their order; returns one tensor.
        inputs: example inputs by name; their dynamic axes longer than 1.
        output: name of the output.
        dynamic: for each input, names of the axes whose length is free.

    Returns:
        Bytes of the ONNX file, operator set `OPSET`.
    """
    axes: dict[str, torch.export.Dim] = {
        label: torch.export.Dim(label) for each in dynamic.values() for label in each.values()
    }
    shapes = _nested(module, [{axis: axes[label] for axis, label in dynamic.get(name, {}).items()} for name in inputs])
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet_logging():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
        model = program.model_proto
    _strip_traces(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _nested(module: nn.Module, shapes: list[Any]) -> tuple[Any, ...]:
    """Shapes as torch.export wants them: those of ``*others``, where there are any, in a tuple of their own."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else len(kinds)
    if len(shapes) <= named:
        return tuple(shapes)
    return (*shapes[:named], tuple(shapes[named:]))


def _strip_traces(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes about source files and stack frames."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for entry in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        entry.doc_string = ""
        del entry.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    del model.graph.value_info[:]


def _refuse_foreign(content: bytes, name: str) -> None:
    try:
        parse(content)
    except Refused as error:
        raise DamagedPack(f"{name} {error}") from error


def _providers() -> list[str]:
    onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
    if torch.cuda.is_available() and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        onnxruntime.preload_dlls()  # the CUDA libraries torch brought along
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


@contextlib.contextmanager
def _quiet_logging() -> Any:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
