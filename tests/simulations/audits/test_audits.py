"""Every audit says nothing against the honest build, catches what it claims to see, and refuses what shows nothing."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from common.errors import SettingError
from common.prior import PopulationPrior
from common.privacy.fixed_point import dequantise
from common.privacy.settings import PrivacySettings
from server.population import next_prior
from simulations.audits import bounds, membership, monte_carlo, noise_law, one_run
from simulations.audits.builds import BUILDS, HONEST, Build, effects, exact_noise, repeatable, rounded_normal
from simulations.audits.canaries import flat_prior
from simulations.audits.pipeline import claimed_mu
from simulations.audits.verdict import Level

PROMISE = PrivacySettings(epsilon=4.0, participations=2, norm_bound=8.0)
LEVEL = Level()
SMALL = one_run.OneRun(parameters=16, canaries=120, guesses=60, people=20)
WHO = membership.Membership(people=30, parameters=4, trials=1_000, shadows=500)


def named(name: str) -> Build:
    return next(build for build in (*BUILDS, *effects()) if build.name == name)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flagged_by_monte_carlo(name: str, seed: int = 0) -> bool:
    noise = rounded_normal(generator(seed))
    return monte_carlo.audit(named(name), PROMISE, 300, 20_000, noise, LEVEL).flagged


@pytest.mark.parametrize(
    "name", ["no-clip", "quarter-noise", "round-twice", "weights-trusted", "clip-x1.5", "weight-2"]
)
def test_monte_carlo_flags_what_lets_one_person_weigh_more(name: str) -> None:
    assert flagged_by_monte_carlo(name)


def test_monte_carlo_does_not_flag_the_honest_build_in_twenty_runs() -> None:
    # each may at alpha / 4 = 0.0025; three of twenty have probability 2e-5
    assert sum(flagged_by_monte_carlo("honest", seed) for seed in range(20)) <= 2


def test_monte_carlo_with_the_exact_noise_comes_close_to_the_claim_and_not_above() -> None:
    found = monte_carlo.audit(HONEST, PROMISE, 300, 10_000, exact_noise(repeatable(3)), LEVEL)
    assert 3.2 < found.lower <= 4.0 <= found.upper
    assert not found.flagged


def test_the_noise_audit_flags_noise_that_is_two_per_cent_small_and_noise_that_is_reused() -> None:
    def flagged(name: str, seed: int) -> bool:
        return noise_law.audit(named(name), PROMISE, 300, 100_000, rounded_normal(generator(seed)), LEVEL).flagged

    assert all(flagged(name, seed) for name in ("noise-x0.98", "quarter-noise", "noise-reused") for seed in range(3))
    assert sum(flagged("honest", seed) for seed in range(15)) <= 2


def test_the_noise_audit_flags_another_law_of_the_right_size() -> None:
    def uniform(noise: object) -> object:
        draw = generator(1)
        return lambda count, variance: (
            ((torch.rand(count, generator=draw, dtype=torch.float64) - 0.5) * math.sqrt(12 * variance)).round().long()
        )

    other = dataclasses.replace(HONEST, noise=uniform)  # type: ignore[arg-type]
    found = noise_law.audit(other, PROMISE, 300, 10_000, rounded_normal(generator()), LEVEL)
    assert found.flagged
    assert found.detail["p_law"] < 1e-6 < found.detail["p_correlation"]


def test_one_training_with_canaries_catches_missing_clips_and_trusted_weights() -> None:
    def found(name: str) -> tuple[bool, float]:
        verdict = one_run.audit(named(name), PROMISE, SMALL, rounded_normal(generator(1)), LEVEL, generator(2))
        return verdict.flagged, verdict.lower

    flagged, lower = found("honest")
    assert not flagged
    assert lower < 4.0
    assert found("weights-trusted")[0]
    assert found("no-clip")[1] > lower + 2


def test_who_is_in_does_not_show_where_no_canary_speaks() -> None:
    """The scores come from the releases only: with noise a thousand times too large, guesses are coin tosses."""
    loud = dataclasses.replace(HONEST, noise=lambda noise: lambda count, variance: noise(count, variance * 10**6))
    settings = SMALL.promise(PROMISE)
    inside, scores = one_run.play(loud, settings, SMALL, rounded_normal(generator(1)), generator(2))
    order = scores.argsort()
    right = int((~inside[order[:30]]).sum() + inside[order[-30:]].sum())
    assert 15 <= right <= 45  # of 60; outside has probability 1e-4


def test_membership_is_plain_without_noise_and_within_the_bound_with_it() -> None:
    bare = membership.attack(HONEST, PROMISE, WHO, None, generator())
    noisy = membership.attack(HONEST, PROMISE, WHO, rounded_normal(generator(1)), generator())
    mu = claimed_mu(WHO.promise(PROMISE), 14)
    assert bare.auc > 0.65
    error = 4 / math.sqrt(WHO.trials)
    assert noisy.auc < membership.largest_auc(mu) + error
    assert noisy.advantage < membership.largest_advantage(mu) + error
    assert noisy.auc < bare.auc


def test_membership_flags_a_quarter_of_the_noise_where_the_cohort_is_small() -> None:
    small = dataclasses.replace(WHO, people=2, trials=3_000)
    promise = PrivacySettings(epsilon=1.0, norm_bound=2.0)
    flags = [
        membership.audit(named(name), promise, small, rounded_normal(generator(1)), LEVEL, generator(2)).flagged
        for name in ("honest", "quarter-noise")
    ]
    assert flags == [False, True]


def test_the_area_under_the_curve_is_that_of_counting_pairs() -> None:
    absent, present = torch.randn(50, generator=generator(1)), 0.5 + torch.randn(50, generator=generator(2))
    pairs = float((present[:, None] > absent).double().mean())
    assert membership.Curve(absent, present).auc == pytest.approx(pairs)


def test_what_a_prior_shows_is_what_undoing_the_m_step_finds() -> None:
    prior: PopulationPrior = flat_prior(5)
    for size in (0.05, 2.0):  # the second is floored
        means = size * torch.randn(4, 20, generator=generator(), dtype=torch.float64)
        undone = torch.stack([membership.undo(next_prior(prior, mean, 1.0), prior, 1.0) for mean in means])
        seen = membership.what_a_prior_shows(means, 5, 1.0)
        assert torch.allclose(seen, undone, atol=1e-9)
        assert torch.allclose(seen, means, atol=1e-9) == (size < 1)
    assert dequantise(torch.tensor([4096])) == 1


def test_too_few_runs_are_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(SettingError, match=r"runs=6 cannot show more than.*take at least \d+") as refused:
        monte_carlo.audit(HONEST, PROMISE, 300, 6, rounded_normal(generator()), LEVEL)
    needed = int(str(refused.value).split()[-1])
    monte_carlo.check_runs(needed, claimed_mu(PROMISE, 300), LEVEL)
    assert bounds.most_from_scores(needed, LEVEL.strict) >= claimed_mu(PROMISE, 300)


def test_guesses_that_could_not_refute_the_claim_are_refused() -> None:
    few = one_run.OneRun(parameters=8, canaries=20, guesses=4)
    with pytest.raises(SettingError, match="guesses=4 about canaries=20 cannot show"):
        one_run.audit(HONEST, PROMISE, few, rounded_normal(generator()), LEVEL, generator())


@pytest.mark.parametrize("audit", ["monte-carlo", "noise", "one-run", "membership"])
def test_no_claim_is_no_audit(audit: str) -> None:
    nothing, noise = dataclasses.replace(PROMISE, epsilon=math.inf), rounded_normal(generator())
    with pytest.raises(SettingError, match="epsilon=inf claims nothing"):
        {
            "monte-carlo": lambda: monte_carlo.audit(HONEST, nothing, 300, 1_000, noise, LEVEL),
            "noise": lambda: noise_law.audit(HONEST, nothing, 300, 1_000, noise, LEVEL),
            "one-run": lambda: one_run.audit(HONEST, nothing, SMALL, noise, LEVEL, generator()),
            "membership": lambda: membership.audit(HONEST, nothing, WHO, noise, LEVEL, generator()),
        }[audit]()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"canaries": 600, "parameters": 8}, "canaries=600 overlap"),
        ({"guesses": 7}, "guesses=7 must be even"),
        ({"guesses": 700}, "guesses=700"),
    ],
)
def test_sizes_of_one_run_that_make_no_sense_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        one_run.OneRun(**values)


def test_few_draws_trials_and_shadows_are_refused() -> None:
    with pytest.raises(SettingError, match="draws=10"):
        noise_law.audit(HONEST, PROMISE, 300, 10, rounded_normal(generator()), LEVEL)
    with pytest.raises(SettingError, match="trials=5"):
        membership.Membership(trials=5)
    with pytest.raises(SettingError, match="shadows=10"):
        membership.Membership(shadows=10)
    with pytest.raises(SettingError, match="alpha=0"):
        Level(alpha=0.0)
