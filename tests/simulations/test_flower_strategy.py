import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from torch import Tensor

from client.ratings import Kind
from common.errors import CohortError, SettingError
from common.privacy.noise import discrete_gaussian
from common.privacy.settings import PrivacySettings
from simulations import batched, flower_strategy
from simulations.crowd import Items
from simulations.engines.inline import Fault, InlineGrid
from simulations.flower_strategy import FlowerStrategy, strategy_app
from simulations.invented_crowd import InventedCrowd
from simulations.mechanisms import Everyone, NoPrivacy
from simulations.strategies import STRATEGIES, strategy
from simulations.strategies.base import State, Strategy, Task
from simulations.strategies.dp_em import DpEm
from simulations.world import World

PEOPLE = 11
WORLD = World.abstract(components=3, latents=5, pool=120, unseen=100)


def crowd(kind: Kind = Kind.LIKE) -> InventedCrowd:
    pool = Items(WORLD.pool.features.double(), WORLD.pool.latents.double())
    return InventedCrowd(dataclasses.replace(WORLD, pool=pool), people=PEOPLE, ratings=6, kind=kind, seed=3)


def open_rounds(learner: Strategy, rounds: int = 3) -> NoPrivacy:
    return NoPrivacy(rounds=rounds, norm_bound=learner.norm_bound, people=PEOPLE)


def same(one: State, other: State, within: float = 1e-6) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=0, atol=within), name


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_messages_lead_every_strategy_to_the_same_state_as_tensors(name: str) -> None:
    learner, people = strategy(name), crowd(Kind.CHOICE)
    federated = flower_strategy.train(learner, people, open_rounds(learner), flat=WORLD.flat, nodes=4)
    trained = batched.train(learner, people, open_rounds(learner), flat=WORLD.flat)
    same(federated.state, trained.state)
    assert federated.statement == trained.statement
    start = learner.start(Task(items=people.items, flat=WORLD.flat, rounds=3, ratings=6))
    moved = [not torch.equal(value, federated.state[key]) for key, value in start.items()]
    assert any(moved) is (name != "local-only")


class Half(Everyone):
    """Every other person, and noise from a fixed stream; for tests only."""

    def takes_part(self, first: int, last: int, round: int) -> Tensor | None:
        return (torch.arange(first, last) + round) % 2 == 0

    def noise(self, numbers: int, round: int) -> Tensor | None:
        return discrete_gaussian(numbers, Fraction(4000**2), np.random.default_rng(round).bytes)


def test_the_mechanism_decides_who_takes_part_and_what_noise_is_added() -> None:
    settings = PrivacySettings(participations=2, expected_people=PEOPLE, minimum_people=1, norm_bound=4.0)
    learner, mechanism = DpEm(), Half(settings)
    federated = flower_strategy.train(learner, crowd(), mechanism, flat=WORLD.flat, nodes=3)
    trained = batched.train(learner, crowd(), mechanism, flat=WORLD.flat)
    same(federated.state, trained.state)
    assert federated.statement.epsilon == 1.0
    everybody = batched.train(learner, crowd(), Everyone(settings), flat=WORLD.flat)
    assert not torch.allclose(everybody.state["mean"], trained.state["mean"], rtol=0, atol=1e-3)


def run(fault: Fault | None, nodes: int = 4) -> FlowerStrategy:
    learner, people = DpEm(), crowd()
    task = Task(items=people.items, flat=WORLD.flat, rounds=1, ratings=6)
    federated = FlowerStrategy(learner, open_rounds(learner, 1), task, people=PEOPLE, nodes=nodes)
    grid = InlineGrid(strategy_app(learner, people, nodes), nodes, fault)
    federated.start(grid, federated.initial, num_rounds=1)
    return federated


def altered(total: np.ndarray[Any, Any]) -> Callable[[Message], list[Message]]:
    def fault(reply: Message) -> list[Message]:
        make: Any = Message
        content = RecordDict({"sum": ArrayRecord({"total": Array(total)})})
        return [cast(Message, make(content, metadata=reply.metadata))]

    return fault


def error(reply: Message) -> list[Message]:
    make: Any = Message
    return [make(Error(2), metadata=reply.metadata)]


def empty(reply: Message) -> list[Message]:
    make: Any = Message
    return [make(RecordDict(), metadata=reply.metadata)]


@pytest.mark.parametrize(
    "fault",
    [altered(np.full(14, 10**9)), altered(np.zeros(14)), altered(np.zeros((1, 14), dtype=np.int64)), error, empty],
    ids=["too long", "not whole", "wrong shape", "error", "empty"],
)
def test_a_reply_that_cannot_be_true_is_left_out(fault: Callable[[Message], list[Message]]) -> None:
    bad = run(lambda message, reply: fault(reply) if message.metadata.dst_node_id == 2 else [reply])
    missing = run(lambda message, reply: [] if message.metadata.dst_node_id == 2 else [reply])
    assert bad.left_out == 1
    same(bad.state, missing.state, 0.0)
    assert not torch.equal(run(None).state["mean"], missing.state["mean"])


def test_a_repeated_reply_counts_once() -> None:
    twice = run(lambda message, reply: [reply, reply])
    same(twice.state, run(None).state, 0.0)
    assert twice.left_out == 4


@pytest.mark.filterwarnings("ignore")
def test_a_round_without_any_reply_releases_nothing() -> None:
    with pytest.raises(CohortError, match="round 1"):
        run(lambda message, reply: [])


def test_settings_outside_their_range_are_refused() -> None:
    learner = DpEm()
    with pytest.raises(SettingError, match="nodes=12"):
        flower_strategy.train(learner, crowd(), open_rounds(learner), flat=WORLD.flat, nodes=12)
    with pytest.raises(SettingError, match="engine='rays'"):
        flower_strategy.train(learner, crowd(), open_rounds(learner), flat=WORLD.flat, nodes=2, engine="rays")
