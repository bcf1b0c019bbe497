from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client.policy import keeping
from client.policy.flow import FlowSettings, LatentPolicy
from client.policy.guard import GuardSettings
from client.policy.learner import LearnSettings
from client.policy.stream import Stream, StreamSettings, fingerprint, learn, more, prepare, whole_goal
from client.ratings import Choice, Like
from client.session import Session
from client.store import Store
from client.vault import Cost
from common.errors import SettingError

QUICK = StreamSettings(
    couplings=4,
    width=16,
    members=2,
    refit=2,
    learn=LearnSettings(rounds=3, steps=6, batch=64, groups=4),
    guard=GuardSettings(samples=128, divergence=20, distance=10),
)


def warmth(latents: torch.Tensor, session: Session) -> torch.Tensor:
    """What this person likes: more red than blue."""
    pictures = session.pack.generate(latents, size=16)
    return (pictures[:, 0] - pictures[:, 2]).mean((1, 2))


def answer(session: Session, count: int) -> None:
    """Choose the warmer one of two, so often."""
    for row in range(count):
        shown = session.pack.latents.sample(2, torch.Generator().manual_seed(row))
        a, b = session.items_at(shown)
        first, second = warmth(shown, session).tolist()
        session.rate(Choice(a, b, "a" if first > second else "b"))


@pytest.fixture(scope="module")
def session() -> Session:
    found = Session.open("art", seed=3, model="bayes")
    answer(found, 30)
    return found


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Session]:
    store = Store.open(tmp_path / "ratings.plgl", passphrase="a b c", cost=Cost(passes=1, kib=8, lanes=1))
    with Session.open("art", store=store, seed=3, model="bayes") as found:
        answer(found, 12)
        yield found


@pytest.fixture(scope="module")
def policy(session: Session) -> LatentPolicy:
    return learn(session, QUICK).policy


def test_the_stream_is_what_the_person_likes_and_the_safer_the_more(session: Session, policy: LatentPolicy) -> None:
    own = warmth(session.pack.latents.sample(200, torch.Generator().manual_seed(9)), session)
    safe, surprising = (
        warmth(Stream(session, policy, level=level, seed=1).latents(200), session) for level in (0.0, 1.0)
    )
    assert float(safe.mean()) > float(own.mean()) + 0.5 * float(own.std())
    assert float(safe.mean()) > float(surprising.mean())


def test_the_stream_stays_varied_and_near_the_generators_own(session: Session, policy: LatentPolicy) -> None:
    latents = Stream(session, policy, level=0.3, seed=1).latents(200)
    own = session.pack.latents.sample(200, torch.Generator().manual_seed(9))
    assert float(torch.pdist(latents).mean()) > 0.7 * float(torch.pdist(own).mean())
    with torch.no_grad():
        wild = session.extremeness(session.lens(latents)) > 1
    assert float(wild.double().mean()) < 0.05


def test_the_same_seed_streams_the_same_and_none_streams_new_items(session: Session, policy: LatentPolicy) -> None:
    one, other = (Stream(session, policy, seed=4).latents(3) for _ in range(2))
    assert torch.equal(one, other)
    fresh = [Stream(session, policy).latents(3) for _ in range(2)]
    assert not torch.equal(*fresh)


def test_items_of_a_stream_can_be_rated(session: Session, policy: LatentPolicy) -> None:
    item = Stream(session, policy, seed=5).items(1)[0]
    session.rate(Like(item, True))
    session.undo()
    assert session.item(item.id).latent.shape == (24,)


