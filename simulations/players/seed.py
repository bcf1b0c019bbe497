"""The simplest learners: keep the best of random items, and logistic regression with reverse classification."""

from __future__ import annotations

import torch
from torch import Tensor

from client.ratings import Kind
from common.latents import LatentSpace


class RandomPlayer:
    """Shows random items, asks for stars, recommends those with the most."""

    def __init__(self, space: LatentSpace, seed: int) -> None:
        """Draw from a latent space."""
        self.feedback = Kind.STARS
        self._space, self._generator = space, torch.Generator().manual_seed(seed)
        self._shown = torch.empty(0, space.dimension)
        self._stars: list[int] = []

    def ask(self) -> Tensor:
        """See `Player`."""
        latents = self._space.sample(1, self._generator)
        self._shown = torch.cat([self._shown[: len(self._stars)], latents])
        return latents

    def tell(self, answer: int) -> None:
        """See `Player`."""
        self._stars.append(answer)

    def recommend(self, k: int) -> Tensor:
        """See `Player`; where fewer were shown, the rest is random."""
        stars = torch.tensor(self._stars, dtype=torch.float64)
        stars = stars + 1e-6 * torch.rand(len(stars), generator=self._generator, dtype=torch.float64)
        best = self._shown[stars.argsort(descending=True)[:k]]
        return torch.cat([best, self._space.sample(k - len(best), self._generator)])
