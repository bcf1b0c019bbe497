import dataclasses
import functools
import math

import numpy as np
import pytest
import torch

from common.errors import SettingError
from common.privacy.fixed_point import SCALE, dequantise, quantise
from common.privacy.sampled import Sampling
from common.privacy.settings import PrivacySettings
from simulations.batched import train
from simulations.correlated_mechanisms import BandedNoise, BltNoise
from simulations.invented_crowd import InventedCrowd
from simulations.mechanisms import Everyone, Sampled
from simulations.protection import MECHANISMS, Protection, WithoutNoise
from simulations.strategies import arrange, strategy
from simulations.strategies.base import Task
from simulations.strategies.fedavg import FedAvg
from simulations.world import World

WORLD = World.abstract(components=3, pool=100, unseen=100)
PROMISE = PrivacySettings(epsilon=4.0, participations=6, norm_bound=1.0, expected_people=120, minimum_people=1)
OTHERS = [name for name in MECHANISMS if name != "everyone"]


def chosen(protection: Protection, round: int, promise: PrivacySettings = PROMISE) -> torch.Tensor:
    found = protection.arranged(promise).takes_part(0, promise.expected_people, round)
    assert found is not None
    return found


def test_every_name_is_the_mechanism_it_says() -> None:
    kinds = {name: Protection(mechanism=name, bands=3).arranged(PROMISE) for name in MECHANISMS}
    expected = (Everyone, Sampled, Sampled, BandedNoise, BltNoise)
    assert [type(kind) for kind in kinds.values()] == list(expected)
    assert [kind.rounds for kind in kinds.values()] == [6] * 5
    assert [kind.denominator for kind in kinds.values()] == [120, 12, 12, 12, 30]
    for name, kind in kinds.items():
        assert Protection(mechanism=name).asked(120) == kind.denominator
    assert isinstance(kinds["banded"], BandedNoise)
    assert kinds["banded"].bands == 3
    assert isinstance(kinds["blt"], BltNoise)
    assert kinds["blt"].participation.times == 2


def test_a_cohort_of_a_fixed_size_cannot_be_booked_as_poisson() -> None:
    for name in ("without-replacement", "fixed", Sampling.WITHOUT_REPLACEMENT):
        with pytest.raises(SettingError, match="cannot be accounted for as Poisson sampling"):
            Protection(mechanism=name)
    # what is booked as Poisson is drawn as Poisson: sizes vary as a binomial's, 200 trainings of one round
    wide = dataclasses.replace(PROMISE, expected_people=400)
    sizes = torch.tensor([float(chosen(Protection(mechanism="poisson", cohort=40), 1, wide).sum()) for _ in range(200)])
    deviation = math.sqrt(400 * 0.1 * 0.9)
    assert abs(float(sizes.mean()) - 40) < 3.9 * deviation / math.sqrt(200)
    assert abs(float(sizes.std()) / deviation - 1) < 3.9 / math.sqrt(2 * 200)
    drawn = Protection(mechanism="poisson").arranged(PROMISE)
    assert isinstance(drawn, Sampled)
    assert drawn.settings.sampling is Sampling.POISSON
    with pytest.raises(SettingError, match="no proof for 'add or remove one person'"):
        dataclasses.replace(drawn.settings, sampling=Sampling.WITHOUT_REPLACEMENT, adjacency=drawn.settings.compared)


def test_truncated_cohorts_are_capped_and_accounted_with_the_cap() -> None:
    mechanism = Protection(mechanism="truncated", cohort=60).arranged(PROMISE)
    assert isinstance(mechanism, Sampled)
    assert (mechanism.settings.sampling, mechanism.settings.cap) == (Sampling.TRUNCATED, 72)
    sizes = [int(chosen(Protection(mechanism="truncated", cohort=2), 1).sum()) for _ in range(100)]
    assert max(sizes) == 3  # five in a hundred draws would otherwise be above with more than 0.9999


