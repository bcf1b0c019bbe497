"""What a latent map learns to predict about pictures: features of this program, some of them, or a network's.

A network is any ONNX file from pictures to vectors, such as the picture half of CLIP. It is opened like every foreign
file: rules first, then a first run in a child process under limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from client.generators import sandbox
from client.generators.importers.base import content_of
from client.generators.onnx import OnnxModel
from client.generators.pictures import picture_blocks
from client.generators.sandbox import Limits
from common.errors import SettingError, UnreadableModel, UnsafeFile

PictureFeatures = Callable[[Tensor], dict[str, Tensor]]
"""Pictures ``(n, 3, h, w)`` in [-1, 1] to features by kind, each ``(n, f)`` float32."""
BUILT_IN = {
    "both": ("layout", "colour", "edges", "symmetry", "texture"),
    "random": ("texture",),
    "colour": ("layout", "colour"),
}
"""Kinds of `pictures.picture_blocks` by name; the texture is what a fixed random network answers."""
MOST_FEATURES = 1 << 14
_FLOAT32 = 1
_USUAL_SIDE, _LARGEST_SIDE = 224, 1024


class Embedder:
    """A network from pictures to vectors.

    Guarantee: the file kept every rule of `onnx_rules`, and gave finite numbers, the same twice, in a child process.

    Args:
        content: an ONNX file with one input ``(n, 3, h, w)`` and one output of ``n`` vectors.
        name: what messages call it.
        levels: what black and white are for it, such as ``(0, 1)``.
        limits: of the first run.

    Raises:
        UnsafeFile: it breaks a rule, a limit or a promise.
        UnreadableModel: it takes something else than pictures.
        SettingError: impossible levels.
    """

    def __init__(
        self, content: bytes, name: str, levels: tuple[float, float] = (0.0, 1.0), limits: Limits | None = None
    ) -> None:
        black, white = levels
        if not (math.isfinite(black) and math.isfinite(white) and black != white):
            raise SettingError(f"levels {black} and {white} of black and white must be finite and differ; try 0 1")
        self.name, self.levels = name, levels
        self._input, self.sides = _pictures_of(sandbox.look(content, name, limits), name)
        probe = torch.rand(3, 3, *self.sides, generator=torch.Generator().manual_seed(0)) * (white - black) + black
        report = sandbox.first_run(content, name, {self._input: probe}, {self._input}, limits)
        shape = report["shape"]
        if not (report["finite"] and report["repeats"]) or report["alone_error"] is None:
            raise UnsafeFile(f"{name} gives NaN, or another result the second time; export it in eval mode")
        if len(shape) < 2 or shape[0] != 3 or math.prod(shape[1:]) > MOST_FEATURES:
            raise UnreadableModel(f"{name} gives {tuple(shape)} of 3 pictures, not up to {MOST_FEATURES} numbers each")
        self._model = OnnxModel(content, name)

    def __call__(self, pictures: Tensor) -> dict[str, Tensor]:
        """Vectors of pictures, as `PictureFeatures`."""
        black, white = self.levels
        levelled = black + (pictures.float().clamp(-1, 1) + 1) / 2 * (white - black)
        if tuple(levelled.shape[2:]) != self.sides:
            levelled = functional.interpolate(levelled, self.sides, mode="bilinear", antialias=True)
        return {"embedding": self._model.run(**{self._input: levelled}).flatten(1).float()}


def picture_features(said: str, levels: tuple[float, float] = (0.0, 1.0)) -> PictureFeatures:
    """Features by what a person asked for.

    Args:
        said: a name in `BUILT_IN`, or the path of an ONNX file.
        levels: of black and white, for a file.

    Raises:
        SettingError: neither of them.
        UnsafeFile, UnreadableModel: see `Embedder`.
    """
    if said == "both":
        return picture_blocks
    if said in BUILT_IN:
        return lambda pictures: _some(picture_blocks(pictures), BUILT_IN[said])
    if not said.lower().endswith(".onnx"):
        raise SettingError(f"features={said[:60]!r} must be {', '.join(BUILT_IN)}, or the path of an ONNX file")
    path = Path(said)
    return Embedder(content_of(path), path.name, levels)


def _some(blocks: dict[str, Tensor], kinds: tuple[str, ...]) -> dict[str, Tensor]:
    return {kind: blocks[kind] for kind in kinds}


def _pictures_of(about: dict[str, Any], name: str) -> tuple[str, tuple[int, int]]:
    """Name of the input, and the height and width of its pictures."""
    inputs, outputs = about["inputs"], about["outputs"]
    if len(inputs) != 1 or len(outputs) != 1:
        raise UnreadableModel(
            f"{name} has {len(inputs)} inputs and {len(outputs)} outputs; export it with one input and one output"
        )
    sides = inputs[0]["sides"]
    if inputs[0]["type"] != _FLOAT32 or len(sides) != 4 or not _may_be(sides[1], 3):
        raise UnreadableModel(f"{name} takes no pictures (n, 3, h, w) in float32; export the picture network alone")
    if isinstance(sides[0], int):
        raise UnreadableModel(
            f"{name} takes {sides[0]} pictures at once, no more and no fewer; export with a free batch"
        )
    height, width = (side if isinstance(side, int) else _USUAL_SIDE for side in sides[2:])
    if not (1 <= height <= _LARGEST_SIDE and 1 <= width <= _LARGEST_SIDE):
        raise UnreadableModel(f"{name} takes pictures of {height} x {width}; up to {_LARGEST_SIDE} a side are made")
    return str(inputs[0]["name"]), (height, width)


def _may_be(side: int | str | None, wanted: int) -> bool:
    return side == wanted or not isinstance(side, int)
