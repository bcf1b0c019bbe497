"""Work on many items in pieces that fit in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from common.errors import OutOfMemory


def in_chunks(n: int, chunk: int, work: Callable[[slice], None], progress: Callable[[int], None] | None = None) -> int:
    """Work on ``n`` items a chunk at a time; a chunk that does not fit is cut in half, as are those after it.

    Guarantee: every item is worked on, in order. One that was worked on when memory ran out is worked on again, so
    ``work`` must write what it makes, not add to it.

    Args:
        n: how many items, >= 0.
        chunk: how many at once at first, >= 1.
        work: takes the rows of a chunk; raises `OutOfMemory` where they do not fit.
        progress: called with the number of items done so far.

    Returns:
        The chunk that fitted last, to begin with next time.

    Raises:
        OutOfMemory: not even one item fits.
    """
    start = 0
    while start < n:
        stop = min(start + chunk, n)
        if not _fits(work, slice(start, stop)):
            chunk = (stop - start) // 2
            continue
        start = stop
        if progress is not None:
            progress(start)
    return chunk


def _fits(work: Callable[[slice], None], rows: slice) -> bool:
    """Whether the work could be done. The error and what its frames hold are gone when this returns."""
    try:
        work(rows)
    except OutOfMemory as error:
        if rows.stop - rows.start == 1:
            raise OutOfMemory(
                "memory does not hold one item; choose a smaller size, close other programs, or use the CPU"
            ) from error
        fits = False
    else:
        fits = True
    if not fits and torch.cuda.is_available():
        torch.cuda.empty_cache()  # ONNX Runtime can only have what torch gives back
    return fits
