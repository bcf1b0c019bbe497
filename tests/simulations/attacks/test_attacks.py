"""Each attack works where its protection is off, fails where it is on, and stays within what theory allows."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from common.errors import SettingError
from simulations.attacks import membership, poisoning, reconstruction, sybils
from simulations.attacks.ground import Ground, cohorts, noise_std, updates_of
from simulations.strategies.dp_em import DpEm

GROUND = Ground(latents=40, components=16, pool=300)
BARE = reconstruction.Reconstruction(ratings=(1,), cohorts=(1,), epsilons=(math.inf,), victims=20)


def rebuilt(name: str, **changes: Any) -> dict[str, Any]:
    settings = dataclasses.replace(BARE, strategies=(name,), **changes)
    (point,) = reconstruction.points(settings)
    (row,) = reconstruction.measure(point, settings, GROUND)
    return row


@pytest.mark.parametrize("name", list(reconstruction.VICTIMS))
def test_a_bare_update_after_one_rating_is_the_rated_item(name: str) -> None:
    row = rebuilt(name)
    assert row["identified"] == 1
    assert row["cosine"] > 0.98 > row["blind_cosine"]


@pytest.mark.parametrize("name", list(reconstruction.VICTIMS))
def test_noise_leaves_nothing_of_it(name: str) -> None:
    row = rebuilt(name, epsilons=(1.0,))
    assert row["identified"] <= 0.15
    assert row["cosine"] == pytest.approx(row["blind_cosine"], abs=0.12)


@pytest.mark.parametrize("name", list(reconstruction.VICTIMS))
def test_a_sum_of_many_hides_it(name: str) -> None:
    assert rebuilt(name, cohorts=(60,))["identified"] <= 0.3


def test_a_network_gives_away_single_latents_of_several_ratings_where_a_linear_model_mixes_them() -> None:
    network, linear = (rebuilt(name, ratings=(5,))["cosine"] for name in ("fedavg-mlp", "fedavg-logistic"))
    assert network > 0.95
    assert linear < 0.8


def test_a_cohort_is_the_victim_and_others_none_of_them_twice() -> None:
    own, others = torch.zeros(3, 6), torch.eye(6)
    sums = cohorts(own, others, 4, torch.Generator().manual_seed(0))
    assert sums.sum(1).tolist() == [3, 3, 3]
    assert float(sums.max()) == 1
    with pytest.raises(SettingError, match="cohort of 9 needs 8 others"):
        cohorts(own, others, 9, torch.Generator())


def test_the_attacked_update_is_the_one_that_is_sent() -> None:
    """The lab's strategy and the client's own code agree on what a victim would send."""
    from client.contribution import updates_of as on_the_device

    answers, strategy = GROUND.likes(GROUND.tastes(5, 10), 6, 11), DpEm()
    attacked = updates_of(strategy, GROUND, answers, strategy.start(GROUND.task(6, 4)))
    sent = on_the_device(answers.seen_as(GROUND.items().features), GROUND.flat())
    assert torch.allclose(attacked, sent, atol=1e-7)


def test_membership_is_plain_without_noise_and_within_the_budget_with_it() -> None:
    settings = membership.MembershipCurves(people=(20,), epsilons=(math.inf, 1.0), trials=800)
    bare, noisy = (membership.measure(point, settings, GROUND)[0] for point in membership.points(settings))
    assert bare["auc"] > 0.75
    assert noisy["auc"] < noisy["auc_allowed"] + 4 / math.sqrt(800)
    assert noisy["found"] < noisy["found_allowed"] + 4 * math.sqrt(0.02 / 800)


def poisoned(way: str, malicious: int, name: str = "dp-em", epsilon: float = math.inf) -> poisoning.Effect:
    strategy = dataclasses.replace(poisoning.STRATEGIES[name], rounds=3)  # type: ignore[type-var]
    return poisoning.train(strategy, GROUND, way=way, people=100, malicious=malicious, epsilon=epsilon, ratings=10)


@pytest.mark.parametrize("name", list(poisoning.STRATEGIES))
def test_a_replaced_model_promotes_what_it_likes_and_a_clipped_vector_of_one_in_a_hundred_does_not(name: str) -> None:
    assert poisoned("replacement", 5, name).promoted > 0.95
    without, with_one = poisoned("vector", 0, name).promoted, poisoned("vector", 1, name).promoted
    assert without <= with_one < 0.9


def test_clipping_keeps_the_malicious_to_their_share_of_the_bound() -> None:
    for way in ("answers", "vector"):
        assert 0 < poisoned(way, 10).shift <= 1 + 1e-9
    assert poisoned("replacement", 5).shift > 5
    assert poisoned("vector", 0).shift == 0


def test_more_malicious_members_promote_more() -> None:
    assert poisoned("answers", 30).promoted > poisoned("answers", 0).promoted + 0.1


def test_sybils_weaken_the_noise_beyond_what_the_terms_count_on_and_the_measurement_agrees() -> None:
    settings = sybils.Sybils(people=(20,), shares=(0.5, 0.9), epsilons=(2.0,), runs=20_000, ratings=1)
    within, beyond = (sybils.measure(point, settings, GROUND)[1] for point in sybils.points(settings))
    assert within["effective"] == pytest.approx(2.0, rel=1e-3)
    assert beyond["effective"] > 4
    assert within["measured"] < 2.0 < beyond["measured"] < beyond["effective"]


def test_everybody_else_a_sybil_lays_a_sum_without_noise_open() -> None:
    settings = sybils.Sybils(people=(10,), shares=(0.0, 0.95), epsilons=(2.0,), runs=1_000, ratings=1)
    hidden, laid_open = (sybils.measure(point, settings, GROUND)[0] for point in sybils.points(settings))
    assert laid_open["sybils"] == 9
    assert laid_open["identified"] == 1 > hidden["identified"]


def test_noise_is_that_of_the_accountant() -> None:
    assert noise_std(1.0, 1, 1.0, 100) == pytest.approx(4.225 * (1 + 5 / 4096), rel=1e-3)
    assert noise_std(1.0, 4, 1.0, 100) == pytest.approx(2 * noise_std(1.0, 1, 1.0, 100), rel=1e-6)
    assert noise_std(math.inf, 1, 1.0, 100) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: reconstruction.Reconstruction(strategies=("centralised",)), "'centralised' cannot be inverted"),
        (lambda: reconstruction.Reconstruction(ratings=(0,)), "ratings"),
        (lambda: membership.MembershipCurves(people=(1,)), "people=1"),
        (lambda: membership.MembershipCurves(epsilons=()), "at least one"),
        (lambda: poisoning.Poisoning(ways=("bribe",)), "'bribe' must be one of"),
        (lambda: poisoning.Poisoning(shares=(1.0,)), "shares="),
        (lambda: sybils.Sybils(epsilons=(math.inf,)), "epsilon=inf"),
        (lambda: sybils.Sybils(shares=(1.0,)), "somebody has to be attacked"),
        (lambda: sybils.Sybils(honest=0.0), "honest=0.0"),
        (lambda: Ground(components=200), "components=200"),
    ],
    ids=[str(number) for number in range(10)],
)
def test_sizes_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()
