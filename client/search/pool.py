"""Pool search: look at many places, keep the best."""

from __future__ import annotations

import torch
from torch import Tensor

from client.search.base import CHUNK, Found, Search, Task, angles, begin, finish, wander
from common.errors import SettingError


class PoolSearch(Search):
    """The best of given candidates and of random places; needs no gradient, and memory for one chunk at a time."""

    name = "pool"

    def __init__(self, *, size: int = 4096, candidates: Tensor | None = None, keep: int = 1024) -> None:
        """Choose where to look.

        Args:
            size: random places to look at.
            candidates: ``(n, d)`` latents to look at besides, as items made beforehand; projected to the shell, and
                left out where the trust angle forbids them.
            keep: how many of the best are kept while looking, for results far from each other.

        Raises:
            SettingError: ``size`` is negative or ``keep`` below 1.
        """
        if size < 0 or keep < 1:
            raise SettingError(f"size={size} must be at least 0 and keep={keep} at least 1")
        self.size, self.candidates, self.keep = size, candidates, keep

    def run(self, task: Task, count: int, generator: torch.Generator) -> Found:
        """See `Search`."""
        meter, shell, known = begin(task, count)
        latents, scores = shell, known
        for size in self._chunks():
            if task.wanted is not None and bool(scores.max() >= task.wanted):
                break
            places = wander(task, shell, size, generator)[0] if size else self._given(task, shell)
            latents, scores = torch.cat([latents, places]), torch.cat([scores, meter(places)])
            best = scores.topk(min(len(scores), max(self.keep, count))).indices
            latents, scores = latents[best], scores[best]
        return finish(task, count, meter, latents, scores)

    def _chunks(self) -> list[int]:
        """Sizes of the chunks of random places; 0 stands for the given candidates."""
        given = [] if self.candidates is None else [0]
        return given + [min(CHUNK, self.size - done) for done in range(0, self.size, CHUNK)]

    def _given(self, task: Task, shell: Tensor) -> Tensor:
        assert self.candidates is not None
        places = task.space.project(self.candidates.detach().to(shell))
        if task.trust_angle is None:
            return places
        parts = [part[angles(part, shell).amin(1) <= task.trust_angle] for part in torch.split(places, CHUNK)]
        return torch.cat([places[:0], *parts])
