"""A session as an application builder uses it: the whole API on the embedded generator."""

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.classifiers import MODELS
from client.curator import ROAMING, trust_angle
from client.generators.pack import GeneratorPack
from client.items import Item
from client.journal import Event, MemoryJournal
from client.ratings import ANSWERS, Best, Choice, Glance, Like, Rating, Stars
from client.search.methods import SEARCHES
from client.session import Session
from common.errors import ItemError, PackError, PriorError, SettingError, UnknownGenerator
from common.prior import PopulationPrior


def open_session(journal: MemoryJournal | None = None, **more: object) -> Session:
    return Session.open("art", store=journal or MemoryJournal(), seed=more.pop("seed", 0), **more)  # type: ignore[arg-type]


def likes(item: Item) -> float:
    """A taste this test has: two components of the map, one of them with an ideal point."""
    x = item.features
    return float(2 * x[0] - (x[1] - 1).square())


def answer(session: Session, pairs: int) -> None:
    for _ in range(pairs):
        a, b = session.propose(2)
        session.rate(Choice(a, b, "a" if likes(a) > likes(b) else "b"))


def state(session: Session) -> tuple[list[Rating], list[float]]:
    probe = session._curator.pool[slice(0, 50)]
    return [r.rating for r in session.history], session.taste.score(probe).tolist()


def test_the_words_of_the_readme_work() -> None:
    session = Session.open("art", prior=None, store=None, seed=0)
    items = session.propose(8)
    assert [item.id for item in items] == list(range(8))
    assert items[0].latent.shape == (24,)
    assert items[0].features.shape == (65,)
    assert items[0].media.shape == (3, 256, 256)
    assert float(items[0].media.abs().max()) <= 1
    session.rate(Choice(items[0], items[1], "a"))
    session.rate(Like(items[2], True))
    session.rate(Stars(items[3], 4))
    session.rate(Best(items[4:8], 2))
    session.rate(Glance(items[2], seconds=2.1))
    others = session.items_at(torch.zeros(2, 24) + 0.5)
    session.rate(Like(others[0], False))
    assert len(session.recommend(8, surprise=0.3)) == 8
    assert session.undo() == Like(others[0], False)
    told = session.explain()
    assert told.answers == 5
    assert told.by_kind == {"choice": 1, "like": 1, "stars": 1, "best": 1, "glance": 1}


def test_twenty_pairs_find_what_is_loved() -> None:
    """The wall after twenty answers is better than what the generator makes by itself, every one of eight items."""
    session = open_session()
    answer(session, 20)
    typical = torch.tensor([likes(session.items_at(z[None])[0]) for z in session._curator.pool.latents[:300]])
    loved = torch.tensor([likes(item) for item in session.recommend(8)])
    assert float((typical[:, None] < loved).double().mean()) > 0.9
    varied = session.recommend(8, surprise=0.6)
    assert float((typical[:, None] < torch.tensor([likes(i) for i in varied])).double().mean()) > 0.8

    def spread(items: list[Item]) -> float:
        return float(torch.nn.functional.pdist(torch.stack([item.latent for item in items])).mean())

    assert spread(varied) > 1.5 * spread(session.recommend(8))


def test_every_other_comparison_roams_once_there_is_a_guess() -> None:
    """Questions near the best are about better items than the ones between them, which come from anywhere."""
    session = open_session()
    near: list[float] = []
    anywhere: list[float] = []
    for asked in range(ROAMING + 12):
        a, b = session.propose(2)
        with torch.no_grad():
            scores = session.taste.score(session._curator.pool)
            place = float((session.predict([a, b])[0].mean() - scores.mean()) / scores.std())
        if asked >= ROAMING:
            (anywhere if asked % 2 else near).append(place)
        session.rate(Choice(a, b, "a" if likes(a) > likes(b) else "b"))
    assert sum(near) / 6 > sum(anywhere) / 6 + 0.5
    assert max(anywhere) < max(near)


