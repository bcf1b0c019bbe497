"""Logistic regression with an L2 penalty, on latents (the usual baseline) or on features.

Scikit-learn finds the weights; the uncertainty is Laplace's around them, with the inverse taken among the answers
(Woodbury), so that it costs the number of answers and not of latents.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from sklearn import linear_model  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
from torch import Tensor

from client.classifiers.base import Answers, Beliefs, Points, Taste, TasteModel
from client.classifiers.labels import Inputs, Rows, View, heard, label
from common.errors import SettingError


def finite(inputs: Tensor) -> Tensor:
    """The inputs of a fit, as they are.

    Raises:
        SettingError: one of them is NaN or infinite.
    """
    if not bool(inputs.isfinite().all()):
        raise SettingError("a latent or a feature is NaN or infinite; check the generator pack")
    return inputs


@dataclass(frozen=True, eq=False)
class LogisticTaste(Taste):
    """Weights with a Gaussian around them, ``N(weights, c I - c^2 X' S B^-1 S X)`` with ``B = I + c S X X' S``.

    Attributes:
        inputs: what the model looks at.
        weights: ``(q,)``.
        c: prior variance of a weight.
        scaled: ``(r, q)`` S X: contrasts times the root of their curvature.
        lower: ``(r, r)`` Cholesky factor of B.
    """

    inputs: Inputs
    weights: Tensor
    c: float
    scaled: Tensor
    lower: Tensor

    def score(self, points: Points) -> Tensor:
        """See `Taste`; float64."""
        return self.inputs(points) @ self.weights

    def over(self, points: Points) -> LogisticBeliefs:
        """See `Taste`."""
        return LogisticBeliefs(self, self.inputs(points))


class LogisticBeliefs(Beliefs):
    """Beliefs of a logistic regression about items with inputs ``(n, q)``; correlations are exact."""

    def __init__(self, taste: LogisticTaste, seen: Tensor) -> None:
        self._taste, self._seen = taste, seen
        self.mean = (seen @ taste.weights)[None]
        self.deviation = self._deviation(seen)

    def _deviation(self, seen: Tensor) -> Tensor:
        c, scaled, lower = self._taste.c, self._taste.scaled, self._taste.lower
        known = torch.linalg.solve_triangular(lower, c * (scaled @ seen.T), upper=False)
        variance: Tensor = c * seen.square().sum(-1) - known.square().sum(0)
        return variance.clamp(min=0).sqrt()[None]

    def gap(self, against: Tensor) -> tuple[Tensor, Tensor]:
        """See `Beliefs`."""
        return self.mean - self.mean[:, against], self._deviation(self._seen - self._seen[against])

    def draw(self, generator: torch.Generator, spread: float = 1.0) -> Tensor:
        """See `Beliefs`; a weight from the prior, moved by what the answers teach (Matheron's rule)."""
        c, scaled, lower = self._taste.c, self._taste.scaled, self._taste.lower
        r, q = scaled.shape
        noise = torch.randn(q + r, generator=generator, dtype=self.mean.dtype)
        before = c**0.5 * noise[:q]
        surprise = torch.cholesky_solve((scaled @ before + noise[q:])[:, None], lower).squeeze(-1)
        away = before - c * (surprise @ scaled)
        scores: Tensor = self.mean + spread * (self._seen @ away)[None]
        return scores


class LogisticRegression(TasteModel):
    """Logistic regression on ``[z, 1]`` or on features."""

    name: ClassVar[str] = "logistic"

    def __init__(self, view: View = "latents", c: float = 1.0, scale: Tensor | None = None) -> None:
        """Choose what it looks at.

        Args:
            view: latents or features.
            c: inverse of the L2 penalty: the prior variance of a weight, > 0.
            scale: ``(k,)`` multiplies features.

        Raises:
            SettingError: ``c`` is not positive.
        """
        if not c > 0:
            raise SettingError(f"c={c} must be > 0; try 1.0")
        self.inputs, self.c = Inputs(view, scale), c

    def fit(self, answers: Answers, context: int = 0) -> LogisticTaste:
        """See `TasteModel`.

        Raises:
            SettingError: a latent or a feature is not finite.
        """
        rows = label(heard(answers, context))
        contrasts = rows.contrast(finite(self.inputs(answers.points).detach()))
        weights = self._weights(rows, contrasts)
        share = torch.sigmoid(contrasts @ weights)
        scaled = (rows.weight * share * (1 - share)).sqrt()[:, None] * contrasts
        inner = torch.eye(len(rows), dtype=torch.float64) + self.c * (scaled @ scaled.T)
        return LogisticTaste(self.inputs, weights, self.c, scaled, torch.linalg.cholesky(inner))

    def _weights(self, rows: Rows, contrasts: Tensor) -> Tensor:
        if len(rows) == 0:
            return contrasts.new_zeros(contrasts.shape[1])
        index, sign, weight = rows.signed()
        positive = sign[:, None] * contrasts[index]
        # without an intercept a row and its mirror image say the same; both classes are then always there
        x = torch.cat([positive, -positive]).numpy()
        y = np.repeat([1, 0], len(positive))
        machine = linear_model.LogisticRegression(C=self.c, fit_intercept=False, tol=1e-6, max_iter=500)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # far-away items: good enough is good enough
            machine.fit(x, y, sample_weight=weight.repeat(2).numpy() / 2)
        return torch.from_numpy(machine.coef_[0])
