import math
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch

from client.classifiers import taste_model
from client.classifiers.base import Answers, Beliefs, IndependentBeliefs, Points, Taste, TasteModel
from client.classifiers.evaluation import Row, chance, compare, foretold, guessable, held_out, lead, verdict
from client.ratings import Best, Choice, Glance, Like, Rating, Stars
from common.errors import SettingError


def points(n: int) -> Points:
    latents = torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    return Points(latents, torch.cat([latents, torch.ones(n, 1, dtype=torch.float64)], dim=1))


def guessed(rating: Rating, *scores: float) -> float:
    row = Answers.of([rating], points(len(scores)))
    return float(foretold(row, torch.tensor(scores)))


@pytest.mark.parametrize(
    ("rating", "scores", "expected"),
    [
        (Like(0, True), (0.1,), 1.0),
        (Like(0, False), (0.1,), 0.0),
        (Like(0, True), (0.0,), 0.5),
        (Stars(0, 5), (0.1,), 1.0),
        (Stars(0, 2), (0.1,), 0.0),
        (Choice(0, 1, "a"), (2.0, 1.0), 1.0),
        (Choice(0, 1, "b"), (2.0, 1.0), 0.0),
        (Choice(0, 1, "b"), (1.0, 1.0), 0.5),
        (Choice(0, 1, "both"), (3.0, -1.0), 1.0),
        (Choice(0, 1, "neither"), (3.0, -1.0), 0.0),
        (Choice(0, 1, "neither"), (-3.0, 1.0), 1.0),
        (Best((0, 1, 2), 1), (-3.0, -1.0, -2.0), 1.0),
        (Best((0, 1, 2), 2), (-3.0, -1.0, -2.0), 0.0),
        (Best((0, 1, 2), 0, worst=True), (-3.0, -1.0, -2.0), 1.0),
        (Best((0, 1, 2), 1, worst=True), (-3.0, -1.0, -2.0), 0.0),
        (Best((0, 1, 2, 3), 1), (0.0, 0.0, 0.0, 0.0), 0.25),
        (Best((0, 1, 2), 1), (1.0, 1.0, 0.0), 0.5),
    ],
)
def test_what_counts_as_foretold(rating: Rating, scores: Sequence[float], expected: float) -> None:
    assert guessed(rating, *scores) == expected


def test_three_stars_and_glances_are_not_to_be_guessed() -> None:
    said: list[Rating] = [Stars(0, 3), Glance(1, 9.0), Like(1, True)]
    answers = Answers.of(said, points(2))
    assert foretold(answers, torch.ones(2))[:2].isnan().all()
    assert guessable(answers).tolist() == [False, False, True]


def test_a_mix_of_answers_is_guessed_like_each_alone() -> None:
    said: list[Rating] = [Like(0, True), Choice(1, 2, "b"), Best((3, 0, 1), 2), Choice(0, 3, "neither"), Stars(2, 4)]
    answers, scores = Answers.of(said, points(4)), torch.tensor([0.5, -1.0, 2.0, 0.7])
    assert foretold(answers, scores).tolist() == [1.0, 1.0, 0.0, 0.0, 1.0]


def test_the_level_moves_where_liking_starts_and_no_preference() -> None:
    said: list[Rating] = [Like(0, True), Choice(0, 1, "a")]
    answers, scores = Answers.of(said, points(2)), torch.tensor([2.0, 1.0])
    assert foretold(answers, scores, level=3.0).tolist() == [0.0, 1.0]


def test_chance_knows_how_often_each_side_was_said() -> None:
    likes: list[Rating] = [*(Like(0, True) for _ in range(3)), Like(0, False)]
    assert chance(Answers.of(likes, points(2))) == 0.75
    assert chance(Answers.of([*likes, Choice(0, 1, "a")], points(2))) == pytest.approx(3.5 / 5)
    assert chance(Answers.of([Best((0, 1, 2, 3), 0)], points(4))) == 0.25
    assert math.isnan(chance(Answers.of([Stars(0, 3)], points(2))))


class Fixed(TasteModel):
    """Scores that were decided before anybody said anything; remembers whom it heard."""

    name: ClassVar[str] = "fixed"

    def __init__(self, direction: float, deviation: float = 1e-9) -> None:
        self.direction, self.deviation = direction, deviation
        self.heard: list[tuple[Answers, int]] = []

    def fit(self, answers: Answers, context: int = 0) -> Taste:
        self.heard.append((answers, context))
        return FixedTaste(self.direction, self.deviation)


class FixedTaste(Taste):
    def __init__(self, direction: float, deviation: float) -> None:
        self.direction, self.deviation = direction, deviation

    def score(self, points: Points) -> torch.Tensor:
        return self.direction * points.features[:, 0]

    def over(self, points: Points) -> Beliefs:
        score = self.score(points)[None]
        return IndependentBeliefs(score, torch.full_like(score, self.deviation))


def rated(n: int) -> Answers:
    """Somebody who likes a large first feature."""
    items = points(n)
    return Answers.of([Like(i, bool(x > 0)) for i, x in enumerate(items.features[:, 0])], items)


