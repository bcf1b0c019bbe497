"""DP-EM: federated empirical Bayes, the method of the product, batched.

A device sends the clipped statistics of its posterior (``common.update``), the server moves the prior
(``server.population.next_prior``), and a new person weighs that prior against a flat one by evidence
(``client.fit.weigh``). See `design.md`, section 3; Dempster, Laird & Rubin 1977; Laird & Ware 1982.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from client.fit import Posterior, weigh
from client.likelihood import Evidence
from common.errors import SettingError
from common.prior import PopulationPrior
from common.privacy.statement import PrivacyStatement
from server.population import next_prior
from simulations import whitened
from simulations.crowd import Items
from simulations.interview import FLAT_SHARE
from simulations.strategies.base import State, Task


@dataclass(frozen=True, kw_only=True)
class DpEm:
    """Settings of the strategy; see ``simulations.strategies.base.Strategy``.

    The state holds ``mean`` ``(p,)``, ``covariance`` ``(p, p)`` and ``thresholds`` ``(4,)`` of the prior, and
    ``flat_mean`` and ``flat_covariance`` of the one it started from, all float64 on the CPU.

    Attributes:
        norm_bound: clip norm C of an update in whitened coordinates.
        rounds: releases.
        step: learning rate of the M-step; above 1 it makes up for clipping and few rounds.
    """

    norm_bound: float = 6.0
    rounds: int = 4
    step: float = 2.0
    name: ClassVar[str] = "dp-em"
    label: ClassVar[str] = "DP-EM"

    def __post_init__(self) -> None:
        if not 0 < self.step <= 10:
            raise SettingError(f"step={self.step} must be > 0 and at most 10; try 2.0")

    def start(self, task: Task) -> State:
        """The flat prior."""
        flat = task.flat
        state = {"mean": flat.mean, "covariance": flat.covariance, "thresholds": flat.thresholds}
        return {**state, "flat_mean": flat.mean, "flat_covariance": flat.covariance}

    def view(self, items: Items, state: State) -> Tensor:
        """``(n, p + 1)`` whitened features and the score of the mean taste."""
        return whitened.table(items.features, state["mean"], state["covariance"])

    def updates(self, evidence: Evidence, state: State) -> Tensor:
        """``(people, p + p (p + 1) / 2)``: what ``common.update.encode`` gives."""
        return whitened.statistics(evidence, state["thresholds"])

    def advance(self, state: State, mean: Tensor, round: int) -> State:
        """One M-step."""
        moved = next_prior(_prior(state), mean, self.step)
        return {**state, "mean": moved.mean, "covariance": moved.covariance}

    def scores(self, evidence: Evidence, state: State, items: Items) -> Tensor:
        """Posterior mean scores under the prior and the flat one, weighed by evidence."""
        return self.posterior(evidence, state).scores(items.features.double())

    def posterior(self, evidence: Evidence, state: State) -> Posterior:
        """Posterior of the tastes of new people, over features; float64.

        Args:
            evidence: over ``view``.
            state: the last state.
        """
        seen = evidence.features[..., :-1].double()
        features = seen @ _prior(state).whitener().to(seen.device)  # back to what client code takes
        exact = dataclasses.replace(evidence, features=features, weight=evidence.weight.double())
        shares = torch.tensor([1 - FLAT_SHARE, FLAT_SHARE], dtype=torch.float64, device=seen.device)
        means = torch.stack([state["mean"], state["flat_mean"]])
        covariances = torch.stack([state["covariance"], state["flat_covariance"]])
        return weigh(exact, means, covariances, shares, state["thresholds"])

    def prior(self, state: State, pack: str, privacy: PrivacyStatement, rounds: int) -> PopulationPrior:
        """The state as a prior that can be saved and used on devices.

        Args:
            state: after training.
            pack: SHA-256 of the generator pack.
            privacy: the claim that covers it.
            rounds: releases that went into it.
        """
        return dataclasses.replace(_prior(state), pack=pack, privacy=privacy, rounds=rounds)


def _prior(state: State) -> PopulationPrior:
    return PopulationPrior(
        mean=state["mean"],
        covariance=state["covariance"],
        thresholds=state["thresholds"],
        pack="",
        privacy=PrivacyStatement.public(),
    )
