import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from client.generators.pack import GeneratorPack
from client.journal import MemoryJournal
from client.policy.learner import LearnSettings
from client.policy.population import policy_of
from client.policy.stream import StreamSettings, more
from client.ratings import Like
from client.session import Session
from client.web.deck import LONGEST, MORE, Deck
from client.web.endless import Endless
from common.errors import PriorError, SettingError
from common.population_policy import PopulationPolicy

QUICK = StreamSettings(
    couplings=2, width=4, members=0, held_out=0.0, learn=LearnSettings(rounds=2, steps=2, batch=16, groups=4)
)


def rate(session: Session, count: int) -> None:
    """Like every other item."""
    for item in session.items_at(
        session.pack.latents.sample(count, torch.Generator().manual_seed(len(session.history)))
    ):
        session.rate(Like(item, item.id % 2 == 0))


@pytest.fixture
def deck(deck_on: Callable[..., Deck]) -> Deck:
    made = deck_on()
    made.endless.settings = QUICK
    return made


def test_items_come_once_a_policy_is_learned_and_nobody_waits_for_it(deck: Deck) -> None:
    with deck.lock:
        rate(deck.session, 10)
        assert not deck.more_wall()  # begins to learn
        wall = deck.wall
    assert deck.endless.progress is not None or deck.endless.ready()
    deck.endless.wait(60)
    assert deck.endless.progress is None
    with deck.lock:
        assert deck.more_wall()
        assert wall is not None
        assert deck.wall is not None
        assert len(deck.wall.items) == len(wall.items) + MORE == len(deck.wall.chances)
        assert deck.wall.items[: len(wall.items)] == wall.items
        for _ in range(LONGEST // MORE + 1):
            deck.more_wall()
        assert len(deck.wall.items) == LONGEST
        assert len({item.id for item in deck.wall.items}) == LONGEST


def test_a_new_answer_asks_for_a_new_policy(deck: Deck) -> None:
    with deck.lock:
        rate(deck.session, 10)
    assert not deck.endless.ready()
    deck.endless.wait(60)
    assert deck.endless.ready()
    with deck.lock:
        rate(deck.session, 1)
    assert not deck.endless.ready()


def test_too_few_answers_are_told_and_not_tried_again_and_again(deck: Deck) -> None:
    with deck.lock:
        rate(deck.session, 2)
    assert not deck.endless.ready()
    deck.endless.wait(60)
    assert isinstance(deck.endless.trouble, SettingError)
    assert "2 answers are too few" in str(deck.endless.trouble)
    before = deck.endless._thread
    assert not deck.endless.ready()
    assert deck.endless._thread is before


def test_closing_ends_learning(pack: GeneratorPack) -> None:
    session, lock = Session(pack, MemoryJournal(), seed=0), threading.RLock()
    rate(session, 10)
    slow = replace(QUICK, learn=LearnSettings(rounds=10_000, steps=1, batch=16, groups=4))
    endless = Endless(session, lock, slow)
    endless.ready()
    until = time.monotonic() + 60
    while (progress := endless.progress) is not None and progress.done < 1 and time.monotonic() < until:
        time.sleep(0.01)
    endless.close()
    endless.wait(10)
    assert endless._thread is not None
    assert not endless._thread.is_alive()


def test_a_newcomers_wall_is_everybodys_policy_at_once_and_is_learned_on_from(
    deck_on: Callable[..., Deck], everybody: PopulationPolicy
) -> None:
    deck = deck_on(population=everybody)
    deck.endless.settings = QUICK
    assert deck.endless.ready()
    assert deck.endless.progress is None  # nothing was learned
    begun = policy_of(everybody, deck.session.pack).state_dict()
    assert deck.endless._policy is not None
    assert all(torch.equal(value, begun[name]) for name, value in deck.endless._policy.state_dict().items())
    with deck.lock:
        made = deck.make_wall(0.0)
        assert deck.more_wall()
        assert deck.wall is not None
        assert deck.wall.items[: len(made.items)] == made.items
        assert deck.wall.chances == (None,) * len(deck.wall.items)  # nobody knows that of somebody unknown
        rate(deck.session, 10)
    assert not deck.endless.ready()
    deck.endless.wait(60)
    assert deck.endless.trouble is None
    assert deck.endless.ready()
    learned = deck.endless._policy
    assert learned is not None
    shapes = {name: value.shape for name, value in learned.state_dict().items()}
    assert shapes == {name: value.shape for name, value in begun.items()}  # of its size, not of the settings'
    assert not all(torch.equal(value, begun[name]) for name, value in learned.state_dict().items())


def test_a_policy_of_another_generator_is_refused_at_once(
    deck_on: Callable[..., Deck], everybody: PopulationPolicy
) -> None:
    with pytest.raises(PriorError, match="draws for pack bbbb"):
        deck_on(population=replace(everybody, pack="b" * 64))


def test_more_of_a_session_takes_everybodys_policy_too(pack: GeneratorPack, everybody: PopulationPolicy) -> None:
    session = Session(pack, MemoryJournal(), seed=0)
    with pytest.raises(SettingError, match="0 answers are too few for a stream"):
        more(session, 3, 0.3, QUICK)
    assert len(more(session, 3, 0.3, QUICK, everybody)) == 3
