import itertools
import math

import pytest
import torch

from common.errors import SettingError
from common.privacy import accounting
from common.privacy.settings import PrivacySettings
from simulations.mechanisms import Everyone, Mechanism, NoPrivacy

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
    mechanisms: tuple[Mechanism, ...] = (Everyone(SETTINGS), NoPrivacy(rounds=3, norm_bound=1, people=9))
    for mechanism, round in itertools.product(mechanisms, (0, 4)):
        with pytest.raises(SettingError, match="accounted for"):
            mechanism.noise(10, round)
        with pytest.raises(SettingError, match="accounted for"):
            mechanism.takes_part(0, 5, round)
        with pytest.raises(SettingError, match="accounted for"):
            mechanism.statement(10, -1 if round == 0 else round)
