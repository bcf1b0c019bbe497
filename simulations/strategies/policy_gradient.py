"""A policy that everybody raises together: each person's own policy gradient, clipped, added up and noised.

The policy of a round draws latents from the law tilted by a reward ``g(z) = mu . psi(z)``, psi the public features::

    q(z) ~ p(z) exp(g(z) / (price sd_p(g)))

which is the best policy there is for a reward g at that price of a nat of divergence from the latent law p (Levine
2018, eq. 9; `client.policy.goal`). Person i wants to like what comes out: ``f_i(z) = sigma(w_i . phi(z))`` is the
chance that they like z, w_i their own posterior mode, and their gradient of ``E_q f_i`` in the exponents of the policy
is a covariance under it (Williams 1992), in natural coordinates a regression (Kakade 2002, section 3)::

    u_i = F^(-1/2) Cov_q[psi, f_i - f] / s    F = Cov_q[psi]    f = sigma(mu . psi)    s = E_q[f (1 - f)]
    mu' = mu + step F^(-1/2) mean(u)

u_i is what person i sends, k numbers in log-odds; the second line is what the server does, a step of Fisher scoring.
The divergence is public, so its gradient is the server's: it keeps the tilt at its price. F, psi, q and s are the same
for everybody; a round of n people is two matrix products, ``(n, p) (p, m)`` and ``(n, m) (m, k)``.

Why so few numbers. For a reward that is linear in w_i the gradient of *any* policy, of a network with a million
weights too, is ``J(theta)' w_i`` with J public, so it lies in k dimensions and noise anywhere else would be wasted: k
numbers are all there is to send, and any policy can be made of their sum afterwards (post-processing, see
``client.policy.population``). A chance is bounded, so ``|u_i| <= sd_q(f_i - f) / s <= 1 / s`` before any clipping:
nobody counts for more by being sharp, and what is liked anyway counts little, which a mean of tastes does not see.

After the first round people are fitted around what everybody likes, ``w ~ N(mu, flat covariance)``, which was released
already, so this is free. The numbers were chosen on invented people (art, 2,000 people, epsilon 2, seeds 0 to 2): at
two nats from the latent law, four rounds gain 0.007 to 0.015 of a percentile over one, though each has twice the
noise; squares or products of features gain nothing, and a step of 2 swings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from client.fit import laplace, weigh
from client.likelihood import Evidence
from common.errors import SettingError
from simulations.crowd import Items
from simulations.interview import FLAT_SHARE
from simulations.strategies.base import State, Task
from simulations.strategies.dp_em_mixture import exact

REFERENCE = 1_000  # public items that expectations are taken over
DEFENSIVE = 0.1  # share of the latent law in the policy of a round, so that no direction goes unseen (Hesterberg 1995)
SHARPEST = 4.0  # log-odds: standard deviation of what everybody likes, at most; noise alone can take it no further
_SMALLEST = 1e-3  # variance of a direction over that of the widest


class Look(NamedTuple):
    """The policy of a round on the reference items.

    Attributes:
        chance: ``(m,)`` that everybody likes an item, as far as is known.
        directions: ``(m, k)``; a function's values ``(m,)`` times this are its whitened gradient, in log-odds.
        root: ``(k, k)`` F^(-1/2).
        slope: s, mean of ``chance (1 - chance)`` under the policy.
    """

    chance: Tensor
    directions: Tensor
    root: Tensor
    slope: Tensor


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """Settings of the strategy; see ``simulations.strategies.base.Strategy``.

    The state holds ``reward`` ``(k,)``, what everybody likes in log-odds by features, ``reference`` ``(m, k)`` features
    of public items, ``thresholds`` ``(4,)`` and the flat prior, all float64.

    Attributes:
        norm_bound: clip norm of a gradient, log-odds.
        rounds: releases.
        step: of the server; 1 is a whole step of Fisher scoring.
        price: of a nat of divergence, in standard deviations of the reward over the latent law; of the rounds only:
            what is made of the result has prices of its own.
    """

    norm_bound: float = 0.8
    rounds: int = 4
    step: float = 1.0
    price: float = 0.5
    name: ClassVar[str] = "policy-gradient"
    label: ClassVar[str] = "Policy gradient"

    def __post_init__(self) -> None:
        if not 0 < self.step <= 2:
            raise SettingError(f"step={self.step} must be > 0 and at most 2, beyond which it swings; try 1.0")
        if not 0.05 <= self.price <= 100:
            raise SettingError(f"price={self.price} must be between 0.05 and 100; try 0.5")

    def start(self, task: Task) -> State:
        """Everybody likes everything: the policy is the generator."""
        reference = task.items.features[:REFERENCE, :-1].double().cpu()
        flat = {"flat_mean": task.flat.mean, "flat_covariance": task.flat.covariance}
        return {
            "reward": torch.zeros(reference.shape[1], dtype=torch.float64),
            "reference": reference,
            "thresholds": task.flat.thresholds,
            **flat,
        }

    def view(self, items: Items, state: State) -> Tensor:
        """``(n, p)`` the features."""
        return items.features

    def updates(self, evidence: Evidence, state: State) -> Tensor:
        """``(people, k)`` gradients in whitened coordinates, log-odds; zeros of who said nothing."""
        told = exact(evidence)
        look = self.look(state)
        taste = laplace(told, centre(state), state["flat_covariance"], state["thresholds"]).mean
        seen = _with_constant(state["reference"]).to(taste)
        more = torch.sigmoid(taste @ seen.mT) - look.chance.to(taste)
        return more @ look.directions.to(taste)

    def look(self, state: State) -> Look:
        """What a round's gradients are taken at; public, the same for everybody."""
        reference, reward = state["reference"], state["reward"]
        chance = torch.sigmoid(reference @ reward + state["flat_mean"][-1])
        share = self.shares(state)
        centred = reference - share @ reference
        weighted = centred * share[:, None]
        values, vectors = torch.linalg.eigh(weighted.mT @ centred)
        floor = (_SMALLEST * values[-1]).clamp(min=torch.finfo(values.dtype).tiny)
        root = (vectors / torch.maximum(values, floor).sqrt()) @ vectors.mT
        slope = share @ (chance * (1 - chance))
        return Look(chance, weighted @ root / slope, root, slope)

    def shares(self, state: State) -> Tensor:
        """``(m,)`` chance of each reference item under the policy; they sum to one."""
        scores = state["reference"] @ state["reward"]
        spread = scores.std().clamp(min=1e-9)
        tilted = torch.softmax(scores / (self.price * spread), 0)
        return (1 - DEFENSIVE) * tilted + DEFENSIVE / len(tilted)

    def advance(self, state: State, mean: Tensor, round: int) -> State:
        """One step of Fisher scoring on what everybody likes."""
        look = self.look(state)
        reward = state["reward"] + self.step * (look.root @ mean.to(look.root))
        spread = float((state["reference"] @ reward).std())
        return {**state, "reward": reward * min(1.0, SHARPEST / max(spread, 1e-9))}

    def scores(self, evidence: Evidence, state: State, items: Items) -> Tensor:
        """Posterior mean scores around what everybody likes and around nothing, weighed by evidence."""
        told = exact(evidence)
        shares = torch.tensor([1 - FLAT_SHARE, FLAT_SHARE], dtype=torch.float64, device=told.features.device)
        means = torch.stack([centre(state), state["flat_mean"]])
        covariances = state["flat_covariance"].expand(2, -1, -1)
        return weigh(told, means, covariances, shares, state["thresholds"]).scores(items.features.double())


def centre(state: State) -> Tensor:
    """``(p,)`` the taste of everybody: the reward, and the bias of somebody who knows nobody."""
    return torch.cat([state["flat_mean"][:-1] + state["reward"], state["flat_mean"][-1:]])


def _with_constant(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
