"""The two classifiers on latents that federated averaging trains: a linear one and a small network.

Each knows how it begins, how a device trains it, and what it says of items. What a new person makes of that is in
``simulations.strategies.newcomers``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.errors import SettingError
from simulations.strategies.local_training import Lesson, Network, train_linear, train_network


class Classifier(Protocol):
    """A model whose weights are one vector; features ``(..., q)`` have a constant 1 last."""

    @property
    def label(self) -> str:
        """For people."""

    def start(self, features: int, generator: torch.Generator) -> Tensor:
        """``(P,)`` float64 weights before the first round."""

    def changes(self, lesson: Lesson, weights: Tensor, steps: int, rate: float) -> Tensor:
        """``(people, P)`` what local gradient steps change."""

    def columns(self, weights: Tensor) -> int:
        """How many features q a model of these weights looks at."""

    def scores(self, weights: Tensor, features: Tensor) -> Tensor:
        """``(...)`` scores of items ``(..., q)``, the same for everybody."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Logistic regression, ``r = w . x``; ``P = q``."""

    label: str = "logistic"

    def start(self, features: int, generator: torch.Generator) -> Tensor:
        """Zeros."""
        return torch.zeros(features, dtype=torch.float64)

    def changes(self, lesson: Lesson, weights: Tensor, steps: int, rate: float) -> Tensor:
        """See `Classifier`."""
        return train_linear(lesson, weights, steps=steps, rate=rate)

    def columns(self, weights: Tensor) -> int:
        """See `Classifier`."""
        return weights.numel()

    def scores(self, weights: Tensor, features: Tensor) -> Tensor:
        """See `Classifier`."""
        return features @ weights.to(features)


@dataclass(frozen=True, kw_only=True)
class Perceptron:
    """A network with one hidden layer, ``r = v . relu(W x) + b``; ``P = h q + h + 1``.

    Attributes:
        hidden: units h.
    """

    hidden: int = 64
    label: str = "MLP"

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise SettingError(f"hidden={self.hidden} must be >= 1; try 64")

    def start(self, features: int, generator: torch.Generator) -> Tensor:
        """Random weights that keep variances (He et al. 2015, eq. 10), a head of about unit length, no biases."""
        body = torch.randn(self.hidden, features, generator=generator, dtype=torch.float64)
        body = body * math.sqrt(2 / max(features - 1, 1))
        body[:, -1] = 0
        head = torch.randn(self.hidden + 1, generator=generator, dtype=torch.float64) / math.sqrt(self.hidden)
        head[-1] = 0
        return Network(body=body, head=head).vector

    def changes(self, lesson: Lesson, weights: Tensor, steps: int, rate: float) -> Tensor:
        """See `Classifier`."""
        return train_network(lesson, Network.of(weights, lesson.rows.shape[2]), steps=steps, rate=rate)

    def columns(self, weights: Tensor) -> int:
        """See `Classifier`."""
        return (weights.numel() - 1) // self.hidden - 1

    def scores(self, weights: Tensor, features: Tensor) -> Tensor:
        """See `Classifier`."""
        return Network.of(weights, features.shape[-1]).scores(features)
