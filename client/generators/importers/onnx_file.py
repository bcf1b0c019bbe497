"""Any ONNX file with a declared latent.

The file is looked at in a child process first (`sandbox.look`). The layers that make it a pack's are added as ONNX
nodes around it, so nothing is exported again and its numbers stay as they are.
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from client.generators import sandbox
from client.generators.importers.adapting import (
    SETTINGS,
    Adapted,
    Fit,
    condition_of,
    known_settings,
    law_and_dimension,
    shape_of,
)
from client.generators.importers.base import Imported, Importer, ImportSettings, content_of
from client.generators.interface import Condition, Origin, SourceLaw
from client.generators.onnx import OnnxModel
from common.errors import SettingError, UnreadableModel, UnsafeFile
from common.latents import LatentSpace

_FLOATS = {int(TensorProto.FLOAT): "float32", int(TensorProto.FLOAT16): "float16", int(TensorProto.DOUBLE): "float64"}
_INSIDE = "source/"  # before every name of the file, so that ours cannot meet them


class OnnxSource(nn.Module):
    """The file itself as a torch module, to compare with; loaded when first run.

    Args:
        content: of the file.
        types: ONNX element type of each input.
        output: which of its results.
        batch: how many items it takes at once; None for any number.
    """

    def __init__(self, content: bytes, types: dict[str, int], output: str, batch: int | None) -> None:
        super().__init__()
        self._content, self._types, self._output, self._batch = content, types, output, batch
        self._session: Any = None

    def forward(self, *inputs: Tensor) -> Tensor:
        """One result of the network; items one after another where the file fixes the batch."""
        if self._session is None:
            self._session = OnnxModel(self._content, "the file").session
        arrays = [value.numpy().astype(_FLOATS[kind]) for value, kind in zip(inputs, self._types.values(), strict=True)]
        steps = range(0, len(arrays[0]), self._batch or len(arrays[0]))
        parts = [self._run([array[start : start + (self._batch or len(array))] for array in arrays]) for start in steps]
        return torch.from_numpy(np.concatenate(parts)).float()

    def _run(self, arrays: list[Any]) -> Any:
        missing = (self._batch or 0) - len(arrays[0])
        if missing > 0:  # the last few of a fixed batch
            arrays = [np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) for array in arrays]
        made = self._session.run([self._output], dict(zip(self._types, arrays, strict=True)))[0]
        return made[: len(made) - missing] if missing > 0 else made


def read(path: Path, settings: ImportSettings) -> Imported:
    """Read an ONNX file; see `Importer.read`."""
    known_settings(settings.settings, IMPORTER.settings)
    content = content_of(path)
    about = sandbox.look(content, path.name, settings.limits)
    latent, others = _inputs(about["inputs"], settings, path.name)
    output = _named(about["outputs"], settings.settings.get("output", ""), "output", path.name)
    shape = _latent_shape(latent["sides"], settings)
    law, dimension = law_and_dimension(settings, math.prod(shape))
    fit = Fit.of(_item_shape(output["sides"], settings, path.name), settings)
    conditions = {entry["name"]: _condition(entry, settings, path.name) for entry in others}
    types = {entry["name"]: entry["type"] for entry in (latent, *others)}
    batch = next((side for side in (latent["sides"][:1] or [None]) if isinstance(side, int)), None)
    source = OnnxSource(content, types, output["name"], batch)
    fitted = _fitted(content, types, output, law, shape, fit, [condition for condition, _ in conditions.values()])
    if batch is not None:
        _must_take_any_batch(fitted, batch, dimension, conditions, path.name, settings)
    return Imported(
        network=Adapted(source, law, shape, fit).eval(),
        latents=LatentSpace(dimension),
        output=fit.output,
        licence=settings.licence or "NOASSERTION",
        notice=settings.notice,
        source=law,
        latent_shape=shape if len(shape) > 1 else (),
        conditions=tuple(condition for condition, _ in conditions.values()),
        defaults={condition.name: value for condition, value in conditions.values()},
        origin=Origin(file=path.name, sha256=hashlib.sha256(content).hexdigest()),
        onnx=fitted,
    )


def looks_like(path: Path, head: bytes) -> bool:
    """Whether it is an ONNX file: by its name, or by the field that holds the version of the format."""
    return path.suffix.lower() == ".onnx" or (head[:1] == b"\x08" and b"onnx" in head[:64])


IMPORTER = Importer(
    kind="onnx",
    about="any ONNX file with one latent input",
    sniff=looks_like,
    read=read,
    settings={
        **SETTINGS,
        "input": "name of the latent's input, where there are several",
        "output": "name of the output, where there are several",
        "latent_shape": "of one latent, such as 100,1,1, where the file leaves it open",
    },
)


def _inputs(
    entries: list[dict[str, Any]], settings: ImportSettings, what: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The latent's input, and the conditions in the order of the file."""
    if bad := [entry["name"] for entry in entries if entry["type"] not in _FLOATS]:
        raise UnreadableModel(f"{what} takes {bad[0][:60]!r} as whole numbers; export it with floating-point inputs")
    free = [entry for entry in entries if entry["name"] not in settings.conditions]
    if unknown := sorted(settings.conditions.keys() - {entry["name"] for entry in entries}):
        raise SettingError(f"{what} has no input {unknown[0]!r}; it takes {', '.join(e['name'] for e in entries)}")
    latent = _named(free, settings.settings.get("input", ""), "input", what)
    if rest := [entry["name"] for entry in free if entry is not latent]:
        raise SettingError(f"{what} also takes {', '.join(rest)}; give defaults, such as --condition {rest[0]}=3/10")
    return latent, [entry for entry in entries if entry is not latent]


