"""Local differential privacy: every device noises its own vector, so nobody needs to be trusted, and all is noise.

The vector is the posterior mode of the taste in whitened coordinates, clipped: the ``t`` of ``common.update`` without
the covariance. A covariance as well would not survive: noise of every person enters the mean with a standard deviation
of ``2 C z / sqrt(people)``, where with a trusted or secure sum it is ``C z / people``. What a person sends is compared
with what any other taste would have sent, so the sensitivity is twice the bound.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from client.likelihood import Evidence
from common.privacy.accounting import noise_multiplier, zcdp
from common.privacy.clip import clip
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from common.update import svec
from common.version import version
from simulations.mechanisms import Mechanism, NoPrivacy
from simulations.strategies.base import State, Strategy, Task
from simulations.strategies.device_noise import CAVEAT, DeviceNoise
from simulations.strategies.dp_em import DpEm


@dataclass(frozen=True, kw_only=True)
class LocalDp(DpEm):
    """Settings of the strategy; see ``simulations.strategies.base.Strategy`` and ``simulations.strategies.dp_em``.

    Attributes:
        own_bound: clip norm on the device.
        promise: what the noise is for; ``None`` for no noise and no claim.
        norm_bound: so large that the engine clips nobody's noise.
        rounds: releases; each person adds fresh noise in each.
        step: learning rate of the M-step.
        noise: its source.
    """

    own_bound: float = 2.0
    promise: PrivacySettings | None = None
    norm_bound: float = 2.0**15
    rounds: int = 1
    step: float = 1.0
    noise: DeviceNoise = field(default_factory=DeviceNoise, compare=False)
    name: ClassVar[str] = "local-dp"
    label: ClassVar[str] = "Local DP-EM"

    @property
    def multiplier(self) -> float:
        """Standard deviation of a device's noise divided by the sensitivity, ``2 own_bound``."""
        if self.promise is None or not self.promise.private:
            return 0.0
        return noise_multiplier(self.promise.epsilon, self.promise.delta, self.promise.participations)

    def updates(self, evidence: Evidence, state: State) -> Tensor:
        """``(people, p)``: clipped, then noised."""
        told = clip(super().updates(evidence, state)[:, : state["mean"].shape[0]], self.own_bound)
        return told + 2 * self.own_bound * self.multiplier * self.noise.like(told) if self.multiplier else told

    def advance(self, state: State, mean: Tensor, round: int) -> State:
        """The mean moves, the covariance stays."""
        # what next_prior takes off the second moment is what is added here
        return super().advance(state, torch.cat([mean, svec(torch.outer(mean, mean))]), round)

    def keeping(self, settings: PrivacySettings, task: Task) -> tuple[Strategy, Mechanism]:
        """With noise on the devices for ``settings``."""
        mechanism = NoPrivacy(
            rounds=settings.participations, norm_bound=self.norm_bound, people=settings.expected_people
        )
        return dataclasses.replace(self, promise=settings), mechanism

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """The claim, against everybody who sees what one person sends."""
        if rounds == 0:
            return PrivacyStatement.public()
        if self.promise is None or not self.promise.private:
            return PrivacyStatement.not_private(rounds)
        return PrivacyStatement(
            unit="one enrolled person: all ratings, all rounds",
            adjacency="replace all answers of one person (local model)",
            mechanism=f"Gaussian noise on each person's own vector ({CAVEAT})",
            trust="nobody: devices add the noise",
            sensitivity=2 * self.own_bound,
            noise_multiplier=self.multiplier,
            participations=self.promise.participations,
            epsilon=self.promise.epsilon,
            delta=self.promise.delta,
            rho=zcdp(self.multiplier, self.promise.participations),
            sampling="no amplification claimed",
            accountant=f"plgl analytic Gaussian {version()}",
        )
