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
    true convolution with the filter where it fits, every ``down``-th pixel.

    Args:
        taps: ``(t,)`` for a separable filter, ``(t, t)`` otherwise.
        up: zeros are inserted to this factor.
        down: every ``down``-th pixel is kept.
        before: padding above and to the left, at the higher rate.
        after: padding below and to the right.
        gain: factor on the result.

    Raises:
        UnreadableModel: the filter is neither ``(t,)`` nor ``(t, t)``.
    """

    def __init__(
        self, taps: Tensor, *, up: int = 1, down: int = 1, before: int = 0, after: int = 0, gain: float = 1.0
    ) -> None:
        super().__init__()
        if taps.ndim not in (1, 2) or taps.shape[0] != taps.shape[-1]:
            raise UnreadableModel(
                f"a filter of shape {tuple(taps.shape)} is neither a row nor a square; get the file again"
            )
        self.up, self.down, self.before, self.after = up, down, before, after
        row = _as_row(taps.double())
        self.separable = row is not None
        kernel = taps.double() * gain if row is None else row * gain**0.5
        kernel = kernel.flip(tuple(range(kernel.ndim))) if up == 1 else kernel  # conv2d correlates, its transpose not
        self.register_buffer("kernel", kernel.float())
        self.taps = int(taps.shape[0])

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` to ``(n, c, h', w')`` with ``h' = ceil((h * up + before + after - t + 1) / down)``."""
        kernel = self.get_buffer("kernel")
        if not self.separable:
            return self._along(x, kernel[None, None], (True, True))
        x = self._along(x, kernel[None, None, None, :], (False, True))
        return self._along(x, kernel[None, None, :, None], (True, False))

    def _along(self, x: Tensor, kernel: Tensor, axes: tuple[bool, bool]) -> Tensor:
        channels = x.shape[1]
        kernel = kernel.expand(channels, -1, -1, -1)
        if self.up == 1:
            x = _pad(x, [self.before if on else 0 for on in axes], [self.after if on else 0 for on in axes])
            return functional.conv2d(x, kernel, stride=[self.down if on else 1 for on in axes], groups=channels)
        front, back = self.taps - 1 - self.before, self.taps - self.up - self.after
        spare = max(min(front, back), 0)  # what the transposed convolution need not even compute
        stride, padding = [self.up if on else 1 for on in axes], [spare if on else 0 for on in axes]
        x = functional.conv_transpose2d(x, kernel, stride=stride, padding=padding, groups=channels)
        x = _pad(x, [spare - front if on else 0 for on in axes], [spare - back if on else 0 for on in axes])
        if self.down == 1:
            return x
        return x[:, :, :: self.down if axes[0] else 1, :: self.down if axes[1] else 1]


def _pad(x: Tensor, before: list[int], after: list[int]) -> Tensor:
    """Zeros around, or a crop where negative; ``before`` and ``after`` are for rows and columns."""
    top, left, bottom, right = before[0], before[1], after[0], after[1]
    if min(top, left, bottom, right) < 0:
        rows = slice(max(-top, 0), x.shape[2] - max(-bottom, 0))
        x = x[:, :, rows, max(-left, 0) : x.shape[3] - max(-right, 0)]
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
