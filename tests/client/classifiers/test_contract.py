"""What every taste model promises. A new one is tested by being listed in ``client.classifiers.MODELS``."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from client.classifiers import MODELS, taste_model
from client.classifiers.base import Answers, Beliefs, IndependentBeliefs, Points, Taste, TasteModel
from client.ratings import Best, Choice, Glance, Like, Rating, Stars
from common.errors import SettingError

D, K = 8, 6
TRUE = torch.tensor([2.0, -1.5, 1.0, 0.0, 0.5, 0.0], dtype=torch.float64)


def points(n: int, seed: int = 0, size: float = 1.0) -> Points:
    latents = size * torch.randn(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    seen = latents[:, :K] + 0.3 * torch.sin(latents[:, 1 : K + 1])
    return Points(latents, torch.cat([seen, torch.ones(n, 1, dtype=torch.float64)], dim=1))


def truth(items: Points) -> Tensor:
    return items.features[:, :K] @ TRUE


def said(ratings: Sequence[Rating], items: Points, context: Sequence[int] | None = None) -> Answers:
    if ratings:
        return Answers.of(ratings, items, context)
    return Answers.of([Like(0, True)], items).select(slice(0, 0))


def likes(items: Points, sign: float = 1.0) -> list[Rating]:
    return [Like(i, bool(score * sign > 0)) for i, score in enumerate(truth(items))]


def pairs(items: Points) -> list[Rating]:
    score = truth(items).tolist()
    return [Choice(i, i + 1, "a" if score[i] > score[i + 1] else "b") for i in range(0, len(score) - 1, 2)]


def everything(items: Points) -> list[Rating]:
    """Every kind of feedback, in good faith."""
    score = truth(items).tolist()
    both = "both" if score[2] + score[3] > 0 else "neither"
    return [
        Like(0, score[0] > 0),
        *pairs(items)[:1],
        Choice(2, 3, both),  # type: ignore[arg-type]
        Stars(4, 5 if score[4] > 1 else 4 if score[4] > 0 else 1),
        Stars(5, 3),
        Best((6, 7, 8, 9), max(range(4), key=lambda i: score[6 + i])),
        Best((6, 7, 8), min(range(3), key=lambda i: score[6 + i]), worst=True),
        Glance(10, 9.0 if score[10] > 0 else 0.1),
        Glance(11, 0.3, skipped=True),
    ]


def ranked_right(taste: Taste, seed: int = 9) -> float:
    """Share of pairs of new items that a taste puts in the right order."""
    items = points(400, seed)
    with torch.no_grad():
        score = taste.score(items)
    right = (score[::2] > score[1::2]) == (truth(items)[::2] > truth(items)[1::2])
    return float(right.double().mean())


def fits_the_same_twice(model: TasteModel) -> None:
    items, new = points(20), points(30, seed=1)
    answers, twin = said(everything(items), items), deepcopy(model)
    first, second = model.fit(answers), twin.fit(answers)
    assert torch.equal(first.score(new), second.score(new))
    assert torch.equal(first.over(new).deviation, second.over(new).deviation)
    model.fit(said(likes(items, sign=-1.0), items))
    again = model.fit(answers)  # may start from what it found before, but must not end there
    torch.testing.assert_close(again.score(new), first.score(new), atol=1e-4, rtol=1e-4)


def leaves_global_randomness_alone(model: TasteModel) -> None:
    items, state = points(12), torch.get_rng_state()
    model.fit(said(everything(items), items)).over(items).draw(torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())


def needs_no_answers(model: TasteModel) -> None:
    new = points(30, seed=1)
    for items in (points(3), points(1)[:0]):
        nothing = said([], points(1))
        taste = model.fit(replace(nothing, points=items))
        assert taste.score(new).shape == (30,)
        assert float(taste.score(new).abs().max()) < 1e-9, "nobody said anything, yet there is a taste"
        meets_the_shapes(taste.over(new), 30)
        assert float(taste.over(new).deviation.min()) > 0.1, "sure of something nobody said"


def takes_one_answer(model: TasteModel) -> None:
    items, new = points(20), points(30, seed=1)
    for rating in everything(items):
        taste = model.fit(said([rating], items))
        assert bool(taste.score(new).isfinite().all())
        meets_the_shapes(taste.over(new), 30)


def takes_one_class(model: TasteModel) -> None:
    items = points(15)
    for liked in (True, False):
        score = model.fit(said([Like(i, liked) for i in range(15)], items)).score(items)
        assert bool(score.isfinite().all())
        assert bool((score.mean() > 0) == liked)


def takes_duplicates_and_contradictions(model: TasteModel) -> None:
    items = points(6)
    twins = Points.join([items, items])
    again: list[Rating] = [Like(0, True), Like(0, True), Like(6, True), Like(0, False), Choice(1, 7, "a")]
    again += [Choice(1, 7, "b"), Choice(1, 2, "a"), Choice(2, 1, "a"), Choice(3, 4, "both"), Choice(3, 4, "neither")]
    taste = model.fit(said(again, twins))
    score = taste.score(twins)
    assert bool(score.isfinite().all())
    torch.testing.assert_close(score[:6], score[6:], atol=1e-6, rtol=1e-6)
    meets_the_shapes(taste.over(twins), 12)


def learns_from_likes(model: TasteModel) -> None:
    items = points(60)
    taste = model.fit(said(likes(items), items))
    assert ranked_right(taste) > 0.8
    new = points(300, seed=4)
    assert float(((taste.score(new) > 0) == (truth(new) > 0)).double().mean()) > 0.8, "0 is not where liking starts"


def learns_from_pairs(model: TasteModel) -> None:
    items = points(120)
    assert ranked_right(model.fit(said(pairs(items), items))) > 0.8


def learns_from_stars(model: TasteModel) -> None:
    items = points(60)
    cuts = torch.tensor([-2.0, -0.7, 0.7, 2.0], dtype=torch.float64)
    stars: list[Rating] = [Stars(i, 1 + int((score > cuts).sum())) for i, score in enumerate(truth(items))]
    assert ranked_right(model.fit(said(stars, items))) > 0.8


def learns_from_the_best_and_the_worst(model: TasteModel) -> None:
    items = points(160)
    score = truth(items).reshape(40, 4)
    for worst in (False, True):
        chosen = score.argmin(1) if worst else score.argmax(1)
        told = [Best(range(4 * i, 4 * i + 4), int(chosen[i]), worst=worst) for i in range(40)]
        assert ranked_right(model.fit(said(told, items))) > 0.75


def learns_from_glances(model: TasteModel) -> None:
    items = points(120)
    looked: list[Rating] = [Glance(i, 20.0 if score > 0 else 0.0) for i, score in enumerate(truth(items))]
    assert ranked_right(model.fit(said(looked, items))) > 0.7


def can_be_differentiated(model: TasteModel) -> None:
    items = points(20)
    taste = model.fit(said(everything(items), items))
    new = points(3, seed=2)

    def score(latents: Tensor, features: Tensor) -> Tensor:
        return taste.score(Points(latents, features))

    inputs = [new.latents.clone().requires_grad_(), new.features.clone().requires_grad_()]
    assert score(*inputs).requires_grad, "the score has no gradient"
    assert torch.autograd.gradcheck(score, inputs, eps=1e-5, atol=1e-6, rtol=1e-4)


def fits_where_gradients_are_off(model: TasteModel) -> None:
    items = points(20)
    answers = said(everything(items), items)
    with torch.no_grad():
        off = model.fit(answers)
    torch.testing.assert_close(off.score(items), model.fit(answers).score(items))


def meets_the_shapes(beliefs: Beliefs, n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    against = torch.tensor([n // 2])
    gap, spread = beliefs.gap(against)
    for numbers in (beliefs.mean, beliefs.deviation, gap, spread, beliefs.draw(generator)):
        assert numbers.shape == (1, n)
        assert bool(numbers.isfinite().all())
    assert float(beliefs.deviation.min()) >= 0
    assert float(spread.min()) >= 0
    assert float(spread[0, against]) < 1e-3 * (1 + float(spread.max())), "an item differs from itself"
    torch.testing.assert_close(gap, beliefs.mean - beliefs.mean[:, against])


def believes_what_it_scores_and_draws(model: TasteModel) -> None:
    items, new = points(20), points(12, seed=3)
    taste = model.fit(said(everything(items), items))
    beliefs = taste.over(new)
    meets_the_shapes(beliefs, 12)
    torch.testing.assert_close(beliefs.mean[0], taste.score(new), atol=1e-6, rtol=1e-6)
    generator = torch.Generator().manual_seed(5)
    drawn = torch.cat([beliefs.draw(generator) for _ in range(3000)])
    torch.testing.assert_close(drawn.std(0), beliefs.deviation[0], atol=0.03, rtol=0.15)
    against = torch.tensor([4])
    _, spread = beliefs.gap(against)
    torch.testing.assert_close((drawn - drawn[:, against]).std(0), spread[0], atol=0.03, rtol=0.15)
    same = beliefs.draw(torch.Generator().manual_seed(6)), beliefs.draw(torch.Generator().manual_seed(6))
    assert torch.equal(*same)
    torch.testing.assert_close(beliefs.draw(generator, spread=0.0), beliefs.mean, atol=1e-6, rtol=1e-6)


def gets_surer(model: TasteModel) -> None:
    new = points(50, seed=3)
    few, many = points(4), points(100)
    before = model.fit(said([], few)).over(new).deviation.mean()
    after = model.fit(said(likes(many), many)).over(new)
    assert float(after.deviation.mean() / after.mean.std()) < 0.8
    assert float(before) > 0.1


def other_contexts_count_less_but_do_count(model: TasteModel) -> None:
    items = points(60)
    here, there = likes(items), likes(items, sign=-1.0)
    both = said([*here, *there], items, [0] * 60 + [1] * 60)
    assert ranked_right(model.fit(both, 0)) > 0.75
    assert ranked_right(model.fit(both, 1)) < 0.25
    assert ranked_right(model.fit(said(here, items, [1] * 60), 0)) > 0.75


def survives_far_away_items(model: TasteModel) -> None:
    for size in (1e3, 1e6):
        far, near = points(20, size=size), points(20, seed=1)
        for answers in (said(everything(far), far), said(everything(near), near)):
            taste = model.fit(answers)
            for items in (far, near):
                assert bool(taste.score(items).isfinite().all())
                assert bool(taste.over(items).deviation.isfinite().all())
                assert bool(taste.over(items).draw(torch.Generator().manual_seed(0)).isfinite().all())


def takes_single_precision(model: TasteModel) -> None:
    items = points(40)
    single = Points(items.latents.float(), items.features.float())
    mixed = Points(items.latents.float(), items.features)
    expected = model.fit(said(likes(items), items)).score(items)
    for seen in (single, mixed):
        found = model.fit(said(likes(items), seen)).score(seen)
        torch.testing.assert_close(found.double(), expected, atol=0.05, rtol=0.05)


CHECKS: tuple[Callable[[TasteModel], None], ...] = (
    fits_the_same_twice,
    leaves_global_randomness_alone,
    needs_no_answers,
    takes_one_answer,
    takes_one_class,
    takes_duplicates_and_contradictions,
    learns_from_likes,
    learns_from_pairs,
    learns_from_stars,
    learns_from_the_best_and_the_worst,
    learns_from_glances,
    can_be_differentiated,
    fits_where_gradients_are_off,
    believes_what_it_scores_and_draws,
    gets_surer,
    other_contexts_count_less_but_do_count,
    survives_far_away_items,
    takes_single_precision,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_a_taste_model(name: str, check: Callable[[TasteModel], None]) -> None:
    check(taste_model(name, lens_scale=torch.ones(K)))


class Steady(Taste):
    """A taste that never heard anybody: prefers what the first latent says."""

    def __init__(self, slope: float = 0.0, deviation: float = 1.0, detached: bool = False) -> None:
        self.slope, self.deviation, self.detached = slope, deviation, detached

    def score(self, points: Points) -> Tensor:
        score = self.slope * points.latents[:, 0].double() + 0.0 * points.features.double().sum(-1)
        return score.detach() if self.detached else score

    def over(self, points: Points) -> Beliefs:
        return IndependentBeliefs(self.score(points)[None], torch.full((1, len(points)), self.deviation).double())


class Deaf(TasteModel):
    """Ignores the answers."""

    name: ClassVar[str] = "deaf"

    def fit(self, answers: Answers, context: int = 0) -> Taste:
        return Steady()


class Moody(TasteModel):
    """Draws from the global random numbers."""

    name: ClassVar[str] = "moody"

    def fit(self, answers: Answers, context: int = 0) -> Taste:
        return Steady(float(torch.randn(())))


class Detached(TasteModel):
    """Scores without a gradient."""

    name: ClassVar[str] = "detached"

    def fit(self, answers: Answers, context: int = 0) -> Taste:
        return Steady(1.0, detached=True)


class Certain(TasteModel):
    """Never in doubt."""

    name: ClassVar[str] = "certain"

    def fit(self, answers: Answers, context: int = 0) -> Taste:
        return Steady(0.0, deviation=0.0)


class Broken(TasteModel):
    """Divides by zero."""

    name: ClassVar[str] = "broken"

    def fit(self, answers: Answers, context: int = 0) -> Taste:
        return Steady(math.nan)


class OneContext(TasteModel):
    """Does not look at contexts."""

    name: ClassVar[str] = "one context"

    def fit(self, answers: Answers, context: int = 0) -> Taste:
        return taste_model("bayes").fit(answers.select(answers.context >= 0), int(answers.context.sum()) * 0)


@pytest.mark.parametrize(
    ("twin", "check"),
    [
        (Deaf(), takes_one_class),
        (Deaf(), learns_from_likes),
        (Deaf(), learns_from_pairs),
        (Deaf(), learns_from_stars),
        (Deaf(), learns_from_the_best_and_the_worst),
        (Deaf(), learns_from_glances),
        (Deaf(), other_contexts_count_less_but_do_count),
        (Deaf(), gets_surer),
        (Moody(), fits_the_same_twice),
        (Moody(), leaves_global_randomness_alone),
        (Moody(), needs_no_answers),
        (Detached(), can_be_differentiated),
        (Certain(), needs_no_answers),
        (Broken(), takes_one_answer),
        (Broken(), survives_far_away_items),
        (OneContext(), other_contexts_count_less_but_do_count),
    ],
)
def test_a_broken_twin_is_rejected(twin: TasteModel, check: Callable[[TasteModel], None]) -> None:
    with pytest.raises(AssertionError):
        check(twin)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(SettingError, match="'oracle' is unknown; choose one of default, gp, bayes"):
        taste_model("oracle")
