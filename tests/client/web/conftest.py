"""Sessions of one small life each, around one generator that is loaded once, and a real server for the page."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
import uvicorn
from fastapi import FastAPI

from client.generators.pack import GeneratorPack
from client.journal import Journal, MemoryJournal
from client.policy.learner import LearnSettings
from client.policy.population import PopulationSettings, publish, train
from client.session import Session
from client.web.app import create_app
from client.web.deck import Deck
from common.population_policy import PopulationPolicy
from common.privacy.statement import PrivacyStatement

TOKEN = "t" * 43


@pytest.fixture(scope="session")
def pack() -> GeneratorPack:
    return GeneratorPack.open("art")


@pytest.fixture(scope="session")
def everybody(pack: GeneratorPack) -> PopulationPolicy:
    """A policy of people who like one thing more than anything, published."""
    settings = PopulationSettings(couplings=2, width=8, warm=10, learn=LearnSettings(rounds=1, steps=5, batch=64))
    learned = train(pack, torch.tensor([1.5, 0.0, 0.3]), settings=settings)
    return publish(learned.policy, pack, PrivacyStatement.public(), 0)


@pytest.fixture
def deck_on(pack: GeneratorPack) -> Iterator[Callable[..., Deck]]:
    """Makes decks and closes them."""
    decks: list[Deck] = []

    def make(journal: Journal | None = None, mode: str = "pair", population: PopulationPolicy | None = None) -> Deck:
        session = Session(pack, MemoryJournal() if journal is None else journal, seed=0)
        deck = Deck(session, mode=mode, size=64, population=population)
        decks.append(deck)
        return deck

    yield make
    for deck in decks:
        deck.close()
        deck.session.close()


@contextlib.contextmanager
def served(session: Session, population: PopulationPolicy | None = None) -> Iterator[tuple[FastAPI, str]]:
    """The page of a session, with small pictures, and its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        app = create_app(session, token=TOKEN, hosts={host}, size=64, population=population)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while thread.is_alive() and not server.started:
            time.sleep(0.01)
        try:
            yield app, f"http://{host}"
        finally:
            server.should_exit = True
            app.state.deck.close()
            thread.join(10)


@pytest.fixture
def page(pack: GeneratorPack) -> Iterator[tuple[FastAPI, str]]:
    """A page that somebody just opened."""
    with Session(pack, MemoryJournal(), seed=0) as session, served(session) as found:
        yield found


@pytest.fixture
def crowded_page(pack: GeneratorPack, everybody: PopulationPolicy) -> Iterator[tuple[FastAPI, str]]:
    """A page with a policy of everybody that somebody just opened."""
    with Session(pack, MemoryJournal(), seed=0) as session, served(session, everybody) as found:
        yield found
