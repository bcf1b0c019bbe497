"""Resampling of pictures with finite impulse response filters, in plain convolutions.

Everything here is `upfirdn`: insert zeros, pad, filter, keep every n-th pixel (Karras et al. 2020, 2021). A filter that
is an outer product runs as two one-dimensional ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UnreadableModel

_RANK_ONE = 1e-6


class Fir(nn.Module):
    """One step of resampling with a fixed filter.

    Equals, per channel: ``up - 1`` zeros after each pixel, ``before`` and ``after`` zeros around (negative: cropped),
    true convolution with the filter where it fits, every ``down``-th pixel. The zeros are never made: each of the
    ``up`` phases is a short convolution of the pixels there are.

    Args:
        taps: ``(t,)`` for a separable filter, ``(t, t)`` otherwise.
        channels: ``c`` of the pictures.
        up: zeros are inserted to this factor.
        down: every ``down``-th pixel is kept.
        before: padding above and to the left, at the higher rate.
        after: padding below and to the right.
        gain: factor on the result, > 0.

    Raises:
        UnreadableModel: the filter is neither ``(t,)`` nor ``(t, t)``, or not separable where it inserts zeros.
    """

    def __init__(
        self,
        taps: Tensor,
        channels: int,
        *,
        up: int = 1,
        down: int = 1,
        before: int = 0,
        after: int = 0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if taps.ndim not in (1, 2) or taps.shape[0] != taps.shape[-1]:
            raise UnreadableModel(f"a filter of shape {tuple(taps.shape)} is no row and no square; get the file again")
        row = _as_row(taps.double())
        if row is None and up > 1:
            raise UnreadableModel("a filter for enlarging that is not separable cannot be read; get the file again")
        self.up, self.down, self.before, self.after, self.taps = up, down, before, after, int(taps.shape[0])
        self.separable = row is not None
        if row is None:
            square = taps.double().flip(0, 1) * gain  # conv2d correlates
            self.register_buffer("square", square.float()[None, None].repeat(channels, 1, 1, 1))
        else:
            kernel, self.first = _phases((row * gain**0.5).float(), up, self.taps - 1 - before)
            self.seen = kernel.shape[1]
            self.register_buffer("rows", kernel[:, None, :, None].repeat(channels, 1, 1, 1))
            self.register_buffer("columns", kernel[:, None, None, :].repeat(channels * up, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` to ``(n, c, h', w')`` with ``h' = ceil((h * up + before + after - t + 1) / down)``."""
        if not self.separable:
            x, square = _pad(x, (self.before, self.after), (self.before, self.after)), self.get_buffer("square")
            return functional.conv2d(x, square, stride=self.down, groups=square.shape[0])
        lengths = [side * self.up + self.before + self.after - self.taps + 1 for side in x.shape[2:]]
        x = _pad(x, *(self._edges(side, length) for side, length in zip(x.shape[2:], lengths, strict=True)))
        step = self.down if self.up == 1 else 1
        # Rows, then columns: so the phases lie in the order that pixel_shuffle wants, and are woven together only once.
        rows, columns = self.get_buffer("rows"), self.get_buffer("columns")
        x = functional.conv2d(x, rows, stride=(step, 1), groups=rows.shape[0] // self.up)
        x = functional.conv2d(x, columns, stride=(1, step), groups=columns.shape[0] // self.up)
        if self.up == 1:
            return x
        x = functional.pixel_shuffle(x, self.up)
        if (x.shape[2], x.shape[3], self.down) == (*lengths, 1):
            return x
        return x[:, :, : lengths[0] : self.down, : lengths[1] : self.down]

    def _edges(self, side: int, length: int) -> tuple[int, int]:
        """Padding of one axis at the lower rate, so that every phase sees what it needs."""
        steps = -(-length // self.up)
        return -self.first, self.first + steps + self.seen - 1 - side


def _phases(row: Tensor, up: int, offset: int) -> tuple[Tensor, int]:
    """The filter of each phase of the result, and the first pixel that phase 0 of the first step sees.

    Result ``up * q + r`` of ``sum_i x[i] row[up * q + r + offset - up * i]`` sees pixels ``first + q`` onwards.

    Returns:
        ``(up, length)`` kernels to correlate with, and ``first``, which may be negative.
    """
    first, last = -((row.shape[0] - 1 - offset) // up), (offset + up - 1) // up
    pixels = torch.arange(first, last + 1)
    index = torch.arange(up)[:, None] + offset - up * pixels  # (up, length) taps that meet each pixel
    inside = (index >= 0) & (index < row.shape[0])
    return torch.where(inside, row[index.clamp(0, row.shape[0] - 1)], torch.zeros(())), first


def _pad(x: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Zeros before and after, or a crop where negative."""
    (top, bottom), (left, right) = rows, columns
    if min(top, left, bottom, right) < 0:
        kept = slice(max(-top, 0), x.shape[2] - max(-bottom, 0))
        x = x[:, :, kept, max(-left, 0) : x.shape[3] - max(-right, 0)]
    if max(top, left, bottom, right) > 0:
        x = functional.pad(x, [max(left, 0), max(right, 0), max(top, 0), max(bottom, 0)])
    return x


def _as_row(taps: Tensor) -> Tensor | None:
    """The row whose outer product with itself is the filter, if there is one."""
    if taps.ndim == 1:
        return taps
    row = taps.sum(0) / taps.sum().abs().sqrt()
    close = torch.outer(row, row).sub(taps).abs().amax() <= _RANK_ONE * taps.abs().amax()
    return row if bool(close) and float(taps.sum()) > 0 else None
