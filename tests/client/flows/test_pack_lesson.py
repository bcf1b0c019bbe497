"""Answers of a session as what a flow is taught."""

import pytest
import torch
from torch import Tensor

from client.flows.pack_lesson import Said, lesson_of
from client.generators.pack import GeneratorPack
from client.journal import MemoryJournal
from client.memory import Rated
from client.ratings import Best, Choice, Glance, Like, Rating, Stars
from client.session import Session
from common.errors import SettingError


def said(*ratings: Rating) -> Said:
    return Said.of([Rated(i, rating, 0.0, "", None) for i, rating in enumerate(ratings)])


def test_a_or_b_and_the_best_of_several_are_pairs_and_what_was_picked_is_liked() -> None:
    assert said(Choice(0, 1, "b"), Best((2, 3, 4), 1)) == Said((1, 3), ((1, 0), (3, 2), (3, 4)))
    assert said(Best((2, 3, 4), 0, worst=True)) == Said((), ((3, 2), (4, 2)))


def test_answers_about_single_items_are_pairs_of_the_better_with_the_worse() -> None:
    mixed = said(Like(0, True), Like(1, False), Stars(2, 5), Stars(3, 3))
    assert mixed.liked == (0, 2)
    assert set(mixed.pairs) == {(0, 1), (2, 1), (3, 1), (0, 3), (2, 3)}
    assert said(Choice(0, 1, "both"), Choice(2, 3, "neither")).liked == (0, 1)
    assert set(said(Choice(0, 1, "both"), Choice(2, 3, "neither")).pairs) == {(0, 2), (0, 3), (1, 2), (1, 3)}


def test_a_look_in_passing_counts_for_nothing_and_many_likes_give_a_bounded_number_of_pairs() -> None:
    assert said(Glance(0, 9.0)) == Said((), ())
    many = said(*(Like(i, i % 2 == 0) for i in range(100)))
    assert 200 < len(many.pairs) <= 400
    assert all(better % 2 == 0 and worse % 2 == 1 for better, worse in many.pairs)


class Source:
    """Stands for the pack's flow: a sample is its latent."""

    def __init__(self, pack: GeneratorPack) -> None:
        self.pack = pack

    def samples(self, latents: Tensor) -> Tensor:
        return latents


@pytest.fixture
def session() -> Session:
    return Session(GeneratorPack.open("art"), MemoryJournal(), seed=0)


def rate(session: Session, count: int, context: str = "") -> None:
    session.use(context=context)
    for i in range(count):
        a, b = session.items_at(session.pack.latents.sample(2, torch.Generator().manual_seed(100 + i)))
        session.rate(Choice(a, b, "a"))


def test_some_answers_are_held_out_and_each_sample_is_that_of_its_item(session: Session) -> None:
    rate(session, 10)
    found = lesson_of(session, Source(session.pack), held_out=0.2, seed=1)  # type: ignore[arg-type]
    assert (len(found.liked), len(found.better), len(found.held_better), found.answers) == (8, 8, 2, 10)
    latents = session.catalogue.points.latents
    better, worse = (torch.cat(both) for both in ((found.better, found.held_better), (found.worse, found.held_worse)))
    rows = torch.cdist(better, latents).argmin(1)
    assert sorted(rows.tolist()) == list(range(0, 20, 2))
    assert torch.equal(worse, latents[rows + 1])


def test_only_answers_of_the_context_count(session: Session) -> None:
    rate(session, 10, "evening")
    rate(session, 9, "")
    assert lesson_of(session, Source(session.pack)).answers == 9  # type: ignore[arg-type]


def test_too_few_and_none_positive_are_told(session: Session) -> None:
    rate(session, 7)
    with pytest.raises(SettingError, match="7 answers are too few to teach a flow, which needs 8"):
        lesson_of(session, Source(session.pack))  # type: ignore[arg-type]
    other = Session(session.pack, MemoryJournal(), seed=0)
    for item in other.items_at(other.pack.latents.sample(9, torch.Generator().manual_seed(0))):
        other.rate(Like(item, False))
    with pytest.raises(SettingError, match="none of 9 answers is positive"):
        lesson_of(other, Source(other.pack))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"held_out=1\.5"):
        lesson_of(other, Source(other.pack), held_out=1.5)  # type: ignore[arg-type]
