"""A network of somebody's own, as ``plgl generator add weights --module own_network.py:Own`` takes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Own(nn.Module):
    """Latents ``(n, d, 1, 1)`` to pictures ``(n, 3, 32, 32)`` in (-1, 1), enlarged by sub-pixels (Shi et al. 2016)."""

    def __init__(self, dimension: int = 18, width: int = 32) -> None:
        super().__init__()
        self.start = nn.Conv2d(dimension, 64 * width, 1)
        self.middle = nn.Conv2d(4 * width, 4 * width, 3, padding=1)
        self.finer = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.last, self.width = nn.Conv2d(width, 12, 3, padding=1), width

    def forward(self, latents: Tensor) -> Tensor:
        """Draw."""
        x = nn.functional.silu(self.start(latents)).reshape(-1, 4 * self.width, 4, 4)
        x = nn.functional.pixel_shuffle(nn.functional.silu(self.middle(x)), 2)
        x = nn.functional.pixel_shuffle(nn.functional.silu(self.finer(x)), 2)
        return torch.tanh(nn.functional.pixel_shuffle(self.last(x), 2))
