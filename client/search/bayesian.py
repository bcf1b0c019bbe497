"""Bayesian optimisation with BoTorch: the score is a black box, and every look at it is meant to count.

For scores that are dear, such as one that renders a picture. Needs the extra ``bayesopt``.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from client.search.base import Found, Meter, Score, Search, Task, begin, finish, pick, wander
from client.search.gradient import Ring, climb
from common.errors import SettingError

APART = 0.3  # radians between the places looked at in one round
STEPS = 10  # of the climbs of the expected improvement
JITTER = 1e-4  # variance of scores around the process, as a share of their own


class BayesianSearch(Search):
    """A Gaussian process of the score on the shell, and logarithmic expected improvement (Ament et al. 2023).

    Every round looks where most improvement over the best is expected: at the best of random candidates, half of them
    around the best places so far, and uphill from there. Needs no gradient of the score.
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
        """Latents ``(batch, d)`` of the largest expected improvement: the best candidates, climbed from there."""
        # with a trust angle only the starts are looked around, so that nothing strays farther
        home = shell if task.trust_angle is not None else latents[scores.argsort(descending=True)]
        candidates, homes = wander(task, home, self.candidates, generator)
        radius, expected = task.space.radius, _expected_improvement(latents, scores)
        meter = Meter(expected)
        promise = meter(candidates)
        rows = pick(candidates, promise, self.batch, APART)
        reach = math.pi if task.trust_angle is None else task.trust_angle
        walked = climb(
            meter, Ring(task.space), candidates[rows] / radius, STEPS, centres=homes[rows] / radius, reach=reach
        )
        # most climbs end at the same summit, which is worth one look; the candidates are the others
        both = torch.cat([task.space.project(walked.directions), candidates])
        return both[pick(both, torch.cat([walked.scores, promise]), self.batch, APART)]


def _expected_improvement(latents: Tensor, scores: Tensor) -> Score:
    """Logarithmic expected improvement over scores ``(n,)`` of latents ``(n, d)``, as a score of other latents.

    One length scale for all dimensions, since on the shell all directions are alike, with the prior that grows with the
    dimension (Hvarfner et al. 2024, as in BoTorch). Scores have no noise.
    """
    from botorch.acquisition.analytic import LogExpectedImprovement
    from botorch.exceptions.errors import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.kernels import RBFKernel  # type: ignore[import-untyped]
    from gpytorch.mlls import ExactMarginalLogLikelihood  # type: ignore[import-untyped]
    from gpytorch.priors import LogNormalPrior  # type: ignore[import-untyped]

    good, width = scores.isfinite(), 2 * math.sqrt(latents.shape[1])
    x, y = latents[good].double() / width + 0.5, scores[good].double()
    y = (y - y.mean()) / y.std(correction=0).clamp(min=1e-12)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # it warns of equal points and flat scores, which are allowed
        torch.manual_seed(0)  # a fit that fails is tried again from random settings
        length = LogNormalPrior(math.sqrt(2) + math.log(x.shape[1]) / 2, math.sqrt(3))
        kernel, noise = RBFKernel(lengthscale_prior=length), torch.full_like(y, JITTER)[:, None]
        model = SingleTaskGP(x, y[:, None], noise, covar_module=kernel, outcome_transform=None)
        try:
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        except ModelFittingError:
            model.eval()  # goes on with the settings of its prior
    improvement = LogExpectedImprovement(model, best_f=y.max())

    def expected(others: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value: Tensor = improvement((others.double() / width + 0.5)[:, None])
        return value

    return expected


def _require_botorch() -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what its dependencies import
            import botorch  # noqa: F401
    except ImportError as error:
        raise SettingError('search "bayesian" needs BoTorch; run: pip install "plgl[bayesopt]"') from error
