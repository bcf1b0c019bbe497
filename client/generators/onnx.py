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
from torch.utils.dlpack import from_dlpack

from client.generators.onnx_rules import Refused, parse
from common.errors import DamagedPack, OutOfMemory

OPSET = 18
_ERRORS_ONLY, _FATAL_ONLY = 3, 4
_NO_MEMORY = ("failed to allocate memory", "bad allocation", "bad_alloc", "out of memory", "alloc_failed")
_CUDA = {
    "arena_extend_strategy": "kSameAsRequested",  # the default doubles, and torch lives on the same GPU
    "cudnn_conv_algo_search": "HEURISTIC",  # the default tries them all again for each new batch size
    "use_tf32": "0",  # float32 means float32; `half` is for speed and is checked
}


class OnnxModel:
    """One ONNX network with named float32 inputs and one float32 output.

    Guarantee: nothing outside the given bytes is read, only the operators of `onnx_rules` run, and nothing is printed.
    Inputs that lie on the network's device are read where they lie (DLPack), and its output is written there.

    Attributes:
        device: where it runs and wants its inputs.
        inputs: names of the inputs, in order.
        provider: what runs it, ``"CUDAExecutionProvider"`` or ``"CPUExecutionProvider"``.
        session: ONNX Runtime's own, for inputs and outputs of other types.
    """

    def __init__(self, content: bytes, name: str, device: torch.device | None = None) -> None:
        """Load a network.

        Args:
            content: bytes of the ONNX file.
            name: what messages call it.
            device: where to run it; None for the GPU when there is one that ONNX Runtime can use, else the CPU. A GPU
                that it cannot use becomes the CPU.

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
            self.session = onnxruntime.InferenceSession(content, options, providers=_providers(device))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise DamagedPack(f"{name} cannot be loaded: {_first_line(error)}; fetch the pack again") from error
        self.inputs = tuple(entry.name for entry in self.session.get_inputs())
        self.provider: str = self.session.get_providers()[0]
        self.device = _device(device) if self.provider == "CUDAExecutionProvider" else torch.device("cpu")
        self._output: str = self.session.get_outputs()[0].name
        self._options = onnxruntime.RunOptions()
        self._options.log_severity_level = _FATAL_ONLY  # what fails is raised

    def weights(self) -> dict[str, Tensor]:
        """The network's stored tensors by name."""
        stored = onnx.load_model_from_string(self._content).graph.initializer
        return {tensor.name: torch.tensor(onnx.numpy_helper.to_array(tensor)) for tensor in stored}

    def run(self, into: Tensor | None = None, /, **inputs: Tensor) -> Tensor:
        """Run the network.

        Args:
            into: contiguous float32 tensor of the output's shape to write in; without a copy if it lies on `device`.
            inputs: one tensor for each name in `inputs`.

        Returns:
            Its output, float32 on the device of the first input; ``into`` where that is given.

        Raises:
            DamagedPack: the network refuses inputs of these shapes, or does not answer with the shape of ``into``.
            OutOfMemory: memory does not hold a batch of this size.
        """
        home = next(iter(inputs.values())).device
        direct = into if into is not None and into.device == self.device else None
        try:
            found = self._run(inputs, direct)
        except Exception as error:
            raise _understood(error, self.name) from error
        if direct is not None:
            return direct
        if into is None:
            return found.to(home)
        if into.shape != found.shape:
            wanted = tuple(into.shape)
            raise DamagedPack(f"{self.name} drew {tuple(found.shape)}, not {wanted}; fetch the pack again")
        return into.copy_(found)

    def _run(self, inputs: Mapping[str, Tensor], into: Tensor | None) -> Tensor:
        """Run on `device`, where nothing is copied that lies there already."""
        held = {
            name: tensor.detach().to(self.device, torch.float32).contiguous() for name, tensor in inputs.items()
        }  # alive until the run is over: ONNX Runtime only borrows them
        binding = self.session.io_binding()
        for name, tensor in held.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.from_dlpack(tensor))
        if into is None:
            binding.bind_output(self._output, self.device.type, self.device.index or 0)
        else:
            binding.bind_ortvalue_output(self._output, onnxruntime.OrtValue.from_dlpack(into))
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # ONNX Runtime reads on a stream of its own
        self.session.run_with_iobinding(binding, self._options)
        binding.synchronize_outputs()
        found: Tensor = from_dlpack(binding.get_outputs()[0])
        return found


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


def _device(wanted: torch.device | None) -> torch.device:
    """The device with its number, as tensors name theirs."""
    if wanted is not None and wanted.type == "cpu":
        return wanted
    number = None if wanted is None else wanted.index
    return torch.device("cuda", torch.cuda.current_device() if number is None else number)


def _providers(device: torch.device | None) -> list[Any]:
    onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
    wanted = device is None or device.type == "cuda"
    if wanted and torch.cuda.is_available() and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        onnxruntime.preload_dlls()  # the CUDA libraries torch brought along
        options = {"device_id": str(_device(device).index), **_CUDA}
        return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def _understood(error: Exception, name: str) -> Exception:
    """What went wrong in a run, as an error of this project."""
    words = str(error).lower()
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(each in words for each in _NO_MEMORY):
        return OutOfMemory(f"{name} needs more memory than there is; make fewer items at once")
    return DamagedPack(f"{name} cannot be run: {_first_line(error)}; fetch the pack again")


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
