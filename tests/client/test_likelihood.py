import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from client.likelihood import Evidence, score_terms
from client.ratings import Best, Choice, Kind, Like, Rating, Stars
from common.errors import SettingError

CUTS = torch.tensor([-2.0, -0.7, 0.7, 2.0], dtype=torch.float64)
CASES = [
    *((Kind.LIKE, value) for value in (0, 1)),
    *((Kind.CHOICE, value) for value in (0, 1, 2, 3)),
    *((Kind.STARS, value) for value in (1, 2, 3, 4, 5)),
    *((Kind.BEST, value) for value in (0, 1, 2)),
    *((Kind.WORST, value) for value in (0, 1, 2)),
]


def asked(kind: Kind, value: int, people: int = 2, answers: int = 3, items: int = 3) -> Evidence:
    shape = (people, answers)
    return Evidence(
        torch.full(shape, int(kind)),
        torch.full(shape, value),
        torch.ones(shape, dtype=torch.float64),
        torch.zeros(*shape, items, 1, dtype=torch.float64),
        torch.full(shape, items),
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def direct(kind: Kind, value: int, r: list[float]) -> float:
    """The probability of an answer, written as on paper."""
    if kind == Kind.LIKE:
        return sigmoid(r[0]) if value else 1 - sigmoid(r[0])
    if kind == Kind.CHOICE:
        return [
            sigmoid(r[0] - r[1]),
            sigmoid(r[1] - r[0]),
            sigmoid(r[0]) * sigmoid(r[1]),
            (1 - sigmoid(r[0])) * (1 - sigmoid(r[1])),
        ][value]
    if kind == Kind.STARS:
        cuts = [-math.inf, *CUTS.tolist(), math.inf]
        upper = 1.0 if value == 5 else sigmoid(cuts[value] - r[0])
        return upper - (0.0 if value == 1 else sigmoid(cuts[value - 1] - r[0]))
    sign = 1 if kind == Kind.BEST else -1
    return math.exp(sign * r[value]) / sum(math.exp(sign * x) for x in r)


@pytest.mark.parametrize(("kind", "value"), CASES)
def test_a_log_likelihood_is_the_formula(kind: Kind, value: int) -> None:
    scores = torch.tensor([0.3, -1.1, 0.8], dtype=torch.float64)
    found, _, _ = score_terms(asked(kind, value, 1, 1), scores[None, None], CUTS)
    assert float(found) == pytest.approx(math.log(direct(kind, value, scores.tolist())), abs=1e-12)


@pytest.mark.parametrize(("kind", "value"), CASES)
def test_gradient_and_curvature_are_the_derivatives(kind: Kind, value: int) -> None:
    evidence = asked(kind, value)
    scores = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2
    scores.requires_grad_()

    def value_of(r: Tensor) -> Tensor:
        return score_terms(evidence, r, CUTS)[0]

    assert torch.autograd.gradcheck(value_of, (scores,))
    assert torch.autograd.gradgradcheck(value_of, (scores,))
    _, gradient, curvature = score_terms(evidence, scores, CUTS)
    (automatic,) = torch.autograd.grad(value_of(scores).sum(), scores)
    torch.testing.assert_close(gradient, automatic)
    columns = [torch.autograd.grad(gradient[..., i].sum(), scores, retain_graph=True)[0] for i in range(3)]
    torch.testing.assert_close(curvature, -torch.stack(columns, dim=-2))


@pytest.mark.parametrize(("kind", "values"), [(Kind.LIKE, 2), (Kind.STARS, 5), (Kind.BEST, 3), (Kind.WORST, 3)])
def test_probabilities_of_all_answers_add_up_to_one(kind: Kind, values: int) -> None:
    scores = torch.tensor([[[0.3, -1.1, 0.8]]], dtype=torch.float64)
    first = 1 if kind == Kind.STARS else 0
    total = sum(
        float(score_terms(asked(kind, value, 1, 1), scores, CUTS)[0].exp()) for value in range(first, first + values)
    )
    assert total == pytest.approx(1)


@pytest.mark.parametrize(("kind", "value"), CASES)
def test_extreme_scores_stay_finite(kind: Kind, value: int) -> None:
    scores = torch.tensor([[[800.0, -800.0, 50.0]]], dtype=torch.float64)
    for part in score_terms(asked(kind, value, 1, 1), scores, CUTS):
        assert bool(part.isfinite().all())


def test_a_mixed_batch_is_the_kinds_one_by_one() -> None:
    features = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    said: list[Rating] = [Like(0, True), Choice(1, 2, "both"), Stars(3, 2), Best((4, 5, 6), 1), Choice(6, 7, "b")]
    w = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    together = Evidence.of(said, features)
    value, _, _ = score_terms(together, together.features @ w, CUTS)
    for position, rating in enumerate(said):
        alone = Evidence.of([rating], features)
        expected, _, _ = score_terms(alone, alone.features @ w, CUTS)
        assert float(value[0, position]) == pytest.approx(float(expected[0, 0]), abs=1e-12)


def test_a_best_of_two_ignores_the_empty_third_place() -> None:
    features = torch.eye(3, dtype=torch.float64)
    mixed = Evidence.of([Best((0, 1), 0), Best((0, 1, 2), 0)], features)
    value, gradient, _ = score_terms(mixed, mixed.features @ torch.tensor([1.0, 0.5, 9.0]).double(), CUTS)
    assert float(value[0, 0]) == pytest.approx(math.log(sigmoid(0.5)))
    assert float(gradient[0, 0, 2]) == 0


def test_weight_scales_everything() -> None:
    half = asked(Kind.STARS, 4)
    half = Evidence(half.kind, half.value, half.weight * 0.5, half.features, half.shown)
    scores = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for weak, full in zip(
        score_terms(half, scores, CUTS), score_terms(asked(Kind.STARS, 4), scores, CUTS), strict=True
    ):
        torch.testing.assert_close(weak, full / 2)


def test_evidence_survives_the_disk(tmp_path: Path) -> None:
    features = torch.randn(5, 3, dtype=torch.float64)
    evidence = Evidence.of([Like(0, True), Choice(1, 4, "a")], features)
    evidence.save(tmp_path / "evidence.safetensors")
    for there, here in zip(Evidence.load(tmp_path / "evidence.safetensors").tensors(), evidence.tensors(), strict=True):
        assert torch.equal(there, here)


def test_an_item_that_was_never_shown_is_refused() -> None:
    with pytest.raises(SettingError, match="item 9 was never shown"):
        Evidence.of([Like(9, True)], torch.zeros(5, 3))
