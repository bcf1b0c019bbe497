"""Sessions of one small life each, around one generator that is loaded once, and a real server for the page."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from fastapi import FastAPI

from client.generators.pack import GeneratorPack
from client.journal import Journal, MemoryJournal
from client.session import Session
from client.web.app import create_app
from client.web.deck import Deck

TOKEN = "t" * 43


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


@contextlib.contextmanager
def served(session: Session) -> Iterator[tuple[FastAPI, str]]:
    """The page of a session, with small pictures, and its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        app = create_app(session, token=TOKEN, hosts={host}, size=64)
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
