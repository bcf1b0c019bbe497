"""The deck: one question at a time for every window, nothing counted twice, nothing lost."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

import pytest
import torch

from client.journal import Event, MemoryJournal
from client.ratings import Answer, Choice, Glance, Like
from client.web import deck as decks
from client.web.deck import AHEAD, Deck
from client.web.modes import MODES
from client.web.question import Question
from common.errors import ItemError, SettingError, StorageError

Make = Callable[..., Deck]


class Disk(MemoryJournal):
    """A journal on a disk that may be full."""

    full: frozenset[str] = frozenset()

    def append(self, events: Sequence[Event]) -> list[Event]:
        if any(event.kind in self.full for event in events):
            raise StorageError("cannot write the store: no space left on device; free some space")
        return super().append(events)


def said(deck: Deck, answer: str = "a", seconds: float | None = None) -> Question:
    question = deck.current()
    assert deck.answer(question.key, answer, seconds)
    return question


def choice(question: Question, answer: Answer) -> Choice:
    left, right = question.items
    return Choice(left, right, answer)


def history(deck: Deck) -> list[tuple[int, ...]]:
    return [rated.rating.row[2] for rated in deck.session.history]


def test_an_answer_is_kept_and_the_next_question_is_another(deck_on: Make) -> None:
    deck = deck_on()
    first = said(deck, "b")
    second = deck.current()
    assert [rated.rating for rated in deck.session.history] == [choice(first, "b")]
    assert set(first.items).isdisjoint(second.items)
    assert first.key != second.key


def test_the_next_question_is_ready_before_the_answer(deck_on: Make) -> None:
    deck = deck_on()
    deck.current()
    deck.wait_ahead(20)
    assert len(deck.ahead) == AHEAD
    expected = deck.ahead[0]
    said(deck)
    start = time.perf_counter()
    assert deck.current() == expected
    assert time.perf_counter() - start < 0.05  # it was not drawn just now
    assert all(deck.pictures.get(deck.session.item(item), "big")[:2] == b"\xff\xd8" for item in expected.items)


def test_each_answer_changes_the_question_after_the_next(deck_on: Make) -> None:
    deck = deck_on()
    for _ in range(3):
        said(deck)
        deck.wait_ahead(20)
        assert deck.behind == 0
        assert deck.ahead[0].version == deck._version


def test_somebody_very_quick_is_told_that_the_model_is_behind(deck_on: Make) -> None:
    deck = deck_on()
    deck.current()
    deck.wait_ahead(20)
    with deck.lock:  # the worker cannot come in between
        said(deck)
        said(deck)
        assert deck.behind == 1


def test_a_form_that_arrives_many_times_at_once_is_one_answer(deck_on: Make) -> None:
    deck = deck_on()
    key, taken = deck.current().key, []
    threads = [threading.Thread(target=lambda: taken.append(deck.answer(key, "a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]
    assert len(deck.session.history) == 1
    assert deck.message() is None  # the same answer again is no mistake


def test_another_answer_to_an_old_question_changes_nothing_and_says_so(deck_on: Make) -> None:
    deck = deck_on()
    old = said(deck, "a")
    now = deck.current()
    assert not deck.answer(old.key, "b")
    assert "answered already" in (deck.message() or "")
    assert deck.message() is None
    assert not deck.skip("no such key")
    assert "not on the table" in (deck.message() or "")
    assert deck.current() == now
    assert len(deck.session.history) == 1


def test_an_answer_the_mode_does_not_have_is_refused_and_the_question_stays(deck_on: Make) -> None:
    deck = deck_on()
    question = deck.current()
    with pytest.raises(SettingError, match="answer='like' must be one of a, b, both, neither"):
        deck.answer(question.key, "like")
    assert deck.current() == question
    assert deck.session.history == []


def test_twenty_two_answers_are_taken_back_and_given_again(deck_on: Make) -> None:
    deck = deck_on(mode="swipe")
    asked = []
    for step in range(22):
        asked.append(said(deck, "like" if step % 3 else "dislike"))
    before, probe = history(deck), [question.items[0] for question in asked]
    scores = deck.session.predict(probe)[0]
    for question in reversed(asked):
        assert deck.undo()
        again = deck.current()
        assert (again.items, again.pictures) == (question.items, question.pictures)
        assert again.key != question.key
    assert history(deck) == []
    assert not deck.undo()
    assert deck.message() == "There is nothing to take back."
    assert not torch.allclose(deck.session.predict(probe)[0], scores, atol=0.1)
    for number in range(len(asked)):
        assert deck.current().items == asked[number].items
        assert deck.redo()
    assert not deck.redo()
    assert history(deck) == before
    assert torch.allclose(deck.session.predict(probe)[0], scores, atol=1e-6)
    assert deck.current().items[0] not in probe


def test_an_answer_that_was_taken_back_can_be_given_differently(deck_on: Make) -> None:
    deck = deck_on()
    question = said(deck, "a")
    waiting = deck.current()
    deck.undo()
    said(deck, "b")
    assert [rated.rating for rated in deck.session.history] == [choice(question, "b")]
    assert not deck.can_redo
    shown = {deck.current().items, *(later.items for later in deck.ahead)}
    assert waiting.items in shown  # the question that was open is not lost


def test_a_skip_is_no_answer_and_can_be_taken_back(deck_on: Make) -> None:
    deck = deck_on()
    question = deck.current()
    assert deck.skip(question.key)
    assert deck.session.history == []
    assert deck.current().items != question.items
    deck.undo()
    assert deck.current().items == question.items


def test_how_long_somebody_looks_counts_only_when_they_asked_for_it(deck_on: Make) -> None:
    deck = deck_on(mode="swipe")
    said(deck, "like", 1.0)
    assert [type(rated.rating) for rated in deck.session.history] == [Like]
    deck.noticing = True
    deck.current()
    time.sleep(0.05)
    said(deck, "like", 1e9)
    glance = deck.session.history[-1].rating
    assert isinstance(glance, Glance)
    assert 0.05 <= glance.seconds < 20  # not longer than the question was there
    question = deck.current()
    deck.skip(question.key, 0.01)
    skipped = deck.session.history[-1].rating
    assert isinstance(skipped, Glance)
    assert skipped.skipped
    assert len(deck.session.history) == 4


def test_what_was_noticed_goes_with_the_answer_that_is_taken_back(deck_on: Make) -> None:
    deck = deck_on(mode="stars")
    deck.noticing = True
    said(deck, "4", 0.5)
    said(deck, "2", 0.5)
    assert len(deck.session.history) == 4
    deck.undo()
    assert len(deck.session.history) == 2
    deck.redo()
    assert [type(rated.rating).__name__ for rated in deck.session.history] == ["Stars", "Glance", "Stars", "Glance"]
    deck.undo()
    deck.undo()
    assert deck.session.history == []


def test_of_a_pair_nobody_knows_which_one_was_looked_at(deck_on: Make) -> None:
    deck = deck_on()
    deck.noticing = True
    said(deck, "a", 3.0)
    assert [type(rated.rating) for rated in deck.session.history] == [Choice]


def test_every_mode_asks_about_as_many_pictures_as_it_says(deck_on: Make) -> None:
    deck = deck_on()
    for mode in MODES.values():
        deck.choose_mode(mode.name)
        assert len(deck.current().items) == mode.items
        said(deck, mode.answers[-1].name)
    assert [rated.rating.row[0].name for rated in deck.session.history] == ["CHOICE", "LIKE", "STARS", "BEST", "WORST"]
    with pytest.raises(SettingError, match="mode='guess' must be one of"):
        deck.choose_mode("guess")


def test_neighbours_are_asked_about_at_once_and_the_open_question_comes_back(deck_on: Make) -> None:
    deck = deck_on()
    said(deck)
    waiting = deck.current()
    deck.more_like(waiting.items[0])
    near = deck.current()
    assert near.mode.name == "best"
    assert near.origin == waiting.items[0]
    latents = torch.stack([deck.session.item(item).latent for item in near.items])
    origin = deck.session.item(waiting.items[0]).latent
    assert torch.cosine_similarity(latents, origin[None]).min() > 0.5
    assert waiting.items in [question.items for question in deck.ahead]
    said(deck, "2")
    assert deck.last is not None
    assert deck.last.chosen == near.items[1]
    with pytest.raises(ItemError, match="never shown"):
        deck.more_like(10_000)


def test_a_full_disk_loses_nothing_and_the_same_question_can_be_answered_later(deck_on: Make) -> None:
    journal = Disk()
    deck = deck_on(journal)
    said(deck)
    question = deck.current()
    journal.full = frozenset({"rating"})
    with pytest.raises(StorageError, match="no space left"):
        deck.answer(question.key, "a")
    assert deck.current() == question
    journal.full = frozenset()
    assert deck.answer(question.key, "a")
    assert len(deck.session.history) == 2


def test_when_no_question_can_be_made_the_person_is_told_and_the_next_call_tries_again(deck_on: Make) -> None:
    journal = Disk()
    journal.full = frozenset({"item"})
    deck = deck_on(journal)
    with pytest.raises(StorageError, match="no space left"):
        deck.current()
    journal.full = frozenset()
    with contextlib.suppress(StorageError):  # what the worker met before the space was freed
        deck.current()
    assert len(deck.current().items) == 2


def test_answers_of_an_earlier_start_can_be_taken_back(deck_on: Make) -> None:
    journal = MemoryJournal()
    first = deck_on(journal)
    asked = [said(first, "a"), said(first, "both")]
    first.close()
    second = deck_on(journal)
    assert second.undo()
    assert second.current().items == asked[1].items
    assert second.current().pictures == asked[1].pictures
    assert len(second.session.history) == 1


def test_a_deleted_rating_is_gone_and_undo_goes_on_with_the_one_before(deck_on: Make) -> None:
    deck = deck_on()
    said(deck, "a")
    said(deck, "b")
    deck.remove(deck.session.history[-1].event)
    assert len(deck.session.history) == 1
    with pytest.raises(ItemError, match="rating 99999 is not in the history"):
        deck.remove(99999)
    deck.undo()
    assert len(deck.session.history) == 1  # its rating was gone already; only its pictures come back
    deck.undo()
    assert deck.session.history == []


def test_another_person_starts_fresh_and_the_first_one_is_kept(deck_on: Make) -> None:
    deck = deck_on()
    question = said(deck)
    deck.use("you", "")
    assert deck.session.history == []
    assert not deck.answer(question.key, "a")
    said(deck)
    deck.use("me", "at night")
    assert history(deck) == [question.items]
    said(deck)
    assert deck.session.history[-1].context == "at night"


def test_a_picture_of_another_person_is_not_taken_for_ones_own(deck_on: Make) -> None:
    deck = deck_on()
    question = said(deck)
    number, name = question.pictures[0].split("-")
    assert deck.find(int(number), name).id == question.items[0]
    deck.use("you", "")
    deck.current()
    with pytest.raises(ItemError, match="looks different"):
        deck.find(int(number), name[::-1])


def test_the_wall_is_better_than_chance_in_the_eyes_of_the_model(deck_on: Make) -> None:
    deck = deck_on()
    for _ in range(12):
        question = deck.current()
        bright = [deck.session.item(item).media.mean() for item in question.items]
        deck.answer(question.key, "a" if bright[0] > bright[1] else "b")
    wall = deck.make_wall(0.3)
    assert len(wall.items) == decks.WALL
    assert wall.answers == 12
    random = deck.session.items_at(deck.session.pack.latents.sample(64, torch.Generator().manual_seed(1)))
    assert deck.session.predict(wall.items)[0].min() > deck.session.predict(random)[0].quantile(0.8)
    assert all(chance is not None and 0.5 < chance < 1 for chance in wall.chances)
    with pytest.raises(SettingError, match="surprise"):
        deck.make_wall(1.5)


def test_forgetting_leaves_nothing_and_the_page_goes_on_from_nothing(deck_on: Make) -> None:
    journal = MemoryJournal()
    deck = deck_on(journal)
    old = said(deck)
    deck.favourite(old.items[0], True)
    deck.make_wall(0.3)
    deck.forget()
    assert journal.events() == []
    assert deck.session.history == []
    assert deck.session.favourites == []
    assert deck.wall is None
    assert deck.last is None
    assert not deck.answer(old.key, "a")
    said(deck)
    assert journal.events() == []


def test_closing_lets_go_of_whoever_waits(deck_on: Make) -> None:
    deck = deck_on()
    deck.current()
    waiting = threading.Thread(target=lambda: deck.wait_ahead(60))
    waiting.start()
    deck.close()
    waiting.join(5)
    assert not waiting.is_alive()
    deck.close()
