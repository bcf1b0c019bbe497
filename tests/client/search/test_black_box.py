"""Searches that need no gradient: hill climbing, CMA-ES, Bayesian optimisation."""

import sys

import numpy as np
import pytest
import torch

from client.search.base import Search, Task
from client.search.bayesian import BayesianSearch
from client.search.evolution import EvolutionSearch
from client.search.hill_climb import HillClimb
from client.search.methods import search
from client.search.pool import PoolSearch
from common.errors import SettingError
from common.latents import LatentSpace


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stepped(d: int) -> Task:
    """A score in small stairs: its gradient is zero everywhere."""
    into, out = torch.randn(d, 8, generator=rng(2)) / d**0.5, torch.randn(8, generator=rng(3))
    space = LatentSpace(d)
    with_stairs = lambda z: (torch.sin(z @ into).detach() @ out * 100).round() / 100  # noqa: E731
    return Task(score=with_stairs, space=space, starts=space.sample(8, rng(4)))


@pytest.mark.parametrize(
    "method", [EvolutionSearch(), HillClimb(), BayesianSearch(first=16, rounds=4)], ids=lambda method: method.name
)
def test_a_score_without_gradient_is_climbed_better_than_by_looking_around(method: Search) -> None:
    task = stepped(16)
    found = method.run(task, 1, rng(5))
    looked = PoolSearch(size=found.steps - len(task.starts)).run(task, 1, rng(5))
    assert looked.steps == found.steps
    assert float(found.scores[0]) > float(looked.scores[0])


def test_evolution_learns_in_many_dimensions_and_leaves_numpy_alone() -> None:
    task = stepped(300)
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    found = EvolutionSearch(generations=15).run(task, 1, rng(6))
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
    assert float(found.scores[0]) > float(task.score(task.space.project(task.starts)).max()) + 0.5


def test_without_botorch_bayesian_search_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botorch", None)
    with pytest.raises(SettingError, match=r'run: pip install "plgl\[bayesopt\]"'):
        search("bayesian")


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingError, match="population=3"):
        EvolutionSearch(population=3)
    with pytest.raises(SettingError, match="rounds=0"):
        HillClimb(rounds=0)
    with pytest.raises(SettingError, match="places=-1"):
        HillClimb(places=-1)
    with pytest.raises(SettingError, match="batch=0"):
        BayesianSearch(batch=0)
