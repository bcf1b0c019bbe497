"""Item-level DP-SGD on the device: every single rating is protected, a person as a whole is not.

A device trains the linear classifier by DP-SGD (Abadi et al. 2016, algorithm 1): in every step the gradient of each
answer is clipped to a norm, Gaussian noise is added to their sum, and the sum is divided by a number fixed beforehand.
All its answers are in every step, so nothing is claimed for sampling. The same numbers as Opacus' ``GradSampleModule``
and ``DPOptimizer`` give for one person (a test), here for everybody at once: the gradient of an answer about ``m``
items is ``X^T s`` with ``s`` the slopes of their scores, so its norm is that of ``s`` under ``X X^T``.

Noise is on the device, so the server needs no trust and adds none; what is protected is one rating, and the statement
says that. Who wants people protected takes another strategy.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from client.likelihood import Evidence
from common.errors import SettingError
from common.privacy.accounting import noise_multiplier, zcdp
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from common.version import version
from simulations.crowd import Items
from simulations.mechanisms import Mechanism, NoPrivacy
from simulations.strategies.base import State, Strategy, Task
from simulations.strategies.classifiers import Linear
from simulations.strategies.device_noise import CAVEAT, DeviceNoise
from simulations.strategies.local_training import Lesson
from simulations.strategies.newcomers import known, looked_at, own_scores

TINY = 1e-6  # added to norms before dividing, as Opacus does


@dataclass(frozen=True, kw_only=True)
class ItemDp:
    """Settings of the strategy; see ``simulations.strategies.base.Strategy``.

    The state holds ``weights`` ``(q,)``, what ``newcomers.known`` gives and ``ratings``, the divisor of a step, all
    float64.

    Attributes:
        rating_bound: clip norm of the gradient of one answer.
        promise: what the noise is for; ``None`` for no noise and no claim.
        rounds: releases.
        steps: local gradient steps; rate: their length.
        rate: see above.
        classifier: what is trained.
        norm_bound: of a person's change of weights; so large that the engine clips nobody.
        noise: its source.
    """

    rating_bound: float = 1.0
    promise: PrivacySettings | None = None
    rounds: int = 4
    steps: int = 2
    rate: float = 0.5
    classifier: Linear = field(default_factory=Linear)
    norm_bound: float = 2.0**15
    noise: DeviceNoise = field(default_factory=DeviceNoise, compare=False)
    name: str = "item-dp"
    label: str = "Item-level DP-SGD"

    def __post_init__(self) -> None:
        if not 0 < self.rating_bound < math.inf or self.steps < 1 or not self.rate > 0:
            raise SettingError(
                f"rating_bound={self.rating_bound} and rate={self.rate} must be > 0, steps={self.steps} >= 1"
            )

    @property
    def multiplier(self) -> float:
        """Standard deviation of the noise of a step, in units of ``rating_bound``; a rating is in all of the steps."""
        if self.promise is None or not self.promise.private:
            return 0.0
        return noise_multiplier(self.promise.epsilon, self.promise.delta, self.promise.participations * self.steps)

    def start(self, task: Task) -> State:
        """Zeros."""
        weights = self.classifier.start(task.items.latents.shape[1] + 1, torch.Generator())
        ratings = torch.tensor(float(task.ratings), dtype=torch.float64)
        return {"weights": weights, **known(task.flat), "ratings": ratings}

    def view(self, items: Items, state: State) -> Tensor:
        """``(n, d + 1 + p)`` latents, a constant 1, and features for newcomers, in the dtype of the latents."""
        return looked_at(items)

    def updates(self, evidence: Evidence, state: State) -> Tensor:
        """``(people, q)`` changes of the weights, noise included."""
        seen = evidence.with_features(evidence.features[..., : state["weights"].numel()])
        lesson = Lesson.of(seen, state["thresholds"], mean=False)
        gram = seen.features @ seen.features.mT  # (people, t, m, m)
        weights = state["weights"].to(lesson.rows).expand(evidence.people, -1).clone()
        multiplier = self.multiplier
        for _ in range(self.steps):
            gradient = self._clipped(lesson, gram, weights)
            if multiplier > 0:
                gradient.add_(self.noise.like(gradient), alpha=multiplier * self.rating_bound)
            weights.add_(gradient, alpha=self.rate / float(state["ratings"]))
        return weights - state["weights"].to(weights)

    def _clipped(self, lesson: Lesson, gram: Tensor, weights: Tensor) -> Tensor:
        """``(people, q)`` sum over answers of their clipped gradients."""
        scores = torch.bmm(lesson.rows, weights.unsqueeze(2)).squeeze(2)
        slope = lesson.slope(scores).reshape(gram.shape[:3])
        square = (slope.unsqueeze(-2) @ gram @ slope.unsqueeze(-1)).squeeze(-1)  # (people, t, 1)
        factor = (self.rating_bound / (square.clamp(min=0).sqrt() + TINY)).clamp(max=1)
        return torch.bmm((slope * factor).flatten(1).unsqueeze(1), lesson.rows).squeeze(1)

    def advance(self, state: State, mean: Tensor, round: int) -> State:
        """The server moves by the mean change."""
        return {**state, "weights": state["weights"] + mean}

    def scores(self, evidence: Evidence, state: State, items: Items) -> Tensor:
        """Of the global model and the person's own answers, which stay at home and need no noise."""
        return own_scores(evidence, partial(self.classifier.scores, state["weights"]), state, items)

    def keeping(self, settings: PrivacySettings, task: Task) -> tuple[Strategy, Mechanism]:
        """With noise on the devices for ``settings``, each rating counting for ``participations * steps`` releases."""
        mechanism = NoPrivacy(
            rounds=settings.participations, norm_bound=self.norm_bound, people=settings.expected_people
        )
        return dataclasses.replace(self, promise=settings), mechanism

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """The claim: for one rating."""
        if rounds == 0:
            return PrivacyStatement.public()
        if self.promise is None or not self.promise.private:
            return PrivacyStatement.not_private(rounds)
        steps = self.promise.participations * self.steps
        return PrivacyStatement(
            unit="one rating, not one person",
            adjacency="add or remove one of several ratings of a person",
            mechanism=f"Gaussian noise on each clipped gradient step of a device ({CAVEAT})",
            trust="nobody: devices add the noise",
            sensitivity=self.rating_bound,
            noise_multiplier=self.multiplier,
            participations=steps,
            epsilon=self.promise.epsilon,
            delta=self.promise.delta,
            rho=zcdp(self.multiplier, steps),
            sampling="no amplification claimed",
            accountant=f"plgl analytic Gaussian {version()}",
        )
