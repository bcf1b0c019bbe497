from dataclasses import replace

import pytest
import torch

from client.flows.checkpoint import open_checkpoint
from client.flows.comparison import ComparisonSettings, Lesson, lesson_of
from client.flows.model import of_checkpoint
from client.flows.teaching import TeachSettings
from simulations.lab.policies.toy import drawn_by, numbers_learned


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    settings = ComparisonSettings(picks=1, teach=TeachSettings(steps=1, picks=2, most_picks=2, anchors=2))
    return lesson_of(of_checkpoint(open_checkpoint()), settings, 0, torch.device("cpu"))


def noises() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_the_best_of_many_is_what_the_fitted_reward_likes_best(lesson: Lesson) -> None:
    base, best = (drawn_by(method, lesson, 16, 8, noises()) for method in ("base", "best-of-n"))
    assert best.clouds.shape == base.clouds.shape == (16, 64, 3)
    assert float(lesson.reward(best.clouds).mean()) > float(lesson.reward(base.clouds).mean()) + 0.1
    candidates = lesson.base.draw(lesson.base.noise(64, noises()))  # those of the first eight items
    assert torch.allclose(lesson.reward(candidates).view(8, 8).amax(1), lesson.reward(best.clouds[:8]), atol=1e-5)
    assert best.choosing > base.choosing
    assert best.choosing == pytest.approx(7 * best.drawing)


def test_a_stream_of_a_taught_flow_is_drawn_by_it(lesson: Lesson) -> None:
    base, taught = (drawn_by(method, lesson, 4, 2, noises()) for method in ("base", "injection"))
    apart = (base.clouds - taught.clouds).abs().amax()
    assert 0 < float(apart) < 0.5  # one small step
    weights = sum(weight.numel() for weight in lesson.base.velocity.state_dict().values())
    assert base.size == 0
    assert 0.9 * weights < taught.size <= weights


def test_only_numbers_that_differ_are_counted(lesson: Lesson) -> None:
    moved = open_checkpoint().flow
    moved.out.bias.data += 1
    assert numbers_learned(lesson.base, replace(lesson.base, velocity=moved)) == 3
