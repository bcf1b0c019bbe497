import torch

from client.ratings import Choice, Glance, Like, Rating
from client.session import Session


def told(ratings: list[Rating], shown: int = 30) -> Session:
    session = Session.open("art", seed=0)
    session.items_at(session.pack.latents.sample(shown, torch.Generator().manual_seed(0)))
    for rating in ratings:
        session.rate(rating)
    return session


def test_a_circle_of_preferences_is_a_contradiction() -> None:
    straight = told([Choice(0, 1, "a"), Choice(1, 2, "a"), Choice(0, 2, "a")])
    circle = told([Choice(0, 1, "a"), Choice(1, 2, "a"), Choice(0, 2, "b")])
    assert not any("contradict" in trouble for trouble in straight.explain().troubles)
    assert any("1 answers contradict" in trouble for trouble in circle.explain().troubles)


def test_guesses_are_made_before_an_answer_is_heard() -> None:
    """The same liked item twice, in two kinds of answer: the second is foretold, the first had nothing to go by."""
    session = Session.open("art", seed=0)
    a, b = session.propose(2)
    assert session.rate(Choice(a, b, "a")).foretold is None
    assert session.rate(Choice(b, session.items_at(b.latent[None] * 0.999)[0], "neither")).foretold is True
    assert session.explain().guessed_of_last == (1, 1)
    assert session.rate(Glance(a, 3.0)).foretold is None


def test_certainty_grows_with_answers_and_says_where_suggestions_come_from() -> None:
    session = told([])
    start = session.explain()
    assert (start.answers, start.certainty, start.source, start.held_out_accuracy) == (0, 0.0, "nothing yet", None)
    for number in range(30):
        session.rate(Like(number, bool(session.item(number).features[0] > 0)))
    after = session.explain()
    assert 0.05 < after.certainty < 1
    assert after.source == "you"
    assert after.by_kind == {"like": 30}


def test_only_glances_are_said_to_be_little() -> None:
    session = told([Glance(0, 2.0), Glance(1, 0.4, skipped=True)])
    assert any("how long you looked" in trouble for trouble in session.explain().troubles)
