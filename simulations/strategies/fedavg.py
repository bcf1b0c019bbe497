"""Federated averaging of a classifier on latents, with user-level privacy: what most people would try first.

A device takes a few gradient steps from the global weights on its own answers and sends the change; the server moves
by the clipped, noised mean of the changes (McMahan et al. 2017, algorithm 1; McMahan et al. 2018, "Learning
differentially private recurrent language models", algorithm 1), or lets Adam do it (Reddi et al. 2021, "Adaptive
federated optimization", algorithm 2).

Every person weighs the same, however much they answered: a weight by answers would tell how many there were. A new
person combines the global model with a taste of their own (``simulations.strategies.newcomers``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from client.likelihood import Evidence
from common.errors import SettingError
from simulations.crowd import Items
from simulations.strategies.base import State, Task
from simulations.strategies.classifiers import Classifier, Linear
from simulations.strategies.local_training import Lesson
from simulations.strategies.newcomers import known, looked_at, own_scores


@dataclass(frozen=True, kw_only=True)
class Average:
    """The server moves by the mean change, times a rate."""

    rate: float = 1.0
    label: str = "FedAvg"

    def start(self, weights: Tensor) -> State:
        """Nothing to remember."""
        return {}

    def move(self, state: State, mean: Tensor) -> State:
        """The next weights."""
        return {"weights": state["weights"] + self.rate * mean}


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam on the mean change as if it were a gradient (Reddi et al. 2021, algorithm 2; no bias correction there).

    Attributes:
        rate: server learning rate.
        first: decay beta_1; second: beta_2.
        second: see above.
        floor: tau, the degree of adaptivity.
    """

    rate: float = 0.02
    first: float = 0.9
    second: float = 0.99
    floor: float = 1e-3
    label: str = "FedAdam"

    def start(self, weights: Tensor) -> State:
        """Both moments."""
        return {"first": torch.zeros_like(weights), "second": torch.full_like(weights, self.floor**2)}

    def move(self, state: State, mean: Tensor) -> State:
        """The next weights and moments."""
        first = self.first * state["first"] + (1 - self.first) * mean
        second = self.second * state["second"] + (1 - self.second) * mean.square()
        weights = state["weights"] + self.rate * first / (second.sqrt() + self.floor)
        return {"weights": weights, "first": first, "second": second}


_LINEAR, _AVERAGE = Linear(), Average()


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Settings of the strategy; see ``simulations.strategies.base.Strategy``.

    The state holds ``weights`` ``(P,)``, what ``newcomers.known`` gives and what the server's optimiser remembers, all
    float64.

    Attributes:
        classifier: what is trained.
        server: how the mean change is used.
        norm_bound: clip norm of a change of weights.
        rounds: releases.
        steps: local full-batch gradient steps; rate: their length.
        rate: see above.
        name: for scripts.
    """

    classifier: Classifier = _LINEAR
    server: Average | Adam = _AVERAGE
    norm_bound: float = 1.0
    rounds: int = 10
    steps: int = 5
    rate: float = 0.5
    name: str = "fedavg-logistic"

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.rate > 0:
            raise SettingError(f"steps={self.steps} must be >= 1 and rate={self.rate} > 0; try 5 and 0.5")

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.server.label}, {self.classifier.label}"

    def start(self, task: Task) -> State:
        """The classifier's own start, drawn from the task's public seed."""
        generator = torch.Generator().manual_seed(task.seed)
        weights = self.classifier.start(task.items.latents.shape[1] + 1, generator)
        return {"weights": weights, **known(task.flat), **self.server.start(weights)}

    def view(self, items: Items, state: State) -> Tensor:
        """``(n, d + 1 + p)`` latents, a constant 1, and features for newcomers, in the dtype of the latents."""
        return looked_at(items)

    def updates(self, evidence: Evidence, state: State) -> Tensor:
        """``(people, P)`` changes of the weights."""
        weights = state["weights"]
        seen = evidence.with_features(evidence.features[..., : self.classifier.columns(weights)])
        return self.classifier.changes(Lesson.of(seen, state["thresholds"]), weights, self.steps, self.rate)

    def advance(self, state: State, mean: Tensor, round: int) -> State:
        """One step of the server."""
        return {**state, **self.server.move(state, mean)}

    def scores(self, evidence: Evidence, state: State, items: Items) -> Tensor:
        """Of the global model and the person's own answers; see ``simulations.strategies.newcomers``."""
        return own_scores(evidence, partial(self.classifier.scores, state["weights"]), state, items)
