import dataclasses
import itertools
import math

import pytest
import torch

from common.errors import SettingError
from common.privacy import accounting, fixed_point, sampled
from common.privacy.sampled import Adjacency, Sampling, SamplingSettings
from common.privacy.settings import PrivacySettings
from simulations.correlated_mechanisms import BandedNoise, BltNoise
from simulations.mechanisms import Everyone, LocalNoise, Mechanism, NoPrivacy, Sampled

SETTINGS = PrivacySettings(epsilon=1.0, participations=3, norm_bound=2.0, expected_people=500)


def test_everyone_claims_what_the_server_claims() -> None:
    mechanism: Mechanism = Everyone(SETTINGS)
    assert mechanism.statement(77, 2) == accounting.statement(SETTINGS, 77, 2)
    assert (mechanism.rounds, mechanism.norm_bound, mechanism.denominator) == (3, 2.0, 500.0)
    assert mechanism.takes_part(0, 500, 1) is None


def test_the_noise_of_everyone_has_the_accounted_variance_and_is_fresh() -> None:
    mechanism, numbers = Everyone(SETTINGS), 20_000
    first, again = mechanism.noise(numbers, 1), mechanism.noise(numbers, 1)
    assert first is not None
    assert again is not None
    assert first.dtype == torch.int64
    assert not torch.equal(first, again)
    sigma = math.sqrt(accounting.noise_sigma_squared(SETTINGS, numbers))
    # 1e-4 two-sided for the sample standard deviation of 20,000 draws: 3.9 / sqrt(2 n)
    for wrong, accepted in ((1.0, True), (1.05, False), (0.95, False)):
        assert (abs(float(first.double().std()) / (sigma * wrong) - 1) < 3.9 / math.sqrt(2 * numbers)) is accepted


def test_nothing_promised_adds_nothing_and_says_so() -> None:
    open_settings = PrivacySettings(epsilon=math.inf, participations=3)
    for mechanism in (Everyone(open_settings), NoPrivacy(rounds=3, norm_bound=8.0, people=2_000)):
        assert mechanism.noise(10, 1) is None
        assert str(mechanism.statement(10, 3)).startswith("NOT PRIVATE")
        assert mechanism.statement(10, 0).epsilon == 0


def test_rounds_beyond_the_accounted_ones_are_refused() -> None:
    mechanisms: tuple[Mechanism, ...] = (
        Everyone(SETTINGS),
        NoPrivacy(rounds=3, norm_bound=1, people=9),
        LocalNoise(SETTINGS, people=9),
        Sampled(SamplingSettings(rounds=3)),
        BandedNoise(SamplingSettings(rounds=3), bands=2),
        BltNoise(SETTINGS, rounds=3, separation=1),
    )
    for mechanism, round in itertools.product(mechanisms, (0, 4)):
        with pytest.raises(SettingError, match="accounted for"):
            mechanism.noise(10, round)
        with pytest.raises(SettingError, match="accounted for"):
            mechanism.takes_part(0, 5, round)
        with pytest.raises(SettingError, match="accounted for"):
            mechanism.statement(10, -1 if round == 0 else round)


POISSON = SamplingSettings(epsilon=4.0, people=20_000, cohort=2_000, rounds=6, norm_bound=2.0)
TRUNCATED = dataclasses.replace(POISSON, sampling=Sampling.TRUNCATED, cap=1_900)
FIXED = dataclasses.replace(POISSON, sampling=Sampling.WITHOUT_REPLACEMENT)


def everybody(mechanism: Mechanism, round: int, people: int = 20_000) -> torch.Tensor:
    chosen = mechanism.takes_part(0, people, round)
    assert chosen is not None
    return chosen


