"""New people, asked one question after another, all at once: what a session does, batched over people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client.fit import Posterior, log_predictive, weigh
from client.likelihood import Evidence
from client.propose import Proposer, propose
from client.ratings import Kind
from common.prior import PopulationPrior
from simulations.people import AnswerNoise

TOP = 8  # recommendations that are judged
HELD_OUT = 40  # answers about unseen items, for the held-out likelihood
CANDIDATES = 500  # items considered for each question
DRAWS = 64
WIDTH = {Kind.LIKE: 1, Kind.STARS: 1, Kind.CHOICE: 2, Kind.BEST: 4, Kind.WORST: 4}
FLAT_SHARE = 0.2  # of the weight a new person gives to being unlike everybody, before any rating


@dataclass(frozen=True, kw_only=True)
class Learner:
    """How a new person's taste is learned: which features, which priors.

    Attributes:
        pool: ``(pool, p)`` float64 features of the items questions are made of.
        unseen: ``(unseen, p)`` features of the items to recommend from.
        flat: the prior without anybody.
        prior: the population prior, weighed against ``flat`` by evidence; ``None`` to learn from ``flat`` alone.
        thresholds: ``(4,)``.
    """

    pool: Tensor
    unseen: Tensor
    flat: PopulationPrior
    prior: PopulationPrior | None = None

    def learn(self, evidence: Evidence) -> Posterior:
        """Posterior of everybody's taste."""
        priors, shares = ([self.flat], [1.0])
        if self.prior is not None:
            priors, shares = [self.prior, self.flat], [1 - FLAT_SHARE, FLAT_SHARE]
        return weigh(
            evidence,
            torch.stack([prior.mean for prior in priors]),
            torch.stack([prior.covariance for prior in priors]),
            torch.tensor(shares, dtype=torch.float64),
            self.flat.thresholds,
        )


@dataclass(frozen=True)
class Interview:
    """What came out of it.

    Attributes:
        percentile: ``(people, points)`` mean true percentile of the recommendations, 0 to 1.
        log_likelihood: ``(people, points)`` mean log likelihood of held-out answers, in nats.
        items: ``(people, ratings, m)`` what was shown; values: ``(people, ratings)`` what was said.
        values: see above.
        recommended: ``(people, points, TOP)`` rows of the unseen items.
    """

    percentile: Tensor
    log_likelihood: Tensor
    items: Tensor
    values: Tensor
    recommended: Tensor


def interview(
    learner: Learner,
    pool_utilities: Tensor,
    unseen_utilities: Tensor,
    *,
    kind: Kind,
    proposer: Proposer,
    noise: AnswerNoise,
    points: Sequence[int],
    seed: int,
    advance: Callable[[int], None],
) -> Interview:
    """Ask everybody ``max(points)`` questions and look at the recommendations after each number in ``points``.

    The posterior is refitted after every answer. Randomness (candidates, answers, held-out questions) depends on
    ``seed`` only, so that learners are compared on the same draws.
    """
    people, pool = pool_utilities.shape
    generator = torch.Generator().manual_seed(seed)
    levels = noise.levels(people, generator)
    draws = torch.randn(DRAWS, learner.pool.shape[1], generator=generator, dtype=torch.float64)
    held_out = _held_out(learner, unseen_utilities, kind, noise, levels, generator)
    rank = (unseen_utilities.argsort(dim=1).argsort(dim=1) + 0.5) / unseen_utilities.shape[1]
    total, width = max(points), WIDTH[kind]
    items = torch.full((people, total, width), -1)
    values = torch.zeros(people, total, dtype=torch.int64)
    taken = torch.zeros(people, pool, dtype=torch.bool)
    everybody = torch.arange(people)[:, None]
    results = []
    for asked in range(total + 1):
        kinds = torch.full((people, asked), int(kind))
        posterior = learner.learn(Evidence.gather(kinds, values[:, :asked], items[:, :asked], learner.pool))
        if asked in points:
            results.append(_look(learner, posterior, held_out, rank, draws, generator))
        if asked == total:
            break
        step = torch.Generator().manual_seed(seed * 1_000_003 + asked)
        subset = torch.randperm(pool, generator=step)[:CANDIDATES]
        picked = propose(proposer, posterior.over(learner.pool[subset]), width, step, taken=taken[:, subset])
        items[:, asked] = subset[picked]
        taken[everybody, items[:, asked]] = True
        seen = pool_utilities[everybody, items[:, asked]]
        values[:, asked] = noise.answer(kind, seen[:, None], levels, step)[:, 0]
        advance(1)
    percentile, log_likelihood, recommended = (torch.stack(x, dim=1) for x in zip(*results, strict=True))
    return Interview(percentile, log_likelihood, items, values, recommended)


def _held_out(
    learner: Learner, unseen: Tensor, kind: Kind, noise: AnswerNoise, levels: Tensor, generator: torch.Generator
) -> Evidence:
    people, n = unseen.shape
    items = torch.randint(n, (people, HELD_OUT, WIDTH[kind]), generator=generator)
    utilities = unseen.gather(1, items.flatten(1)).reshape(items.shape)
    values = noise.answer(kind, utilities, levels, generator)
    return Evidence.gather(torch.full(values.shape, int(kind)), values, items, learner.unseen)


def _look(
    learner: Learner, posterior: Posterior, held_out: Evidence, rank: Tensor, draws: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    scores = posterior.scores(learner.unseen)
    ties = 1e-9 * torch.rand(scores.shape, generator=generator, dtype=scores.dtype)
    top = (scores + ties).topk(TOP, dim=1).indices
    likelihood = log_predictive(held_out, posterior, learner.flat.thresholds, draws)
    return rank.gather(1, top).mean(1), likelihood.mean(1), top
