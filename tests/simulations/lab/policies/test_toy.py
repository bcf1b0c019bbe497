from dataclasses import replace

import pytest
import torch

from client.flows.checkpoint import open_checkpoint
from client.flows.comparison import ComparisonSettings, Lesson, lesson_of
from client.flows.model import of_checkpoint
from client.flows.teaching import TeachSettings
from client.policy.guard import GuardSettings
from client.policy.learner import LearnSettings
from simulations.lab.policies import front
from simulations.lab.policies.toy import drawn_by, numbers_learned


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    settings = ComparisonSettings(picks=1, teach=TeachSettings(steps=1, picks=2, most_picks=2, anchors=2))
    return lesson_of(of_checkpoint(open_checkpoint()), settings, 0, torch.device("cpu"))


def noises() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_the_best_of_many_is_what_the_fitted_reward_likes_best(lesson: Lesson) -> None:
    base, best = (drawn_by(method, lesson, 16, noises(), of=8) for method in ("base", "best-of-n"))
    assert best.clouds.shape == base.clouds.shape == (16, 64, 3)
    assert float(lesson.reward(best.clouds).mean()) > float(lesson.reward(base.clouds).mean()) + 0.1
    candidates = lesson.base.draw(lesson.base.noise(64, noises()))  # those of the first eight items
    assert torch.allclose(lesson.reward(candidates).view(8, 8).amax(1), lesson.reward(best.clouds[:8]), atol=1e-5)
    assert best.choosing > base.choosing
    assert best.choosing == pytest.approx(7 * best.drawing)


def test_a_stream_of_a_taught_flow_is_drawn_by_it(lesson: Lesson) -> None:
    base, taught = (drawn_by(method, lesson, 4, noises()) for method in ("base", "injection"))
    apart = (base.clouds - taught.clouds).abs().amax()
    assert 0 < float(apart) < 0.5  # one small step
    weights = sum(weight.numel() for weight in lesson.base.velocity.state_dict().values())
    assert base.size == 0
    assert 0.9 * weights < taught.size <= weights


def test_only_numbers_that_differ_are_counted(lesson: Lesson) -> None:
    moved = open_checkpoint().flow
    moved.out.bias.data += 1
    assert numbers_learned(lesson.base, replace(lesson.base, velocity=moved)) == 3


def test_a_policy_in_front_of_the_flow_raises_what_the_picks_say(lesson: Lesson) -> None:
    settings = front.FrontSettings(
        steps=2,
        measured=128,
        learn=LearnSettings(rounds=1, steps=6, batch=32, groups=2, rate=1e-2),
        guard=GuardSettings(samples=48, divergence=100, distance=50),
    )
    learned = front.learned(lesson, settings)
    before, after = learned.checks
    assert after.reward > before.reward + 0.1
    assert learned.policy.settings.dimension == 192
    moved = learned.policy.draw(4, 0.3, noises()).view(4, 64, 3)
    assert bool(lesson.base.draw(moved).isfinite().all())


def test_a_walk_is_what_the_flow_draws_and_can_be_followed_back(lesson: Lesson) -> None:
    noise = lesson.base.noise(3, noises()).flatten(1).requires_grad_()
    walk = front.Walk(lesson.base, lesson.base.sampler.steps)
    clouds = walk(noise)
    assert torch.allclose(clouds, lesson.base.draw(noise.detach().view(3, 64, 3)), atol=1e-5)
    assert walk(noise) is clouds
    clouds.square().sum().backward()  # type: ignore[no-untyped-call]
    assert noise.grad is not None
    assert float(noise.grad.abs().amin()) > 0
    lost = front.Walk(lesson.base, 2)(torch.full((1, 192), 1e30))
    assert bool(lost.isfinite().all())
