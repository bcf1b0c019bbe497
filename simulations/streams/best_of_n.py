"""Best of n: for each item the one of many of the generator's own that the policies' goal likes best."""

from __future__ import annotations

import torch
from torch import Tensor

from simulations.streams.base import Listener, Made

_AT_ONCE = 64  # items, each of so many candidates


def make(listener: Listener) -> Made:
    """Items chosen by the same reward that policies raise."""
    goal, generator, of = listener.goal(), listener.generator(2), listener.of

    @torch.no_grad()
    def some(count: int) -> Tensor:
        candidates = goal.space.sample(count * of, generator)
        best = goal.reward(candidates).reshape(count, of).argmax(1)
        return candidates.reshape(count, of, -1)[torch.arange(count), best]

    def draw(count: int) -> Tensor:
        return torch.cat([some(min(_AT_ONCE, count - at)) for at in range(0, count, _AT_ONCE)])

    return Made(draw)