def test_a_person_who_answers_at_random_is_not_understood() -> None:
    """The control: coins instead of a taste. The mean of eight uniform numbers is above .85 once in 10,000 times."""
    shares = []
    for seed in range(8):
        session, coin = open_session(seed=seed), torch.Generator().manual_seed(seed)
        for _ in range(10):
            a, b = session.propose(2)
            session.rate(Choice(a, b, ANSWERS[int(torch.randint(4, (), generator=coin))]))
        typical = torch.tensor([likes(session.items_at(z[None])[0]) for z in session._curator.pool.latents[:100]])
        shares.append(float((typical < likes(session.recommend(1)[0])).double().mean()))
    assert sum(shares) / len(shares) < 0.85
    told = session.explain()
    assert told.held_out_accuracy is not None
    assert told.held_out_accuracy < told.chance + 0.4


def test_the_same_seed_and_answers_show_the_same() -> None:
    first, second = open_session(), open_session()
    for session in (first, second):
        answer(session, 8)
    torch.testing.assert_close(first.catalogue.points.latents, second.catalogue.points.latents)
    other = open_session(seed=1)
    answer(other, 1)
    assert not torch.equal(other.catalogue.points.latents[:2], first.catalogue.points.latents[:2])


def test_a_journal_brings_everything_back() -> None:
    journal = MemoryJournal()
    session = open_session(journal, profile="ada")
    answer(session, 6)
    session.rate(Glance(3, 2.0))
    session.undo()
    session.favourite(2)
    session.skip([4, 5])
    again = open_session(journal, profile="ada")
    assert state(again)[0] == state(session)[0]
    assert state(again)[1] == pytest.approx(state(session)[1], abs=1e-4)
    assert [item.id for item in again.favourites] == [2]
    assert [r.foretold for r in again.history] == [r.foretold for r in session.history]
    assert again.redo() == Glance(3, 2.0)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["rate", "undo", "redo"]), max_size=14), st.integers(0, 2**20))
def test_undo_and_redo_walk_through_the_same_states(steps: list[str], seed: int) -> None:
    """Whatever is done, the state is that of a list of ratings with a mark in it: the oldest law of undo."""
    session, coin = open_session(), torch.Generator().manual_seed(seed)
    items = session.items_at(session.pack.latents.sample(30, coin))
    done: list[Rating] = []
    ahead: list[Rating] = []
    for number, step in enumerate(steps):
        if step == "rate":
            rating = Like(items[number], bool(torch.randint(2, (), generator=coin)))
            session.rate(rating)
            done, ahead = [*done, rating], []
        elif step == "undo":
            expected = done[-1] if done else None
            assert session.undo() == expected
            if done:
                ahead.append(done.pop())
        else:
            assert session.redo() == (ahead[-1] if ahead else None)
            if ahead:
                done.append(ahead.pop())
        assert [r.rating for r in session.history] == done


def test_undo_is_at_least_twenty_deep_and_restores_the_model() -> None:
    session = open_session()
    answer(session, 3)
    before = state(session)
    answer(session, 22)
    for _ in range(22):
        assert session.undo() is not None
    after = state(session)
    assert after[0] == before[0]
    assert after[1] == pytest.approx(before[1], abs=1e-4)


def test_a_rating_can_be_removed_for_good() -> None:
    journal = MemoryJournal()
    session = open_session(journal)
    answer(session, 4)
    event = session.history[1].event
    session.remove(event)
    assert event not in {e.id for e in journal.events()}
    assert len(session.history) == 3
    assert len(open_session(journal).history) == 3
    with pytest.raises(ItemError, match=f"rating {event}"):
        session.remove(event)


