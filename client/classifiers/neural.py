"""A few small neural networks on the features.

Each network has one hidden layer, starts from its own random directions and weighs the answers by its own random
weights (Bayesian bootstrap; Rubin 1981, Newton & Raftery 1994); where they disagree nobody has said anything yet
(deep ensembles; Lakshminarayanan et al. 2017). Trained from scratch on a few ratings such networks learn little more
than a line does: they are here to be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from client.classifiers.base import Answers, Points, Taste, TasteModel
from client.classifiers.beliefs import FactorBeliefs
from client.classifiers.labels import Inputs, Rows, heard, label
from client.classifiers.linear import finite
from common.errors import SettingError

MEMBERS = 5
HIDDEN = 16
STEPS = 20  # of L-BFGS; more learn no more


@dataclass(frozen=True, eq=False)
class Networks:
    """Networks with one hidden layer, computed together.

    Attributes:
        inner: ``(members, q, h)``; the constant among the inputs carries the bias.
        outer: ``(members, h, 1)``.
        bias: ``(members, 1, 1)``.
    """

    inner: Tensor
    outer: Tensor
    bias: Tensor

    def __call__(self, seen: Tensor) -> Tensor:
        """Scores ``(members, n)`` of inputs ``(n, q)``."""
        return (torch.tanh(seen @ self.inner) @ self.outer + self.bias).squeeze(-1)

    def penalty(self) -> Tensor:
        """Minus the log prior of all weights: a random network's scores have a standard deviation of about 2."""
        _, q, h = self.inner.shape
        return 0.5 * (q * self.inner.square().sum() + h / 4 * self.outer.square().sum() + self.bias.square().sum())

    def parameters(self) -> list[Tensor]:
        """What is trained."""
        return [self.inner, self.outer, self.bias]


@dataclass(frozen=True, eq=False)
class NeuralTaste(Taste):
    """Mean of the networks, with their disagreement."""

    inputs: Inputs
    networks: Networks
    doubt: float

    def score(self, points: Points) -> Tensor:
        """See `Taste`; float64."""
        return self.networks(self.inputs(points)).mean(0)

    def over(self, points: Points) -> FactorBeliefs:
        """See `Taste`."""
        scores = self.networks(self.inputs(points))
        mean = scores.mean(0)
        return FactorBeliefs(mean, (scores - mean) / math.sqrt(max(1, len(scores) - 1)), self.doubt)


class NeuralEnsemble(TasteModel):
    """A few small networks, trained from scratch whenever they are asked."""

    name: ClassVar[str] = "neural"

    def __init__(
        self,
        scale: Tensor | None = None,
        members: int = MEMBERS,
        hidden: int = HIDDEN,
        steps: int = STEPS,
        seed: int = 0,
    ) -> None:
        """Choose the networks.

        Args:
            scale: ``(k,)`` multiplies features.
            members: networks, >= 1.
            hidden: units of each, >= 1.
            steps: of training, >= 1.
            seed: of starts and bootstrap weights; the same seed trains the same networks.

        Raises:
            SettingError: a number is below 1.
        """
        if min(members, hidden, steps) < 1:
            raise SettingError(f"members={members}, hidden={hidden} and steps={steps} must be >= 1; try 5, 16 and 20")
        self.inputs, self.members, self.hidden = Inputs("features", scale), members, hidden
        self.steps, self.seed = steps, seed

    def fit(self, answers: Answers, context: int = 0) -> NeuralTaste:
        """See `TasteModel`.

        Raises:
            SettingError: a feature is not finite.
        """
        generator = torch.Generator().manual_seed(self.seed)
        rows, seen = label(heard(answers, context)), finite(self.inputs(answers.points).detach())
        networks = self._start(seen.shape[1], generator)
        if len(rows):
            chances = torch.rand(self.members, len(answers), generator=generator, dtype=torch.float64)
            weight = rows.weight * -torch.log1p(-chances)[:, rows.answer]
            self._train(networks, rows, seen, weight)
        for parameter in networks.parameters():
            parameter.requires_grad_(False)
        return NeuralTaste(self.inputs, networks, 1 / math.sqrt(1 + len(answers)))

    def _start(self, q: int, generator: torch.Generator) -> Networks:
        inner = torch.randn(self.members, q, self.hidden, generator=generator, dtype=torch.float64) / math.sqrt(q)
        outer = inner.new_zeros(self.members, self.hidden, 1)  # without answers every score is 0
        return Networks(inner, outer, inner.new_zeros(self.members, 1, 1))

    @torch.enable_grad()
    def _train(self, networks: Networks, rows: Rows, seen: Tensor, weight: Tensor) -> None:
        """All members at once by L-BFGS: as good as two hundred steps of Adam, five times as fast."""
        parameters = [parameter.requires_grad_() for parameter in networks.parameters()]
        descent = torch.optim.LBFGS(
            parameters, max_iter=self.steps, history_size=10, tolerance_grad=1e-4, line_search_fn="strong_wolfe"
        )
        target = rows.target.expand_as(weight)

        def loss() -> float:
            descent.zero_grad()
            scores = rows.contrast(networks(seen).unsqueeze(-1)).squeeze(-1)
            wrong = binary_cross_entropy_with_logits(scores, target, weight, reduction="sum")
            total = wrong + networks.penalty()
            total.backward()  # type: ignore[no-untyped-call]
            return float(total.detach())

        descent.step(loss)  # type: ignore[no-untyped-call]
