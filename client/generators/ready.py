"""Items that are drawn before anybody asks, so that a slow generator can answer at once.

Their latents are a public sequence that follows from the pack's hash: everybody who prepares items of a pack draws the
same ones, so what lies on the disk says nothing about what a person was shown.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import platformdirs
import torch
from torch import Tensor

from client.generators.item_cache import ItemCache
from client.generators.pack import GeneratorPack
from common.errors import SettingError

MOST = 4096
_AT_ONCE = 16  # items between two writes; stopping loses at most these


def usual_cache() -> ItemCache | None:
    """The cache of this person, or None so long as nothing was prepared."""
    folder = usual_folder()
    return ItemCache(folder) if folder.is_dir() else None


def usual_folder() -> Path:
    """Where prepared items lie on this system."""
    return Path(platformdirs.user_cache_dir("plgl", appauthor=False)) / "items"


def public_latents(pack: GeneratorPack, count: int) -> Tensor:
    """The first latents ``(count, d)`` of the pack's public sequence; fewer are a prefix of more.

    Raises:
        SettingError: count is below 1 or above `MOST`.
    """
    if not 1 <= count <= MOST:
        raise SettingError(f"count={count} must lie between 1 and {MOST}")
    draw = torch.Generator().manual_seed(int(pack.hash[:15], 16))
    return pack.latents.sample(MOST, draw)[:count]  # all: a shorter draw would not be a prefix


def prepare(
    pack: GeneratorPack,
    cache: ItemCache,
    count: int,
    size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Draw the first items of the public sequence that are not there yet, and keep them.

    Guarantee: what was kept stays when this is interrupted, and the next call goes on from there.

    Args:
        pack: the generator.
        cache: where they are kept.
        count: of the sequence, 1 to `MOST`.
        size: as of `GeneratorPack.generate`.
        progress: called with the number of items that are there.

    Returns:
        How many were drawn now.

    Raises:
        SettingError: count or size out of range, or more items than the cache may hold.
        StorageError: the disk refuses.
    """
    latents = public_latents(pack, count)
    group, names = pack.keys(latents, size)
    missing = [row for row, name in enumerate(names) if not cache.has(group, name)]
    for start in range(0, len(missing), _AT_ONCE):
        rows = missing[start : start + _AT_ONCE]
        items = pack.generate(latents[rows], size)
        if not start and count * 4 * items[0].numel() > cache.limit_bytes:
            most = cache.limit_bytes // (4 * items[0].numel())
            raise SettingError(f"count={count} items are more than the {cache.limit_bytes} bytes hold; try {most}")
        for row, item in zip(rows, items, strict=True):
            cache.put(group, names[row], item)
        if progress is not None:
            progress(count - len(missing) + start + len(rows))
    return len(missing)


def prepared(pack: GeneratorPack, cache: ItemCache, size: int | None = None) -> Tensor:
    """Latents ``(m, d)`` of the public sequence whose items are in a cache, in order; m may be 0."""
    latents = public_latents(pack, MOST)
    group, names = pack.keys(latents, size)
    return latents[[row for row, name in enumerate(names) if cache.has(group, name)]]
