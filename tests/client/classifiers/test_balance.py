import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.classifiers import taste_model
from client.classifiers.balance import class_balanced, with_marked_negatives
from client.classifiers.base import Answers, Points
from client.classifiers.labels import targets
from client.ratings import Choice, Like, Rating, Stars
from common.errors import SettingError


def points(n: int, shift: float = 0.0) -> Points:
    latents = torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) + shift
    return Points(latents, torch.cat([latents[:, :2], torch.ones(n, 1, dtype=torch.float64)], dim=1))


def masses(answers: Answers) -> tuple[float, float]:
    target = targets(answers)
    there = ~target.isnan()
    weight, liked = answers.weight[there], target[there]
    return float((weight * (1 - liked)).sum()), float((weight * liked).sum())


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=40))
def test_likes_and_dislikes_weigh_the_same_unless_the_limit_forbids(stars: list[int]) -> None:
    answers = Answers.of([Stars(i, s) for i, s in enumerate(stars)], points(len(stars)))
    no, yes = masses(answers)
    balanced = class_balanced(answers, limit=1e6)
    if min(no, yes) == 0:
        assert torch.equal(balanced.weight, answers.weight)
    elif {1, 5} >= set(stars):  # soft labels stand on both sides, so theirs can only come nearer
        assert masses(balanced)[0] == pytest.approx(masses(balanced)[1])
        assert sum(masses(balanced)) == pytest.approx(no + yes)
    else:
        now = masses(balanced)
        assert abs(now[1] - now[0]) / sum(now) <= abs(yes - no) / (yes + no) + 1e-9


def test_no_weight_changes_beyond_the_limit_and_comparisons_keep_theirs() -> None:
    said: list[Rating] = [Like(0, False), *(Like(i, True) for i in range(1, 100)), Choice(0, 1, "a")]
    factor = class_balanced(Answers.of(said, points(100)), limit=3.0).weight
    assert float(factor[0]) == 3.0
    assert float(factor[1]) == pytest.approx(100 / 198)
    assert float(factor[-1]) == 1.0


@pytest.mark.parametrize("limit", [0.5, float("nan")])
def test_a_limit_below_one_is_refused(limit: float) -> None:
    with pytest.raises(SettingError, match="class balance"):
        class_balanced(Answers.of([Like(0, True)], points(1)), limit)


def test_marked_negatives_come_last_and_leave_the_rest_alone() -> None:
    said: list[Rating] = [Choice(0, 1, "both"), Like(2, True)]
    answers = Answers.of(said, points(3), [1, 1])
    mixed = with_marked_negatives(answers, points(4), weight=0.5, context=1)
    assert (len(mixed), len(mixed.points)) == (6, 7)
    for name in ("kind", "value", "items", "weight", "context"):
        assert torch.equal(getattr(mixed, name)[:2], getattr(answers, name)), name
    assert mixed.items[2:].tolist() == [[3, -1], [4, -1], [5, -1], [6, -1]]
    assert targets(mixed)[2:].tolist() == [0.0] * 4
    assert mixed.weight[2:].tolist() == [0.5] * 4
    assert mixed.context[2:].tolist() == [1] * 4
    assert len(with_marked_negatives(answers.select(slice(0, 0)), points(4))) == 4


def test_marked_content_becomes_disliked() -> None:
    answers = Answers.of([Like(i, True) for i in range(10)], points(10))
    unwanted = points(12, shift=3.0)
    model = taste_model("bayes")
    before, after = model.fit(answers), model.fit(with_marked_negatives(answers, unwanted))
    assert float(before.score(unwanted).mean()) > 0 > float(after.score(unwanted).mean())
    assert float(after.score(answers.points).mean()) > 0


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_marked_negatives_need_a_weight(weight: float) -> None:
    with pytest.raises(SettingError, match="marked negatives"):
        with_marked_negatives(Answers.of([Like(0, True)], points(1)), points(1), weight)
