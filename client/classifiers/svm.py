"""Support vector machines: ranking where answers compare, classifying where they do not.

A preference is a difference of two items (ranking SVM; Herbrich et al. 2000, section 3; Joachims 2002, eq. 12-14) and
a like is an item, so both are one hinge loss on contrasts, with any kernel. Decision values become log-odds by Platt's
scaling (1999) on values that were held out, with a prior for the slope; how far the machines of the folds disagree
gives the uncertainty (delete-a-group jackknife; Efron & Stein 1981).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from sklearn.svm import SVC  # type: ignore[import-untyped]
from torch import Tensor

from client.classifiers.balance import class_balanced
from client.classifiers.base import Answers, Points, Taste, TasteModel
from client.classifiers.beliefs import FactorBeliefs
from client.classifiers.labels import Inputs, View, compact, heard, label
from client.classifiers.linear import finite
from client.fit import laplace
from common.errors import SettingError
from common.prior import DEFAULT_THRESHOLDS

Kernel = Literal["linear", "rbf"]

FOLDS = 5
MOST_ANSWERS = 500  # the newest are used: a kernel matrix grows with the square
LEAST_SLOPE = 0.05  # log-odds for one standard deviation of the decision value


@dataclass(frozen=True, eq=False)
class MachineTaste(Taste):
    """Decision function of a support vector machine, in log-odds.

    Attributes:
        model: whose kernel and inputs are used.
        anchors: ``(a, q)`` items the machine knows.
        machines: decision functions of the machine and of those of the folds.
        slope: log-odds for each unit of the decision value; offset: log-odds where it is 0.
        offset: see above.
        doubt: standard deviation of what the machine cannot know, log-odds.
    """

    model: SupportVectorMachine
    anchors: Tensor
    machines: Decisions
    slope: float
    offset: float
    doubt: float

    def _values(self, points: Points) -> Tensor:
        """Scores ``(1 + folds, n)``."""
        near = self.model.kernel(self.model.inputs(points), self.anchors)
        return self.slope * self.machines(near).T + self.offset

    def score(self, points: Points) -> Tensor:
        """See `Taste`; float64."""
        return self._values(points)[0]

    def over(self, points: Points) -> FactorBeliefs:
        """See `Taste`."""
        values = self._values(points)
        folds = len(values) - 1
        widen = math.sqrt((folds - 1) / folds) if folds else 0.0  # of the sum of squares, Efron & Stein 1981, eq. 1.6
        return FactorBeliefs(values[0], widen * (values[1:] - values[0]), self.doubt)


@dataclass(frozen=True, eq=False)
class Decisions:
    """Decision functions over the same anchors, linear in the kernel.

    Attributes:
        dual: ``(machines, a)`` coefficients.
        constant: ``(machines,)``.
    """

    dual: Tensor
    constant: Tensor

    def __call__(self, near: Tensor) -> Tensor:
        """Decision values ``(n, machines)`` from kernels ``(n, a)``."""
        return near @ self.dual.T + self.constant


class SupportVectorMachine(TasteModel):
    """A support vector machine on latents or features."""

    name: ClassVar[str] = "svm"

    def __init__(
        self,
        kernel: Kernel = "linear",
        view: View = "features",
        c: float | None = None,
        gamma: float = 1e-4,
        scale: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Choose a machine.

        Args:
            kernel: ``linear`` is the mean product of the inputs, ``rbf`` is ``exp(-gamma |x - y|^2)``.
            view: latents or features.
            c: how much a wrong answer costs, > 0; None for 1 (linear) and 10 (rbf).
            gamma: of ``rbf``, > 0.
            scale: ``(k,)`` multiplies features.
            seed: which answers are held out together for the scaling.

        Raises:
            SettingError: a number is out of range.
        """
        cost = c if c is not None else {"linear": 1.0, "rbf": 10.0}[kernel]
        if not (cost > 0 and gamma > 0):
            raise SettingError(f"c={cost} and gamma={gamma} must be > 0; try 10 and 1e-4")
        self.kind, self.c, self.gamma, self.seed = kernel, cost, gamma, seed
        self.inputs = Inputs(view, scale)

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """Likeness ``(n, m)`` of inputs ``(n, q)`` and ``(m, q)``."""
        if self.kind == "linear":
            return a @ b.T / a.shape[1]
        squared = a.square().sum(-1, keepdim=True) - 2 * a @ b.T + b.square().sum(-1)
        return torch.exp(-self.gamma * squared.clamp(min=0))

    def fit(self, answers: Answers, context: int = 0) -> MachineTaste:
        """See `TasteModel`.

        Raises:
            SettingError: a latent or a feature is not finite.
        """
        newest = slice(max(0, len(answers) - MOST_ANSWERS), len(answers))
        answers = compact(heard(answers, context).select(newest))
        anchors = finite(self.inputs(answers.points).detach())
        doubt = 1 / math.sqrt(1 + len(answers))
        if len(answers) == 0:
            nobody = Decisions(anchors.new_zeros(1, 0), anchors.new_zeros(1))
            return MachineTaste(self, anchors, nobody, 1.0, 0.0, doubt)
        gram, fold = self.kernel(anchors, anchors), self._folds(len(answers))
        parts = [torch.ones_like(fold, dtype=torch.bool)]
        parts += [fold != k for k in range(min(FOLDS, len(answers)))] if len(answers) > 1 else []
        machines = self._machines([answers.select(part) for part in parts], gram)
        slope, offset = _calibrated(answers, machines(gram), fold)
        return MachineTaste(self, anchors, machines, slope, offset, doubt)

    def _folds(self, answers: int) -> Tensor:
        order = torch.randperm(answers, generator=torch.Generator().manual_seed(self.seed))
        return order % min(FOLDS, answers)

    def _machines(self, parts: list[Answers], gram: Tensor) -> Decisions:
        """Machines trained on parts of the answers, with likes and dislikes balanced in each.

        They see the kernel around its centre, so that a constant share of it (nearly all, where gamma is small) cannot
        drown the rest, and beside it a constant as strong as the rest is on average.
        """
        centre = gram.mean(0)
        apart = gram - centre - centre[:, None] + centre.mean()
        constant = apart.diagonal().mean()
        dual = torch.stack([self._machine(class_balanced(part), apart + constant) for part in parts])
        total = dual.sum(1)
        return Decisions(dual - total[:, None] / len(gram), (centre.mean() + constant) * total - dual @ centre)

    def _machine(self, answers: Answers, gram: Tensor) -> Tensor:
        """Coefficients ``(a,)`` of the items in the decision function."""
        rows = label(answers)
        index, sign, weight = rows.signed()
        contrast = sign[:, None] * rows.contrast(torch.eye(len(gram), dtype=gram.dtype))[index]  # (s, a)
        # A contrast and its mirror image say the same. With both, both classes are there, and the intercept, which
        # would make no sense for a difference, is zero by symmetry.
        both = torch.cat([contrast, -contrast])
        machine = SVC(C=self.c, kernel="precomputed", tol=1e-4)
        y = np.repeat([1, 0], len(contrast))
        machine.fit((both @ gram @ both.T).numpy(), y, sample_weight=weight.repeat(2).numpy() / 2)
        support = torch.from_numpy(machine.support_).long()
        dual: Tensor = torch.from_numpy(machine.dual_coef_[0]) @ both[support]
        return dual


def _calibrated(answers: Answers, values: Tensor, fold: Tensor) -> tuple[float, float]:
    """Slope and offset that turn decision values into log-odds (Platt 1999).

    Args:
        answers: about a items.
        values: ``(a, 1 + folds)`` decision values; each answer is judged by the machine that did not hear it.
        fold: ``(t,)`` which that is.
    """
    spread = float(values[:, 0].std()) if len(values) > 1 else 0.0
    spread = spread if spread > 1e-9 else 1.0
    if values.shape[1] == 1:
        return 1 / spread, 0.0
    there = (answers.items >= 0).to(values)
    held_out = there * values[answers.items.clamp(min=0), 1 + fold[:, None]] / spread
    evidence = answers.evidence().with_features(torch.stack([held_out, there], dim=-1)[None])
    prior = values.new_tensor([1.0, 0.0]), torch.eye(2, dtype=values.dtype)
    found = laplace(evidence, *prior, values.new_tensor(DEFAULT_THRESHOLDS)).mean[0]
    return max(LEAST_SLOPE, float(found[0])) / spread, float(found[1])
