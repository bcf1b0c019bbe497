"""Laws that every strategy obeys; a new one is tested by being listed."""

import dataclasses
import math

import pytest
import torch

from client.ratings import Kind
from common.errors import SettingError
from common.privacy.settings import PrivacySettings
from simulations.batched import train
from simulations.crowd import Answers, Items
from simulations.invented_crowd import InventedCrowd
from simulations.mechanisms import NoPrivacy
from simulations.strategies import STRATEGIES, arrange, strategy
from simulations.strategies.base import OwnPrivacy, State, Strategy, Task
from simulations.world import World

PEOPLE = 12
WORLD = World.abstract(components=4, latents=6, pool=120, unseen=100)


def exact(items: Items) -> Items:
    return Items(items.features.double(), items.latents.double())


def crowd(kind: Kind = Kind.LIKE, people: int = PEOPLE) -> InventedCrowd:
    world = dataclasses.replace(WORLD, pool=exact(WORLD.pool), unseen=exact(WORLD.unseen))
    return InventedCrowd(world, people=people, ratings=7, kind=kind, seed=2)


def task() -> Task:
    return Task(items=exact(WORLD.pool), flat=WORLD.flat, rounds=3, ratings=7)


def promise(**change: float) -> PrivacySettings:
    settings = PrivacySettings(participations=3, expected_people=PEOPLE, minimum_people=1)
    return dataclasses.replace(settings, **change)  # type: ignore[arg-type]


def later(learner: Strategy, people: InventedCrowd) -> State:
    """A state that two rounds without noise led to, so that nothing in it is still special."""
    mechanism = NoPrivacy(rounds=3, norm_bound=learner.norm_bound, people=PEOPLE)
    return train(learner, people, mechanism, flat=WORLD.flat).state


@pytest.fixture(params=sorted(STRATEGIES))
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def test_names_and_labels_tell_strategies_apart(name: str) -> None:
    assert strategy(name).name == name
    assert strategy(name).label
    assert len({strategy(each).label for each in STRATEGIES}) == len(STRATEGIES)


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(SettingError, match="did you mean fedrep"):
        strategy("fedreps")


@pytest.mark.parametrize("kind", [Kind.LIKE, Kind.CHOICE, Kind.STARS, Kind.BEST])
def test_a_person_alone_sends_what_they_send_in_a_crowd(name: str, kind: Kind) -> None:
    learner, people = strategy(name), crowd(kind)
    state = later(learner, people)
    view = learner.view(people.items, state)
    together = learner.updates(people.answers(0, PEOPLE).seen_as(view), state)
    alone = torch.cat([learner.updates(people.answers(i, i + 1).seen_as(view), state) for i in range(PEOPLE)])
    assert together.dtype == torch.float64
    assert torch.allclose(together, alone, rtol=0, atol=1e-9)
    if name != "local-only":
        assert float(together.abs().sum(1).min()) > 1e-6


def test_whoever_says_nothing_sends_zeros_and_sees_what_everybody_sees_first(name: str) -> None:
    learner, people = strategy(name), crowd()
    state = later(learner, people)
    view = learner.view(people.items, state)
    said = people.answers(0, 3)
    silent = Answers(said.kind, said.value, said.items, torch.zeros_like(said.weight))
    assert float(learner.updates(silent.seen_as(view), state).abs().max()) < 1e-9
    unheard = learner.scores(silent.seen_as(view), state, people.world.unseen)
    new = learner.scores(said.seen_as(view).first(0), state, people.world.unseen)
    assert unheard.shape == (3, 100)
    assert torch.allclose(unheard, new, rtol=0, atol=1e-9)
    assert torch.allclose(new[:1], new[1:], rtol=0, atol=1e-9)


def test_own_answers_change_the_scores_towards_what_was_said(name: str) -> None:
    learner, people = strategy(name), crowd(people=60)
    state = later(learner, people)
    evidence = people.answers(0, 60).seen_as(learner.view(people.items, state))
    said = people.answers(0, 60)
    before = learner.scores(evidence.first(0), state, people.items).gather(1, said.items[..., 0])
    after = learner.scores(evidence, state, people.items).gather(1, said.items[..., 0])
    sign = 2 * said.value.double() - 1
    assert float((sign * (after - before)).mean()) > 0.1


def test_states_stay_finite_under_any_noise(name: str) -> None:
    learner, people = strategy(name), crowd()
    state, generator = learner.start(task()), torch.Generator().manual_seed(0)
    for number in range(1, 4):
        evidence = people.answers(0, 2).seen_as(learner.view(people.items, state))
        numbers = learner.updates(evidence, state).shape[1]
        state = learner.advance(state, torch.randn(numbers, generator=generator, dtype=torch.float64), number)
        assert all(bool(value.isfinite().all()) for value in state.values())
    assert bool(learner.scores(evidence, state, people.items).isfinite().all())


def test_what_is_arranged_keeps_the_promise_or_says_that_it_does_not(name: str) -> None:
    learner, mechanism = arrange(strategy(name), promise(epsilon=2.0), task())
    claim = train(learner, crowd(), mechanism, flat=WORLD.flat).statement
    assert claim.epsilon == {"centralised": math.inf, "local-only": 0.0}.get(name, 2.0)
    assert (name in ("centralised", "local-only")) <= isinstance(learner, OwnPrivacy)
