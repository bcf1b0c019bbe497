import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from client.fit import laplace
from client.ratings import Kind
from common.errors import SettingError
from common.privacy.fixed_point import SCALE, sensitivity
from common.privacy.settings import PrivacySettings
from simulations.batched import summed, train
from simulations.crowd import Answers, HeldCrowd, Items
from simulations.invented_crowd import InventedCrowd
from simulations.mechanisms import Everyone, NoPrivacy
from simulations.people import Population
from simulations.strategies.base import State, Task
from simulations.strategies.policy_gradient import PolicyGradient, centre
from simulations.world import World

WORLD = World.abstract(components=4, latents=6, pool=150, unseen=400)
LEARNER = PolicyGradient()


def crowd(people: int = 40, shared: float = 1.0, archetypes: int = 1) -> InventedCrowd:
    population = Population(shared=shared, archetypes=archetypes, ideal=0, two_peaked=0)
    return InventedCrowd(WORLD, people, population, seed=4, ratings=20, kind=Kind.CHOICE)


def open_rounds(people: int, bound: float = 10.0, rounds: int = 3) -> NoPrivacy:
    return NoPrivacy(rounds=rounds, norm_bound=bound, people=people)


def start() -> State:
    return LEARNER.start(Task(items=WORLD.pool, flat=WORLD.flat, rounds=4, ratings=20))


def learned(people: int = 40) -> State:
    return train(LEARNER, crowd(people), open_rounds(people), flat=WORLD.flat).state


def test_an_update_is_the_gradient_of_the_persons_own_expected_liking_under_the_policy() -> None:
    state, people = learned(), crowd()
    told = people.answers(3, 5).seen_as(WORLD.pool.features)
    sent = LEARNER.updates(told, state)
    tastes = laplace(told, centre(state), state["flat_covariance"], state["thresholds"]).mean
    reference, share = state["reference"], LEARNER.shares(state)
    chance = torch.sigmoid(reference @ state["reward"])
    for taste, update in zip(tastes, sent, strict=True):
        exponents = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        policy = torch.softmax(share.log() + reference @ exponents, 0)
        liked = torch.sigmoid(torch.cat([reference, torch.ones(len(reference), 1)], 1).double() @ taste)
        (policy @ (liked - chance)).backward()  # type: ignore[no-untyped-call]
        assert exponents.grad is not None
        assert torch.allclose(
            LEARNER.look(state).root @ exponents.grad / LEARNER.look(state).slope, update, rtol=0, atol=1e-9
        )
        assert float(update.norm()) > 0.01


def test_the_policy_of_a_round_is_the_law_tilted_at_its_price() -> None:
    state = learned()
    score = state["reference"] @ state["reward"]
    dear = dataclasses.replace(LEARNER, price=100.0).shares(state)
    assert torch.allclose(dear, torch.full_like(dear, 1 / len(dear)), rtol=0, atol=5e-4)
    cheap = LEARNER.shares(state)
    assert float(cheap.sum()) == pytest.approx(1)
    assert float(cheap @ score) - float(dear @ score) > 0.5 * float(score.std())


def test_nobody_is_longer_than_a_whole_chance_even_before_clipping() -> None:
    state = learned()
    sharp = Answers(*(x.repeat(1, 400, *[1] * (x.dim() - 2)) for x in crowd(6).answers(0, 6).tensors()))
    sent = LEARNER.updates(sharp.seen_as(WORLD.pool.features), state)
    most = 1 / float(LEARNER.look(state).slope)
    assert 0.1 * most < float(sent.norm(dim=1).max()) <= most


def difference(bound: float) -> float:
    """How far one person moves the sum of a round, in steps."""
    everybody = crowd(12).answers(0, 12)
    rest = dataclasses.replace(everybody, weight=everybody.weight * (torch.arange(12) > 0)[:, None])
    state = start()
    one, other = (
        summed(LEARNER, HeldCrowd(WORLD.pool, held), open_rounds(12, bound), state, 1).total
        for held in (everybody, rest)
    )
    return float(torch.linalg.vector_norm((one - other).double()))


def test_one_person_moves_a_sum_by_no_more_than_the_bound_and_by_more_where_nothing_clips() -> None:
    most = sensitivity(0.2, 4, SCALE)
    assert 0.5 * most < difference(0.2) <= most
    assert difference(10.0) > 1.5 * most  # the same people, not clipped: the bound would be a lie


def test_a_policy_of_nobodys_answers_is_the_generator() -> None:
    said = crowd(10).answers(0, 10)
    silent = HeldCrowd(WORLD.pool, dataclasses.replace(said, weight=torch.zeros_like(said.weight)))
    state = train(LEARNER, silent, open_rounds(10), flat=WORLD.flat).state
    assert float(state["reward"].abs().max()) == 0
    shares = LEARNER.shares(state)
    assert torch.allclose(shares, torch.full_like(shares, 1 / len(shares)))


def mean_percentile(state: State, sign: float = 1.0) -> float:
    """Of what newcomers get to see before any answer of theirs, over the generator's own."""
    score = sign * (WORLD.unseen.features[:, :-1] @ state["reward"])
    share = torch.softmax(2 * score / score.std(), 0)
    return float((crowd().newcomers(60).rank.double() @ share).mean())


def test_newcomers_like_what_the_policy_makes_under_a_budget_and_dislike_its_opposite() -> None:
    settings = PrivacySettings(epsilon=4.0, participations=4, expected_people=600, norm_bound=LEARNER.norm_bound)
    mechanism = Everyone(settings, np.random.default_rng(5).bytes)
    trained = train(LEARNER, crowd(600), mechanism, flat=WORLD.flat)
    assert trained.statement.epsilon == 4.0
    assert trained.statement.participations == 4
    assert trained.statement.sensitivity == pytest.approx(sensitivity(LEARNER.norm_bound, 4, SCALE) / SCALE)
    assert mean_percentile(trained.state) > 0.65
    assert mean_percentile(trained.state, -1.0) < 0.35


def test_a_round_without_news_changes_nothing_and_noise_takes_the_reward_only_so_far() -> None:
    state = start()
    loud = LEARNER.advance(state, torch.full((4,), 1e3, dtype=torch.float64), 1)
    assert float((state["reference"] @ loud["reward"]).std()) == pytest.approx(4.0)
    assert torch.equal(LEARNER.advance(state, torch.zeros(4, dtype=torch.float64), 1)["reward"], state["reward"])


def test_expectations_are_over_at_most_a_thousand_public_items() -> None:
    state = start()
    assert torch.equal(state["reference"], WORLD.pool.features[:, :-1])
    many = Items(WORLD.pool.features.repeat(10, 1), WORLD.pool.latents.repeat(10, 1))
    task = Task(items=many, flat=WORLD.flat, rounds=1, ratings=1)
    assert len(LEARNER.start(task)["reference"]) == 1_000


@pytest.mark.parametrize("change", [{"step": 0.0}, {"step": 3.0}, {"price": 0.0}, {"price": math.nan}], ids=str)
def test_settings_outside_their_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="must be"):
        PolicyGradient(**change)  # type: ignore[arg-type]


def test_single_precision_people_are_fitted_in_double() -> None:
    features: Tensor = WORLD.pool.features.float()
    sent = LEARNER.updates(crowd().answers(0, 2).seen_as(features), start())
    assert sent.dtype == torch.float64