@pytest.mark.parametrize("settings", [POISSON, TRUNCATED, FIXED], ids=lambda s: str(s.sampling))
def test_a_person_is_drawn_or_not_however_the_crowd_is_cut(settings: SamplingSettings) -> None:
    mechanism = Sampled(settings)
    whole = everybody(mechanism, 2)
    for chunk in (1_000, 777, 20_001):
        edges = [*range(0, 20_000, chunk), 20_000]
        parts = [mechanism.takes_part(first, last, 2) for first, last in itertools.pairwise(edges)]
        assert torch.equal(torch.cat([part for part in parts if part is not None]), whole)
    assert not torch.equal(everybody(mechanism, 3), whole)
    assert torch.equal(everybody(mechanism, 2), whole)
    assert not torch.equal(everybody(Sampled(settings), 2), whole)


def test_poisson_cohorts_vary_as_they_should_and_people_are_drawn_independently() -> None:
    mechanism = Sampled(POISSON)
    drawn = torch.stack([everybody(mechanism, round) for round in range(1, 7)]).double()
    sizes = drawn.sum(1)
    spread = math.sqrt(20_000 * 0.1 * 0.9)
    assert bool(((sizes - 2_000).abs() < 4.5 * spread).all())  # 1e-4 for six rounds
    assert len(set(sizes.tolist())) > 1  # a cohort of fixed size would not vary
    # the same person twice: 0.01 of people
    assert abs(float((drawn[0] * drawn[1]).mean()) - 0.01) < 4 * math.sqrt(0.01 * 0.99 / 20_000)


def test_a_cap_is_kept_over_the_whole_round_and_cuts_anybody() -> None:
    mechanism = Sampled(TRUNCATED)
    sizes = [int(everybody(mechanism, round).sum()) for round in range(1, 7)]
    assert max(sizes) == 1_900  # nearly all rounds would have been larger
    tight = Sampled(dataclasses.replace(TRUNCATED, cap=500))
    half = int(everybody(tight, 1)[:10_000].sum())
    assert abs(half - 250) < 4 * math.sqrt(500 / 4)  # not the first 500 people: they would all be in the first half
    assert [int(everybody(Sampled(FIXED), round).sum()) for round in (1, 2)] == [2_000, 2_000]


def test_people_beyond_the_accounted_ones_are_refused_where_they_would_change_the_draw() -> None:
    with pytest.raises(SettingError, match="person 20000 is beyond the 20000 people"):
        Sampled(TRUNCATED).takes_part(19_999, 20_001, 1)


def test_sampled_noise_is_the_accounted_one_and_smaller_than_everybodys() -> None:
    mechanism, numbers = Sampled(POISSON), 20_000
    noise = mechanism.noise(numbers, 1)
    assert noise is not None
    sigma = math.sqrt(sampled.noise_sigma_squared(POISSON, numbers))
    for wrong, accepted in ((1.0, True), (1.05, False), (0.95, False)):
        assert (abs(float(noise.double().std()) / (sigma * wrong) - 1) < 3.9 / math.sqrt(2 * numbers)) is accepted
    unsampled = PrivacySettings(epsilon=4.0, participations=6, norm_bound=2.0)
    assert sigma < 0.7 * math.sqrt(accounting.noise_sigma_squared(unsampled, numbers))
    assert mechanism.statement(numbers, 6) == sampled.statement(POISSON, numbers, 6)


def test_local_noise_of_many_people_adds_up_and_protects_replaced_answers() -> None:
    mechanism, numbers = LocalNoise(SETTINGS, people=400), 20_000
    noise = mechanism.noise(numbers, 1)
    assert noise is not None
    central = math.sqrt(accounting.noise_sigma_squared(SETTINGS, numbers))
    assert float(noise.double().std()) == pytest.approx(20 * 2 * central, rel=0.03)
    said = mechanism.statement(numbers, 3)
    assert said.trust.startswith("local")
    assert said.sensitivity == pytest.approx(2 * fixed_point.sensitivity_in_update_units(2.0, numbers))
    assert said.noise_multiplier == pytest.approx(accounting.noise_multiplier(1.0, 1e-6, 3), rel=1e-5)
    with pytest.raises(SettingError, match="finite epsilon"):
        LocalNoise(PrivacySettings(epsilon=math.inf), people=400)


