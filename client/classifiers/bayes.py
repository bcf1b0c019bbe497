"""Bayesian linear taste: what ``client.fit`` gives, seen as a taste model.

``r = phi . w`` with a mixture of Gaussian priors on ``w``: the population's, and flat ones of several widths. Each is
weighed by how well it foretold the answers, so a population prior can only help and nobody has to guess how strong a
taste is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from client.classifiers.base import Answers, Beliefs, Points, Taste, TasteModel
from client.classifiers.labels import heard
from client.fit import Posterior, weigh
from common.prior import PopulationPrior

FLAT_SHARE = 0.2  # of the weight before any answer, where there is a population prior
FLAT_SPREADS = (0.5, 1.0, 2.0, 4.0)  # standard deviations of the score of a typical item, log-odds


@dataclass(frozen=True, eq=False)
class LinearTaste(Taste):
    """A taste that is linear in the features."""

    posterior: Posterior

    def score(self, points: Points) -> Tensor:
        """See `Taste`; float64."""
        return self.posterior.scores(points.features.double())[0]

    def over(self, points: Points) -> Beliefs:
        """See `Taste`."""
        return self.posterior.over(points.features.double())


class BayesianLinear(TasteModel):
    """Population prior against flat priors, by evidence."""

    name: ClassVar[str] = "bayes"

    def __init__(self, prior: PopulationPrior | None = None, scale: Tensor | None = None) -> None:
        """Say what is known before any answer.

        Args:
            prior: the population's; without it the flat ones share everything.
            scale: ``(k,)`` relative spread of the weights under a flat prior (``Lens.scale``); equal without.
        """
        self.prior, self.scale = prior, scale

    def fit(self, answers: Answers, context: int = 0) -> LinearTaste:
        """See `TasteModel`.

        Raises:
            SettingError: prior, scale and features have different sizes, or a feature is not finite.
        """
        priors = self._priors(answers.points.features.shape[1])
        share = torch.full((len(priors),), 1 / len(FLAT_SPREADS), dtype=torch.float64)
        if self.prior is not None:
            share = torch.cat([share.new_tensor([1 - FLAT_SHARE]), FLAT_SHARE * share[1:]])
        points = Points(answers.points.latents, answers.points.features.double())
        posterior = weigh(
            replace(heard(answers, context), points=points).evidence(),
            torch.stack([prior.mean for prior in priors]),
            torch.stack([prior.covariance for prior in priors]),
            share,
            priors[0].thresholds,
        )
        return LinearTaste(posterior)

    def _priors(self, parameters: int) -> list[PopulationPrior]:
        pack = "" if self.prior is None else self.prior.pack
        flat = [PopulationPrior.flat(parameters, pack, spread, self.scale) for spread in FLAT_SPREADS]
        return flat if self.prior is None else [self.prior, *flat]
