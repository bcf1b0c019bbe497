import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from client.fit import laplace
from client.likelihood import Evidence
from client.ratings import Kind
from common import update
from common.errors import SettingError, UpdateError
from common.prior import PopulationPrior
from server.population import CONDITION, EIGENVALUE_CEILING, EIGENVALUE_FLOOR, next_covariance, next_prior


def some_prior(p: int = 3) -> PopulationPrior:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(p, p, dtype=torch.float64, generator=generator)
    flat = PopulationPrior.flat(p, "pack")
    return PopulationPrior(
        mean=torch.randn(p, dtype=torch.float64, generator=generator),
        covariance=root @ root.T + torch.eye(p),
        thresholds=flat.thresholds,
        pack="pack",
        privacy=flat.privacy,
    )


def test_a_full_step_is_the_textbook_m_step() -> None:
    """Mean of the modes; mean of (covariance + spread of the modes): a plain loop over people."""
    prior, people, p = some_prior(), 40, 3
    generator = torch.Generator().manual_seed(1)
    modes = torch.randn(people, p, dtype=torch.float64, generator=generator)
    roots = 0.3 * torch.randn(people, p, p, dtype=torch.float64, generator=generator)
    covariances = roots @ roots.mT + 0.1 * torch.eye(p, dtype=torch.float64)
    mean = sum((modes[i] for i in range(people)), torch.zeros(p).double()) / people
    spread = torch.zeros(p, p, dtype=torch.float64)
    for i in range(people):
        spread += (covariances[i] + torch.outer(modes[i] - mean, modes[i] - mean)) / people
    after = next_prior(prior, update.encode(modes, covariances, prior).mean(0))
    torch.testing.assert_close(after.mean, mean)
    torch.testing.assert_close(after.covariance, spread)
    assert after.rounds == prior.rounds + 1


def test_people_who_know_nothing_new_change_nothing() -> None:
    prior = some_prior()
    after = next_prior(prior, torch.zeros(update.length(3), dtype=torch.float64), step=2.0)
    torch.testing.assert_close(after.mean, prior.mean)
    torch.testing.assert_close(after.covariance, prior.covariance)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 1e3))
def test_any_noise_leaves_a_valid_prior(seed: int, size: float) -> None:
    noise = size * torch.randn(update.length(3), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    after = next_prior(some_prior(), noise, step=1.5)  # making the record checks that it is positive definite
    assert float(torch.linalg.eigvalsh(after.covariance)[0]) > 0


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6])
def test_many_rounds_of_nothing_but_noise_leave_a_valid_prior(size: float) -> None:
    generator, prior = torch.Generator().manual_seed(5), some_prior()
    for _ in range(60):
        prior = next_prior(prior, size * torch.randn(update.length(3), dtype=torch.float64, generator=generator))
    values = torch.linalg.eigvalsh(prior.covariance)
    assert float(values[-1] / values[0]) < 1.1e9


def test_several_populations_are_bounded_each_by_itself() -> None:
    generator = torch.Generator().manual_seed(6)
    sizes = torch.tensor([0.1, 1, 1e3, 1])[:, None, None]
    change = sizes * torch.randn(4, 3, 3, dtype=torch.float64, generator=generator)
    change = change + change.mT
    root = torch.eye(3, dtype=torch.float64).repeat(4, 1, 1)
    root[3] = torch.diag(torch.tensor([1.0, 1e-3, 1e-7]))
    after = next_covariance(root, change, 1.5)
    for i in range(4):
        torch.testing.assert_close(after[i], next_covariance(root[i], change[i], 1.5))
    values = torch.linalg.eigvalsh(after)
    assert float(values[2, 0]) == pytest.approx(EIGENVALUE_FLOOR)
    assert float(values[2, -1]) == pytest.approx(EIGENVALUE_CEILING)
    assert float(values[3, -1] / values[3, 0]) == pytest.approx(CONDITION, rel=1e-3)
    torch.testing.assert_close(after[0], torch.eye(3, dtype=torch.float64) + 1.5 * change[0])


def test_wrong_settings_are_named() -> None:
    with pytest.raises(SettingError, match=r"step=0\.0"):
        next_prior(some_prior(), torch.zeros(9), step=0.0)
    with pytest.raises(UpdateError, match="9"):
        next_prior(some_prior(), torch.zeros(7))


def population(people: int, ratings: int, p: int) -> tuple[Evidence, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    mean = torch.tensor([1.0, -0.5, 0.8], dtype=torch.float64)
    root = torch.tensor([[1.0, 0, 0], [0.6, 0.5, 0], [-0.4, 0.2, 0.3]], dtype=torch.float64)
    tastes = mean + torch.randn(people, p, dtype=torch.float64, generator=generator) @ root.T
    items = torch.randn(500, p, dtype=torch.float64, generator=generator)
    shown = torch.randint(500, (people, ratings, 1), generator=generator)
    scores = (items[shown[..., 0]] * tastes.unsqueeze(1)).sum(-1)
    liked = (torch.rand(scores.shape, generator=generator, dtype=torch.float64) < scores.sigmoid()).long()
    return Evidence.gather(torch.full(liked.shape, int(Kind.LIKE)), liked, shown, items), mean, root @ root.T


def test_em_recovers_a_known_population() -> None:
    """1,500 people x 60 likes without noise or clipping: mean and covariance come back, a flat prior does not pass."""
    evidence, mean, covariance = population(1_500, 60, 3)
    prior = PopulationPrior.flat(3, "pack", 2.0)
    for _ in range(25):
        fit = laplace(evidence, prior.mean, prior.covariance, prior.thresholds)
        prior = next_prior(prior, update.encode(fit.mean, fit.covariance, prior).mean(0), step=1.3)

    def close(candidate: PopulationPrior) -> bool:
        return bool((candidate.mean - mean).abs().max() < 0.12) and bool(
            (candidate.covariance - covariance).abs().max() < 0.2
        )

    assert close(prior)
    assert not close(PopulationPrior.flat(3, "pack", 2.0))
