"""What every stream keeps to; one that is listed is tested."""

import pytest
import torch

from client.policy.distillation import DistilSettings
from client.policy.guard import GuardSettings
from client.policy.learner import LearnSettings
from client.policy.stream import StreamSettings
from client.ratings import Choice
from client.session import Session
from common.errors import SettingError
from simulations.streams import STREAMS, stream
from simulations.streams.base import Listener

SMALL = StreamSettings(
    couplings=4,
    width=16,
    members=2,
    warm=5,
    learn=LearnSettings(rounds=1, steps=4, batch=32, groups=4),
    guard=GuardSettings(samples=64, divergence=50, distance=10),
)


@pytest.fixture(scope="module")
def listener() -> Listener:
    session = Session.open("art", seed=0, model="bayes")
    for row in range(10):
        latents = session.pack.latents.sample(2, torch.Generator().manual_seed(row))
        a, b = session.items_at(latents)
        session.rate(Choice(a, b, "a" if latents[0, 0] > latents[1, 0] else "b"))
    return Listener(session, SMALL, level=0.3, seed=1, distil=DistilSettings(steps=5))


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_gives_as_many_finite_latents_as_are_asked_for(name: str, listener: Listener) -> None:
    if name == "policy-ppo":
        pytest.importorskip("stable_baselines3", reason="needs plgl[rl]")
    made = stream(name)(listener)
    latents = made.draw(11)
    assert latents.shape == (11, 24)
    assert latents.dtype == torch.float32
    assert bool(latents.isfinite().all())
    assert len({tuple(row) for row in latents.tolist()}) >= 9  # a search may come to the same best item twice
    assert made.draw(2).shape == (2, 24)
    assert made.policy == (made.size > 0)
    assert made.seconds >= 0


def test_the_distilled_policy_has_a_fifth_of_the_numbers(listener: Listener) -> None:
    assert stream("distilled")(listener).size <= stream("policy")(listener).size / 5


def test_the_best_of_many_is_better_than_one(listener: Listener) -> None:
    goal = listener.goal()
    with torch.no_grad():
        best = goal.reward(stream("best-of-n")(listener).draw(30)).mean()
        any_ = goal.reward(stream("base")(listener).draw(30)).mean()
    assert float(best) > float(any_) + 1


def test_an_unknown_stream_is_refused() -> None:
    with pytest.raises(SettingError, match="stream 'magic' is unknown; choose from base"):
        stream("magic")
