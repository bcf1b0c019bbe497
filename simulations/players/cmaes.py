"""CMA-ES (Hansen 2016) as a player: generations of ten, each individual given stars where it projects to the shell."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from client.ratings import Kind
from common.latents import LatentSpace

POPULATION = 10
NEIGHBOURHOOD = 0.05  # radians around the mean that recommendations are spread over, as those of ours are


class EvolutionPlayer:
    """Evolves a distribution from the generator's own law; recommends its mean and that mean's closest neighbours.

    That makes it far stronger than the usual way (from one item, individuals as they are, best individuals
    recommended): the mean is an average over all answers, and the shell keeps it real.
    """

    def __init__(self, space: LatentSpace, seed: int) -> None:
        """Begin at the law, N(0, I)."""
        import cma  # type: ignore[import-untyped]

        self.feedback = Kind.STARS
        self._space, self._generator = space, torch.Generator().manual_seed(seed)
        draw = np.random.default_rng(seed)
        options = {
            "popsize": POPULATION,
            "verbose": -9,
            "seed": np.nan,  # leaves numpy's shared generator alone
            "randn": lambda *shape: draw.standard_normal(shape),
            "CMA_diagonal": space.dimension >= 64,  # a full covariance learns too slowly
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._strategy: Any = cma.CMAEvolutionStrategy(np.zeros(space.dimension), 1.0, options)
        self._waiting: list[Any] = []
        self._stars: list[int] = []

    def ask(self) -> Tensor:
        """See `Player`."""
        if not self._waiting:
            self._waiting = list(self._strategy.ask())
        return self._shell(self._waiting[len(self._stars)])[None]

    def tell(self, answer: int) -> None:
        """See `Player`."""
        self._stars.append(answer)
        if len(self._stars) == len(self._waiting):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns of equal scores, which stars often are
                self._strategy.tell(self._waiting, [-float(stars) for stars in self._stars])
            self._waiting, self._stars = [], []

    def recommend(self, k: int) -> Tensor:
        """See `Player`."""
        pole = self._shell(self._strategy.mean)
        if not bool((torch.as_tensor(self._strategy.mean) != 0).any()):  # before the first generation is over
            return self._space.project(self._space.sample(k, self._generator))
        away = self._space.sample(k - 1, self._generator) * NEIGHBOURHOOD
        return torch.cat([pole[None], self._space.project(pole + away)])

    def _shell(self, individual: Any) -> Tensor:
        return self._space.project(torch.as_tensor(np.asarray(individual), dtype=torch.float32))
