"""Everybody for themselves: nothing leaves a device, and a new person starts from the flat prior. The lower bound."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from client.fit import laplace
from client.likelihood import Evidence
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from simulations.crowd import Items
from simulations.mechanisms import Mechanism, NoPrivacy
from simulations.strategies.base import State, Strategy, Task
from simulations.strategies.dp_em_mixture import exact


@dataclass(frozen=True)
class LocalOnly:
    """See ``simulations.strategies.base.Strategy``; its one round exchanges a zero, so that every engine can run it."""

    name: str = "local-only"
    label: str = "Local only"
    norm_bound: float = 1.0
    rounds: int = 1

    def start(self, task: Task) -> State:
        """The flat prior."""
        return {"mean": task.flat.mean, "covariance": task.flat.covariance, "thresholds": task.flat.thresholds}

    def view(self, items: Items, state: State) -> Tensor:
        """``(n, p)`` the features."""
        return items.features

    def updates(self, evidence: Evidence, state: State) -> Tensor:
        """``(people, 1)`` zeros."""
        return evidence.features.new_zeros(evidence.people, 1)

    def advance(self, state: State, mean: Tensor, round: int) -> State:
        """The same state."""
        return state

    def scores(self, evidence: Evidence, state: State, items: Items) -> Tensor:
        """Posterior mean scores under the flat prior: of features with a Laplace posterior, those of its mode."""
        fit = laplace(exact(evidence), state["mean"], state["covariance"], state["thresholds"])
        return fit.mean @ items.features.to(fit.mean).T

    def keeping(self, settings: PrivacySettings, task: Task) -> tuple[Strategy, Mechanism]:
        """Nothing to keep: no answer enters anything."""
        return self, NoPrivacy(rounds=self.rounds, norm_bound=self.norm_bound, people=settings.expected_people)

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """Public: no person's data were used."""
        return PrivacyStatement.public()
