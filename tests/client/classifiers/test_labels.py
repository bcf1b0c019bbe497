import pytest
import torch

from client.classifiers.base import Answers, Points
from client.classifiers.labels import OTHER_CONTEXT, Inputs, compact, heard, label, targets
from client.likelihood import score_terms
from client.ratings import Best, Choice, Glance, Like, Rating, Stars
from common.errors import SettingError

CUTS = torch.tensor([-2.0, -0.7, 0.7, 2.0], dtype=torch.float64)


def points(n: int) -> Points:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(n, 4, generator=generator)
    return Points(latents, torch.randn(n, 3, generator=generator, dtype=torch.float64))


def table(ratings: list[Rating]) -> list[tuple[int, int, float, float, int]]:
    rows = label(Answers.of(ratings, points(12)))
    columns = (rows.first, rows.second, rows.target, rows.weight, rows.answer)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_likes_stars_and_glances_label_one_item() -> None:
    assert table([Like(3, True), Like(4, False), Stars(5, 1), Stars(6, 4), Glance(7, 3.0)]) == [
        (3, -1, 1.0, 1.0, 0),
        (4, -1, 0.0, 1.0, 1),
        (5, -1, 0.0, 1.0, 2),
        (6, -1, 0.75, 1.0, 3),
        (7, -1, 0.5, 0.2, 4),
    ]


def test_preferences_are_differences_and_both_and_neither_label_two_items() -> None:
    assert table([Choice(0, 1, "a"), Choice(2, 3, "b"), Choice(4, 5, "both"), Choice(6, 7, "neither")]) == [
        (4, -1, 1.0, 1.0, 2),
        (6, -1, 0.0, 1.0, 3),
        (5, -1, 1.0, 1.0, 2),
        (7, -1, 0.0, 1.0, 3),
        (0, 1, 1.0, 1.0, 0),
        (2, 3, 0.0, 1.0, 1),
    ]


def test_the_best_beats_the_others_and_the_worst_loses_to_them() -> None:
    assert table([Best((0, 1, 2, 3), 2), Best((4, 5), 0, worst=True)]) == [
        (2, 0, 1.0, 0.5, 0),
        (2, 1, 1.0, 0.5, 0),
        (2, 3, 1.0, 0.5, 0),
        (4, 5, 0.0, 1.0, 1),
    ]


def test_the_best_of_two_is_a_preference() -> None:
    assert table([Best((0, 1), 0), Best((2, 3), 1)]) == [(0, 1, 1.0, 1.0, 0), (3, 2, 1.0, 1.0, 1)]


@pytest.mark.parametrize("shown", [2, 3, 4, 7])
@pytest.mark.parametrize("worst", [False, True])
def test_pairs_weigh_as_much_as_the_choice_they_come_from(shown: int, worst: bool) -> None:
    """Where all score the same, the trace of the curvature is that of Luce's model."""
    answers = Answers.of([Best(range(shown), 0, worst=worst)], points(shown))
    zeros = torch.zeros(1, 1, shown, dtype=torch.float64)
    _, _, luce = score_terms(answers.evidence(), zeros, CUTS)
    rows = label(answers)
    scores = torch.zeros(shown, dtype=torch.float64)

    def loss(scores: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(
            rows.contrast(scores[:, None]).squeeze(-1), rows.target, rows.weight, reduction="sum"
        )

    curvature = torch.autograd.functional.hessian(loss, scores)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(curvature.trace(), luce[0, 0].trace())


def test_contrasts_subtract_the_second_item_where_there_is_one() -> None:
    answers = Answers.of([Like(1, True), Choice(2, 3, "b")], points(4))
    values = torch.arange(8.0).reshape(4, 2) ** 2
    torch.testing.assert_close(label(answers).contrast(values), torch.stack([values[1], values[2] - values[3]]))


def test_a_soft_label_is_a_positive_and_a_negative() -> None:
    index, sign, weight = label(Answers.of([Stars(0, 4), Like(1, False)], points(2))).signed()
    assert index.tolist() == [0, 0, 1]
    assert sign.tolist() == [1.0, -1.0, -1.0]
    assert weight.tolist() == [0.75, 0.25, 1.0]


def test_only_comparisons_state_no_target() -> None:
    said: list[Rating] = [Like(0, True), Stars(1, 2), Choice(0, 1, "neither"), Choice(0, 1, "both")]
    said += [Glance(0, 0.0, skipped=True), Choice(0, 1, "a"), Best((0, 1), 1)]
    found = targets(Answers.of(said, points(2)))
    torch.testing.assert_close(found[:5], torch.tensor([1.0, 0.25, 0.0, 1.0, 0.2], dtype=torch.float64))
    assert bool(found[5:].isnan().all())


def test_answers_of_another_context_weigh_half() -> None:
    answers = Answers.of([Like(0, True), Glance(1, 3.0)], points(2), [1, 0])
    assert heard(answers, 1).weight.tolist() == [1.0, 0.2 * OTHER_CONTEXT]
    assert heard(answers, 0).weight.tolist() == [OTHER_CONTEXT, 0.2]


def test_compact_answers_say_the_same_about_fewer_items() -> None:
    answers = Answers.of([Choice(7, 2, "a"), Like(9, True)], points(12))
    small = compact(answers)
    assert len(small.points) == 3
    assert small.items.tolist() == [[1, 0], [2, -1]]
    torch.testing.assert_close(small.evidence().features, answers.evidence().features)
    assert len(compact(answers.select(slice(0, 0))).points) == 0


def test_inputs_end_with_a_constant_and_features_can_be_scaled() -> None:
    seen = points(5)
    assert torch.equal(Inputs("latents")(seen)[:, -1], torch.ones(5, dtype=torch.float64))
    assert torch.equal(Inputs("features")(seen), seen.features)
    scaled = Inputs("features", torch.tensor([2.0, 3.0]))(seen)
    torch.testing.assert_close(scaled, seen.features * torch.tensor([2.0, 3.0, 1.0]))
    with pytest.raises(SettingError, match="must be 2 numbers"):
        Inputs("features", torch.ones(3))(seen)