@pytest.mark.parametrize("rating", [Like(99, True), Choice(0, 99, "a"), Best((0, 1, 99), 0), Glance(99, 1.0)])
def test_items_that_were_never_shown_are_refused_and_nothing_is_kept(rating: Rating) -> None:
    journal = MemoryJournal()
    session = open_session(journal)
    session.propose(4)
    before = len(journal.events())
    with pytest.raises(ItemError, match="item 99 was never shown"):
        session.rate(rating)
    assert len(journal.events()) == before


def test_the_same_question_is_answered_once() -> None:
    session = open_session()
    a, b = session.propose(2)
    session.rate(Choice(a, b, "a"))
    for again in (Choice(a, b, "b"), Choice(b, a, "a")):
        with pytest.raises(ItemError, match="rated already"):
            session.rate(again)
    session.rate(Choice(b, a, "a"), replace=True)
    assert [r.rating for r in session.history] == [Choice(b, a, "a")]
    session.rate(Like(a, True))
    session.rate(Glance(a, 1.0))
    session.rate(Glance(a, 1.0))


def test_profiles_and_contexts_live_side_by_side() -> None:
    journal = MemoryJournal()
    session = open_session(journal, profile="ada")
    answer(session, 5)
    session.use(context="evening")
    answer(session, 2)
    assert session.contexts() == ["", "evening"]
    session.use(profile="bob")
    assert session.history == []
    assert session.context == ""
    answer(session, 1)
    session.use(profile="ada")
    assert len(session.history) == 7
    assert session.profiles() == ["ada", "bob"]


def test_another_pack_under_a_store_is_refused() -> None:
    journal = MemoryJournal()
    journal.append([Event("item", {"item": 0, "pack": "0" * 64, "profile": "me"}, torch.zeros(24))])
    with pytest.raises(PackError, match="another generator pack"):
        open_session(journal)
    session = open_session(journal, profile="somebody else")
    answer(session, 1)
    with pytest.raises(PackError, match="another generator pack"):
        session.use(profile="me")
    assert session.profile == "somebody else"
    answer(session, 1)


def test_a_prior_of_another_pack_is_refused() -> None:
    with pytest.raises(PriorError, match="another generator pack"):
        open_session(prior=PopulationPrior.flat(25, "another", 1.0))


def crowd() -> PopulationPrior:
    """People who all like the first component of the map, more or less."""
    flat = PopulationPrior.flat(33, GeneratorPack.open("art").hash, 1.0)
    mean = torch.zeros(33, dtype=torch.float64)
    mean[0] = 2.0
    return dataclasses.replace(flat, mean=mean, covariance=0.2 * torch.eye(33, dtype=torch.float64))


def test_a_prior_is_a_start_before_any_answer() -> None:
    session = open_session(prior=crowd())
    assert session.explain().source == "the crowd"
    first = torch.stack([item.features[0] for item in session.recommend(8)])
    assert float(first.min()) > 1.5
    a, b = session.propose(2)
    assert float(a.features[0] + b.features[0]) > 1, "no spread-out first question: the crowd knows where to look"


def test_somebody_unlike_the_crowd_is_understood_as_well() -> None:
    """Twenty answers of a person who likes the opposite: the prior loses its weight instead of pulling for ever."""
    session = open_session(prior=crowd())
    for _ in range(20):
        a, b = session.propose(2)
        session.rate(Choice(a, b, "a" if a.features[0] < b.features[0] else "b"))
    assert float(torch.stack([item.features[0] for item in session.recommend(8)]).mean()) < -1


@pytest.mark.parametrize("surprise", [0.0, 0.3, 1.0])
def test_recommendations_are_typical_of_the_generator(surprise: float) -> None:
    session = open_session()
    answer(session, 12)
    items = session.recommend(8, surprise=surprise)
    norms = torch.stack([item.latent for item in items]).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((8,), session.pack.latents.radius), atol=1e-3, rtol=0)
    points = session.catalogue.points[torch.tensor([item.id for item in items])]
    own = session._curator.extremeness(session._curator.pool)
    assert bool((session._curator.extremeness(points) <= own.quantile(0.999)).all())


