"""DP-EM with a mixture of priors: a population of a few archetypes, each a Gaussian law of tastes.

A person's share in each archetype is how well its prior foretells their answers (``client.fit.laplace`` under all of
them at once)::

    r_c ~ weight_c p(answers | archetype c)                     responsibilities, summing to one
    t_c = R^-1 (m_c - mean_c)                                   posterior mode under archetype c, whitened
    U_c = R^-1 V_c R^-1 + t_c t_c' - I
    update = [r_c - weight_c] and [r_c t_c] for every c, then svec(sum over c of r_c U_c)

and the M-step is that of a mixture of hierarchical Gaussians (Dempster, Laird & Rubin 1977; McLachlan & Peel 2000,
section 3.2). There is one clip bound for all of it, and whoever knows nothing beyond the mixture sends zeros.

The archetypes share one covariance unless told otherwise: ``c (p + 1) + p (p + 1) / 2`` numbers, 662 for three
archetypes and p = 33, where a covariance each takes 1785 and three times the noise in every one of them.

Symmetry is broken in public. The first rounds are plain DP-EM (all weight on the first archetype), and what they
released is split along the directions in which tastes vary most, keeping its mean and covariance: post-processing.

How many archetypes: ``simulations.strategies.archetypes`` chooses by held-out likelihood on invented people. On real
people such a choice would be one more release; this way nobody's answers enter it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from client.fit import LaplaceFit, Posterior, laplace, weigh
from client.likelihood import Evidence
from common.errors import SettingError
from common.update import svec, unsvec
from server.population import next_covariance
from simulations.crowd import Items
from simulations.interview import FLAT_SHARE
from simulations.strategies.base import State, Task

SMALLEST_WEIGHT = 0.02  # an archetype never dies, so that noise cannot kill one for good
SPLIT = 0.5  # share of the leading variances that becomes distance between the archetypes


@dataclass(frozen=True, kw_only=True)
class DpEmMixture:
    """Settings of the strategy; see ``simulations.strategies.base.Strategy``.

    The state holds ``mean`` ``(c, p)``, ``covariance`` ``(c, p, p)``, ``weight`` ``(c,)``, ``thresholds`` ``(4,)`` and
    the flat prior it started from, all float64.

    Attributes:
        archetypes: number c.
        norm_bound: clip norm of an update in whitened coordinates.
        rounds: releases, of which the first ``alone`` are plain DP-EM.
        alone: see above.
        step: learning rate of the M-step.
        tied: whether all archetypes share one covariance.
    """

    archetypes: int = 3
    norm_bound: float = 6.0
    rounds: int = 6
    alone: int = 2
    step: float = 2.0
    tied: bool = True
    name: str = "dp-em-mixture"

    def __post_init__(self) -> None:
        if not 1 <= self.archetypes <= 50:
            raise SettingError(f"archetypes={self.archetypes} must be between 1 and 50; try 3")
        if self.alone < 1:
            raise SettingError(f"alone={self.alone} must be >= 1: the first round cannot tell archetypes apart")
        if not 0 < self.step <= 10:
            raise SettingError(f"step={self.step} must be > 0 and at most 10; try 2.0")

    @property
    def label(self) -> str:
        """For people."""
        return f"DP-EM, {self.archetypes} archetypes"

    def start(self, task: Task) -> State:
        """The flat prior for every archetype, all the weight on the first."""
        flat, c = task.flat, self.archetypes
        return {
            "mean": flat.mean.expand(c, -1).clone(),
            "covariance": flat.covariance.expand(c, -1, -1).clone(),
            "weight": torch.eye(c, dtype=torch.float64)[0],
            "thresholds": flat.thresholds,
            "flat_mean": flat.mean,
            "flat_covariance": flat.covariance,
        }

    def view(self, items: Items, state: State) -> Tensor:
        """``(n, p)`` the features."""
        return items.features

    def updates(self, evidence: Evidence, state: State) -> Tensor:
        """``(people, c + c p + g p (p + 1) / 2)``, with g = 1 where the covariance is shared and c where it is not."""
        fit = laplace(exact(evidence), state["mean"], state["covariance"], state["thresholds"])
        weight = state["weight"].to(fit.mean)
        share = torch.softmax(fit.log_evidence + weight.log()[:, None], dim=0)  # (c, people)
        t, u = _whitened(fit, state)
        told = share[:, :, None, None] * u
        spread = svec(told.sum(0, keepdim=True) if self.tied else told)
        parts = (share - weight[:, None]).T, share[..., None] * t, spread
        return torch.cat([part if part.dim() == 2 else part.transpose(0, 1).flatten(1) for part in parts], dim=1)

    def advance(self, state: State, mean: Tensor, round: int) -> State:
        """One M-step; after the last round alone also the split."""
        c, p = state["mean"].shape
        told, t, spread = torch.split(mean, [c, c * p, (1 if self.tied else c) * p * (p + 1) // 2])
        t, u = t.reshape(c, p), unsvec(spread.reshape(-1, p * (p + 1) // 2), p)
        if round <= self.alone:
            moved = {**state, **self._moved(state, t[:1], u[:1] - t[:1, :, None] * t[:1, None, :])}
            return self._split(moved) if round == self.alone else moved
        share = (state["weight"] + told).clamp(min=SMALLEST_WEIGHT)[:, None]
        t = t / share
        outer = share[:, :, None] * t[:, :, None] * t[:, None, :]
        change = u - outer.sum(0) if self.tied else (u - outer) / share[:, :, None]
        weight = (state["weight"] + self.step * told).clamp(min=SMALLEST_WEIGHT)
        return {**state, **self._moved(state, t, change), "weight": weight / weight.sum()}

    def _moved(self, state: State, t: Tensor, change: Tensor) -> State:
        """Means and covariances after a step, as ``server.population.next_prior`` does it for one."""
        values, vectors = torch.linalg.eigh(state["covariance"])
        root = (vectors * values.sqrt().unsqueeze(-2)) @ vectors.mT
        mean = state["mean"] + self.step * (root @ t.unsqueeze(-1)).squeeze(-1)
        return {"mean": mean, "covariance": next_covariance(root, change, self.step)}

    def _split(self, state: State) -> State:
        """One Gaussian as several of equal weight, with the same mean and covariance altogether.

        The means are the corners of a regular simplex in the leading directions, those in which people's tastes vary
        most by the measure of the flat prior.
        """
        c, p = state["mean"].shape
        mean, covariance = state["mean"][0], state["covariance"][0]
        lower = torch.linalg.cholesky(state["flat_covariance"])
        inverse = torch.linalg.inv(lower)
        values, vectors = torch.linalg.eigh(inverse @ covariance @ inverse.T)
        leading = min(c - 1, p)
        axes = lower @ vectors[:, p - leading :] * (SPLIT * values[p - leading :]).sqrt()  # (p, leading)
        corners = _simplex(c)[:, :leading]
        within = covariance - axes @ (corners.T @ corners / c) @ axes.T
        weight = torch.full((c,), 1 / c, dtype=torch.float64)
        moved = {"mean": mean + corners @ axes.T, "covariance": within.expand(c, p, p).clone(), "weight": weight}
        return {**state, **moved}

    def scores(self, evidence: Evidence, state: State, items: Items) -> Tensor:
        """Posterior mean scores under the archetypes and the flat prior, weighed by evidence."""
        return self.posterior(evidence, state).scores(items.features.double())

    def posterior(self, evidence: Evidence, state: State) -> Posterior:
        """Posterior of the tastes of new people; float64."""
        weight = torch.cat([(1 - FLAT_SHARE) * state["weight"], state["weight"].new_tensor([FLAT_SHARE])])
        mean = torch.cat([state["mean"], state["flat_mean"][None]])
        covariance = torch.cat([state["covariance"], state["flat_covariance"][None]])
        return weigh(exact(evidence), mean, covariance, weight, state["thresholds"])


def exact(evidence: Evidence) -> Evidence:
    """The same evidence in float64."""
    return dataclasses.replace(evidence, features=evidence.features.double(), weight=evidence.weight.double())


def _whitened(fit: LaplaceFit, state: State) -> tuple[Tensor, Tensor]:
    """``t`` ``(c, people, p)`` and ``U`` ``(c, people, p, p)``, as in ``common.update``."""
    values, vectors = torch.linalg.eigh(state["covariance"])
    whiten = ((vectors / values.sqrt().unsqueeze(-2)) @ vectors.mT).to(fit.mean)
    t = (fit.mean - state["mean"].to(fit.mean)[:, None]) @ whiten
    u = whiten[:, None] @ fit.covariance @ whiten[:, None] + t.unsqueeze(-1) * t.unsqueeze(-2)
    u.diagonal(dim1=-2, dim2=-1).sub_(1)
    return t, u


def _simplex(corners: int) -> Tensor:
    """``(c, c - 1)`` corners of a regular simplex around zero whose mean outer product is the identity (Helmert)."""
    rows = torch.zeros(corners, max(corners - 1, 0), dtype=torch.float64)
    for axis in range(1, corners):
        scale = math.sqrt(corners / (axis * (axis + 1)))
        rows[:axis, axis - 1], rows[axis, axis - 1] = scale, -axis * scale
    return rows
