"""Bayesian optimisation with BoTorch: the score is a black box, and every look at it is meant to count.

For scores that are dear, such as one that renders a picture. Needs the extra ``bayesopt``.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from client.search.base import Found, Search, Task, begin, finish, pick, wander
from common.errors import SettingError

APART = 0.1  # radians between the places looked at in one round


class BayesianSearch(Search):
    """A Gaussian process of the score on the shell, and logarithmic expected improvement (Ament et al. 2023).

    Every round looks where improvement over the best is expected most among random candidates; half of these lie around
    the best places so far. Needs no gradient.
    """

    name = "bayesian"

    def __init__(self, *, first: int = 24, rounds: int = 6, batch: int = 8, candidates: int = 512) -> None:
        """Choose how much to spend.

        Args:
            first: random places looked at before the first fit.
            rounds: fits.
            batch: places looked at after each fit.
            candidates: random places considered each time.

        Raises:
            SettingError: a number is below 1, or BoTorch is not installed.
        """
        for key, value in (("first", first), ("rounds", rounds), ("batch", batch), ("candidates", candidates)):
            if value < 1:
                raise SettingError(f"{key}={value} must be at least 1")
        _require_botorch()
        self.first, self.rounds, self.batch, self.candidates = first, rounds, batch, candidates

    def run(self, task: Task, count: int, generator: torch.Generator) -> Found:
        """See `Search`."""
        meter, shell, known = begin(task, count)
        places = wander(task, shell, self.first, generator)[0]
        latents, scores = torch.cat([shell, places]), torch.cat([known, meter(places)])
        for _ in range(self.rounds):
            if task.wanted is not None and bool(scores.max() >= task.wanted):
                break
            ahead = self._promising(task, shell, latents, scores, generator)
            latents, scores = torch.cat([latents, ahead]), torch.cat([scores, meter(ahead)])
        return finish(task, count, meter, latents, scores)

    def _promising(
        self, task: Task, shell: Tensor, latents: Tensor, scores: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Latents ``(batch, d)`` of the largest expected improvement."""
        # with a trust angle only the starts are looked around, so that nothing strays farther
        home = shell if task.trust_angle is not None else latents[scores.argsort(descending=True)]
        candidates = wander(task, home, self.candidates, generator)[0]
        expected = _log_expected_improvement(latents / task.space.radius, scores, candidates / task.space.radius)
        return candidates[pick(candidates, expected, self.batch, APART)]


def _log_expected_improvement(known: Tensor, scores: Tensor, candidates: Tensor) -> Tensor:
    """Logarithmic expected improvement ``(m,)`` at unit vectors ``(m, d)``, from scores ``(n,)`` at ``(n, d)``."""
    from botorch.acquisition.analytic import LogExpectedImprovement
    from botorch.exceptions.errors import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood  # type: ignore[import-untyped]

    good = scores.isfinite()
    x, y = (known[good].double() + 1) / 2, scores[good].double()
    y = (y - y.mean()) / y.std(correction=0).clamp(min=1e-12)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # it warns of equal points and flat scores, which are allowed
        torch.manual_seed(0)  # a fit that fails is tried again from random settings
        model = SingleTaskGP(x, y[:, None], outcome_transform=None)
        try:
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        except ModelFittingError:
            model.eval()  # goes on with the settings of its prior
        with torch.no_grad():
            values: Tensor = LogExpectedImprovement(model, best_f=y.max())((candidates.double()[:, None] + 1) / 2)
    return values.nan_to_num(nan=-math.inf)


def _require_botorch() -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what its dependencies import
            import botorch  # noqa: F401
    except ImportError as error:
        raise SettingError('search "bayesian" needs BoTorch; run: pip install "plgl[bayesopt]"') from error
