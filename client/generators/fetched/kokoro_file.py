"""The published 8-bit ONNX file of Kokoro-82M: its weights by name, and what it makes of one sentence.

The file was quantised by ONNX Runtime and can only run as a whole, one item at a time, with operators and shapes a pack
may not have. So its weights are read, and only the part that sees nothing but the text is run as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch
from onnx import numpy_helper
from torch import Tensor

from common.errors import UnreadableModel

Quantised = tuple[Tensor, Tensor, Tensor]
"""Whole numbers of 8 bits, their zero and their scale; they stand for ``(numbers - zero) * scale``."""
_ELSEWHERE = {f"encoder.predictor.{name}": f"encoder.{name}" for name in ("F0", "N.", "N_")} | {
    "asr_res.0": "asr_res.asr_res.0"
}
"""Layers the exporter put into other folders than the state dict does."""
_PROSODY_TEXT, _SOUND_TEXT = "/encoder/bert_encoder/Add_output_0", "/encoder/MatMul_1"
_MIX = "/decoder/decoder/generator/m_source/l_linear/MatMul"


class KokoroFile:
    """Weights of the file, as `kokoro` wants them; paths are those of the model's own state dict.

    Args:
        content: of the file, whose hash was checked.

    Raises:
        UnreadableModel: it is another model.
    """

    def __init__(self, content: bytes) -> None:
        try:
            self._model = onnx.load_model_from_string(content)
        except Exception as error:  # protobuf's error type depends on its build
            raise UnreadableModel("the voice model is not an ONNX file; fetch it again") from error
        self._stored = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._nodes = {node.name: node for node in self._model.graph.node}

    def tensor(self, name: str) -> Tensor:
        """A stored tensor by its own name."""
        if name not in self._stored:
            raise UnreadableModel(f"the voice model has no {name[:80]!r}; it is another version")
        return torch.tensor(numpy_helper.to_array(self._stored[name]))

    def has(self, path: str) -> bool:
        """Whether a layer of that path is there."""
        return any(f"/{_folder(path)}/{kind}" in self._nodes for kind in ("Conv_quant", "ConvTranspose"))

    def bias(self, path: str) -> Tensor | None:
        """The bias of a layer; None where it has none."""
        return self.tensor(f"{path}.bias") if f"{path}.bias" in self._stored else None

    def convolution(self, path: str) -> Quantised:
        """``(out, in, k)`` numbers, their zero and their scale, of a quantised convolution."""
        return self._quantised(self._node(path, "Conv_quant"))

    def linear(self, path: str) -> Quantised:
        """``(in, out)`` numbers, their zero and their scale, of a quantised linear layer."""
        kind = "Gemm_MatMul_quant" if f"/{_folder(path)}/Gemm_MatMul_quant" in self._nodes else "MatMul_quant"
        return self._quantised(self._node(path, kind))

    def transposed(self, path: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of a transposed convolution, which is not quantised."""
        names = self._node(path, "ConvTranspose").input
        return self.tensor(names[1]), self.tensor(names[2])

    def plain_convolution(self, path: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution that is not quantised."""
        names = self._node(path, "Conv").input
        return self.tensor(names[1]), self.tensor(names[2])

    def harmonics(self) -> Tensor:
        """``(9, 1)``: how loud each harmonic of the source is."""
        return self.tensor(self._nodes[_MIX].input[1])

    def lstm(self, path: str) -> tuple[Quantised, Quantised, Tensor]:
        """Input weights ``(2, in, 4 h)``, state weights ``(2, h, 4 h)``, biases ``(2, 8 h)``; gates in ONNX's order."""
        names = self._node(path, "LSTM_quant").input
        return (
            self._recurrent(names[1], names[8], names[9]),
            self._recurrent(names[2], names[10], names[11]),
            self.tensor(names[3]),
        )

    def sentence(self, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What the file makes of tokens ``(s,)``: features for prosody and for sound, each ``(s, 512)``."""
        sound = self._nodes[_SOUND_TEXT].input[0]
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in (_PROSODY_TEXT, sound))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        given = {
            "tokens": torch.tensor([list(tokens)]).numpy(),
            "style": torch.zeros(1, 256).numpy(),
            "speed": torch.ones(1).numpy(),
        }
        first, second = (torch.tensor(found) for found in session.run([_PROSODY_TEXT, sound], given))
        return _by_step(first, len(tokens)), _by_step(second, len(tokens))

    def _node(self, path: str, kind: str) -> Any:
        name = f"/{_folder(path)}/{kind}"
        if name not in self._nodes:
            raise UnreadableModel(f"the voice model has no {name[:80]!r}; it is another version")
        return self._nodes[name]

    def _quantised(self, node: Any) -> Quantised:
        stored = node.input[1]
        scale = self.tensor(stored.removesuffix("_quantized") + "_scale").float()
        return self.tensor(stored), self.tensor(node.input[3]).float(), scale

    def _recurrent(self, stored: str, scale: str, zero: str) -> Quantised:
        zeros, scales = self.tensor(zero).float(), self.tensor(scale).float()
        return self.tensor(stored), _spread(zeros), _spread(scales)


def _folder(path: str) -> str:
    """Where the exporter put a layer: names of the state dict become folders, numbers stay with their list."""
    for given, written in _ELSEWHERE.items():
        path = path.replace(given, written)
    parts: list[str] = []
    for part in path.split("."):
        if part.isdigit() and parts:
            parts[-1] += f".{part}"
        else:
            parts.append(part)
    return "/".join(parts)


def _spread(values: Tensor) -> Tensor:
    """One number, one for each direction ``(2,)``, or one for each column ``(2, 4 h)``, beside ``(2, in, 4 h)``."""
    return values.reshape(2, 1, -1) if values.numel() > 1 else values.reshape(1, 1, 1)


def _by_step(found: Tensor, steps: int) -> Tensor:
    """``(s, 512)`` of ``(1, s, 512)`` or ``(1, 512, s)``."""
    return found[0] if found.shape[1] == steps else found[0].T.contiguous()