@pytest.mark.parametrize("name", OTHERS)
def test_without_a_budget_the_same_people_are_asked_and_nothing_is_added_or_claimed(name: str) -> None:
    open_promise = dataclasses.replace(PROMISE, epsilon=math.inf)
    free = Protection(mechanism=name).arranged(open_promise)
    private = Protection(mechanism=name).arranged(PROMISE)
    assert isinstance(free, WithoutNoise)
    assert (free.rounds, free.norm_bound, free.denominator) == (6, 1.0, private.denominator)
    assert free.noise(5, 1) is None
    assert str(free.statement(5, 6)).startswith("NOT PRIVATE")
    assert free.statement(5, 0).epsilon == 0
    for call in (free.noise, free.statement):
        with pytest.raises(SettingError, match="accounted for"):
            call(5, 7)
    same = np.random.default_rng(5).bytes, np.random.default_rng(5).bytes
    pair = [
        Protection(mechanism=name).arranged(promise, source)
        for promise, source in zip((open_promise, PROMISE), same, strict=True)
    ]
    for number in (1, 2):
        one, other = (mechanism.takes_part(0, 120, number) for mechanism in pair)
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", OTHERS)
def test_without_noise_a_training_is_a_plain_loop_over_those_who_are_asked(name: str) -> None:
    crowd = InventedCrowd(WORLD, 120, ratings=6)
    learner = FedAvg(norm_bound=0.2, rate=2.0)
    promise = dataclasses.replace(PROMISE, epsilon=math.inf, participations=4)
    task = Task(items=WORLD.pool, flat=WORLD.flat, rounds=4, ratings=6)
    arranged, mechanism = arrange(learner, promise, task, Protection(mechanism=name, cohort=20))
    found = train(arranged, crowd, mechanism, flat=WORLD.flat)
    state, clipped = learner.start(task), 0
    for number in range(1, 5):
        total, view = torch.zeros(state["weights"].numel(), dtype=torch.int64), learner.view(WORLD.pool, state)
        asked = mechanism.takes_part(0, 120, number)
        assert asked is not None
        for person in range(120):
            if asked[person]:
                change = learner.updates(crowd.answers(person, person + 1).seen_as(view), state)[0]
                length = float(change.norm())
                clipped += length > 0.2
                total += quantise((change * min(1.0, 0.2 / length)).double(), SCALE)
        state = learner.advance(state, dequantise(total, SCALE) / (30 if name == "blt" else 20), number)
    assert torch.allclose(found.state["weights"], state["weights"], rtol=0, atol=120 / SCALE / 20)
    assert float((state["weights"] - learner.start(task)["weights"]).norm()) > 0.1
    assert sum(record.clipped for record in found.rounds) == clipped > 0


@functools.cache
def world_of(people: int) -> InventedCrowd:
    return InventedCrowd(WORLD, people, ratings=4)


@pytest.mark.parametrize("name", MECHANISMS)
def test_what_is_claimed_is_the_budget_and_names_mechanism_sampling_and_accountant(name: str) -> None:
    task = Task(items=WORLD.pool, flat=WORLD.flat, rounds=6, ratings=4)
    shape = Protection(mechanism=name, cohort=60 if name == "truncated" else 12)  # half of all: quickly accounted for
    learner, mechanism = arrange(strategy("fedavg-logistic"), PROMISE, task, shape)
    said = train(learner, world_of(120), mechanism, flat=WORLD.flat).statement
    assert (said.epsilon, said.delta) == (PROMISE.epsilon, PROMISE.delta)
    words = {
        "everyone": ("discrete Gaussian", "no amplification claimed", "plgl analytic Gaussian"),
        "poisson": ("discrete Gaussian", "q = 12/120", "PLD"),
        "truncated": ("discrete Gaussian", "cut at random to 72 people", "PLD"),
        "banded": ("banded Toeplitz factorisation, 4 bands", "q = 12/30 of one of 4 groups", "PLD"),
        "blt": ("buffered linear Toeplitz", "4 rounds between two of a person", "analytic Gaussian"),
    }[name]
    for word, told in zip(words, (said.mechanism, said.sampling, said.accountant), strict=True):
        assert word in told


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mechanism": "poison"}, "mechanism='poison' must be one of everyone"),
        ({"mechanism": "poisson", "cohort": -1}, "cohort=-1 must be >= 0"),
        ({"mechanism": "poisson", "cohort": 121}, "cohort=121 must be between 1 and people=120"),
        ({"mechanism": "banded", "bands": 7}, "bands=7 must be between 1 and rounds=6"),
        ({"mechanism": "banded", "cohort": 31}, "use at most 3 bands"),
        ({"mechanism": "banded", "bands": 0}, "bands=0 must be >= 1"),
        ({"mechanism": "blt", "separation": 7}, "separation=7 must be between 1 and rounds=6"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("epsilon", [4.0, math.inf], ids=str)
def test_shapes_that_cannot_be_are_refused_before_anything_is_accounted(
    changed: dict[str, object], said: str, epsilon: float
) -> None:
    with pytest.raises(SettingError, match=said):
        Protection(**changed).check(dataclasses.replace(PROMISE, epsilon=epsilon))  # type: ignore[arg-type]


def test_strategies_that_protect_people_themselves_do_not_take_a_mechanism() -> None:
    task = Task(items=WORLD.pool, flat=WORLD.flat, rounds=6, ratings=4)
    for name in ("local-dp", "local-only", "centralised"):
        _, mechanism = arrange(strategy(name), PROMISE, task, Protection(mechanism="poisson"))
        assert mechanism.takes_part(0, 120, 1) is None
