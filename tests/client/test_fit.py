import numpy as np
import pytest
import torch
from scipy import optimize  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from torch import Tensor

from client.fit import Posterior, laplace, log_predictive, weigh
from client.likelihood import Evidence, score_terms
from client.ratings import Best, Choice, Kind, Like, Rating, Stars
from common.errors import SettingError
from common.prior import DEFAULT_THRESHOLDS

CUTS = torch.tensor(DEFAULT_THRESHOLDS, dtype=torch.float64)


def rated(people: int, answers: int, p: int, seed: int, spread: float = 1.0) -> tuple[Evidence, Tensor]:
    """People with random tastes who like or dislike random items."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.randn(400, p, dtype=torch.float64, generator=generator)
    tastes = spread * torch.randn(people, p, dtype=torch.float64, generator=generator)
    shown = torch.randint(400, (people, answers, 1), generator=generator)
    scores = (items[shown[..., 0]] * tastes.unsqueeze(1)).sum(-1)
    liked = (torch.rand(scores.shape, dtype=torch.float64, generator=generator) < scores.sigmoid()).long()
    return Evidence.gather(torch.full(liked.shape, int(Kind.LIKE)), liked, shown, items), tastes


def eye(p: int) -> Tensor:
    return torch.eye(p, dtype=torch.float64)


def zeros(p: int) -> Tensor:
    return torch.zeros(p, dtype=torch.float64)


def test_the_mode_is_that_of_scikit_learn() -> None:
    evidence, _ = rated(3, 40, 5, seed=1)
    fit = laplace(evidence, zeros(5), eye(5) * 2.0, CUTS)
    for person in range(3):
        peer = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10, max_iter=5000)
        peer.fit(evidence.features[person, :, 0].numpy(), evidence.value[person].numpy())
        np.testing.assert_allclose(fit.mean[person].numpy(), peer.coef_[0], atol=1e-5)


def mixed_person() -> tuple[list[Rating], Tensor]:
    items = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    said: list[Rating] = [
        Like(0, True),
        Choice(1, 2, "a"),
        Choice(3, 4, "neither"),
        Stars(5, 5),
        Stars(6, 2),
        Best((7, 8, 9, 10), 2),
        Best((0, 5, 11), 0, worst=True),
    ]
    return said, items


def test_mode_and_covariance_of_mixed_feedback_are_those_of_scipy() -> None:
    said, items = mixed_person()
    evidence = Evidence.of(said, items)
    mean, covariance = torch.full((4,), 0.3, dtype=torch.float64), eye(4) + 0.3
    fit = laplace(evidence, mean, covariance, CUTS)

    def cost(w: np.ndarray) -> float:
        taste = torch.from_numpy(w)
        value, _, _ = score_terms(evidence, evidence.features @ taste, CUTS)
        away = taste - mean
        return float(0.5 * away @ torch.linalg.solve(covariance, away) - value.sum())

    best = optimize.minimize(cost, np.zeros(4), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(fit.mean[0].numpy(), best.x, atol=1e-5)
    step = 1e-3
    hessian = np.array(
        [
            [
                (
                    cost(best.x + step * (a + b))
                    - cost(best.x + step * (a - b))
                    - cost(best.x - step * (a - b))
                    + cost(best.x - step * (a + b))
                )
                / (4 * step**2)
                for b in np.eye(4)
            ]
            for a in np.eye(4)
        ]
    )
    np.testing.assert_allclose(fit.covariance[0].numpy(), np.linalg.inv(hessian), rtol=2e-3, atol=2e-3)


def test_the_posterior_is_that_of_a_long_markov_chain() -> None:
    """Random-walk Metropolis, 64 chains: Laplace is an approximation, close with 60 ratings and two weights."""
    evidence, _ = rated(1, 60, 2, seed=3)
    fit = laplace(evidence, zeros(2), eye(2), CUTS)
    generator = torch.Generator().manual_seed(5)
    x, y = evidence.features[0, :, 0], 2.0 * evidence.value[0] - 1

    def log_posterior(w: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(y * (w @ x.T)).sum(-1) - 0.5 * w.square().sum(-1)

    w = fit.mean[0].expand(64, 2).clone()
    kept = []
    for step in range(3_000):
        proposal = w + 0.4 * torch.randn(w.shape, dtype=torch.float64, generator=generator)
        accept = torch.rand(64, dtype=torch.float64, generator=generator).log() < log_posterior(
            proposal
        ) - log_posterior(w)
        w = torch.where(accept[:, None], proposal, w)
        if step >= 500:
            kept.append(w)
    chain = torch.cat(kept)
    deviation = fit.covariance[0].diagonal().sqrt()
    assert bool(((chain.mean(0) - fit.mean[0]).abs() < 0.25 * deviation).all())
    torch.testing.assert_close(chain.T.cov(), fit.covariance[0], rtol=0.25, atol=0.02)


def test_the_evidence_is_close_to_the_integral() -> None:
    evidence, _ = rated(1, 25, 1, seed=4)
    fit = laplace(evidence, zeros(1), eye(1), CUTS)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    scores = evidence.features[0, :, 0, 0][:, None] * grid
    sign = 2.0 * evidence.value[0][:, None] - 1
    log_joint = torch.nn.functional.logsigmoid(sign * scores).sum(0) - 0.5 * grid.square()
    integral = torch.logsumexp(log_joint, 0) + np.log(16 / 4000) - 0.5 * np.log(2 * np.pi)
    assert float(fit.log_evidence[0]) == pytest.approx(float(integral), abs=0.05)


def test_one_person_and_a_batch_are_the_same_code() -> None:
    evidence, _ = rated(50, 30, 6, seed=6)
    together = laplace(evidence, zeros(6), eye(6), CUTS)
    alone = laplace(evidence.select(slice(17, 18)), zeros(6), eye(6), CUTS)
    torch.testing.assert_close(together.mean[17], alone.mean[0], atol=1e-9, rtol=0)
    torch.testing.assert_close(together.covariance[17], alone.covariance[0], atol=1e-9, rtol=0)


def test_without_ratings_the_prior_comes_back() -> None:
    evidence, _ = rated(2, 0, 3, seed=8)
    mean, covariance = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), eye(3) * 0.7
    fit = laplace(evidence, mean, covariance, CUTS)
    torch.testing.assert_close(fit.mean, mean.expand(2, 3))
    torch.testing.assert_close(fit.covariance, covariance.expand(2, 3, 3))
    assert float(fit.log_evidence.abs().max()) < 1e-12


def test_separable_ratings_with_a_wide_prior_converge() -> None:
    items = torch.cat([torch.full((20, 1), 50.0), torch.full((20, 1), -50.0)]).double()
    evidence = Evidence.of([Like(i, i < 20) for i in range(40)], items)
    fit = laplace(evidence, zeros(1), eye(1) * 1e4, CUTS)
    _, gradient, _ = score_terms(evidence, evidence.features @ fit.mean[0], CUTS)
    assert float((gradient[0, :, 0] * items[:, 0]).sum() - fit.mean[0, 0] / 1e4) == pytest.approx(0, abs=1e-6)


def test_features_of_another_size_are_refused() -> None:
    evidence, _ = rated(1, 5, 3, seed=9)
    with pytest.raises(SettingError, match="3 numbers, the prior has 4"):
        laplace(evidence, zeros(4), eye(4), CUTS)


def test_a_feature_that_is_not_a_number_is_refused() -> None:
    evidence, _ = rated(1, 5, 3, seed=9)
    evidence.features[0, 0, 0, 0] = torch.nan
    with pytest.raises(SettingError, match="NaN"):
        laplace(evidence, zeros(3), eye(3), CUTS)


def test_evidence_moves_an_unusual_person_to_the_flat_prior() -> None:
    """Everybody is said to dislike what this person likes: the population prior must lose its weight."""
    p, generator = 4, torch.Generator().manual_seed(10)
    items = torch.randn(60, p, dtype=torch.float64, generator=generator)
    taste = torch.tensor([3.0, 0, 0, 0], dtype=torch.float64)
    evidence = Evidence.of([Like(i, bool(items[i] @ taste > 0)) for i in range(40)], items)
    means = torch.stack([-taste, zeros(p)])
    covariances = torch.stack([eye(p) * 0.05, eye(p) * 4])
    shares = torch.tensor([0.8, 0.2], dtype=torch.float64)
    unusual = weigh(evidence, means, covariances, shares, CUTS)
    usual = weigh(evidence, -means, covariances, shares, CUTS)
    assert float(unusual.weight[0, 0]) < 1e-6
    assert float(usual.weight[0, 0]) > 0.8


def some_posterior() -> Posterior:
    evidence, _ = rated(3, 10, 4, seed=11)
    return weigh(
        evidence,
        torch.stack([zeros(4), torch.ones(4, dtype=torch.float64)]),
        torch.stack([eye(4), eye(4) * 0.3]),
        torch.tensor([0.5, 0.5], dtype=torch.float64),
        CUTS,
    )


def test_moments_are_those_of_many_samples() -> None:
    posterior = some_posterior()
    features = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(12))
    mean, deviation = posterior.moments(features)
    scores = posterior.sample(200_000, torch.Generator().manual_seed(13)) @ features.T
    torch.testing.assert_close(scores.mean(1), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(scores.std(1), deviation, rtol=0.02, atol=0)
    torch.testing.assert_close(posterior.scores(features), mean)


def test_predicted_probabilities_add_up_to_one() -> None:
    posterior = some_posterior()
    features = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(14))
    draws = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(15))
    total = torch.zeros(3, 6, dtype=torch.float64)
    for answer in (False, True):
        one = Evidence.of([Like(i, answer) for i in range(6)], features)
        everybody = Evidence(*(tensor.expand(3, *tensor.shape[1:]) for tensor in one.tensors()))
        total += log_predictive(everybody, posterior, CUTS, draws).exp()
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_gpu_gives_the_same_posterior() -> None:
    evidence, _ = rated(100, 30, 8, seed=16)
    there = Evidence(*(tensor.cuda() for tensor in evidence.tensors()))
    here, gpu = (laplace(e, zeros(8), eye(8), CUTS) for e in (evidence, there))
    torch.testing.assert_close(gpu.mean.cpu(), here.mean, atol=1e-8, rtol=0)


def test_a_nearly_singular_prior_gives_the_mode_that_its_whitened_twin_gives() -> None:
    evidence, _ = rated(40, 10, 8, seed=5)
    basis = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(6)))[0]
    root = basis @ torch.diag(torch.logspace(-4, 0.5, 8, dtype=torch.float64)) @ basis.T
    mean = torch.linspace(-1, 1, 8, dtype=torch.float64)
    fit = laplace(evidence, mean, root @ root, CUTS)
    # w = mean + R v with v ~ N(0, I); the offset of the mean enters as one more feature whose weight is fixed to 1
    offset = (evidence.features @ mean).unsqueeze(-1)
    twin = evidence.with_features(torch.cat([evidence.features @ root, offset], dim=-1))
    known = torch.cat([zeros(8), torch.ones(1, dtype=torch.float64)])
    narrow = torch.diag(torch.cat([torch.ones(8, dtype=torch.float64), torch.full((1,), 1e-12, dtype=torch.float64)]))
    expected = mean + laplace(twin, known, narrow, CUTS).mean[:, :8] @ root.T
    assert float((fit.mean - expected).abs().max()) < 1e-6
