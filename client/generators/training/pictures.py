"""A folder of pictures as one tensor: cropped to a square, shrunk, and with the unreadable ones named."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from common.errors import SettingError, UnreadableModel

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FEWEST = 16
MOST_PIXELS = 1 << 27
_MOST_BYTES = 16 << 30


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Pictures to learn from.

    Attributes:
        values: ``(n, 3, side, side)`` uint8.
        skipped: why, for each file that could not be read, by name.
    """

    values: Tensor
    skipped: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """Of all values; the same pictures in the same order have the same."""
        return hashlib.sha256(self.values.numpy().tobytes()).hexdigest()


def read_pictures(folder: Path, side: int, progress: Callable[[int, int], None] | None = None) -> Pictures:
    """Read every picture of a folder and of the folders in it, in the order of their names.

    Each is turned as its camera says, cropped to its middle square and resized. One that cannot be read, or is larger
    than 134 megapixels, is skipped and named.

    Args:
        folder: with at least `FEWEST` readable pictures.
        side: height and width, pixels.
        progress: called with files done and files in all.

    Raises:
        UnreadableModel: no such folder, no pictures, too few that can be read, or more than fit in memory.
        SettingError: the side is out of range.
    """
    if side not in (16, 32, 64, 128, 256):
        raise SettingError(f"side={side} must be 16, 32, 64, 128 or 256 pixels")
    if not folder.is_dir():
        raise UnreadableModel(f"there is no folder {folder}; give one with pictures")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not files:
        raise UnreadableModel(f"{folder} holds no pictures ({', '.join(ENDINGS)}); choose another folder")
    if (size := len(files) * 3 * side * side) > _MOST_BYTES:
        raise UnreadableModel(f"{len(files)} pictures of {side} pixels are {size >> 30} GiB; choose a smaller --size")
    values, skipped = [], {}
    for i, path in enumerate(files):
        try:
            values.append(_read(path, side))
        except Exception as error:  # each decoder raises errors of its own about what it was given
            skipped[str(path.relative_to(folder))] = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        if progress is not None:
            progress(i + 1, len(files))
    if len(values) < FEWEST:
        first = f"; {next(iter(skipped))}: {next(iter(skipped.values()))}" if skipped else ""
        raise UnreadableModel(f"{folder} holds {len(values)} readable pictures, {FEWEST} are the least{first}")
    return Pictures(values=torch.stack(values), skipped=skipped)


def _read(path: Path, side: int) -> Tensor:
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} is too large")
        upright = ImageOps.exif_transpose(image).convert("RGB")
        fitted = ImageOps.fit(upright, (side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).contiguous()
