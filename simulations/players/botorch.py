"""BoTorch's Gaussian processes as players: PairwiseGP with EUBO for A or B, SingleTaskGP with noisy EI for stars.

Both choose among candidates on the shell, half of them around the best so far, and climb along the shell to what they
recommend: without that they are far weaker in a hundred dimensions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from client.ratings import Kind
from client.search.base import Task
from client.search.distribution import diverse
from client.search.gradient import GradientSearch
from common.errors import SettingError
from common.latents import LatentSpace
from simulations.players.base import FIRST, PLACES, candidates

Ties = Literal["drop", "random"]
Lengths = Literal["default", "scaled"]
TYPICAL = 32  # candidates the climb to a recommendation starts from


class PairwisePlayer:
    """PairwiseGP (Chu & Ghahramani 2005) with EUBO (Astudillo et al. 2023), refitted after every answer."""

    def __init__(self, space: LatentSpace, seed: int, *, ties: Ties = "random", lengths: Lengths = "default") -> None:
        """Choose what becomes of answers the model does not know.

        Args:
            space: latents.
            seed: of what is shown.
            ties: "both" and "neither" are dropped, or a winner is drawn.
            lengths: length scales as the library sets them, or one for all with a prior that grows with the dimension.
        """
        _require()
        self.feedback = Kind.CHOICE
        self._space, self._ties, self._lengths = space, ties, lengths
        self._generator = torch.Generator().manual_seed(seed)
        self._latents = torch.empty(0, space.dimension)
        self._wins: list[tuple[int, int]] = []
        self._model: Any = None
        self._told = 0

    def ask(self) -> Tensor:
        """See `Player`."""
        if self._model is None or self._told < FIRST:
            pair = self._space.project(self._space.sample(2, self._generator))
        else:
            with _quiet(self._told):
                pair = self._best_pair()
        self._latents = torch.cat([self._latents, pair])
        return pair

    def _best_pair(self) -> Tensor:
        from botorch.acquisition.preference import AnalyticExpectedUtilityOfBestOption

        places = self._places()
        x = _unit(places)
        with torch.no_grad():
            first = int(self._model.posterior(x).mean.squeeze(-1).argmax())
            eubo = AnalyticExpectedUtilityOfBestOption(self._model, previous_winner=x[first : first + 1])
            value = eubo(x[:, None])
        value[first] = -math.inf
        chosen = torch.tensor([first, int(value.argmax())])
        return places[chosen[torch.randperm(2, generator=self._generator)]]

    def _places(self) -> Tensor:
        with torch.no_grad():
            known = self._model.posterior(_unit(self._latents)).mean.squeeze(-1)
        best = self._latents[known.argsort(descending=True)[:PLACES]]
        return candidates(self._space, best, self._generator)

    def tell(self, answer: int) -> None:
        """See `Player`."""
        self._told += 1
        a, b = len(self._latents) - 2, len(self._latents) - 1
        if answer >= 2 and self._ties == "random":
            answer = int(torch.randint(2, (), generator=self._generator))
        if answer < 2:
            self._wins.append((a, b) if answer == 0 else (b, a))
            with _quiet(self._told):
                self._model = self._fit()

    def _fit(self) -> Any:
        from botorch.exceptions.errors import ModelFittingError
        from botorch.fit import fit_gpytorch_mll
        from botorch.models.pairwise_gp import PairwiseGP, PairwiseLaplaceMarginalLogLikelihood

        used = sorted({item for win in self._wins for item in win})
        place = {item: i for i, item in enumerate(used)}
        wins = torch.tensor([[place[a], place[b]] for a, b in self._wins])
        kernel = None if self._lengths == "default" else _scaled_kernel(self._space.dimension)
        model = PairwiseGP(_unit(self._latents[used]), wins, covar_module=kernel, jitter=1e-5)
        _continue(model, self._model)
        try:
            fit_gpytorch_mll(PairwiseLaplaceMarginalLogLikelihood(model.likelihood, model))
        except (ModelFittingError, RuntimeError):
            model.eval()  # goes on with the settings of its prior
        return model

    def recommend(self, k: int) -> Tensor:
        """See `Player`."""
        if self._model is None:
            return self._space.project(self._space.sample(k, self._generator))
        with _quiet(self._told):
            return _climb(self._space, self._model, self._places(), k, self._generator)


class NoisyImprovementPlayer:
    """SingleTaskGP on stars with qLogNoisyExpectedImprovement (Ament et al. 2023), refitted after every answer."""

    def __init__(self, space: LatentSpace, seed: int) -> None:
        """Begin with random items.

        Raises:
            SettingError: BoTorch is not installed.
        """
        _require()
        self.feedback = Kind.STARS
        self._space, self._generator = space, torch.Generator().manual_seed(seed)
        self._latents = torch.empty(0, space.dimension)
        self._stars: list[int] = []
        self._model: Any = None

    def ask(self) -> Tensor:
        """See `Player`."""
        if self._model is None or len(self._stars) < FIRST:
            latents = self._space.project(self._space.sample(1, self._generator))
        else:
            with _quiet(len(self._stars)):
                latents = self._promising()
        self._latents = torch.cat([self._latents[: len(self._stars)], latents])
        return latents

    def _promising(self) -> Tensor:
        from botorch.acquisition.logei import qLogNoisyExpectedImprovement

        places = self._places()
        improvement = qLogNoisyExpectedImprovement(self._model, X_baseline=_unit(self._latents), prune_baseline=True)
        with torch.no_grad():
            value = improvement(_unit(places)[:, None])
        return places[value.argmax()][None]

    def _places(self) -> Tensor:
        with torch.no_grad():
            known = self._model.posterior(_unit(self._latents)).mean.squeeze(-1)
        best = self._latents[known.argsort(descending=True)[:PLACES]]
        return candidates(self._space, best, self._generator)

    def tell(self, answer: int) -> None:
        """See `Player`."""
        self._stars.append(answer)
        if len(set(self._stars)) > 1:
            with _quiet(len(self._stars)):
                self._model = self._fit()

    def _fit(self) -> Any:
        from botorch.exceptions.errors import ModelFittingError
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from gpytorch.mlls import ExactMarginalLogLikelihood  # type: ignore[import-untyped]

        model = SingleTaskGP(_unit(self._latents), torch.tensor(self._stars, dtype=torch.float64)[:, None])
        _continue(model, self._model)
        try:
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        except (ModelFittingError, RuntimeError):
            model.eval()  # goes on with the settings of its prior
        return model

    def recommend(self, k: int) -> Tensor:
        """See `Player`."""
        if self._model is None:
            return self._space.project(self._space.sample(k, self._generator))
        with _quiet(len(self._stars)):
            return _climb(self._space, self._model, self._places(), k, self._generator)


def _continue(model: Any, before: Any) -> None:
    """Start from the length scales of one answer less: a third of the work."""
    if before is not None:
        model.covar_module.load_state_dict(before.covar_module.state_dict())


def _climb(space: LatentSpace, model: Any, places: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """The ``k`` best latents by posterior mean: the best places, climbed from along the shell."""

    def score(latents: Tensor) -> Tensor:
        mean: Tensor = model.posterior(_unit(latents)).mean.squeeze(-1).float()
        return mean

    with torch.no_grad():
        order = score(places).argsort(descending=True)
    task = Task(score=score, space=space, starts=places[order[:TYPICAL]], minimum_distance=0.05)
    top = GradientSearch(walks=8, steps=20, places=0).run(task, 1, generator)
    return diverse(task, k, 0.0, generator, pole=top.latents[0]).latents


def _unit(latents: Tensor) -> Tensor:
    """Into the unit cube that BoTorch's priors are made for: -3 .. 3 becomes 0 .. 1."""
    return latents.double() / 6 + 0.5


def _scaled_kernel(dimension: int) -> Any:
    """One length scale for all dimensions; its prior grows with the dimension (Hvarfner et al. 2024)."""
    from gpytorch.kernels import RBFKernel, ScaleKernel  # type: ignore[import-untyped]
    from gpytorch.priors import LogNormalPrior  # type: ignore[import-untyped]

    length = LogNormalPrior(math.sqrt(2) + math.log(dimension) / 2 - math.log(6), math.sqrt(3))
    return ScaleKernel(RBFKernel(lengthscale_prior=length)).double()


@contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """No warnings about what is allowed, and nobody else's random state touched."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield


def _require() -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import botorch  # noqa: F401
    except ImportError as error:
        raise SettingError('this learner needs BoTorch; run: pip install "plgl[bayesopt]"') from error
