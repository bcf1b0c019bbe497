"""The accountant: published values, two other accountants, and exact sums; and claims that broken code cannot meet."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from dp_accounting import dp_event  # type: ignore[import-untyped]
from dp_accounting.pld import PLDAccountant  # type: ignore[import-untyped]
from dp_accounting.rdp import RdpAccountant  # type: ignore[import-untyped]
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.errors import SettingError
from common.privacy import accounting, fixed_point
from common.privacy.accounting import gaussian_delta, noise_sigma_squared, statement
from common.privacy.clip import clip
from common.privacy.fixed_point import quantise
from common.privacy.noise import discrete_gaussian
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement

NUMBERS = 594


def releases(z: float, count: int) -> dp_event.DpEvent:
    return dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(z), count)


# --- values other people published -----------------------------------------------------------------------------------


def test_golden_1_delta_of_one_gaussian_of_sigma_one() -> None:
    """google/differential-privacy, pld_privacy_accountant_test: delta(1) = 0.126936, also as three of sigma sqrt(3)."""
    assert math.isclose(gaussian_delta(1.0, 1.0), 0.126936, abs_tol=1e-6)
    assert math.isclose(PLDAccountant().compose(releases(math.sqrt(3), 3)).get_delta(1.0), 0.126936, rel_tol=1e-3)


def test_golden_2_poisson_sampled_gaussian_through_the_oracle() -> None:
    """Same file: q = 0.2, sigma = 0.5, 3 steps: delta(1) = 0.15594. We claim no sampling; this checks the oracle."""
    step = dp_event.PoissonSampledDpEvent(0.2, dp_event.GaussianDpEvent(0.5))
    delta = PLDAccountant().compose(dp_event.SelfComposedDpEvent(step, 3)).get_delta(1.0)
    assert math.isclose(delta, 0.15594, rel_tol=1e-3)


def test_golden_3_renyi_orders_of_the_oracle() -> None:
    """rdp_privacy_accountant_test: q = 0.01, sigma = 2.5, 50 steps at five orders."""
    orders = [1.5, 2.5, 5, 50, 100]
    published = [6.70579741e-4, 1.08548710e-3, 2.18075656e-3, 2.38460375e-2, 1.67416308e2]
    accountant = RdpAccountant(orders)
    step = dp_event.PoissonSampledDpEvent(0.01, dp_event.GaussianDpEvent(2.5))
    accountant.compose(dp_event.SelfComposedDpEvent(step, 50))
    assert np.allclose(accountant._rdp, published, rtol=1e-5)


def test_golden_4_renyi_needs_more_noise_than_the_exact_formula() -> None:
    """Same file: sigma = 4.530877117 gives (1, 1e-6) by Renyi; the exact mechanism needs 4.2247."""
    assert math.isclose(RdpAccountant().compose(releases(4.530877117, 1)).get_epsilon(1e-6), 1.0, rel_tol=1e-6)
    assert math.isclose(accounting.noise_multiplier(1.0, 1e-6), 4.2247, abs_tol=5e-5)
    assert accounting.epsilon(4.530877117, 1, 1e-6) < 1.0


def test_golden_5_rho_of_the_published_keyboard_model() -> None:
    """Google 2022: rho = 0.81 zCDP is (8.9, 1e-10); the exact Gaussian of that rho is 8.55."""
    z = 1 / math.sqrt(2 * 0.81)
    assert math.isclose(accounting.zcdp(z), 0.81, rel_tol=1e-12)
    orders = [1 + 0.01 * i for i in range(1, 3000)]
    assert math.isclose(RdpAccountant(orders).compose(releases(z, 1)).get_epsilon(1e-10), 8.92, abs_tol=0.01)
    assert math.isclose(accounting.epsilon(z, 1, 1e-10), 8.55, abs_tol=0.005)


@pytest.mark.parametrize(
    ("delta", "epsilon", "z"),
    [
        *[(1e-6, e, z) for e, z in [(1, 4.225), (2, 2.230), (4, 1.194), (8, 0.653)]],
        *[(1e-5, e, z) for e, z in [(1, 3.731), (2, 1.994), (4, 1.081), (8, 0.600)]],
    ],
)
def test_noise_multipliers_of_the_design(delta: float, epsilon: float, z: float) -> None:
    assert math.isclose(accounting.noise_multiplier(epsilon, delta), z, abs_tol=1e-3)
    assert math.isclose(accounting.noise_multiplier(epsilon, delta, 4), 2 * z, abs_tol=2e-3)


# --- other accountants -----------------------------------------------------------------------------------------------

GRID = [(z, k, delta) for z in (0.7, 1.2, 4.2) for k in (1, 4) for delta in (1e-10, 1e-5)]


@pytest.mark.parametrize(("z", "k", "delta"), GRID)
def test_closed_form_agrees_with_privacy_loss_distributions(z: float, k: int, delta: float) -> None:
    ours = accounting.epsilon(z, k, delta)
    theirs = PLDAccountant(value_discretization_interval=1e-3).compose(releases(z, k)).get_epsilon(delta)
    assert math.isclose(ours, theirs, rel_tol=5e-3)
    # Their discretisation is an upper bound that tightens from above; ours is the limit.
    assert ours <= theirs * (1 + 1e-6)


@pytest.mark.parametrize(("z", "k", "delta"), GRID)
@pytest.mark.filterwarnings("ignore:Optimal order is the:UserWarning")  # opacus offers no further orders
@pytest.mark.filterwarnings("ignore:divide by zero encountered in log:RuntimeWarning")  # its log(1 - q) at q = 1
def test_closed_form_is_below_both_bounds_of_opacus(z: float, k: int, delta: float) -> None:
    from opacus.accountants import PRVAccountant, RDPAccountant  # type: ignore[import-untyped]

    ours = accounting.epsilon(z, k, delta)
    renyi = RDPAccountant()
    renyi.history = [(z, 1.0, k)]
    assert ours <= renyi.get_epsilon(delta) <= 1.6 * ours + 0.1
    if delta > 1e-8:
        precise = PRVAccountant()
        precise.history = [(z, 1.0, k)]
        theirs = precise.get_epsilon(delta, eps_error=0.01)
        assert ours <= theirs + 1e-6
        assert theirs <= ours + 0.03


@settings(deadline=None)  # a busy machine is no failure
@given(st.floats(0, 50), st.floats(1e-3, 50))
def test_delta_agrees_with_the_textbook_formula_in_a_hundred_digits(epsilon: float, mu: float) -> None:
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(100):
        e, m = mpmath.mpf(epsilon), mpmath.mpf(mu)
        exact = mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m)
        assume(exact > 1e-280)
        assert abs(gaussian_delta(epsilon, mu) / exact - 1) < 1e-13 * max(1, epsilon / mu**2) * 100


def test_discrete_noise_of_a_thousand_steps_costs_what_the_closed_form_says() -> None:
    """Canonne, Kamath & Steinke 2020, Theorem 7, summed term by term, against the continuous formula."""
    sigma = accounting.SMALLEST_SIGMA
    tested = 0
    for steps in (11, 150, 237, 448, 837, 1531):
        for epsilon in (0.01, 0.1, 1.0, 4.0, 8.0):
            continuous = gaussian_delta(epsilon, steps / sigma)
            if continuous < 1e-12:
                continue
            tested += 1
            start = math.floor(epsilon * sigma**2 / steps - steps / 2) + 1
            n = np.arange(start, start + 40 * sigma, dtype=np.float64)
            terms = np.exp(-(n**2) / (2 * sigma**2)) - np.exp(epsilon - (n + steps) ** 2 / (2 * sigma**2))
            discrete = terms.sum() / (sigma * math.sqrt(2 * math.pi))
            # With the margin in the noise, the stated value is never below the exact one.
            assert math.isclose(discrete, continuous, rel_tol=5e-6)
            if 1e-12 <= continuous <= 1e-4:
                margin = 1 + accounting.DISCRETE_MARGIN
                assert discrete <= continuous * margin ** ((epsilon * sigma / steps - steps / sigma / 2) ** 2)
    assert tested > 15


# --- laws ------------------------------------------------------------------------------------------------------------

EPSILON, DELTA, K = st.floats(0.01, 50), st.floats(1e-12, 0.1), st.integers(1, 100)


@settings(deadline=None)  # a busy machine is no failure
@given(EPSILON, DELTA, K)
def test_noise_multiplier_and_epsilon_undo_each_other_and_never_undershoot(e: float, delta: float, k: int) -> None:
    z = accounting.noise_multiplier(e, delta, k)
    assert gaussian_delta(e, math.sqrt(k) / z) <= delta
    assert gaussian_delta(e, math.sqrt(k) / z) >= delta * (1 - 1e-5)
    assert math.isclose(accounting.epsilon(z, k, delta), e, rel_tol=1e-5)


@settings(deadline=None)  # a busy machine is no failure
@given(EPSILON, DELTA, K, st.floats(1.01, 3))
def test_less_epsilon_less_delta_or_more_releases_need_more_noise(e: float, delta: float, k: int, by: float) -> None:
    z = accounting.noise_multiplier(e, delta, k)
    assert accounting.noise_multiplier(e / by, delta, k) > z
    assert accounting.noise_multiplier(e, delta / by, k) > z
    assert accounting.noise_multiplier(e, delta, k + 1) > z


@settings(deadline=None)  # a busy machine is no failure
@given(st.floats(0.05, 100), DELTA, K, st.floats(1.01, 3))
def test_more_noise_costs_less_and_more_releases_cost_more(z: float, delta: float, k: int, by: float) -> None:
    e = accounting.epsilon(z, k, delta)
    assert accounting.epsilon(z, k + 1, delta) >= e >= accounting.epsilon(z * by, k, delta)
    assert accounting.epsilon(z, k, delta / by) >= e
    # rho-zCDP converts to at least the exact value (Bun & Steinke 2016, Proposition 1.3).
    rho = accounting.zcdp(z, k)
    assert e <= rho + 2 * math.sqrt(rho * math.log(1 / delta)) + 1e-9


def test_so_much_noise_that_delta_alone_covers_it_costs_no_epsilon() -> None:
    assert accounting.epsilon(1e9, 1, 1e-6) == 0.0


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_arguments_that_promise_nothing_are_refused(bad: float) -> None:
    calls: list[Callable[[], object]] = [
        lambda: gaussian_delta(1.0, bad),
        lambda: accounting.epsilon(bad, 1, 1e-6),
        lambda: accounting.noise_multiplier(bad, 1e-6),
        lambda: accounting.zcdp(bad),
        lambda: accounting.epsilon(1.0, 1, bad),
        lambda: accounting.noise_multiplier(1.0, 1.0 if bad == math.inf else bad),
        lambda: accounting.epsilon(1.0, 0, 1e-6),
        lambda: gaussian_delta(-1.0, 1.0),
    ]
    for call in calls:
        with pytest.raises(SettingError, match="must be"):
            call()


# --- the statement ---------------------------------------------------------------------------------------------------


def test_the_statement_of_the_defaults_says_everything() -> None:
    promise = PrivacySettings()
    claim = statement(promise, NUMBERS, rounds=4)
    assert claim.unit == "one enrolled person: all ratings, all rounds"
    assert claim.adjacency == "add or remove one person"
    assert claim.mechanism == "discrete Gaussian on integers, scale 4096"
    assert claim.trust == "central: the server sees the exact sum before it adds noise"
    assert claim.sampling == "no amplification claimed"
    assert claim.accountant.startswith("plgl analytic Gaussian ")
    assert claim.sensitivity is not None
    assert 8.0 < claim.sensitivity < 8.003
    assert claim.noise_multiplier is not None
    assert math.isclose(claim.noise_multiplier, 2 * 4.22468, rel_tol=1e-4)
    assert claim.rho is not None
    assert math.isclose(claim.rho, 4 / (2 * claim.noise_multiplier**2))
    assert (claim.participations, claim.epsilon, claim.delta) == (4, 1.0, 1e-6)
    assert PrivacyStatement.from_json(claim.to_json()) == claim


@given(EPSILON.filter(lambda e: e < 20), DELTA, st.integers(1, 20), st.floats(1, 100), st.integers(1, 5000))
@settings(max_examples=50, deadline=None)
def test_every_statement_is_covered_by_its_own_noise(e: float, d: float, k: int, bound: float, numbers: int) -> None:
    promise = PrivacySettings(epsilon=e, delta=d, participations=k, norm_bound=bound)
    try:
        variance = noise_sigma_squared(promise, numbers)
    except SettingError as error:
        assert "below 1000" in str(error)  # noqa: PT017 - small noise is refused, nothing else
        return
    assert variance.denominator == 1
    claim = statement(promise, numbers, rounds=1)
    assert claim.noise_multiplier is not None
    assert claim.sensitivity is not None
    sigma = claim.noise_multiplier * claim.sensitivity * fixed_point.SCALE
    assert math.isclose(sigma**2, variance, rel_tol=1e-12)
    assert accounting.epsilon(claim.noise_multiplier, k, d) <= claim.epsilon


def test_few_rounds_are_charged_like_all_and_no_round_is_public() -> None:
    promise = PrivacySettings()
    assert statement(promise, NUMBERS, 1) == statement(promise, NUMBERS, 4)
    assert statement(promise, NUMBERS, 0) == PrivacyStatement.public()
    with pytest.raises(SettingError, match="rounds=-1"):
        statement(promise, NUMBERS, -1)


def test_without_a_budget_nothing_is_claimed_and_no_noise_is_sized() -> None:
    promise = PrivacySettings(epsilon=math.inf)
    assert statement(promise, NUMBERS, 3) == PrivacyStatement.not_private(3)
    with pytest.raises(SettingError, match="finite epsilon"):
        noise_sigma_squared(promise, NUMBERS)


def test_noise_too_coarse_for_the_formula_is_refused() -> None:
    with pytest.raises(SettingError, match=r"below 1000.*raise norm_bound"):
        noise_sigma_squared(PrivacySettings(epsilon=8.0, norm_bound=0.01), 3)


# --- the whole release, and what happens to the claim when a part of it is broken -------------------------------------


@dataclasses.dataclass(frozen=True)
class Release:
    """The steps of one release, each replaceable by a broken one."""

    clip: Callable[[Tensor, float], Tensor] = clip
    sigma_factor: float = 1.0
    sensitivity: Callable[[float, int], float] = fixed_point.sensitivity

    def worst_shift_in_noise(self, promise: PrivacySettings, numbers: int, canary: Tensor) -> float:
        """``mu`` of one release: shift of the sum by the canary over the measured spread of the noise."""
        steps = quantise(self.clip(canary, promise.norm_bound)).double()
        z = accounting.noise_multiplier(promise.epsilon, promise.delta, promise.participations)
        sigma = z * self.sensitivity(promise.norm_bound, numbers) * self.sigma_factor
        noise = discrete_gaussian(40_000, Fraction(math.ceil(sigma**2))).double()
        return float(steps.norm() / noise.std())


def check_release(release: Release) -> None:
    """Fails if some person moves the release by more than the claim allows, in units of the noise really drawn.

    The slack of 2 % is more than five standard errors of a spread measured on 40,000 draws.
    """
    far = torch.randn(NUMBERS, dtype=torch.float64) * 10
    halves = torch.full((40_000,), 0.5 / 4096 + 1 / 4096, dtype=torch.float64)
    for canary, bound in ((far, 8.0), (halves, float(halves.norm()) * (1 + 1e-9))):
        promise = PrivacySettings(norm_bound=bound)
        allowed = 1 / accounting.noise_multiplier(promise.epsilon, promise.delta, promise.participations)
        assert release.worst_shift_in_noise(promise, canary.numel(), canary) <= 1.02 * allowed


def test_the_release_keeps_its_claim() -> None:
    check_release(Release())


@pytest.mark.parametrize(
    "broken",
    [
        Release(clip=lambda rows, bound: rows),
        Release(sigma_factor=0.25),
        Release(sensitivity=lambda bound, numbers: bound * fixed_point.SCALE),
    ],
    ids=["no clip", "a quarter of the noise", "rounding forgotten"],
)
def test_a_broken_release_does_not(broken: Release) -> None:
    with pytest.raises(AssertionError):
        check_release(broken)