def test_after_three_times_neither_the_search_moves_and_says_so() -> None:
    session = open_session()
    answer(session, 10)
    asked = []
    for number in range(5):
        a, b = session.propose(2)
        asked.append(torch.stack([a.features, b.features]))
        assert (session.notice() is not None) == (number >= 3)
        session.rate(Choice(a, b, "neither"))
    assert "somewhere else" in str(session.explain().notice)
    recent, pool = torch.cat(asked[:3]), session._curator.pool.features
    assert torch.cdist(asked[3], recent).amin(1).min() >= torch.cdist(pool, recent).amin(1).median() - 1e-4


def test_sides_are_random() -> None:
    """The best guess is as often on the left as on the right: 60 pairs, fixed alpha of 1e-4."""
    session = open_session()
    answer(session, 6)
    left = 0
    for _ in range(60):
        a, b = session.propose(2)
        mean, _ = session.predict([a, b])
        left += bool(mean[0] > mean[1])
    assert 14 <= left <= 46  # a fair coin leaves this range with probability 3e-5


@pytest.mark.parametrize("model", MODELS)
def test_every_taste_model_runs_a_session(model: str) -> None:
    session = open_session(model=model)
    answer(session, 8)
    assert len(session.recommend(4)) == 4
    assert session.explain().answers == 8


@pytest.mark.parametrize("method", sorted(SEARCHES))
def test_every_search_finds_what_is_loved(method: str) -> None:
    session = open_session(search=method)
    answer(session, 12)
    expected, _ = session.predict(session.recommend(2))
    typical = session.taste.score(session._curator.pool[slice(0, 500)])
    assert float(expected.max()) > float(typical.quantile(0.95))


def test_a_wanted_score_is_reached_or_it_is_said_that_it_is_not() -> None:
    session = open_session()
    answer(session, 12)
    near, far = session.reach(1.0), session.reach(1000.0)
    assert near.reached
    assert near.score == pytest.approx(1.0, abs=0.3) or near.score > 1.0
    assert not far.reached
    assert far.score > near.score - 0.2
    assert far.deviation > 0


def test_a_trust_region_grows_with_the_evidence() -> None:
    angles = [trust_angle(answers) for answers in (0, 5, 20, 80, 1000)]
    assert angles == sorted(angles)
    assert 0.4 < angles[0] < angles[-1] < 1.3


def test_temperature_decides_between_the_best_guess_and_anything() -> None:
    session = open_session()
    answer(session, 10)

    def spread(temperature: float) -> float:
        items = [session.propose(1, temperature=temperature)[0] for _ in range(12)]
        return float(torch.stack([item.features for item in items]).std(0).mean())

    assert spread(0.0) < spread(1.0)
    with pytest.raises(SettingError, match="temperature=-1"):
        session.propose(1, temperature=-1)


def test_unwanted_content_is_known_to_be_disliked_before_it_is_asked_about() -> None:
    journal = MemoryJournal()
    session = open_session(journal)
    answer(session, 4)
    item = session.recommend(1)[0]
    before, _ = session.predict([item])
    session.mark_unwanted(item)
    after, _ = session.predict([item])
    assert float(after) < float(before)
    assert open_session(journal).unwanted == [item.id]
    session.mark_unwanted(item, on=False)
    assert float(session.predict([item])[0]) == pytest.approx(float(before), abs=1e-4)


def test_balance_lets_few_likes_count_as_much_as_many_dislikes() -> None:
    found = {}
    for balanced in (False, True):
        session = open_session(balanced=balanced)
        items = session.items_at(session.pack.latents.sample(30, torch.Generator().manual_seed(3)))
        for number, item in enumerate(items):
            session.rate(Like(item, number < 4))
        found[balanced] = float(session.predict(items[:4])[0].mean())
    assert found[True] > found[False]


