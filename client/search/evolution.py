"""Evolution: CMA-ES (Hansen 2016) over all of space, every individual judged where it projects to the shell."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from client.search.base import Found, Meter, Search, Task, begin, finish, within
from common.errors import SettingError

DIAGONAL_FROM = 64  # dimensions; a full covariance learns too slowly above
FIRST_SPREAD = 0.4  # of each coordinate, as a share of the typical one


class EvolutionSearch(Search):
    """CMA-ES from the best start; needs no gradient. In large spaces only the diagonal of the covariance is learned."""

    name = "evolution"

    def __init__(self, *, population: int = 24, generations: int = 40) -> None:
        """Choose how much to spend.

        Args:
            population: individuals of a generation, at least 4.
            generations: most generations.

        Raises:
            SettingError: a number is too small.
        """
        if population < 4 or generations < 1:
            raise SettingError(f"population={population} must be at least 4 and generations={generations} at least 1")
        self.population, self.generations = population, generations

    def run(self, task: Task, count: int, generator: torch.Generator) -> Found:
        """See `Search`."""
        meter, shell, known = begin(task, count)
        if task.space.dimension == 1:  # the shell is two points, and the strategy needs two dimensions
            latents = shell if task.trust_angle is not None else torch.cat([shell, -shell[:1]])
            return finish(task, count, meter, latents, torch.cat([known, meter(latents[len(shell) :])]))
        judged, theirs = self._evolve(task, meter, shell, known, generator)
        return finish(task, count, meter, torch.cat([shell, *judged]), torch.cat([known, *theirs]))

    def _evolve(
        self, task: Task, meter: Meter, shell: Tensor, known: Tensor, generator: torch.Generator
    ) -> tuple[list[Tensor], list[Tensor]]:
        """All individuals judged, a tensor for each generation, and their scores."""
        strategy = self._strategy(shell, generator)
        strategy.inject([start.double().cpu().numpy() for start in shell[1 : self.population // 2]])
        latents: list[Tensor] = []
        scores: list[Tensor] = []
        worst = float(known.min())
        for _ in range(self.generations):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                asked = strategy.ask()
            individuals = torch.from_numpy(np.stack(asked)).to(shell)
            latents.append(self._on_shell(task, shell[0], individuals))
            scores.append(meter(latents[-1]))
            if task.wanted is not None and bool(scores[-1].max() >= task.wanted):
                break
            worst = min(worst, float(scores[-1].nan_to_num(neginf=math.inf).min()))
            told = scores[-1].clamp(min=worst - 1).double().cpu().tolist()  # what must not win is worse than all else
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns of flat scores, which are allowed
                strategy.tell(asked, [-score for score in told])
            if strategy.stop():
                break
        return latents, scores

    def _strategy(self, shell: Tensor, generator: torch.Generator) -> Any:
        import cma  # type: ignore[import-untyped]

        seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        draw = np.random.default_rng(seed)
        options = {
            "popsize": self.population,
            "verbose": -9,
            "seed": np.nan,  # leaves numpy's shared generator alone
            "randn": lambda *shape: draw.standard_normal(shape),
            "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,  # others do not bear injected individuals
            "CMA_diagonal": shell.shape[1] >= DIAGONAL_FROM,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cma.CMAEvolutionStrategy(shell[0].double().cpu().numpy(), FIRST_SPREAD, options)

    @staticmethod
    def _on_shell(task: Task, start: Tensor, individuals: Tensor) -> Tensor:
        latents = task.space.project(individuals)
        if task.trust_angle is None:
            return latents
        unit = start[None] / task.space.radius
        return task.space.project(within(latents / task.space.radius, unit.expand_as(latents), task.trust_angle))
