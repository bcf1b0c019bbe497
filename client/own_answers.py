"""What one person said, read from their encrypted store for a round and put away again.

The store is open only while its rows are read, so that the rating page can have it at other times. What is kept in
memory is the evidence, which is made again only when there is something new.
"""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from torch import Tensor

from client.classifiers.base import Answers, Points
from client.classifiers.labels import compact
from client.generators.pack import GeneratorPack
from client.journal import Event, Journal, MemoryJournal
from client.likelihood import Evidence
from client.memory import Memory
from client.ratings import Glance
from client.store import Store, default_path
from client.vault import KeyringLike
from common.errors import PackError


def evidence_in(journal: Journal, profile: str, pack: GeneratorPack, components: int) -> Evidence:
    """Everything a profile said, of every kind and in every context, as evidence about a linear taste.

    Args:
        journal: what happened.
        profile: whose answers.
        pack: the generator all items are from.
        components: features of the latent map.

    Returns:
        A batch of one person; features ``(1, t, m, components + 1)`` float64, standardised, the constant last.

    Raises:
        PackError: an item was made by another pack.
    """
    memory = Memory(journal)
    foreign = memory.packs(profile) - {pack.hash}
    if foreign:
        raise PackError(
            f"profile {profile!r} rated items of another generator pack ({min(foreign)[:12]}, not {pack.hash[:12]}); "
            "join with the profile that uses this one"
        )
    latents = memory.latents(profile)
    latents = torch.empty(0, pack.latents.dimension) if latents is None else latents
    ratings = [rated.rating for rated in memory.history(profile)]
    # only the items that were rated are looked at through the map
    answers = compact(Answers.of(ratings, Points(latents, latents[:, :0])))
    features = _features(pack, answers.points.latents, components)
    found = Evidence.gather(answers.kind[None], answers.value[None], answers.items[None], features)
    return Evidence(found.kind, found.value, answers.weight[None].to(features), found.features, found.shown)


def _features(pack: GeneratorPack, latents: Tensor, components: int) -> Tensor:
    # `gather` looks up row 0 also where there is no item at all
    if not len(latents):
        return torch.zeros(1, components + 1, dtype=torch.float64)
    return pack.features(latents, components)


def own_ratings(journal: Journal, profile: str) -> int:
    """Answers a profile gave on purpose: looks and skips do not count."""
    return sum(not isinstance(rated.rating, Glance) for rated in Memory(journal).history(profile))


class OwnAnswers:
    """The evidence of one person, as often as it is asked for. Safe to call from several threads.

    Guarantee: nothing is returned from memory that the store does not hold any more: it is opened each time, and what
    was undone or deleted there is gone from here too.
    """

    def __init__(
        self,
        *,
        store: Path | None,
        passphrase: str | None,
        profile: str,
        pack: GeneratorPack,
        components: int,
        keyring: KeyringLike | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            store: path of the store; None for the usual one.
            passphrase: that opens it; None to ask the system keyring.
            profile: whose answers.
            pack: the generator.
            components: features of the latent map.
            keyring: instead of that of the system.
        """
        self._store = default_path() if store is None else store
        self._passphrase, self._keyring = passphrase, keyring
        self._profile, self._pack, self._components = profile, pack, components
        self._kept: tuple[tuple[int, int], Evidence] | None = None
        self._using = threading.Lock()

    def __call__(self) -> Evidence:
        """The evidence now.

        Raises:
            StoreInUse: the rating page has the store open.
            StoreError: it cannot be opened for another reason.
            PackError: the profile's items were made by another pack.
        """
        with self._using:
            events = self._events()
            # numbers of events are never used twice, so these two change with every change of the store
            state = (len(events), events[-1].id if events else 0)
            if self._kept is None or self._kept[0] != state:
                self._kept = state, evidence_in(_Replay(events), self._profile, self._pack, self._components)
            return self._kept[1]

    def forget(self) -> None:
        """Keep nothing in memory any more."""
        with self._using:
            self._kept = None

    def _events(self) -> list[Event]:
        with Store.open(self._store, passphrase=self._passphrase, create=False, keyring=self._keyring) as store:
            return store.events()


class _Replay(MemoryJournal):
    """Events that were read already."""

    def __init__(self, events: list[Event]) -> None:
        super().__init__()
        self._events = events
