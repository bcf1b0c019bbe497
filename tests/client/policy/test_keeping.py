from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from client.policy import keeping
from client.policy.guard import Guard, GuardSettings
from client.policy.learner import LearnSettings, learner
from client.policy.training import Training
from client.ratings import Like
from client.session import Session
from client.store import Store
from client.vault import Cost
from common.errors import DamagedStore
from tests.client.policy.known import Along, fresh_policy, goal_of

CHEAP = Cost(passes=1, kib=8, lanes=1)


def trained(rounds: int = 2) -> Training:
    goal, generator = goal_of(Along()), torch.Generator().manual_seed(0)
    work = learner("reparameterised", fresh_policy(), goal, LearnSettings(rounds=rounds, steps=2, batch=16), generator)
    training = Training(work, Guard(goal, None, GuardSettings(samples=64), generator))
    training.run()
    return training


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "ratings.plgl", passphrase="a b c", cost=CHEAP) as opened:
        yield opened


def files(store: Store) -> list[Path]:
    return sorted(path for path in store.path.parent.iterdir() if ".derived-" in path.name)


def test_a_policy_comes_back_from_its_bytes_with_its_training() -> None:
    training = trained()
    kept = keeping.decode(keeping.encode(training, "what it was learned from"))
    noise = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    level = torch.full((5,), 0.5)
    assert torch.equal(kept.policy(noise, level).places, training.learner.policy(noise, level).places)
    assert (kept.fingerprint, kept.finished, kept.stopped) == ("what it was learned from", True, None)
    assert str(kept.learned.checks) == str(tuple(training.guard.checks))  # NaN is not equal to itself
    assert len(kept.learned.checks) == 3


@pytest.mark.parametrize("spoil", [0, 40, -5], ids=["length", "header", "cut"])
def test_bytes_that_are_no_policy_are_refused(spoil: int) -> None:
    content = bytearray(keeping.encode(trained(1), "x"))
    broken = bytes(content[:spoil]) if spoil < 0 else bytes(content[:spoil] + b"\xff" + content[spoil + 1 :])
    with pytest.raises(DamagedStore, match="the policy cannot be read"):
        keeping.decode(broken)


def test_what_is_kept_is_sealed_and_bound_to_its_name_and_store(store: Store, tmp_path: Path) -> None:
    secret = b"what somebody likes" * 20
    store.keep_derived("policy of me", secret)
    assert store.derived("policy of me") == secret
    assert store.derived("policy of you") is None
    (file,) = files(store)
    assert b"likes" not in file.read_bytes()
    assert "policy" not in file.name.removeprefix("ratings.plgl")
    assert file.stat().st_mode & 0o077 == 0
    store.keep_derived("policy of you", b"other")
    other = next(path for path in files(store) if path != file)
    other.write_bytes(file.read_bytes())
    with pytest.raises(DamagedStore, match="altered or moved"):
        store.derived("policy of you")
    store.close()
    again = Store.open(store.path, passphrase="a b c", cost=CHEAP)
    assert again.derived("policy of me") == secret
    again.close()


def test_erasing_a_rating_takes_what_was_learned_from_it_along(store: Store) -> None:
    session = Session.open("art", store=store, seed=0)
    item = session.propose(1)[0]
    event = session.rate(Like(item, True)).event
    store.keep_derived("policy", b"tells about the rating")
    session.remove(event)
    assert store.derived("policy") is None
    assert files(store) == []


def test_a_destroyed_store_leaves_nothing_behind(store: Store) -> None:
    store.keep_derived("policy", b"tells")
    store.destroy()
    assert list(store.path.parent.iterdir()) == []


def test_a_kept_policy_that_cannot_be_read_is_no_policy(store: Store) -> None:
    session = Session.open("art", store=store, seed=0)
    assert keeping.load(session) is None
    assert keeping.save(session, trained(1), "x")
    kept = keeping.load(session)
    assert kept is not None
    assert kept.fingerprint == "x"
    (file,) = files(store)
    file.write_bytes(file.read_bytes()[:-1])
    assert keeping.load(session) is None


def test_a_session_in_memory_keeps_no_policy() -> None:
    session = Session.open("art", seed=0)
    assert not keeping.save(session, trained(1), "x")
    assert keeping.load(session) is None
