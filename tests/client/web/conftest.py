"""Sessions of one small life each, around one generator that is loaded once."""

from collections.abc import Callable, Iterator

import pytest

from client.generators.pack import GeneratorPack
from client.journal import Journal, MemoryJournal
from client.session import Session
from client.web.deck import Deck


@pytest.fixture(scope="session")
def pack() -> GeneratorPack:
    return GeneratorPack.open("art")


@pytest.fixture
def deck_on(pack: GeneratorPack) -> Iterator[Callable[..., Deck]]:
    """Makes decks and closes them."""
    decks: list[Deck] = []

    def make(journal: Journal | None = None, mode: str = "pair") -> Deck:
        deck = Deck(Session(pack, MemoryJournal() if journal is None else journal, seed=0), mode=mode, size=64)
        decks.append(deck)
        return deck

    yield make
    for deck in decks:
        deck.close()
        deck.session.close()