def _named(entries: list[dict[str, Any]], name: str, what: str, file: str) -> dict[str, Any]:
    names = ", ".join(entry["name"] for entry in entries) or "none"
    if not name and len(entries) != 1:
        raise SettingError(f"{file} has the {what}s {names}; choose with --set {what}=NAME")
    found = entries[0] if not name else next((entry for entry in entries if entry["name"] == name), None)
    if found is None:
        raise SettingError(f"{file} has no {what} {name!r}; it has {names}")
    return found


def _latent_shape(sides: list[Any], settings: ImportSettings) -> tuple[int, ...]:
    if text := settings.settings.get("latent_shape"):
        return shape_of(text, "--set latent_shape")
    known = [side for side in sides[1:] if isinstance(side, int)]
    if len(sides) >= 2 and len(known) == len(sides) - 1 and all(side > 0 for side in known):
        return tuple(known)
    if settings.dimension is None or len(sides) > 2:
        raise SettingError("the file leaves the latent's shape open; give --latent D, or --set latent_shape=100,1,1")
    return (settings.dimension,)


def _item_shape(sides: list[Any], settings: ImportSettings, what: str) -> tuple[int, ...]:
    item = sides[1:]
    if settings.size is not None and len(item) == 3:
        last = item[2] in (1, 3) and item[0] not in (1, 3)
        item = [settings.size, settings.size, item[2]] if last else [item[0], settings.size, settings.size]
    if not item or not all(isinstance(side, int) and side > 0 for side in item):
        raise SettingError(f"{what} leaves the shape {sides} of its output open; give --size, or export it with one")
    return tuple(item)


def _condition(entry: dict[str, Any], settings: ImportSettings, what: str) -> tuple[Condition, Tensor]:
    name = re.sub(r"[^A-Za-z0-9_]", "_", entry["name"])
    name = name if re.match(r"[A-Za-z_]", name) else f"input_{name}"
    condition, value = condition_of(name, settings.conditions[entry["name"]])
    sides = entry["sides"][1:]
    if len(sides) != 1 or (isinstance(sides[0], int) and sides[0] != condition.shape[0]):
        raise SettingError(f"{what} takes {entry['name']!r} as (n, {sides}); the condition has {condition.shape[0]}")
    return condition, value