def test_each_answer_is_guessed_by_a_model_that_did_not_hear_it() -> None:
    answers, model = rated(23), Fixed(1.0)
    found = held_out(model, answers, folds=4)
    assert (found.accuracy, found.answers) == (1.0, 23)
    assert sorted(23 - len(heard) for heard, _ in model.heard) == [5, 6, 6, 6]
    said = answers.points.latents
    missing = [
        {i for i in range(23) if not bool((heard.points.latents == said[i]).all(-1).any())} for heard, _ in model.heard
    ]
    assert sorted(i for part in missing for i in part) == list(range(23))


def test_answers_of_a_context_are_guessed_by_the_taste_for_it() -> None:
    answers = rated(12)
    context = torch.arange(12) % 2
    model = Fixed(1.0)
    held_out(model, Answers.of([Like(i, True) for i in range(12)], answers.points, context.tolist()), folds=2)
    assert {context for _, context in model.heard} == {0, 1}


def test_log_loss_is_the_cross_entropy_of_sure_scores_and_doubt_softens_it() -> None:
    answers = rated(40)
    scores = 2 * answers.points.features[:, 0]
    direct = torch.nn.functional.binary_cross_entropy_with_logits(scores, answers.value.double())
    assert held_out(Fixed(2.0), answers).log_loss == pytest.approx(float(direct), abs=1e-6)
    wrong, doubting = held_out(Fixed(-5.0), answers), held_out(Fixed(-5.0, deviation=10.0), answers)
    assert wrong.accuracy == 0.0
    assert doubting.log_loss < wrong.log_loss


def test_a_model_that_knows_nothing_gets_what_luck_gets() -> None:
    items = points(40)
    said: list[Rating] = [Best(range(i, i + 4), 0) for i in range(0, 40, 4)]
    said += [Choice(i, i + 1, "b") for i in range(0, 40, 2)]
    found = held_out(Fixed(0.0), Answers.of(said, items))
    assert found.accuracy == pytest.approx((10 * 0.25 + 20 * 0.5) / 30) == pytest.approx(found.chance)
    assert found.log_loss == pytest.approx((10 * math.log(4) + 20 * math.log(2)) / 30, abs=1e-6)


def test_the_standard_error_is_that_of_a_share() -> None:
    found = held_out(Fixed(1.0), rated(100))
    assert 0 < found.error < 0.02
    half = held_out(Fixed(0.0), rated(100))
    assert half.error == pytest.approx(0.05, abs=1e-3)


def test_weak_evidence_counts_less_in_the_log_loss() -> None:
    said: list[Rating] = [Like(0, True), Glance(1, 0.0)]
    items = Points(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.float64))
    found = held_out(Fixed(2.0), Answers.of(said, items), folds=2)
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    assert found.log_loss == pytest.approx((right + 0.2 * wrong) / 1.2, abs=1e-6)


@pytest.mark.parametrize(("folds", "answers"), [(1, 10), (5, 1), (5, 0)])
def test_too_few_folds_or_answers_are_refused(folds: int, answers: int) -> None:
    with pytest.raises(SettingError, match=f"folds={folds} and answers={answers}"):
        held_out(Fixed(1.0), rated(10).select(slice(0, answers)), folds)


def test_models_are_ranked_and_the_verdict_says_whether_it_is_luck() -> None:
    answers = rated(60)
    models = {"inverse": Fixed(-1.0), "bayes": taste_model("bayes"), "oracle": Fixed(1.0)}
    rows = compare(models, answers)
    assert [row.name for row in rows] == ["oracle", "bayes", "inverse"]
    assert rows[1].held_out.accuracy > 0.8
    assert all(row.fit_milliseconds > 0 for row in rows)
    assert "best: oracle guesses 100%" in verdict(rows)
    assert "within error" in verdict([rows[0], rows[0]])
    assert "more than luck" in verdict([rows[0], rows[2]])
    with pytest.raises(SettingError, match="name one more"):
        verdict(rows[:1])


def test_the_lead_is_counted_answer_by_answer() -> None:
    answers = rated(60)
    best, worst = (Row(str(d), held_out(Fixed(d), answers), 1.0) for d in (1.0, -1.0))
    assert lead(best, worst)[0] == 1.0
    assert lead(best, best)[0] == 0.0
    assert 0 < lead(best, best)[1] < 0.1


def test_answers_that_nobody_can_guess_are_said_so() -> None:
    answers = Answers.of([Glance(i, 3.0) for i in range(4)], points(4))
    rows = compare({"one": Fixed(1.0), "two": Fixed(2.0)}, answers)
    assert "nothing was to be guessed" in verdict(rows)
    assert math.isnan(rows[0].held_out.accuracy)
    assert math.isfinite(rows[0].held_out.log_loss)


def test_the_same_seed_gives_the_same_numbers() -> None:
    answers = rated(30)
    first, second, third = (held_out(taste_model("bayes"), answers, seed=seed) for seed in (1, 1, 2))
    assert (first.accuracy, first.log_loss) == (second.accuracy, second.log_loss)
    assert first.log_loss != third.log_loss
