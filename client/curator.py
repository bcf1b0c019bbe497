"""What one person sees next: candidates near what they like and all over the space, and a choice among them.

Candidates are half samples of the space (a fixed pool, scored in full) and half mixtures around the best found so far,
``z = sqrt(d) (a v + sqrt(1 - a^2) x)``, which keep the norm. ``client.propose`` chooses among them. Questions about the
best alone say little of all the rest, so that every other comparison is between the best of a few items drawn anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from client.classifiers.base import Points, Taste
from client.lens import Lens
from client.memory import Rated
from client.propose import THOMPSON_SPREAD, propose
from client.ratings import ANSWERS, Kind
from client.search.base import Found, Search, Task
from client.search.distribution import diverse
from common.latents import LatentSpace, spread_out

POOL = 20_000
FROM_POOL, ROUND_BEST = 200, 200  # candidates for one question
PREPARED = 100  # more candidates among the items that are drawn already, where there are any
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # odd; spreads numbers over 64 bits (Knuth 1998, section 6.4)
AT_ONCE = 8  # prepared items there must be for each one of a first question
SURPRISE = 0.4  # of a wall: looks varied, costs two points of percentile after 40 answers; at 0 all is alike
JOINTLY = 200  # candidates of a batch: drawing their scores jointly costs the cube
PLACES = 5  # best places that candidates are mixed around
NEAREST, FARTHEST = 0.97, 0.3  # cosines of mixtures to their place
FIRST_LOOKS = 1  # questions that are spread out, when nothing at all is known; five are worse, up to ten answers
ROAMING = 6  # answers from when on every other comparison is among a few typical items drawn anywhere
ANYWHERE = 24  # of those; after 40 answers a stream gains 4 to 11 points of percentile, a wall nothing that is certain
STREAK = 3  # "neither" in a row that moves the search elsewhere
EXPLOIT = 0.7
LEADING = 8  # features that an extreme picture shows in most
NARROW, WIDE = 0.5, 1.2  # radians a search may walk: with no answer, with very many
STARTS = 32
STRICT = 100.0  # log-odds that an item loses for each bit it is too extreme
TYPICAL = 0.995  # share of the generator's own items that are no more extreme than a proposal may be


class Curator:
    """Chooses what to show. What it chooses depends on the seed, the taste and the history, and on nothing else.

    Attributes:
        pool: ``POOL`` typical items.
    """

    def __init__(self, space: LatentSpace, lens: Lens, seed: int, prepared: Tensor | None = None) -> None:
        """Choose from a latent space.

        Args:
            space: of the generator.
            lens: how its items are seen.
            seed: of what is chosen.
            prepared: ``(m, d)`` latents whose items are drawn already and can be shown at once; typical ones. The first
                question is taken from them, the best of them are among the candidates of every other.
        """
        self.space, self.lens, self.seed = space, lens, seed
        with torch.no_grad():
            self.pool = lens(space.sample(POOL, torch.Generator().manual_seed(seed)))
            self._prepared = lens(space.sample(0, torch.Generator()) if prepared is None else prepared)
        seen = self.pool.features[:, :-1]
        self._centre, self._deviation = seen.mean(0), seen.std(0).clamp(min=1e-6)
        covariance = (seen - self._centre).T @ (seen - self._centre) / len(seen)
        covariance += 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance))
        self._whitener = torch.linalg.cholesky(torch.linalg.inv(covariance))
        self._limits = torch.ones(3)
        self._limits = self._extents(self.pool).quantile(TYPICAL, dim=0)

    def extremeness(self, points: Points) -> Tensor:
        """How far items ``(n,)`` lie from the middle of the generator's own; 1 is as far as a proposal may be."""
        extents: Tensor = (self._extents(points) / self._limits).amax(1)
        return extents

    def _extents(self, points: Points) -> Tensor:
        """``(n, 3)`` Mahalanobis distance over all features and over the leading ones, and the most extreme feature."""
        centred = points.features[:, :-1] - self._centre
        white = torch.linalg.vector_norm(centred @ self._whitener, dim=1)
        leading = torch.linalg.vector_norm(centred[:, :LEADING] / self._deviation[:LEADING], dim=1)
        return torch.stack([white, leading, (centred / self._deviation).abs().amax(1)], dim=1)

    def propose(
        self,
        n: int,
        taste: Taste,
        history: Sequence[Rated],
        seen: Points,
        *,
        crowd: bool,
        batch: bool = False,
        temperature: float = THOMPSON_SPREAD,
    ) -> Tensor:
        """Latents ``(n, d)`` worth asking about, in random order.

        Args:
            n: how many.
            taste: what is known.
            history: what was said.
            seen: everything shown so far.
            crowd: whether a population prior already says something.
            batch: the items are rated one by one.
            temperature: how far single items are drawn from the best guess, as a share of what is uncertain.
        """
        generator = self._generator(len(seen), len(history))
        if not crowd and len(history) < FIRST_LOOKS:
            return self._spread(n, history, seen, generator)
        with torch.no_grad():
            if n > 1 and not batch and _roams(history):
                candidates = self._anywhere(max(n, ANYWHERE), seen, generator)
            else:
                candidates = self._candidates(taste, history, seen, generator)
            if batch:
                candidates = candidates[torch.randperm(len(candidates), generator=generator)[: max(JOINTLY, 4 * n)]]
            beliefs = taste.over(candidates)
            if batch and n > 1:
                exploit = max(1, round(EXPLOIT * n))
                chosen = propose("thompson", beliefs, exploit, generator, temperature=temperature)[0]
                taken = torch.zeros(beliefs.shape, dtype=torch.bool)
                taken[:, chosen] = True
                more = n - exploit
                if more:
                    other = propose("information", beliefs, more, generator, taken=taken)[0]
                    chosen = torch.cat([chosen, other])
            else:
                method = "thompson" if n == 1 else "eubo"
                chosen = propose(method, beliefs, n, generator, temperature=temperature)[0]  # type: ignore[arg-type]
        return candidates.latents[chosen[torch.randperm(n, generator=generator)]]

    def recommend(
        self, k: int, surprise: float, taste: Taste, history: Sequence[Rated], seen: Points, search: Search
    ) -> Tensor:
        """Latents ``(k, d)`` of items this person will love; see ``Session.recommend``."""
        generator = self._generator(len(seen), len(history), 1)
        task = self._task(taste, history, seen, generator)
        top = search.run(task, 1, generator)
        return diverse(task, k, surprise, generator, pole=top.latents[0]).latents

    def reach(self, wanted: float, taste: Taste, history: Sequence[Rated], seen: Points, search: Search) -> Found:
        """The latent with a wanted score; see ``Session.reach``."""
        generator = self._generator(len(seen), len(history), 2)
        return search.run(self._task(taste, history, seen, generator, wanted), 1, generator)

    def _task(
        self,
        taste: Taste,
        history: Sequence[Rated],
        seen: Points,
        generator: torch.Generator,
        wanted: float | None = None,
    ) -> Task:
        """Raise what the taste expects, less what is too extreme, from the best candidates, inside a trust region."""

        def score(latents: Tensor) -> Tensor:
            points = self.lens(latents)
            over = (self.extremeness(points) - 1).clamp(min=0)
            return taste.score(points).float() - STRICT * over

        with torch.no_grad():
            candidates = self._candidates(taste, history, seen, generator)
            order = taste.score(candidates).argsort(descending=True)
        return Task(
            score=score,
            space=self.space,
            starts=candidates.latents[order[:STARTS]],
            minimum_distance=0.05,
            trust_angle=trust_angle(len(history)),
            wanted=wanted,
        )

    def near(self, latent: Tensor, n: int, taste: Taste) -> Tensor:
        """Neighbours ``(n, d)`` of a latent that promise most, not too close to each other."""
        generator = self._generator(n, int(latent.view(torch.int32).sum()))
        with torch.no_grad():
            around = self._mix(latent[None], 40 * n, generator, 0.95, 0.75)
            points = self.lens(around)
            best = taste.score(points).argsort(descending=True)[: 8 * n]
        return around[best[spread_out(around[best], n, generator)]]

    def certainty(self, taste: Taste) -> float:
        """Reliability of the scores of typical items: variance of what is expected, as a share of it and what is not
        known, 0 to 1.
        """
        with torch.no_grad():
            beliefs = taste.over(self.pool[slice(0, 300)])
            known, unknown = beliefs.mean.var(), beliefs.deviation.square().mean()
        return float(known / (known + unknown).clamp(min=1e-12))

    def notice(self, history: Sequence[Rated]) -> str | None:
        """What the person should know about what is shown next."""
        if _streak(history) >= STREAK:
            return f"{_streak(history)} times neither: now looking somewhere else"
        return None

    # -- candidates

    def _candidates(self, taste: Taste, history: Sequence[Rated], seen: Points, generator: torch.Generator) -> Points:
        scores = taste.score(self.pool)
        if _streak(history) >= STREAK:
            return self.pool[self._elsewhere(scores, history, seen)]
        half = FROM_POOL // 2
        best = scores.topk(half).indices
        wanted = torch.zeros(POOL, dtype=torch.bool)
        wanted[best] = wanted[torch.randint(POOL, (FROM_POOL - half,), generator=generator)] = True
        rows = wanted.nonzero().squeeze(-1)
        places = [self.pool.latents[best[:PLACES]]]
        liked = _items(history)
        if liked:
            known = seen[torch.tensor(liked)]
            top = taste.score(known).topk(min(PLACES, len(liked))).indices
            places.append(known.latents[top])
        pole = torch.cat(places)
        order = taste.score(self.lens(pole)).argsort(descending=True)[:PLACES]
        mixed = self._mix(pole[order], ROUND_BEST, generator, NEAREST, FARTHEST)
        fresh = self.lens(mixed)
        found = Points.join([self.pool[rows], fresh, self._at_once(taste, seen)])
        return found[self.extremeness(found) <= 1]

    def _anywhere(self, count: int, seen: Points, generator: torch.Generator) -> Points:
        """Typical items that were not shown yet, of those that are drawn already where there are enough of them."""
        left = self._unseen(seen)
        source = left if len(left) >= count else self.pool
        return source[torch.randperm(len(source), generator=generator)[:count]]

    def _unseen(self, seen: Points) -> Points:
        """What is drawn already and was not shown yet; may be none."""
        return self._prepared[~torch.isin(_numbers(self._prepared.latents), _numbers(seen.latents))]

    def _at_once(self, taste: Taste, seen: Points) -> Points:
        """The best of what is drawn already and was not shown yet; may be none."""
        left = self._unseen(seen)
        return left if len(left) <= PREPARED else left[taste.score(left).topk(PREPARED).indices]

    def _elsewhere(self, scores: Tensor, history: Sequence[Rated], seen: Points) -> Tensor:
        """The most promising of those half of the pool's items that are unlike the last "neither" answers."""
        recent = [item for rated in history[-_streak(history) :] for item in rated.rating.row[2]]
        near = torch.cdist(self.pool.features, seen.features[torch.tensor(recent)]).amin(1)
        return scores.masked_fill(near < near.median(), -torch.inf).topk(FROM_POOL).indices

    def _mix(self, places: Tensor, count: int, generator: torch.Generator, near: float, far: float) -> Tensor:
        """``(count, d)`` latents on the shell at cosines from ``far`` to ``near`` to the places ``(m, d)``."""
        home = self.space.project(places)[torch.arange(count) % len(places)] / self.space.radius
        other = self.space.sample(count, generator)
        other = other - (other * home).sum(1, keepdim=True) * home
        other = other / torch.linalg.vector_norm(other, dim=1, keepdim=True).clamp(min=1e-9)
        cosine = far + (near - far) * torch.rand(count, 1, generator=generator)
        mixed: Tensor = cosine * home + (1 - cosine.square()).sqrt() * other
        return self.space.project(mixed)

    def _spread(self, n: int, history: Sequence[Rated], seen: Points, generator: torch.Generator) -> Tensor:
        """The first questions, when nothing is known: items far from each other and from what was shown."""
        if len(self._prepared) >= AT_ONCE * n:
            home, rows = self._prepared, torch.randperm(len(self._prepared), generator=generator)[: 200 + n]
        else:
            home, rows = self.pool, torch.randint(POOL, (200,), generator=generator)
        chosen = rows[spread_out(home.features[rows], n, generator)]
        return home.latents[chosen]

    def _generator(self, *numbers: int) -> torch.Generator:
        seed = self.seed
        for number in numbers:
            seed = (seed * 1_000_003 + number + 1) % 2**62
        return torch.Generator().manual_seed(seed)


def trust_angle(answers: int) -> float:
    """How far a walk may leave the candidate it began at, radians: a model is wrong far from what it was told."""
    return NARROW + (WIDE - NARROW) * answers / (answers + 20)


def _numbers(latents: Tensor) -> Tensor:
    """``(n,)`` one number for each latent ``(n, d)``, by its bits: equal for equal ones, else by chance of 2^-64."""
    bits = latents.to("cpu", torch.float32).contiguous().view(torch.int32).long()
    odd = torch.arange(1, bits.shape[1] + 1) * _GOLDEN
    return (bits * odd).sum(1)


def _items(history: Sequence[Rated]) -> list[int]:
    return sorted({item for rated in history for item in rated.rating.row[2]})


def _roams(history: Sequence[Rated]) -> bool:
    """Whether the next comparison is to be about items anywhere."""
    return len(history) >= ROAMING and len(history) % 2 == 1 and _streak(history) < STREAK


def _streak(history: Sequence[Rated]) -> int:
    """How many of the last answers in a row were "neither"."""
    streak = 0
    for rated in reversed(history):
        kind, value, _ = rated.rating.row
        if kind != Kind.CHOICE or ANSWERS[value] != "neither":
            break
        streak += 1
    return streak
