"""The personal Gaussian process against the primal fit, brute force and plain statements about tastes."""

import pytest
import torch
from torch import Tensor

from client.classifiers.base import Answers, Points
from client.classifiers.contrasts import Contrasts
from client.classifiers.gaussian_process import PersonalGaussianProcess, ProcessTaste
from client.classifiers.hypotheses import Hypothesis, Kernels, Law, Process, hypotheses
from client.classifiers.labels import compact
from client.classifiers.laplace_dual import laplace_dual
from client.fit import Posterior, laplace
from client.likelihood import score_terms
from client.ratings import Best, Choice, Glance, Like, Rating, Stars
from common.prior import DEFAULT_THRESHOLDS, PopulationPrior

THRESHOLDS = torch.tensor(DEFAULT_THRESHOLDS).double()
MIXED: list[Rating] = [
    Choice(0, 1, "a"),
    Choice(2, 3, "a"),
    Like(4, True),
    Best((5, 6, 7, 8), 2),
    Choice(1, 2, "b"),
    Choice(3, 9, "b"),
    Stars(5, 4),
    Stars(6, 1),
    Best((0, 4, 9), 1, worst=True),
    Glance(7, 2.5),
    Like(4, False),
]


def points(n: int = 10, d: int = 4, k: int = 5, seed: int = 0) -> Points:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, k + 1, dtype=torch.float64, generator=generator)
    features[:, -1] = 1
    return Points(torch.randn(n, d, dtype=torch.float64, generator=generator), features)


def law(p: int = 6, seed: int = 1) -> Law:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(p, p, dtype=torch.float64, generator=generator)
    mean = torch.randn(p, dtype=torch.float64, generator=generator)
    return Law(mean, root @ root.T / p + 0.2 * torch.eye(p, dtype=torch.float64))


def model(kernels: Kernels) -> PersonalGaussianProcess:
    found = PersonalGaussianProcess()
    found.kernels = kernels
    return found


def one(rough: float = 0.0, length: float = 1.0, view: int = 0) -> Kernels:
    return Kernels([law()], [Hypothesis(processes=(Process(view, length, rough),) if rough else ())], torch.ones(5))


