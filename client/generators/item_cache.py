"""Items drawn before, on disk: what a generator made of a latent, under a name that only the latent leads to.

What a person was shown is private, so three things hold. A file's name is a hash of pack, form and latent, and no
latent is stored. `GeneratorPack.generate` reads and never writes; only `client.generators.ready` writes, and only items
of a public sequence of latents that is the same for everybody. And reading one item leaves no trace of which one it
was: the time of last use is kept for a pack and size as a whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from client.store_files import disk_errors, private_folder
from common.errors import SettingError

LIMIT = 1 << 30
_DIGEST = 32
_ENDING = ".item"


class ItemCache:
    """A folder of items with a bounded size.

    Guarantee: what `get` returns is what `put` was given, bit for bit; a damaged file counts as missing and is removed.
    The files never take more than ``limit_bytes``: the group (a pack at a size) used longest ago goes first, its oldest
    items before its newer ones. Folder and files are for their owner only. Several processes may share a folder; each
    counts what it wrote and what it found when it began.

    Attributes:
        folder: where the items lie.
        limit_bytes: most they take together.
    """

    def __init__(self, folder: Path, limit_bytes: int = LIMIT) -> None:
        """Open or make a cache.

        Raises:
            SettingError: the limit is negative.
            StorageError: the folder cannot be made or read.
        """
        if limit_bytes < 0:
            raise SettingError(f"limit_bytes={limit_bytes} must be >= 0; 0 keeps nothing")
        private_folder(folder)
        self.folder, self.limit_bytes = folder, limit_bytes
        self._bytes = sum(size for _, _, size in self._files())
        self._make_room(0)

    @property
    def total_bytes(self) -> int:
        """What the items take."""
        return self._bytes

    def get(self, group: str, name: str, shape: tuple[int, ...]) -> Tensor | None:
        """An item, ``shape`` float32 on the CPU; None if it is not here."""
        path = self._path(group, name)
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        if len(raw) != _DIGEST + 4 * math.prod(shape) or _digest(raw[_DIGEST:]) != raw[:_DIGEST]:
            self._remove(path, len(raw))
            return None
        with contextlib.suppress(OSError):
            os.utime(path.parent)
        return torch.from_numpy(np.frombuffer(bytearray(raw[_DIGEST:]), dtype="<f4").reshape(shape))

    def has(self, group: str, name: str) -> bool:
        """Whether an item is here, without reading it."""
        return self._path(group, name).exists()

    def put(self, group: str, name: str, item: Tensor) -> bool:
        """Keep an item; False if it alone is larger than the limit.

        Raises:
            StorageError: the disk refuses; nothing half-written is left.
        """
        content = np.ascontiguousarray(item.detach().to("cpu", torch.float32).numpy(), dtype="<f4").tobytes()
        raw = _digest(content) + content
        if len(raw) > self.limit_bytes:
            return False
        path = self._path(group, name)
        private_folder(path.parent)
        old = path.stat().st_size if path.exists() else 0
        self._make_room(len(raw) - old, keep=path)
        self._write(path, raw)
        self._bytes += len(raw) - old
        return True

    def clear(self) -> None:
        """Remove every item."""
        for path, _, size in self._files():
            self._remove(path, size)

    def _path(self, group: str, name: str) -> Path:
        return self.folder / group / (name + _ENDING)

    def _write(self, path: Path, raw: bytes) -> None:
        with disk_errors(path):
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")  # mode 0600
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(raw)  # not forced to the disk: what a power cut spoils is found by its digest
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise

    def _make_room(self, needed: int, keep: Path | None = None) -> None:
        if self._bytes + needed <= self.limit_bytes:
            return
        for path, _, size in sorted(self._files(), key=lambda found: (found[1], found[0].name)):
            if self._bytes + needed <= self.limit_bytes:
                break
            if path != keep:
                self._remove(path, size)

    def _remove(self, path: Path, size: int) -> None:
        with contextlib.suppress(OSError):
            used = path.parent.stat().st_mtime_ns
            path.unlink()
            self._bytes -= size
            os.utime(path.parent, ns=(used, used))  # to be thrown out is not to be used

    def _files(self) -> list[tuple[Path, tuple[int, int], int]]:
        """Every item with the last use of its group and its own age, nanoseconds, and its size in bytes."""
        found = []
        with disk_errors(self.folder):
            for group in sorted(self.folder.iterdir()):
                if not group.is_dir():
                    continue
                used = group.stat().st_mtime_ns
                for path in group.glob("*" + _ENDING):
                    with contextlib.suppress(FileNotFoundError):  # another process removed it
                        about = path.stat()
                        found.append((path, (used, about.st_mtime_ns), about.st_size))
        return found


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()