@pytest.mark.parametrize(("n", "feedback"), [(1, None), (2, None), (4, None), (10, "batch")])
def test_proposals_differ_from_each_other(n: int, feedback: str | None) -> None:
    session = open_session()
    answer(session, 6)
    items = session.propose(n, feedback=feedback)
    latents = torch.stack([item.latent for item in items])
    assert len(latents) == n
    if n > 1:
        assert float(torch.nn.functional.pdist(latents).min()) > 1e-3


def test_more_like_this_stays_near() -> None:
    session = open_session()
    answer(session, 6)
    item = session.item(3)
    near = torch.stack([other.latent for other in session.more_like(item, 4)])
    cosine = torch.nn.functional.cosine_similarity(near, item.latent[None])
    assert float(cosine.min()) > 0.7
    assert float(cosine.max()) < 0.99


def test_the_map_holds_what_was_rated() -> None:
    session = open_session()
    assert session.map() == []
    answer(session, 5)
    placed = session.map()
    assert sorted(item.id for item, *_ in placed) == list(range(10))
    assert all(0 <= x <= 1 and 0 <= y <= 1 for _, x, y, _ in placed)


def test_forgetting_leaves_nothing() -> None:
    journal = MemoryJournal()
    session = open_session(journal)
    answer(session, 3)
    session.forget()
    assert journal.events() == []
    assert session.history == []
    answer(session, 1)
    assert journal.events() == [], "after forgetting nothing is kept again unasked"


def test_bad_input_is_named() -> None:
    session = open_session()
    for call, words in [
        (lambda: session.propose(0), "n=0"),
        (lambda: session.recommend(0), "k=0"),
        (lambda: session.recommend(4, surprise=1.5), "surprise=1.5"),
        (lambda: session.items_at(torch.zeros(1, 3)), "shape"),
        (lambda: session.items_at(torch.full((1, 24), float("nan"))), "NaN"),
    ]:
        with pytest.raises(SettingError, match=words):
            call()  # type: ignore[no-untyped-call]
    with pytest.raises(UnknownGenerator):
        Session.open("no-such-generator")
    with pytest.raises(SettingError, match="taste model 'oracle'"):
        open_session(model="oracle")


def test_export_holds_what_json_can() -> None:
    import json

    session = open_session()
    answer(session, 2)
    session.favourite(1)
    exported = json.loads(json.dumps(session.export()))
    assert len(exported["items"]) == 4
    assert [r["kind"] for r in exported["ratings"]] == ["choice", "choice"]
    assert exported["favourites"] == [1]
    assert exported["pack"]["sha256"] == session.pack.hash


def test_a_pack_without_a_map_is_learned_by_its_latents(tmp_path: Path) -> None:
    from client.generators.pack import GENERATOR, write_pack

    art = GeneratorPack.open("art")
    bare = GeneratorPack.open_without_map(art.folder)
    write_pack(tmp_path / "bare", bare.manifest, {GENERATOR: bare._content[GENERATOR]})
    session = Session.open(tmp_path / "bare", seed=0)
    for _ in range(12):
        a, b = session.propose(2)
        session.rate(Choice(a, b, "a" if a.latent[0] > b.latent[0] else "b"))
    assert float(torch.stack([item.latent[0] for item in session.recommend(8)]).mean()) > 1


def test_several_hundred_answers_stay_quick_enough_and_count() -> None:
    """More answers than are kept in the fit: the newest always are, and what was learned stays."""
    session, coin = open_session(), torch.Generator().manual_seed(0)
    items = session.items_at(session.pack.latents.sample(320, coin))
    for number, item in enumerate(items):
        session._memory.rate("me", "", Like(item, likes(item) > 0), None)
        if number % 80 == 79:
            session._learn()
    mean, _ = session.predict(items)
    right = sum((m > 0) == (likes(i) > 0) for m, i in zip(mean.tolist(), items, strict=True))
    assert right > 0.8 * len(items)
    assert all(a != b for a, b in itertools.pairwise(r.event for r in session.history))