def _fitted(
    content: bytes,
    types: dict[str, int],
    output: dict[str, Any],
    law: SourceLaw,
    shape: tuple[int, ...],
    fit: Fit,
    conditions: list[Condition],
) -> bytes:
    """The file with the layers of `adapting.Adapted` around it, as nodes."""
    source = onnx.compose.add_prefix(onnx.load_model_from_string(content), _INSIDE)
    around = _Around(opset=max((e.version for e in source.opset_import if e.domain in ("", "ai.onnx")), default=1))
    latent, *others = types
    value = around.uniform("latent", law)
    value = around.reshape(value, (-1, *shape)) if len(shape) > 1 else value
    around.cast(value, types[latent], _INSIDE + latent)
    for condition, name in zip(conditions, others, strict=True):
        around.cast(condition.name, types[name], _INSIDE + name)
    before = around.take()
    value = around.cast(_INSIDE + output["name"], TensorProto.FLOAT)
    value = around.reshape(value, (-1, *fit.given))
    if fit.channels_last:
        value = around.node("Transpose", value, perm=[0, 3, 1, 2])
    if fit.grey:
        value = around.reshape(value, (-1, 1, *fit.output.shape[1:]))
        value = around.node("Concat", value, value, value, axis=1)
    factor, offset = fit.scale
    if (factor, offset) != (1.0, 0.0):
        value = around.node("Add", around.node("Mul", value, around.number(factor)), around.number(offset))
    if fit.clip:
        value = around.node(
            "Min", around.node("Max", value, around.number(fit.output.low)), around.number(fit.output.high)
        )
    around.reshape(value, (-1, *fit.output.shape), "media")
    return _assembled(source, before, around, shape, fit, conditions)


class _Around:
    """Collects nodes and constants with names of their own."""

    def __init__(self, opset: int) -> None:
        self.opset, self.nodes, self.constants = opset, [], []  # type: ignore[var-annotated]
        self._count = 0

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        self._count += 1
        name = output or f"fitted/{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, values: Any) -> str:
        self._count += 1
        self.constants.append(numpy_helper.from_array(np.asarray(values), f"fitted/{self._count}"))
        return f"fitted/{self._count}"

    def number(self, value: float) -> str:
        return self.constant(np.float32(value))

    def reshape(self, value: str, shape: tuple[int, ...], output: str = "") -> str:
        return self.node("Reshape", value, self.constant(np.array(shape, np.int64)), output=output)

    def cast(self, value: str, kind: int, output: str = "") -> str:
        return self.node("Cast", value, output=output, to=kind)

    def uniform(self, value: str, law: SourceLaw) -> str:
        """As `normal_to_uniform`."""
        if law.name != "uniform":
            return value
        half = (law.high - law.low) / 2
        erf = self.node("Erf", self.node("Mul", value, self.number(1 / math.sqrt(2))))
        return self.node("Add", self.node("Mul", erf, self.number(half)), self.number(law.low + half))

    def take(self) -> list[onnx.NodeProto]:
        taken, self.nodes = self.nodes, []
        return taken


def _assembled(
    source: onnx.ModelProto,
    before: list[onnx.NodeProto],
    around: _Around,
    shape: tuple[int, ...],
    fit: Fit,
    conditions: list[Condition],
) -> bytes:
    inputs = [helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["n", math.prod(shape)])]
    inputs += [helper.make_tensor_value_info(each.name, TensorProto.FLOAT, ["n", *each.shape]) for each in conditions]
    graph = helper.make_graph(
        [*before, *source.graph.node, *around.nodes],
        "generator",
        inputs,
        [helper.make_tensor_value_info("media", TensorProto.FLOAT, ["n", *fit.output.shape])],
        [*source.graph.initializer, *around.constants],
    )
    # initialisers of before ONNX 1.4 are listed as inputs too; ours need not be, from version 4 of the format on
    opsets = [helper.make_opsetid("", around.opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=max(4, source.ir_version))
    written: bytes = model.SerializeToString(deterministic=True)
    return written


def _must_take_any_batch(
    fitted: bytes,
    batch: int,
    dimension: int,
    conditions: dict[str, tuple[Condition, Tensor]],
    what: str,
    settings: ImportSettings,
) -> None:
    """A file exported for one batch size may still work for any, where no operator insists on it."""
    inputs = {"latent": torch.zeros(3, dimension)}
    inputs |= {each.name: value.expand(3, *each.shape).contiguous() for each, value in conditions.values()}
    try:
        sandbox.first_run(fitted, what, inputs, set(inputs), settings.limits)
    except UnsafeFile as error:
        raise UnreadableModel(
            f"{what} was exported for batches of {batch} and works for no other; export it with a free first axis "
            f"({error})"
        ) from error
