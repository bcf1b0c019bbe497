"""On a flow whose velocity is known: samples N(mean, deviation^2) independent of the noise."""

import math

import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor

from client.flows.rectified import SamplerSettings, sample
from client.flows.stochastic import StochasticSettings, follow, step_mean
from common.errors import SettingError

MEAN, DEVIATION = 1.5, 0.4
ALPHA = 1e-4


def velocity(place: Tensor, time: Tensor) -> Tensor:
    """E[x_1 - x_0 | x_t] of two independent Gaussians."""
    t = time.view(-1, *(1,) * (place.dim() - 1))
    variance = (1 - t).square() + (t * DEVIATION).square()
    rest = place - t * MEAN
    return MEAN + (t * DEVIATION**2 - (1 - t)) / variance * rest


def noise(n: int) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


def followed(settings: StochasticSettings, n: int = 3000) -> Tensor:
    return follow(velocity, noise(n), settings, torch.Generator().manual_seed(1)).places


@pytest.mark.parametrize("until", [0.3, 1.0])
def test_the_law_of_samples_stays_what_it_is_with_any_chance(until: float) -> None:
    places = followed(StochasticSettings(steps=300, chance=1.0, until=until))
    standard = ((places[-1] - MEAN) / DEVIATION).flatten().double().numpy()
    assert stats.kstest(standard, "norm").pvalue > ALPHA
    assert stats.kstest(standard * 1.5, "norm").pvalue < ALPHA  # the test would see another spread
    middle = places[150].flatten().double()
    spread = math.sqrt(0.25 + 0.25 * DEVIATION**2)
    assert stats.kstest(((middle - 0.5 * MEAN) / spread).numpy(), "norm").pvalue > ALPHA


def test_chance_makes_other_samples_of_the_same_noise_and_ends_where_it_should() -> None:
    settings = StochasticSettings(steps=20, chance=0.7, until=0.5)
    assert settings.chances == 10
    assert all(spread > 0 for spread in settings.spreads[:10])
    assert not any(settings.spreads[10:])
    places = followed(settings, 200)
    exact = sample(velocity, noise(200), SamplerSettings(steps=60))
    assert float((places[-1] - exact).abs().mean()) > 0.1
    assert StochasticSettings(steps=4, until=1.0).spreads[-1] == 0


def test_a_step_without_chance_is_eulers() -> None:
    settings = StochasticSettings(steps=10, until=0.1)
    place = noise(50)
    expected = place + 0.1 * velocity(place, torch.full((50,), 0.4))
    torch.testing.assert_close(step_mean(velocity, place, 4, settings), expected)


@pytest.mark.parametrize("wrong", [{"steps": 1}, {"chance": 0.0}, {"chance": 1.1}, {"until": 0.0}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        StochasticSettings(**wrong)  # type: ignore[arg-type]