def test_without_a_process_the_dual_is_the_primal_fit() -> None:
    items, new = points(), points(40, seed=3)
    answers = Answers.of(MIXED, items)
    primal = laplace(answers.evidence(), law().mean, law().covariance, THRESHOLDS)
    contrasts = Contrasts.of(answers)
    kernels = one()
    mean, kernel = contrasts.take(kernels.mean(items)), contrasts.square(kernels.between(items, items))
    dual = laplace_dual(contrasts, mean, kernel, THRESHOLDS)
    torch.testing.assert_close(dual.log_evidence, primal.log_evidence, atol=1e-6, rtol=0)
    beliefs = model(kernels).fit(answers).over(new)
    expected = Posterior(primal.mean[None], primal.covariance[None], torch.ones(1, 1).double()).moments(new.features)
    torch.testing.assert_close(beliefs.mean, expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(beliefs.deviation, expected[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("view", [0, 1])
def test_the_mode_is_where_the_posterior_has_no_slope(view: int) -> None:
    """At the mode of the scores f of the items, K^-1 (f - m) equals the gradient of the log likelihood."""
    items = points()
    answers = Answers.of(MIXED, items)
    kernels = one(rough=1.3, length=0.8, view=view)
    taste = model(kernels).fit(answers)
    scores = taste.score(items)
    grid = (scores[answers.items.clamp(min=0)] * (answers.items >= 0))[None]
    _, slope, _ = score_terms(answers.evidence(), grid, THRESHOLDS)
    gradient = torch.zeros(len(items) + 1, dtype=torch.float64)
    gradient.index_add_(0, (answers.items % (len(items) + 1)).flatten(), slope.flatten())
    kernel = kernels.between(items, items)[0]
    torch.testing.assert_close(scores, kernels.mean(items)[0] + kernel @ gradient[:-1], atol=1e-4, rtol=0)


def test_both_and_neither_say_that_two_items_are_about_equal() -> None:
    items = points()
    free = model(one(rough=1.0)).fit(Answers.of([], items)).over(items)
    for answer, sign in (("both", 1), ("neither", -1)):
        known = model(one(rough=1.0)).fit(Answers.of([Choice(2, 3, answer)], items)).over(items)  # type: ignore[arg-type]
        gap, spread = known.gap(torch.tensor([2]))
        before, wide = free.gap(torch.tensor([2]))
        assert abs(float(gap[0, 3])) < abs(float(before[0, 3]))
        assert float(spread[0, 3]) < float(wide[0, 3])
        assert sign * float((known.mean - free.mean)[0, 2:4].sum()) > 0


def test_scores_have_the_gradient_they_claim() -> None:
    taste = model(one(rough=1.0)).fit(Answers.of(MIXED, points()))
    new = points(3, seed=5)

    def score(latents: Tensor, features: Tensor) -> Tensor:
        return taste.score(Points(latents, features))

    inputs = (new.latents.requires_grad_(), new.features.requires_grad_())
    assert torch.autograd.gradcheck(score, inputs)


def test_a_gap_and_a_draw_know_what_items_have_in_common() -> None:
    new = points(6, seed=7)
    beliefs = model(one(rough=0.7)).fit(Answers.of(MIXED, points())).over(new)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([beliefs.draw(generator) for _ in range(4000)])
    mean, deviation = beliefs.gap(torch.tensor([2]))
    difference = drawn - drawn[:, 2:3]
    torch.testing.assert_close(difference.mean(0), mean[0], atol=0.12, rtol=0)
    torch.testing.assert_close(difference.std(0), deviation[0], atol=0.1, rtol=0.06)
    assert float(deviation[0, 2]) < 1e-3
    narrow = torch.cat([beliefs.draw(generator, 0.1) for _ in range(500)])
    torch.testing.assert_close(narrow.std(0), 0.1 * beliefs.deviation[0], atol=0.02, rtol=0.1)


def test_where_the_last_fit_ended_does_not_matter() -> None:
    items, generator = points(30), torch.Generator().manual_seed(2)
    pairs = [torch.randperm(30, generator=generator)[:2].tolist() for _ in range(25)]
    ratings: list[Rating] = [Choice(a, b, "a" if (a + b) % 3 else "neither") for a, b in pairs]
    warm = PersonalGaussianProcess(scale=torch.ones(5))
    for count in range(26):
        taste = warm.fit(Answers.of(ratings[:count], items))
    cold = PersonalGaussianProcess(scale=torch.ones(5)).fit(Answers.of(ratings, items))
    torch.testing.assert_close(taste.score(items), cold.score(items), atol=1e-4, rtol=1e-4)
    back = warm.fit(Answers.of(ratings[:4], items))
    fresh = PersonalGaussianProcess(scale=torch.ones(5)).fit(Answers.of(ratings[:4], items))
    torch.testing.assert_close(back.score(items), fresh.score(items), atol=1e-4, rtol=1e-4)


def test_many_points_in_single_precision_score_the_same() -> None:
    taste = model(one(rough=1.0)).fit(Answers.of(MIXED, points()))
    new = points(500, seed=9)
    single = taste.score(Points(new.latents.float(), new.features.float()))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), taste.score(new), atol=1e-4, rtol=1e-4)


def test_what_is_remembered_about_many_points_is_what_is_computed() -> None:
    """More, fewer and other answers: the distances that are kept between fits never lag behind."""
    items, many = points(40, seed=21), points(5000, seed=22)
    ratings: list[Rating] = [Like(i, i % 3 == 0) for i in range(40)]
    learner = PersonalGaussianProcess(scale=torch.ones(5))
    for asked in (slice(0, 5), slice(0, 6), slice(0, 40), slice(0, 12), slice(3, 30), slice(0, 0), slice(0, 40)):
        answers = compact(Answers.of(ratings[asked], items))
        taste = learner.fit(answers)
        apart = torch.cat([taste.score(many[slice(0, 2500)]), taste.score(many[slice(2500, None)])])
        torch.testing.assert_close(taste.score(many), apart, atol=1e-9, rtol=1e-9)
    other = points(5000, seed=23)
    torch.testing.assert_close(taste.score(other)[:100], taste.score(other[slice(0, 100)]), atol=1e-9, rtol=1e-9)


def bent(utility: float, n: int = 80) -> tuple[Answers, Points, Tensor]:
    """Likes of somebody whose taste is linear (0) or an ideal point that no line can follow (1)."""
    items, new = points(n, seed=11), points(200, seed=12)

    def likes(p: Points) -> Tensor:
        x = p.features[:, 0]
        return (1 - utility) * 3 * x + utility * 4 * (0.6 - x.square())

    ratings: list[Rating] = [Like(i, bool(u > 0)) for i, u in enumerate(likes(items))]
    return Answers.of(ratings, items), new, likes(new)


def wavy(taste: ProcessTaste) -> float:
    """How much of a taste is no line, for its length scales: the mean bend of its processes against its slope."""
    h = taste.hypothesis
    return sum((p.deviation / p.length) ** 2 for p in h.processes) / (h.amplitude**2 + 0.1)


def test_evidence_finds_out_how_wavy_a_taste_is() -> None:
    linear, curved = (PersonalGaussianProcess(scale=torch.ones(5)) for _ in range(2))
    straight, _, _ = bent(0.0)
    answers, new, truth = bent(1.0)
    line_found = linear.fit(straight)
    taste = curved.fit(answers)
    assert wavy(taste) > wavy(line_found)
    right = float(((taste.score(new) > 0) == (truth > 0)).double().mean())
    primal = laplace(answers.evidence(), torch.zeros(6).double(), torch.eye(6).double(), THRESHOLDS)
    line = float(((new.features @ primal.mean[0] > 0) == (truth > 0)).double().mean())
    assert right > line + 0.1


def test_a_prior_that_foretells_nothing_loses_its_weight() -> None:
    items = points(60, seed=13)
    prior = PopulationPrior(
        mean=torch.tensor([4.0, 0, 0, 0, 0, 0]).double(),
        covariance=0.05 * torch.eye(6).double(),
        thresholds=THRESHOLDS,
        pack="pack",
        privacy=PopulationPrior.flat(6, "pack", 1.0).privacy,
    )
    kernels = hypotheses(prior, torch.ones(5))
    crowd = torch.tensor([h.law == 1 for h in kernels.hypotheses])
    found = {}
    for sign in (1, -1):
        fitted = PersonalGaussianProcess(prior=prior, scale=torch.ones(5))
        fitted.fit(Answers.of([Like(i, bool(sign * items.features[i, 0] > 0)) for i in range(60)], items))
        found[sign] = float(fitted.weights[crowd].sum())
    assert found[1] > 0.9
    assert found[-1] < 1e-6


def test_contexts_share_strength_and_keep_what_is_their_own() -> None:
    items = points(80, seed=17)
    x = items.features[:, 0]
    ratings: list[Rating] = [Like(i, bool(x[i] > 0)) for i in range(80)]

    def right(context: int, own: int) -> float:
        """How well context 1 is understood after 80 answers in context 0 and ``own`` opposite ones in its own."""
        more: list[Rating] = [Like(i, bool(x[i] < 0)) for i in range(own)]
        answers = Answers.of([*ratings, *more], items, [0] * 80 + [1] * own)
        taste = PersonalGaussianProcess(scale=torch.ones(5)).fit(answers, context)
        return float(((taste.score(items) > 0) == (x > 0)).double().mean())

    assert right(1, 0) > 0.9, "a new context is not a new person"
    assert right(0, 40) > 0.85, "what another context says changes this one little"
    assert right(1, 40) < right(0, 40) - 0.2, "a context has a taste of its own"


def test_no_answers_give_the_prior_back() -> None:
    items = points()
    taste = model(one(rough=0.5)).fit(Answers.of([], items))
    assert isinstance(taste, ProcessTaste)
    torch.testing.assert_close(taste.score(items), items.features @ law().mean)
    variance = ((items.features @ law().covariance) * items.features).sum(-1) + 0.25
    torch.testing.assert_close(taste.over(items).deviation[0], variance.sqrt())
