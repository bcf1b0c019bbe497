"""What a new person makes of a model that tells everybody the same: their own taste beside it, or without it.

A federated classifier gives one score ``g`` to an item, whoever looks. A new person's device knows more: the features
``phi`` that every method of the lab may use, the flat prior over tastes, and a few answers. It weighs two models by how
well each foretold the answers, as DP-EM weighs its prior against the flat one, and with the same ``FLAT_SHARE``::

    r = a g(x) + w . phi(x)      a ~ N(TRUST, DOUBT^2), w ~ flat prior      what everybody likes, and what I like
    r = w . phi(x)               w ~ flat prior                             what I like: ``LocalOnly``

with ``g`` standardised over the items to score. Without answers that is the order of the shared model.

How it was chosen: on invented people only, those of ``plgl simulate privacy`` under master seeds 1001 and 1002 (300
and 1,000 people, epsilon 1 and infinite, after 2, 5, 10 and 20 answers), by the mean percentile over all that and three
classifiers; the seeds of reports had no part in it. The posterior mode of the classifier's weights, or of its head,
around the shared ones understood less than ``LocalOnly`` from 5 answers on, and so did gradient steps. Trust between
0.2 and 0.4, doubt between 0.3 and 0.6 and a share of 0.2 or 0.5 for the second model were within half a point of each
other; more trust, half the variance for ``w`` and a personal head as a third model were worse.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from client.fit import weigh
from client.likelihood import Evidence
from common.prior import PopulationPrior
from simulations.crowd import Items
from simulations.interview import FLAT_SHARE
from simulations.strategies.base import State
from simulations.strategies.dp_em_mixture import exact

TRUST, DOUBT = 0.2, 0.4
"""Mean and standard deviation of the weight of the shared model, in scores (log-odds) for a typical item."""

_NOTHING = 1e-4  # deviation of a weight that is as good as zero


def known(flat: PopulationPrior) -> State:
    """What a state holds for newcomers: ``flat_mean`` ``(p,)``, ``flat_covariance`` ``(p, p)``, ``thresholds``."""
    return {"flat_mean": flat.mean, "flat_covariance": flat.covariance, "thresholds": flat.thresholds}


def looked_at(items: Items) -> Tensor:
    """``(n, d + 1 + p)`` latents, a constant 1 and features, in the dtype of the latents.

    The first ``d + 1`` columns are what a classifier is trained on, the others are for newcomers.
    """
    return torch.cat([with_constant(items.latents), items.features.to(items.latents)], dim=1)


def with_constant(latents: Tensor) -> Tensor:
    """``(n, d + 1)``: a column of ones last, for the bias."""
    return torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)


def own_scores(evidence: Evidence, shared: Callable[[Tensor], Tensor], state: State, items: Items) -> Tensor:
    """How much new people will like items, by the shared model and their own answers.

    Args:
        evidence: their answers, perhaps none, over ``looked_at`` of the items they are about.
        shared: ``(..., d + 1)`` float64 latents with a constant to the model's scores ``(...)``.
        state: holds what ``known`` gives.
        items: what to score.

    Returns:
        ``(people, n)`` float64 posterior mean scores, up to a number that is the same for all items.
    """
    p = state["flat_mean"].numel()
    told = exact(evidence)
    heard, unseen = shared(told.features[..., :-p]), shared(with_constant(items.latents).to(told.features))
    centre, width = unseen.mean(), unseen.std().clamp(min=1e-9)
    columns = told.features[..., -p:], ((heard - centre) / width).unsqueeze(-1)
    shown = items.features.to(told.features), ((unseen - centre) / width).unsqueeze(-1)
    shares = torch.tensor([1 - FLAT_SHARE, FLAT_SHARE], dtype=torch.float64, device=unseen.device)
    seen = told.with_features(torch.cat(columns, dim=-1))
    return weigh(seen, *_priors(state), shares, state["thresholds"]).scores(torch.cat(shown, dim=-1))


def _priors(state: State) -> tuple[Tensor, Tensor]:
    """Means ``(2, p + 1)`` and covariances ``(2, p + 1, p + 1)``: with the shared model, and without."""
    p = state["flat_mean"].numel()
    means, covariances = state["flat_mean"].new_zeros(2, p + 1), state["flat_mean"].new_zeros(2, p + 1, p + 1)
    means[:, :p], covariances[:, :p, :p] = state["flat_mean"], state["flat_covariance"]
    means[0, p] = TRUST
    covariances[0, p, p], covariances[1, p, p] = DOUBT**2, _NOTHING**2
    return means, covariances
