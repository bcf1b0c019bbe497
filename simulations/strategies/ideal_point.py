"""DP-EM for ideal-point tastes: people who like things near a point, not far out in a direction.

An ideal point (Coombs 1964; Davison 1983, "Multidimensional scaling", chapter 9) is a score that falls off with the
distance from it. Along any direction ``a`` of the features ``x``::

    -(a . x - c)^2 = -sum_ij a_i a_j x_i x_j + 2 c a . x - c^2

is quadratic in ``x`` and *linear* in ``[x, products x_i x_j, 1]``. So a taste that is linear in these features can be
any sum of ideal points, several peaks and valleys included, every likelihood stays concave, and DP-EM runs as it is on
longer features. All ``k (k + 1) / 2`` products would make an update of k^4 / 8 numbers, so products are taken of the
few leading features only: those by which the flat prior expects scores to vary most. What an ideal point owes to the
other features is left out.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch
from torch import Tensor

from client.likelihood import Evidence
from common.errors import SettingError
from common.prior import PopulationPrior
from simulations.crowd import Items
from simulations.strategies.base import State, Task
from simulations.strategies.dp_em import DpEm


@dataclass(frozen=True, kw_only=True)
class IdealPoint:
    """Settings of the strategy; see ``simulations.strategies.base.Strategy``.

    The state is that of ``inner`` and the public ``basis_leading``, ``basis_centre``, ``basis_scale``,
    ``product_centre`` and ``product_scale`` that make the products, from the items alone.

    Attributes:
        leading: features whose products are added; ``leading (leading + 1) / 2`` more weights.
        curvature: how much of a score the flat prior expects to be quadratic, as a ratio of standard deviations.
        inner: DP-EM on the longer features.
    """

    leading: int = 6
    curvature: float = 0.5
    inner: DpEm = field(default_factory=DpEm)
    name: str = "ideal-point"
    label: str = "DP-EM, ideal points"

    def __post_init__(self) -> None:
        if self.leading < 1 or not self.curvature > 0:
            raise SettingError(f"leading={self.leading} must be >= 1 and curvature={self.curvature} > 0; try 6 and 0.5")

    @property
    def norm_bound(self) -> float:
        """Of the inner strategy."""
        return self.inner.norm_bound

    @property
    def rounds(self) -> int:
        """Of the inner strategy."""
        return self.inner.rounds

    def start(self, task: Task) -> State:
        """The flat prior over features and products."""
        basis = self._basis(task)
        items = extended(task.items, basis)
        flat = self._flat(task, items.features.shape[1])
        return {**self.inner.start(dataclasses.replace(task, items=items, flat=flat)), **basis}

    def _basis(self, task: Task) -> State:
        """Which features, and the numbers that make them and their products standard over the task's items."""
        features = task.items.features.double()
        deviation = features[:, :-1].std(0)
        expected = deviation * task.flat.covariance.diagonal()[:-1].sqrt().to(deviation)
        leading = expected.topk(min(self.leading, len(expected))).indices
        centre, scale = features[:, leading].mean(0), deviation[leading].clamp(min=1e-9)
        products = _products((features[:, leading] - centre) / scale)
        basis = {"basis_leading": leading, "basis_centre": centre, "basis_scale": scale}
        spread = {"product_centre": products.mean(0), "product_scale": products.std(0).clamp(min=1e-9)}
        return {name: value.cpu() for name, value in {**basis, **spread}.items()}

    def _flat(self, task: Task, parameters: int) -> PopulationPrior:
        """The task's flat prior with independent weights of the products, their bias last."""
        p, added = task.flat.parameters, parameters - task.flat.parameters
        linear = task.items.features.double().cpu()[:, :-1]
        linear = linear - linear.mean(0)
        variance = (linear @ task.flat.covariance[:-1, :-1] * linear).sum(1).mean()
        order = torch.cat([torch.arange(p - 1), torch.arange(p, parameters), torch.tensor([p - 1])])
        wide = torch.eye(parameters, dtype=torch.float64) * (self.curvature**2 * variance / added)
        wide[:p, :p] = task.flat.covariance
        mean = torch.cat([task.flat.mean, task.flat.mean.new_zeros(added)])
        return dataclasses.replace(task.flat, mean=mean[order], covariance=wide[order][:, order])

    def view(self, items: Items, state: State) -> Tensor:
        """As the inner strategy sees the longer features."""
        return self.inner.view(extended(items, state), state)

    def updates(self, evidence: Evidence, state: State) -> Tensor:
        """Those of the inner strategy."""
        return self.inner.updates(evidence, state)

    def advance(self, state: State, mean: Tensor, round: int) -> State:
        """That of the inner strategy."""
        return {**state, **self.inner.advance(state, mean, round)}

    def scores(self, evidence: Evidence, state: State, items: Items) -> Tensor:
        """Those of the inner strategy."""
        return self.inner.scores(evidence, state, extended(items, state))


def extended(items: Items, basis: State) -> Items:
    """The items with the products of their leading features before the constant 1."""
    features = items.features.double()
    made = {name: value.to(features.device) for name, value in basis.items() if name.startswith(("basis", "product"))}
    standard = (features[:, made["basis_leading"]] - made["basis_centre"]) / made["basis_scale"]
    products = (_products(standard) - made["product_centre"]) / made["product_scale"]
    return Items(torch.cat([features[:, :-1], products, features[:, -1:]], dim=1).to(items.features), items.latents)


def _products(standard: Tensor) -> Tensor:
    """``(n, q (q + 1) / 2)`` products of the columns with each other and themselves."""
    rows, columns = torch.triu_indices(standard.shape[1], standard.shape[1], device=standard.device)
    return standard[:, rows] * standard[:, columns]
