import dataclasses
import math

import numpy as np
import pytest
from opacus.accountants import PRVAccountant, RDPAccountant  # type: ignore[import-untyped]

from common.errors import SettingError
from common.privacy import accounting, fixed_point, sampled
from common.privacy.sampled import Adjacency, Sampling, SamplingSettings

# 100,000 people, 1,000 expected in each of 500 rounds, epsilon 2 at delta 1e-6: known noise multipliers.
REFERENCE = SamplingSettings()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, 0.9133, id="poisson"),
        pytest.param({"adjacency": Adjacency.REPLACE}, 1.0755, id="poisson, one replaced"),
        pytest.param({"sampling": Sampling.TRUNCATED, "cap": 1_200}, 0.9133, id="cut at 1200"),
        pytest.param({"sampling": Sampling.TRUNCATED, "cap": 1_100}, 1.2527, id="cut at 1100"),
        pytest.param({"sampling": Sampling.TRUNCATED, "cap": 1_000}, 1.8053, id="cut at 1000"),
        pytest.param({"sampling": Sampling.WITHOUT_REPLACEMENT}, 2.6312, id="exactly 1000"),
    ],
)
def test_a_known_noise_multiplier_spends_the_known_epsilon(changes: dict[str, object], expected: float) -> None:
    settings = dataclasses.replace(REFERENCE, **changes)  # type: ignore[arg-type]
    assert sampled.epsilon(settings, expected) == pytest.approx(2.0, abs=1.5e-3)


def test_the_smallest_noise_multiplier_is_found_and_keeps_the_promise() -> None:
    z = sampled.noise_multiplier(REFERENCE)
    assert z == pytest.approx(0.9133, abs=1e-4)
    assert 2.0 * (1 - 1e-3) < sampled.epsilon(REFERENCE, z) <= 2.0


def test_two_other_accountants_agree_or_ask_for_more() -> None:
    z = sampled.noise_multiplier(REFERENCE)
    prv, rdp = PRVAccountant(), RDPAccountant()
    prv.history = rdp.history = [(z, REFERENCE.probability, REFERENCE.rounds)]
    assert prv.get_epsilon(1e-6, eps_error=0.01) == pytest.approx(2.0, abs=0.02)
    assert rdp.get_epsilon(1e-6) == pytest.approx(2.47, abs=0.02)  # a looser bound


def test_everybody_drawn_every_time_costs_what_the_exact_formula_says() -> None:
    settings = SamplingSettings(people=1_000, cohort=1_000, rounds=5)
    exact = accounting.noise_multiplier(2.0, 1e-6, 5)
    assert exact * (1 - 1e-6) < sampled.noise_multiplier(settings) < exact * 1.001
    assert exact == pytest.approx(4.9875, abs=1e-4)
    assert accounting.noise_multiplier(2.0, 1e-6, 500) == pytest.approx(49.87, abs=0.01)


def test_published_poisson_value() -> None:
    # google/differential-privacy, pld_privacy_accountant_test: q = 0.2, sigma = 0.5, 3 steps: delta(1) = 0.15594
    settings = SamplingSettings(epsilon=1.0, delta=0.15594, people=10, cohort=2, rounds=3)
    assert sampled.epsilon(settings, 0.5) == pytest.approx(1.0, abs=2e-3)
    assert sampled.epsilon(settings, 0.6) < 0.9


def test_a_cohort_of_fixed_size_is_never_booked_as_poisson() -> None:
    for adjacency in (Adjacency.ADD_REMOVE, Adjacency.ZERO_OUT):
        with pytest.raises(SettingError, match=r"not Poisson sampling.*use 'replace one person"):
            SamplingSettings(sampling=Sampling.WITHOUT_REPLACEMENT, adjacency=adjacency)
    small = SamplingSettings(epsilon=4.0, people=2_000, cohort=200, rounds=20)
    fixed = dataclasses.replace(small, sampling=Sampling.WITHOUT_REPLACEMENT)
    assert sampled.epsilon(fixed, 2.0) > 2 * sampled.epsilon(small, 2.0)


def test_what_is_not_proved_for_a_cap_is_refused() -> None:
    with pytest.raises(SettingError, match="push out another"):
        SamplingSettings(sampling=Sampling.TRUNCATED, cap=1_200, adjacency=Adjacency.ADD_REMOVE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": math.inf}, "epsilon=inf must be > 0 and finite"),
        ({"delta": 0.0}, "delta=0.0"),
        ({"norm_bound": math.nan}, "norm_bound=nan"),
        ({"rounds": 0}, "rounds=0"),
        ({"cohort": 100_001}, "cohort=100001 must be between 1 and people=100000"),
        ({"cap": 1_200}, "a cap is part of truncated-poisson"),
        ({"sampling": Sampling.TRUNCATED}, "cap=None"),
        ({"sampling": Sampling.TRUNCATED, "cap": 0}, "cap=0 must be between 1 and people=100000; try 1200"),
    ],
)
def test_impossible_settings_are_refused_with_the_limit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        dataclasses.replace(REFERENCE, **changes)  # type: ignore[arg-type]


def test_the_statement_names_sampling_adjacency_and_the_noise_really_added() -> None:
    settings = SamplingSettings(epsilon=4.0, people=2_000, cohort=200, rounds=20, norm_bound=2.0)
    said = sampled.statement(settings, 33, 7)
    assert said.sampling == "amplified by secret Poisson sampling, q = 200/2000"
    assert said.adjacency == "add or remove one person"
    assert said.accountant.startswith("dp-accounting")
    assert (said.epsilon, said.participations, said.rho) == (4.0, 20, None)
    sigma = math.sqrt(sampled.noise_sigma_squared(settings, 33))
    assert said.noise_multiplier == pytest.approx(sigma / fixed_point.sensitivity(2.0, 33), rel=1e-12)
    assert sigma > sampled.noise_multiplier(settings) * fixed_point.sensitivity(2.0, 33)
    assert sampled.statement(settings, 33, 0).epsilon == 0


def test_rounded_and_discrete_gaussians_give_every_number_the_same_probability() -> None:
    sigma, reach = np.longdouble(accounting.SMALLEST_SIGMA), 7
    k = np.arange(-reach * 1_000, reach * 1_000 + 1).astype(np.longdouble)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    # the rounded normal at k is phi(k) times the mean of phi(k + x) / phi(k) over x in (-1/2, 1/2)
    share = sum(w / 2 * np.exp(-(k * x + x * x / 4) / (2 * sigma**2)) for x, w in zip(nodes, weights, strict=True))
    rounded = np.log(share) - k * k / (2 * sigma**2)

    def off(variance: np.longdouble) -> float:
        discrete = -k * k / (2 * variance)
        difference = rounded - discrete
        return float(np.abs(difference - difference[k == 0]).max())

    assert off(sigma**2 + np.longdouble(1) / 12) < 1e-12
    assert off(sigma**2) > 1e-12
