"""Networks in float16, where nobody can tell."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping

import onnx
import torch
from torch import Tensor

from client.generators.onnx import OnnxModel
from common.errors import DamagedPack, OutOfMemory

TOLERANCE = 1 / 255
"""Most any number of any item may move, as a share of the output's range: one grey level of a picture."""


def to_half(content: bytes) -> bytes:
    """The same network with weights and values in float16; inputs and outputs stay float32.

    Operators that lose too much or do not exist in float16 keep float32 (the block list of ONNX Runtime's converter).

    Raises:
        DamagedPack: it cannot be converted.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16  # type: ignore[import-untyped]

    try:
        with _quiet():
            model = convert_float_to_float16(onnx.load_model_from_string(content), keep_io_types=True)
        made: bytes = model.SerializeToString(deterministic=True)
    except Exception as error:  # the converter raises whatever a graph brings about
        raise DamagedPack("the network cannot be converted to float16; run it in float32") from error
    return made


def largest_difference(one: OnnxModel, other: OnnxModel, inputs: Mapping[str, Tensor], span: float) -> float:
    """How far two networks are apart, as a share of the output's range ``span``; infinite for other shapes or NaN."""
    first, second = one.run(**inputs), other.run(**inputs)
    if first.shape != second.shape or not bool(second.isfinite().all()):
        return float("inf")
    return float((first - second).abs().max()) / span if first.numel() else 0.0


def faster(model: OnnxModel, content: bytes, inputs: Mapping[str, Tensor], span: float) -> OnnxModel:
    """The network in float16 if that is safe, else ``model``.

    Guarantee: what comes back moves no number of the items in ``inputs`` by more than `TOLERANCE` of the range.

    Args:
        model: in float32.
        content: its ONNX file.
        inputs: of some typical items, by name.
        span: difference between the largest and the least value of the output.
    """
    try:
        candidate = OnnxModel(to_half(content), model.name, model.device)
        apart = largest_difference(model, candidate, inputs, span)
    except (DamagedPack, OutOfMemory):
        return model
    return candidate if apart <= TOLERANCE else model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's remarks about numbers that float16 rounds."""
    import warnings

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
