"""A rating session: show, listen, learn, show better. The Python API of one person on one machine.

>>> from client.ratings import Choice
>>> session = Session.open("art", seed=0)
>>> a, b = session.propose(2)
>>> outcome = session.rate(Choice(a, b, "a"))
>>> best = session.recommend(8)

Everything a session knows is a replay of its journal (`client.journal`): nothing else has to be saved. Every rating
refits the posterior at once. Nothing here talks to a network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsIndex

import torch
from torch import Tensor

from client.classifiers import taste_model
from client.classifiers.balance import class_balanced, with_marked_negatives
from client.classifiers.base import Answers, Points, Taste, TasteModel
from client.classifiers.evaluation import foretold
from client.classifiers.labels import compact
from client.curator import Curator
from client.explanation import Explanation, explain
from client.generators.item_cache import ItemCache
from client.generators.pack import GeneratorPack
from client.generators.ready import prepared as prepared_of
from client.items import Catalogue, Item
from client.journal import Journal, MemoryJournal, open_journal
from client.lens import Lens
from client.memory import Memory, Rated
from client.propose import THOMPSON_SPREAD
from client.ratings import Rating
from client.search.base import Search
from client.search.gradient import GradientSearch
from client.search.methods import search as search_named
from client.taste_map import places
from common.errors import ItemError, PackError, PriorError, SettingError
from common.prior import PopulationPrior


@dataclass(frozen=True)
class Outcome:
    """What became of a rating.

    Attributes:
        event: its number; `Session.remove` takes it.
        foretold: whether the model had guessed the answer before it was given; None for weak evidence.
    """

    event: int
    foretold: bool | None


@dataclass(frozen=True)
class Reached:
    """What a search for a wanted score came to.

    Attributes:
        item: the best one found.
        score: expected, in log-odds; deviation: how uncertain that is.
        deviation: see above.
        reached: whether the wanted score was reached.
        steps: latents scored on the way.
    """

    item: Item
    score: float
    deviation: float
    reached: bool
    steps: int


UNWANTED = 1.0  # weight of content marked as unwanted


class Session:
    """One person rating what one generator makes.

    Guarantee: what ``rate`` returned from is in the journal; the state of two sessions with the same journal, pack and
    seed is the same. Not safe for use from several threads at once.

    Attributes:
        pack: the generator.
        prior: the population prior it started from, if any.
    """

    def __init__(
        self,
        pack: GeneratorPack,
        journal: Journal,
        *,
        prior: PopulationPrior | None = None,
        profile: str = "me",
        context: str = "",
        seed: int | None = None,
        model: str = "default",
        search: str = "gradient",
        balanced: bool = False,
        prepared: Tensor | None = None,
    ) -> None:
        """Start from a journal; `open` is the comfortable way."""
        if prior is not None and prior.pack != pack.hash:
            raise PriorError(
                f"the prior was made for another generator pack than {pack.name!r}; fetch one for this pack"
            )
        self.pack, self.prior, self.journal = pack, prior, journal
        self.seed = int(torch.seed() % 2**31) if seed is None else seed
        self.model_name, self.balanced = model, balanced
        self._search = self._searcher(search)
        self.lens = Lens(pack, None if prior is None else prior.mean.shape[0] - 1)
        self._memory = Memory(journal)
        self._prepared = prepared
        self.profile, self.context = profile, context
        self._restart()

    @classmethod
    def open(
        cls,
        generator: str | Path = "art",
        *,
        prior: Path | str | PopulationPrior | None = None,
        store: Path | str | Journal | None = None,
        passphrase: str | None = None,
        profile: str = "me",
        context: str = "",
        seed: int | None = None,
        model: str = "default",
        search: str = "gradient",
        balanced: bool = False,
        cache: ItemCache | None = None,
        cached_size: int | None = None,
    ) -> Session:
        """Open a session.

        Args:
            generator: name or folder of a generator pack.
            prior: a population prior or its folder; None to start from nothing.
            store: path of an encrypted store, made if it is missing; a journal; or None to keep nothing.
            passphrase: of the store; None to ask the system keyring.
            profile: who is rating.
            context: mood, time or situation; contexts of one profile share most of a taste.
            seed: of what is shown; None for a random one.
            model: a name from ``client.classifiers.MODELS``.
            search: a name from ``client.search.methods.SEARCHES``: how recommendations are found.
            balanced: likes and dislikes together count the same, however many there are of each.
            cache: items prepared by ``client.generators.ready``; some of those are shown among fresh ones, at once.
            cached_size: size they were prepared at; None for the pack's own.

        Raises:
            UnknownGenerator, DamagedPack: no usable generator.
            PriorError: the prior is damaged or belongs to another pack.
            StoreError: the store cannot be opened; see its kinds.
            PackError: the profile's items were made by another pack.
        """
        pack = GeneratorPack.open(generator)
        pack.cache = cache
        found = PopulationPrior.load(Path(prior)) if isinstance(prior, str | Path) else prior
        journal = open_journal(store, passphrase)
        try:
            return cls(
                pack,
                journal,
                prior=found,
                profile=profile,
                context=context,
                seed=seed,
                model=model,
                search=search,
                balanced=balanced,
                prepared=None if cache is None else prepared_of(pack, cache, cached_size),
            )
        except BaseException:
            journal.close()
            raise

    def _restart(self) -> None:
        """Read the profile's part of the journal and learn from it."""
        memory = self._memory
        foreign = {hash for hash in memory.packs(self.profile) if hash != self.pack.hash}
        if foreign:
            raise PackError(
                f"profile {self.profile!r} rated items of another generator pack ({min(foreign)[:12]}, not "
                f"{self.pack.hash[:12]}); open it with that pack, or choose another profile"
            )
        self.catalogue = Catalogue(self.pack, self.lens)
        latents = memory.latents(self.profile)
        if latents is not None:
            self.catalogue.add(latents)
        self._model = self.fresh_model()
        self._taste: Taste | None = None
        self._curator = Curator(self.pack.latents, self.lens, self.seed, self._prepared)
        self._learn()

    # -- learning

    def answers(self) -> Answers:
        """What this profile said, as taste models take it; items are those of the catalogue."""
        rated = self.history
        names = self.contexts()
        return Answers.of([r.rating for r in rated], self.catalogue.points, [names.index(r.context) for r in rated])

    def _learn(self) -> None:
        """Fit again before the taste is next looked at: an answer is taken without waiting for what it teaches."""
        self._taste = None

    @property
    def taste(self) -> Taste:
        """What is known about this person's taste now, every rating included."""
        if self._taste is None:
            self._taste = self._model.fit(*self.lesson())
        return self._taste

    def lesson(self) -> tuple[Answers, int]:
        """What a taste model is fitted to: all that counts as said, and the context that is asked for."""
        context = self.contexts().index(self.context)
        answers = compact(self.answers())
        if self.unwanted:
            answers = with_marked_negatives(answers, self._points(self.unwanted), UNWANTED, context)
        return (class_balanced(answers) if self.balanced else answers), context

    def fresh_model(self) -> TasteModel:
        """A taste model like the session's own, that has learned nothing."""
        return taste_model(self.model_name, prior=self.prior, lens_scale=self.lens.scale, seed=self.seed)

    def rate(self, rating: Rating, *, replace: bool = False) -> Outcome:
        """Take a rating, learn from it at once.

        Args:
            rating: about items of this session.
            replace: an earlier rating of the same items is undone first.

        Raises:
            ItemError: an item was never shown, or the same question is answered already.
        """
        _, _, items = rating.row
        for item in items:
            self.item(item)
        earlier = self._memory.same_question(self.profile, rating, self.context)
        if earlier is not None and not replace:
            raise ItemError(f"item {items[0]} is rated already; undo that rating, or give replace=True")
        guessed = self._guess(rating)
        if earlier is not None:
            self._memory.undo(self.profile, earlier.event)
        event = self._memory.rate(self.profile, self.context, rating, guessed)
        self._learn()
        return Outcome(event, guessed)

    def _guess(self, rating: Rating) -> bool | None:
        """Whether the model foretold a rating it has not heard yet; None where there is nothing to guess with."""
        if not self.history and self.prior is None:
            return None
        asked = compact(Answers.of([rating], self.catalogue.points))
        with torch.no_grad():
            right = float(foretold(asked, self.taste.score(asked.points)))
        return None if math.isnan(right) else right > 0.5

    def undo(self) -> Rating | None:
        """Take the last rating back; returns it, or None when there is nothing to take back."""
        undone = self._memory.undo(self.profile)
        if undone is not None:
            self._learn()
        return undone

    def redo(self) -> Rating | None:
        """Give the rating that was last taken back again."""
        redone = self._memory.redo(self.profile)
        if redone is not None:
            self._learn()
        return redone

    def remove(self, event: int) -> None:
        """Delete one rating for good, from the disk too.

        Raises:
            ItemError: there is no such rating.
        """
        self._memory.remove(self.profile, event)
        self._learn()

    def skip(self, items: Iterable[SupportsIndex]) -> None:
        """Note that a question was not answered. That is no rating; the items may come back."""
        self._memory.note("skip", {"items": [item.__index__() for item in items], "profile": self.profile})

    # -- showing

    def propose(self, n: int = 1, *, feedback: str | None = None, temperature: float = THOMPSON_SPREAD) -> list[Item]:
        """Items worth asking about: one for a like or stars, two for A or B, more to choose the best from.

        The order is random: the first of two is shown on the left.

        Args:
            n: how many, at least 1.
            feedback: ``"batch"`` for items rated one by one though n > 1: 70 % exploitation, 30 % exploration.
            temperature: of items rated one by one: 0 shows the best guess, 1 draws from all that is believed.

        Raises:
            SettingError: n is below 1 or above 500, or the temperature outside 0 to 10.
        """
        if not 1 <= n <= 500:
            raise SettingError(f"n={n} must lie between 1 and 500")
        if not 0 <= temperature <= 10:
            raise SettingError(f"temperature={temperature} must lie between 0 (best guess) and 10; try 0.4")
        latents = self._curator.propose(
            n,
            self.taste,
            self.history,
            self.catalogue.points,
            crowd=self.prior is not None,
            batch=feedback == "batch",
            temperature=temperature,
        )
        return self.items_at(latents)

    def recommend(self, k: int = 8, *, surprise: float = 0.0) -> list[Item]:
        """Items this person will love, best first.

        Args:
            k: how many.
            surprise: 0 for the safest (they may be much alike), 1 for the most varied.

        Raises:
            SettingError: k is below 1, or surprise outside 0 to 1.
        """
        if not 1 <= k <= 200:
            raise SettingError(f"k={k} must lie between 1 and 200")
        if not 0 <= surprise <= 1:
            raise SettingError(f"surprise={surprise} must lie between 0 (safe) and 1 (surprising)")
        return self.items_at(
            self._curator.recommend(k, surprise, self.taste, self.history, self.catalogue.points, self._search)
        )

    def reach(self, wanted: float, *, method: str = "root") -> Reached:
        """Reverse classification: an item with a wanted score, as close to a good start as the method can.

        Args:
            wanted: expected score, log-odds of liking; 2.2 is nine in ten.
            method: a name from ``client.search.methods.SEARCHES``.

        Returns:
            The item, what is expected of it, and whether that is what was wanted.

        Raises:
            SettingError: the score is not finite, or there is no such method.
        """
        found = self._curator.reach(wanted, self.taste, self.history, self.catalogue.points, self._searcher(method))
        item = self.items_at(found.latents[:1])[0]
        score, deviation = self.predict([item])
        return Reached(item, float(score), float(deviation), found.reached, found.steps)

    @staticmethod
    def _searcher(name: str) -> Search:
        """A search; the usual one spends less, because it starts from good candidates."""
        return GradientSearch(walks=8, steps=20, places=0) if name == "gradient" else search_named(name)

    def more_like(self, item: SupportsIndex, n: int = 4) -> list[Item]:
        """Neighbours of an item that promise most."""
        origin = self.item(item.__index__())
        return self.items_at(self._curator.near(origin.latent, n, self.taste))

    def items_at(self, latents: Tensor) -> list[Item]:
        """Items somebody else chose, rated like any other.

        Args:
            latents: ``(n, d)``.

        Raises:
            SettingError: another shape, or not finite.
        """
        if latents.ndim != 2 or latents.shape[1] != self.pack.latents.dimension:
            raise SettingError(f"latents of shape {tuple(latents.shape)} should be (n, {self.pack.latents.dimension})")
        if not bool(latents.isfinite().all()):
            raise SettingError("latents hold NaN or infinite numbers; draw them again")
        latents = latents.detach().to("cpu", torch.float32)
        self._memory.show(self.profile, self.pack.hash, len(self.catalogue), latents)
        return [self.catalogue[id] for id in self.catalogue.add(latents)]

    def item(self, id: int) -> Item:
        """An item that was shown.

        Raises:
            ItemError: it was not.
        """
        if not 0 <= id < len(self.catalogue):
            raise ItemError(f"item {id} was never shown; there are {len(self.catalogue)} items")
        return self.catalogue[id]

    def extremeness(self, points: Points) -> Tensor:
        """How far points ``(n,)`` lie from the middle of the generator's items; 1 is as far as a proposal may be."""
        return self._curator.extremeness(points)

    def predict(self, items: Sequence[SupportsIndex]) -> tuple[Tensor, Tensor]:
        """Expected score and standard deviation ``(n,)`` of items, in log-odds of liking."""
        with torch.no_grad():
            beliefs = self.taste.over(self._points([self.item(item.__index__()).id for item in items]))
        return beliefs.mean[0], beliefs.deviation[0]

    def _points(self, items: Sequence[int]) -> Points:
        return self.catalogue.points[torch.tensor(list(items), dtype=torch.int64)]

    # -- remembering

    @property
    def history(self) -> list[Rated]:
        """Ratings that count, oldest first."""
        return self._memory.history(self.profile)

    @property
    def favourites(self) -> list[Item]:
        """Favourites, oldest first."""
        return [self.catalogue[id] for id in self._memory.favourites(self.profile)]

    def favourite(self, item: SupportsIndex, on: bool = True) -> None:
        """Add an item to the favourites, or take it away."""
        id = self.item(item.__index__()).id
        self._memory.note("favourite", {"item": id, "on": on, "profile": self.profile})

    @property
    def unwanted(self) -> list[int]:
        """Items marked as unwanted content."""
        return self._memory.unwanted(self.profile)

    def mark_unwanted(self, item: SupportsIndex, on: bool = True) -> None:
        """Mark content nobody needs to ask about: it counts as disliked, so that there is no blind spot around it."""
        id = self.item(item.__index__()).id
        self._memory.note("unwanted", {"item": id, "on": on, "profile": self.profile})
        self._learn()

    def profiles(self) -> list[str]:
        """Everybody who rated in this store, and the one rating now."""
        return sorted({*self._memory.profiles(), self.profile})

    def contexts(self) -> list[str]:
        """Contexts of this profile in order of appearance; the plain one, ``""``, first."""
        return list(dict.fromkeys(["", *(r.context for r in self.history), self.context]))

    def use(self, *, profile: str | None = None, context: str | None = None) -> None:
        """Change who is rating, or in which situation."""
        previous = self.profile, self.context
        self.context = context if context is not None else ("" if profile is not None else self.context)
        try:
            if profile is not None and profile != self.profile:
                self.profile = profile
                self._restart()
            else:
                self._learn()
        except BaseException:
            self.profile, self.context = previous
            self._restart()
            raise

    def explain(self) -> Explanation:
        """How well the person is understood, how sure that is, and what would be asked next."""
        return explain(
            self.history,
            self.answers(),
            certainty=self.certainty(),
            crowd=self.prior is not None,
            notice=self.notice(),
        )

    def notice(self) -> str | None:
        """Something the person should be told now, such as that the search moved elsewhere."""
        return self._curator.notice(self.history)

    def certainty(self) -> float:
        """How much of what makes typical items differ for this person is known, 0 to 1."""
        return self._curator.certainty(self.taste)

    def map(self) -> list[tuple[Item, float, float, float]]:
        """Rated items with a place in the unit square (principal components) and their predicted score."""
        ids = sorted({item for r in self.history for item in r.rating.row[2]})
        if not ids:
            return []
        place = places(self._points(ids), self.lens.scale)
        scores = self.predict(ids)[0].tolist()
        rows = place.tolist()
        return [(self.catalogue[i], x, y, s) for i, (x, y), s in zip(ids, rows, scores, strict=True)]

    def export(self) -> dict[str, Any]:
        """Everything about this profile as JSON allows it."""
        return {
            "format": "plgl-session-1",
            "pack": {"name": self.pack.name, "version": self.pack.version, "sha256": self.pack.hash},
            "profile": self.profile,
            "items": [latent.tolist() for latent in self.catalogue.points.latents],
            "ratings": [rated.to_json() for rated in self.history],
            "favourites": self._memory.favourites(self.profile),
        }

    def forget(self) -> None:
        """Destroy everything this journal holds, of every profile."""
        self.journal.destroy()
        self._memory = Memory(MemoryJournal())
        self._restart()

    def close(self) -> None:
        """Let go of the journal."""
        self.journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
