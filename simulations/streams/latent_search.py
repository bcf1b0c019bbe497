"""Latent search: what a wall of a session shows, again and again."""

from __future__ import annotations

import torch
from torch import Tensor

from simulations.streams.base import Listener, Made

WALL = 8  # items of a search


def make(listener: Listener) -> Made:
    """Items of searches at the level; those shown before move the next search elsewhere only by chance."""

    def wall() -> Tensor:
        return torch.stack([item.latent for item in listener.session.recommend(WALL, surprise=listener.level)])

    def draw(count: int) -> Tensor:
        return torch.cat([wall() for _ in range(-(-count // WALL))])[:count]

    return Made(draw)