def test_banded_noise_asks_one_group_at_a_time_and_costs_the_known_noise() -> None:
    mechanism = BandedNoise(SamplingSettings(), bands=10)
    assert mechanism.prefix_rms == pytest.approx(10.80, abs=0.01)
    chosen = mechanism.takes_part(0, 100_000, 13)
    assert chosen is not None
    assert set((chosen.nonzero().flatten() % 10).tolist()) == {2}
    assert abs(int(chosen.sum()) - 1_000) < 4 * math.sqrt(900)
    said = mechanism.statement(33, 500)
    assert "10 groups" in said.sampling
    assert "Poisson sampling, q = 1000/10000" in said.sampling
    assert "not exact" in said.mechanism
    assert said.participations == 50


def test_blt_noise_keeps_people_apart_and_costs_the_known_noise() -> None:
    settings = PrivacySettings(epsilon=2.0, participations=5, norm_bound=1.0, expected_people=100_000)
    mechanism = BltNoise(settings, rounds=500, separation=100)
    assert mechanism.prefix_rms == pytest.approx(15.97, abs=0.01)
    assert mechanism.denominator == 1_000
    rounds = [round for round in range(1, 501) if bool(everybody(mechanism, round, 50)[7])]
    assert rounds == [8, 108, 208, 308, 408]
    said = mechanism.statement(33, 500)
    assert said.noise_multiplier == pytest.approx(accounting.noise_multiplier(2.0, 1e-6), rel=1e-5)
    assert said.sampling.startswith("no amplification claimed; 100 rounds")
    assert said.rho == pytest.approx(1 / (2 * accounting.noise_multiplier(2.0, 1e-6) ** 2), rel=1e-4)


def test_correlated_noise_cancels_in_the_running_sum() -> None:
    settings = SamplingSettings(epsilon=4.0, people=2_000, cohort=100, rounds=40)
    mechanism, numbers = BandedNoise(settings, bands=8), 5_000
    rows = [mechanism.noise(numbers, round) for round in range(1, 41)]
    total = torch.stack([row.double() for row in rows if row is not None]).cumsum(0)
    seen = float(total.square().mean().sqrt()) / fixed_point.sensitivity(1.0, numbers)
    assert seen == pytest.approx(mechanism.prefix_rms, rel=0.05)
    # the same rows without their correlation would add up to more
    shuffled = torch.stack([row.double().roll(i) for i, row in enumerate(rows) if row is not None]).cumsum(0)
    assert float(shuffled.square().mean()) > 1.3 * float(total.square().mean())


def test_correlated_noise_is_given_once_and_in_order() -> None:
    mechanism = BltNoise(SETTINGS, rounds=3, separation=1)
    assert mechanism.noise(5, 1) is not None
    for numbers, round in ((5, 1), (5, 3), (6, 2)):
        with pytest.raises(SettingError, match="make a new mechanism"):
            mechanism.noise(numbers, round)
    assert mechanism.noise(5, 2) is not None


def test_correlated_mechanisms_refuse_what_is_not_proved() -> None:
    with pytest.raises(SettingError, match="no proof for banded noise"):
        BandedNoise(FIXED)
    with pytest.raises(SettingError, match="use at most 10 bands"):
        BandedNoise(dataclasses.replace(POISSON, rounds=20), bands=11)
    with pytest.raises(SettingError, match="bands=7 must be between 1 and rounds=6"):
        BandedNoise(POISSON, bands=7)
    with pytest.raises(SettingError, match="nobody would be left"):
        BltNoise(SETTINGS, rounds=10, separation=3)
    with pytest.raises(SettingError, match="finite epsilon"):
        BltNoise(PrivacySettings(epsilon=math.inf), rounds=4, separation=1)


def test_replacing_a_person_is_accounted_where_it_is_asked_for() -> None:
    replaced = dataclasses.replace(POISSON, adjacency=Adjacency.REPLACE)
    assert Sampled(replaced).statement(33, 1).adjacency == "replace one person by any other"
    assert sampled.noise_multiplier(replaced) > sampled.noise_multiplier(POISSON)