def test_without_held_out_answers_all_are_learned_from_and_the_guard_is_blind(session: Session) -> None:
    whole, deaf = prepare(session, QUICK), prepare(session, replace(QUICK, held_out=0.0))
    probe = session.pack.latents.sample(50, torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert not torch.allclose(whole.learner.goal.reward(probe), deaf.learner.goal.reward(probe), atol=1e-3)
    assert deaf.guard.blind
    assert not whole.guard.blind


def test_all_answers_are_heard_in_the_end_within_the_drift_that_was_found_honest(session: Session) -> None:
    training = prepare(session, QUICK)
    first, goal = training.guard, training.learner.goal
    learned = training.run()
    assert learned.decided is not None
    assert learned.decided.round <= 3
    assert learned.kept.round > 3
    assert first.drift(learned.kept) <= first.drift(learned.decided)
    probe = session.pack.latents.sample(50, torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = whole_goal(session, QUICK).reward(probe)
        assert torch.allclose(training.learner.goal.reward(probe), whole, atol=1e-5)
        assert not torch.allclose(goal.reward(probe), whole, atol=1e-2)
    alone = prepare(session, replace(QUICK, refit=0)).run()
    assert alone.decided is None
    assert len(alone.checks) <= QUICK.learn.rounds + 1


def test_too_few_answers_are_refused() -> None:
    session = Session.open("art", seed=0, model="bayes")
    answer(session, 3)
    with pytest.raises(SettingError, match="3 answers are too few for a stream, which needs 8; rate more with"):
        learn(session, QUICK)


def test_a_taste_without_anything_positive_is_refused() -> None:
    session = Session.open("art", seed=0, model="bayes")
    for item in session.items_at(session.pack.latents.sample(9, torch.Generator().manual_seed(0))):
        session.rate(Like(item, False))
    with pytest.raises(SettingError, match="none of 9 answers is positive; like something first"):
        learn(session, QUICK)


def test_a_policy_is_kept_and_learned_again_only_when_the_answers_change(kept: Session) -> None:
    rounds: list[int] = []
    first = learn(kept, QUICK, lambda check: rounds.append(check.round))
    assert rounds[0] == 0
    assert len(rounds) == len(first.checks)
    again = learn(kept, QUICK, lambda check: rounds.append(100))
    assert 100 not in rounds
    for one, two in zip(first.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(one, two)
    before = fingerprint(kept, QUICK)
    kept.undo()
    assert fingerprint(kept, QUICK) != before
    learn(kept, QUICK, lambda check: rounds.append(200))
    assert 200 in rounds


def test_ctrl_c_keeps_the_last_good_policy_and_the_next_time_goes_on(kept: Session) -> None:
    def stop(check: object) -> None:
        if getattr(check, "round", 0) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(kept, QUICK, stop)
    left = keeping.load(kept)
    assert left is not None
    assert not left.finished
    assert len(left.learned.checks) == 2
    seen: list[int] = []
    resumed = learn(kept, QUICK, lambda check: seen.append(check.round))
    assert seen == [2, 3, 4, 5]
    kept.journal.forget_derived()  # type: ignore[attr-defined]
    straight = learn(kept, QUICK)
    for one, two in zip(resumed.policy.parameters(), straight.policy.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_more_gives_items_of_the_kept_policy(kept: Session) -> None:
    learn(kept, QUICK)
    items = more(kept, 3, 0.5, QUICK)
    assert len({item.id for item in items}) == 3
    with pytest.raises(SettingError, match="count=0 must lie between 1 and 200"):
        more(kept, 0, 0.5, QUICK)
    with pytest.raises(SettingError, match="level=2 must lie between"):
        more(kept, 1, 2, QUICK)


def test_a_policy_for_another_generator_is_refused(session: Session) -> None:
    with pytest.raises(SettingError, match="for 4 numbers, art takes 24"):
        Stream(session, LatentPolicy(FlowSettings(dimension=4)))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"held_out": 1.0}, "held_out=1.0"),
        ({"members": 1}, "members=1"),
        ({"caution": -1.0}, "caution=-1.0"),
        ({"refit": -1}, "refit=-1"),
    ],
    ids=["held-out", "members", "caution", "refit"],
)
def test_settings_out_of_range_are_refused(named: dict[str, float], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        StreamSettings(**named)  # type: ignore[arg-type]
