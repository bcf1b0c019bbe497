"""The two classifiers on latents that federated averaging trains: a linear one and a small network.

Each knows how it begins, how a device trains it, and how a new person makes it their own. A new person with answers is
given the posterior mode around what the federation learned (MAP): of invented people at epsilon 1 it understood more
than 5, 20 or 80 gradient steps did, for both classifiers and after 2, 5, 10 and 20 answers. Without answers it is the
global model itself.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from client.fit import laplace
from client.likelihood import Evidence
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

    def scores(self, evidence: Evidence, weights: Tensor, thresholds: Tensor, features: Tensor) -> Tensor:
        """``(people, n)`` scores of items ``(n, q)`` for new people, from their own answers and the global weights."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Logistic regression, ``r = w . x``; ``P = q``.

    Attributes:
        own: standard deviation of a person's weights around the global ones, in scores of a typical item.
    """

    own: float = 1.5
    label: str = "logistic"

    def start(self, features: int, generator: torch.Generator) -> Tensor:
        """Zeros."""
        return torch.zeros(features, dtype=torch.float64)

    def changes(self, lesson: Lesson, weights: Tensor, steps: int, rate: float) -> Tensor:
        """See `Classifier`."""
        return train_linear(lesson, weights, steps=steps, rate=rate)

    def scores(self, evidence: Evidence, weights: Tensor, thresholds: Tensor, features: Tensor) -> Tensor:
        """See `Classifier`."""
        taste = mode(evidence, weights, thresholds, spread(weights, self.own, features))
        return taste @ features.to(taste).T


@dataclass(frozen=True, kw_only=True)
class Perceptron:
    """A network with one hidden layer, ``r = v . relu(W x) + b``; ``P = h q + h + 1``.

    Attributes:
        hidden: units h.
        own: standard deviation of a person's head around the global one, in scores of a typical item.
    """

    hidden: int = 64
    own: float = 1.5
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

    def scores(self, evidence: Evidence, weights: Tensor, thresholds: Tensor, features: Tensor) -> Tensor:
        """The head becomes the person's own, the body stays."""
        network = Network.of(weights, features.shape[1])
        return own_head(evidence, network, thresholds, features, self.own)


def own_head(evidence: Evidence, network: Network, thresholds: Tensor, features: Tensor, own: float) -> Tensor:
    """``(people, n)`` scores of items ``(n, q)`` with each person's own head on a body that is the same for all."""
    inside = network.hidden(features.double())
    seen = evidence.with_features(network.hidden(evidence.features.double()))
    head = mode(seen, network.head, thresholds, spread(network.head, own, inside))
    return head @ inside.T


def mode(evidence: Evidence, centre: Tensor, thresholds: Tensor, covariance: Tensor) -> Tensor:
    """``(people, q)`` float64 posterior mode under N(centre, covariance), which is the centre without answers."""
    exact = dataclasses.replace(evidence, features=evidence.features.double(), weight=evidence.weight.double())
    return laplace(exact, centre, covariance, thresholds).mean


def spread(weights: Tensor, own: float, features: Tensor) -> Tensor:
    """Covariance ``(q, q)`` of independent weights under which scores of typical ``features`` deviate by ``own``."""
    size = features.double().square().mean(0).sum()
    return torch.eye(weights.shape[-1], dtype=torch.float64, device=size.device) * own**2 / size.clamp(min=1e-9)
