"""The numbers behind the terms: enough noise whoever is honest, and a claim that the accountant agrees with."""

import dataclasses
import math
import re
from fractions import Fraction

import pytest

from common.errors import SettingError
from common.privacy.accounting import SMALLEST_SIGMA, epsilon, zcdp
from common.privacy.fixed_point import SCALE, random_sensitivity
from common.privacy.promise import SMALLEST_SHARE, Promise, promise, statement_of
from common.privacy.settings import PrivacySettings
from common.summand import length, norm_bound
from common.terms import Rule, Terms, Trust


def terms(trust: Trust, honest: int = 40, **settings: float) -> Terms:
    values = {"epsilon": 1.0, "participations": 4, "norm_bound": 6.0, "expected_people": 90, "minimum_people": 60}
    return Terms(
        federation="f" * 32,
        name="test",
        pack="a" * 64,
        components=8,
        settings=PrivacySettings(**{**values, **settings}),  # type: ignore[arg-type]
        trust=trust,
        honest_people=honest,
    )


CASES = [
    terms(trust, honest, **settings)
    for trust in Trust
    for honest in (1, 7, 40, 60)
    for settings in ({}, {"epsilon": 0.1}, {"epsilon": 8.0, "delta": 1e-9}, {"participations": 50, "norm_bound": 0.5})
]


def real_epsilon(agreed: Terms, kept: Promise) -> float:
    """What the worst accepted round costs, from the noise members really add: the honest ones alone, or one of them."""
    variance = {
        Trust.CENTRAL: kept.total_variance,
        Trust.DISTRIBUTED: agreed.honest_people * kept.share_variance,
        Trust.LOCAL: kept.share_variance,
    }[agreed.trust]
    one = random_sensitivity(norm_bound(agreed.settings.norm_bound), length(agreed.parameters))
    moved = 2 * one if agreed.trust is Trust.LOCAL else one
    settings = agreed.settings
    return epsilon(math.sqrt(variance) / moved, settings.participations, settings.delta)


@pytest.mark.parametrize("agreed", CASES)
def test_the_noise_of_the_honest_keeps_the_promise_and_no_more(agreed: Terms) -> None:
    kept = promise(agreed)
    assert real_epsilon(agreed, kept) <= agreed.settings.epsilon
    assert real_epsilon(agreed, kept) > 0.999 * agreed.settings.epsilon  # nothing is wasted either
    if agreed.trust is Trust.DISTRIBUTED:
        assert kept.share_variance * agreed.honest_people >= kept.total_variance
        assert kept.share_variance * agreed.honest_people < kept.total_variance + agreed.honest_people


@pytest.mark.parametrize("agreed", [case for case in CASES if case.trust is Trust.DISTRIBUTED])
def test_noise_divided_by_all_members_breaks_it(agreed: Terms) -> None:
    """The twin: a share for each of the expected members. Whoever drops out takes noise away."""
    kept = promise(agreed)
    twin = dataclasses.replace(kept, share_variance=Fraction(kept.total_variance, agreed.settings.expected_people))
    assert real_epsilon(agreed, twin) > 1.05 * agreed.settings.epsilon


def test_with_local_trust_any_two_answers_must_look_alike() -> None:
    central, local = promise(terms(Trust.CENTRAL)), promise(terms(Trust.LOCAL))
    assert local.sensitivity == 2 * central.sensitivity
    assert local.share_variance == local.total_variance
    assert float(local.total_variance) == pytest.approx(4 * float(central.total_variance), rel=1e-6)
    twin = dataclasses.replace(local, share_variance=central.total_variance)
    assert real_epsilon(terms(Trust.LOCAL), twin) > 1.5


def test_with_central_trust_members_add_nothing() -> None:
    assert promise(terms(Trust.CENTRAL)).share_variance == 0


def test_more_answers_bring_more_noise_except_with_central_trust() -> None:
    distributed, central = promise(terms(Trust.DISTRIBUTED)), promise(terms(Trust.CENTRAL))
    least = distributed.noise_std(40, Trust.DISTRIBUTED)
    assert least == pytest.approx(central.noise_std(40, Trust.CENTRAL), rel=1e-6)
    assert distributed.noise_std(90, Trust.DISTRIBUTED) == pytest.approx(1.5 * least, rel=1e-9)
    assert central.noise_std(90, Trust.CENTRAL) == central.noise_std(40, Trust.CENTRAL)


def test_krum_moves_further_and_gets_more_noise() -> None:
    plain = promise(terms(Trust.CENTRAL))
    krum = promise(dataclasses.replace(terms(Trust.CENTRAL), rule=Rule.KRUM, malicious=9))
    assert krum.sensitivity == 2 * plain.sensitivity
    assert krum.total_variance > 3.99 * plain.total_variance


def test_noise_too_coarse_to_be_accounted_is_refused() -> None:
    """Ever larger epsilons: until one is refused, every share is fine enough."""
    for trust in Trust:
        refused = ""
        for power in range(60):
            try:
                kept = promise(terms(trust, honest=60, epsilon=2.0**power))
            except SettingError as error:
                refused = str(error)
                break
            assert kept.total_variance >= SMALLEST_SIGMA**2
            assert trust is Trust.CENTRAL or kept.share_variance >= SMALLEST_SHARE**2
        assert re.search(r"integer steps, .* too coarse .*at least 1000 and 100\); lower epsilon=", refused)


@pytest.mark.parametrize("agreed", CASES)
def test_the_statement_claims_what_the_accountant_finds(agreed: Terms) -> None:
    made, settings = statement_of(agreed, 3), agreed.settings
    assert made.noise_multiplier is not None
    assert made.participations is not None
    assert made.delta is not None
    assert epsilon(made.noise_multiplier, made.participations, made.delta) <= made.epsilon == settings.epsilon
    assert made.rho == zcdp(made.noise_multiplier, made.participations)
    assert (made.participations, made.delta) == (settings.participations, settings.delta)
    assert made.sensitivity == promise(agreed).sensitivity / SCALE
    assert made.trust.startswith(agreed.trust)
    if agreed.trust is Trust.DISTRIBUTED:
        assert f"at least {agreed.honest_people} of" in made.trust


def test_before_the_first_release_nothing_is_claimed_to_be_learned() -> None:
    assert statement_of(terms(Trust.CENTRAL), 0).epsilon == 0
    with pytest.raises(SettingError, match="rounds=-1 must be >= 0"):
        statement_of(terms(Trust.CENTRAL), -1)
