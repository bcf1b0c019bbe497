"""Optuna's samplers as players: one parameter for each dimension between -3 and 3, stars as the value."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from client.ratings import Kind
from common.errors import SettingError
from common.latents import LatentSpace

BOX = 3.0

Sampler = Literal["gp", "tpe"]


class OptunaPlayer:
    """A study of one person; recommends the trials with the most stars, later ones first among equals."""

    def __init__(self, space: LatentSpace, seed: int, *, sampler: Sampler) -> None:
        """Begin a study in memory.

        Raises:
            SettingError: Optuna is not installed.
        """
        self.feedback = Kind.STARS
        self._space = space
        self._study, self._space_of_trials = _study(space.dimension, seed, sampler)
        self._trial: Any = None
        self._shown: list[Tensor] = []
        self._stars: list[int] = []

    def ask(self) -> Tensor:
        """See `Player`."""
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            torch.manual_seed(len(self._stars))
            self._trial = self._study.ask(self._space_of_trials)
        values = [self._trial.params[name] for name in self._space_of_trials]
        latent = torch.tensor(values, dtype=torch.float32)
        self._shown = [*self._shown[: len(self._stars)], latent]
        return latent[None]

    def tell(self, answer: int) -> None:
        """See `Player`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._study.tell(self._trial, float(answer))
        self._stars.append(answer)

    def recommend(self, k: int) -> Tensor:
        """See `Player`; where fewer were shown, the rest is random."""
        order = sorted(range(len(self._stars)), key=lambda i: (self._stars[i], i), reverse=True)
        best = [self._shown[i] for i in order[:k]]
        generator = torch.Generator().manual_seed(len(self._stars))
        return torch.stack([*best, *self._space.sample(k - len(best), generator)])


def _study(dimension: int, seed: int, sampler: Sampler) -> tuple[Any, dict[str, Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
    except ImportError as error:
        raise SettingError('this learner needs Optuna; run: pip install "plgl[bayesopt]"') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of them is called experimental
        chosen: Any = optuna.samplers.GPSampler(seed=seed) if sampler == "gp" else optuna.samplers.TPESampler(seed=seed)
        study = optuna.create_study(direction="maximize", sampler=chosen)
    space: dict[str, Any] = {f"z{i}": optuna.distributions.FloatDistribution(-BOX, BOX) for i in range(dimension)}
    return study, space
