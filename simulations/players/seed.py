"""The simplest learners: keep the best of random items, and logistic regression with reverse classification."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from client.ratings import Kind
from client.search.reverse import coordinate_rule
from common.latents import LatentSpace

EXPLOIT = 0.7
WANTED = 0.95


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


class LogisticPlayer:
    """Logistic regression on the latent and the coordinate rule of reverse classification, asked for likes.

    Seven questions of ten exploit: a random item, changed one coordinate after another until the model says it will
    be liked with a chance of 95 %. The others explore: a random item as it is.
    """

    def __init__(self, space: LatentSpace, seed: int) -> None:
        """Draw from a latent space."""
        self.feedback = Kind.LIKE
        self._space, self._generator = space, torch.Generator().manual_seed(seed)
        self._shown = torch.empty(0, space.dimension)
        self._liked: list[int] = []

    def ask(self) -> Tensor:
        """See `Player`."""
        exploit = float(torch.rand((), generator=self._generator)) < EXPLOIT
        latents = self._promising(1) if exploit else self._random(1)
        self._shown = torch.cat([self._shown[: len(self._liked)], latents])
        return latents

    def tell(self, answer: int) -> None:
        """See `Player`."""
        self._liked.append(answer)

    def recommend(self, k: int) -> Tensor:
        """See `Player`."""
        return self._promising(k)

    def _random(self, count: int) -> Tensor:
        return self._space.project(self._space.sample(count, self._generator))

    def _promising(self, count: int) -> Tensor:
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

        begun = self._random(count)
        if len(set(self._liked)) < 2:
            return begun
        model = LogisticRegression().fit(self._shown.numpy(), self._liked)
        weight, bias = torch.as_tensor(model.coef_[0]).float(), float(model.intercept_[0])
        wanted = min(math.log(WANTED / (1 - WANTED)), float(weight.abs().sum()) + bias)  # the most the rule can do
        order = torch.rand(begun.shape, generator=self._generator).argsort(1)
        return self._space.project(coordinate_rule(begun, weight, bias, wanted, order))
