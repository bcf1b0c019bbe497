"""The laws of all searches. One that is listed is tested; the checker of the laws is tested with twins that lie."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from client.search.base import Found, Score, Search, Task, angles, begin
from client.search.bayesian import BayesianSearch
from client.search.gradient import GradientSearch
from client.search.methods import SEARCHES, search
from common.errors import SettingError
from common.latents import LatentSpace

QUICK: dict[str, Callable[[], Search]] = {  # fits take seconds with default settings
    "bayesian": lambda: BayesianSearch(first=6, rounds=2, batch=3, candidates=64)
}


def method(name: str) -> Search:
    return QUICK.get(name, SEARCHES[name])()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Counted:
    """A score that counts the latents it has seen."""

    def __init__(self, score: Score) -> None:
        self.score, self.rows = score, 0

    def __call__(self, latents: Tensor) -> Tensor:
        self.rows += len(latents)
        return self.score(latents)


def faults(tried: Search, task: Task, count: int) -> set[str]:
    """The laws a search breaks on a task."""
    counted = Counted(task.score)
    found = tried.run(replace(task, score=counted), count, rng(7))
    again = tried.run(task, count, rng(7))
    shell = task.space.project(task.starts.float())
    starts = task.score(shell)
    starts, scores = starts[starts.isfinite()], task.score(found.latents.float())
    close = 1e-4 * (1 + starts.abs().max())
    between = angles(found.latents, found.latents)[~torch.eye(len(found), dtype=torch.bool)]
    wrong = {
        "count": not 1 <= len(found) <= count or found.complete != (len(found) == count),
        "type": found.latents.dtype != torch.float32 or found.scores.shape != (len(found),),
        "finite": not bool(found.latents.isfinite().all() and found.scores.isfinite().all()),
        "scores": not bool((scores - found.scores).abs().max() <= close),
        "order": bool((found.scores.diff() > 0).any()),
        "start": not bool(found.scores[0] >= starts.max() - close),
        "shell": not bool((found.latents.norm(dim=1) / task.space.radius - 1).abs().max() < 1e-4),
        "distance": bool((between < task.minimum_distance - 1e-5).any()),
        "trust": task.trust_angle is not None
        and bool((angles(found.latents, shell).amin(1) > task.trust_angle + 1e-3).any()),
        "reached": found.reached != (task.wanted is None or bool(found.scores[0] >= task.wanted)),
        "steps": found.steps != counted.rows,
        "seed": not torch.equal(found.latents, again.latents),
    }
    return {law for law, broken in wrong.items() if broken}


def linear(d: int) -> Score:
    weight = torch.randn(d, generator=rng(1))
    return lambda z: z @ weight / d**0.5 - 0.5


def smooth(d: int) -> Score:
    into, out = torch.randn(d, 16, generator=rng(2)) / d**0.5, torch.randn(16, generator=rng(3))
    return lambda z: torch.sin(1.5 * z @ into) @ out


def quadratic(d: int) -> Score:
    root = torch.randn(d, d, generator=rng(4)) / d
    return lambda z: -(z @ root - 0.3).square().sum(1)


def half_broken(d: int) -> Score:
    """NaN or infinite in half of the space, and higher the nearer to it."""
    return lambda z: torch.where(z[:, 0] > 0.3, torch.nan, torch.where(z[:, -1] > 1.5, torch.inf, z[:, 0] + z[:, -1]))


def flat(d: int) -> Score:
    return lambda z: torch.full((len(z),), 0.25)


@dataclass(frozen=True)
class Case:
    score: Callable[[int], Score]
    d: int
    starts: int = 10
    count: int = 4
    scale: float = 1.0
    wanted: float | None = None
    minimum_distance: float = 0.0
    trust_angle: float | None = None

    def task(self) -> Task:
        space = LatentSpace(self.d)
        return Task(
            score=self.score(self.d),
            space=space,
            starts=self.scale * space.sample(self.starts, rng(5)),
            wanted=self.wanted,
            minimum_distance=self.minimum_distance,
            trust_angle=self.trust_angle,
        )


CASES = {
    "one dimension": Case(linear, 1, starts=1, count=1),
    "one dimension, no room": Case(linear, 1, count=3, minimum_distance=0.5, trust_angle=0.3),
    "two dimensions, hardly room": Case(quadratic, 2, count=5, minimum_distance=1.2),
    "smooth": Case(smooth, 24, count=8),
    "far apart and near home": Case(smooth, 24, minimum_distance=0.5, trust_angle=0.6, wanted=1e3),
    "linear, wanted, starts off the shell": Case(linear, 100, scale=100.0, wanted=2.0, trust_angle=2.0),
    "smooth, wanted": Case(smooth, 100, wanted=3.0, minimum_distance=0.3),
    "many dimensions, one start": Case(quadratic, 512, starts=1, count=2, scale=1e-3),
    "flat": Case(flat, 24, minimum_distance=0.2),
    "partly NaN": Case(half_broken, 24),
    "nothing may move": Case(smooth, 24, trust_angle=0.0, minimum_distance=1e-3),
    "already there": Case(linear, 24, wanted=-9.0, minimum_distance=0.1),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_keeps_every_law(name: str, case: str) -> None:
    assert faults(method(name), CASES[case].task(), CASES[case].count) == set()


@pytest.mark.parametrize("name", SEARCHES)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_search_keeps_every_law_on_random_quadratics(name: str, data: st.DataObject) -> None:
    d, seed = data.draw(st.integers(1, 30)), data.draw(st.integers(0, 2**20))
    root, target = torch.randn(d, d, generator=rng(seed)) / d**0.5, torch.randn(d, generator=rng(seed + 1))
    sign = data.draw(st.sampled_from([-1.0, 1.0]))
    space = LatentSpace(d)
    task = Task(
        score=lambda z: sign * ((z - target) @ root).square().sum(1) / d,
        space=space,
        starts=data.draw(st.sampled_from([0.1, 1.0, 5.0])) * space.sample(data.draw(st.integers(1, 12)), rng(seed + 2)),
        wanted=data.draw(st.none() | st.floats(-5, 5)),
        minimum_distance=data.draw(st.sampled_from([0.0, 0.2, 0.8])),
        trust_angle=data.draw(st.none() | st.floats(0, 1.5)),
    )
    assert faults(method(name), task, data.draw(st.integers(1, 6))) == set()


@pytest.mark.parametrize("name", SEARCHES)
def test_a_broken_start_does_not_matter_as_long_as_one_is_whole(name: str) -> None:
    task = CASES["smooth"].task()
    starts = task.starts.clone()
    starts[0], starts[1, 3] = math.nan, math.inf
    found = method(name).run(replace(task, starts=starts), 2, rng())
    assert bool(found.latents.isfinite().all())
    assert float(found.scores[0]) >= float(task.score(task.space.project(starts[2:])).max()) - 1e-4


@pytest.mark.parametrize("name", SEARCHES)
def test_nothing_to_start_from_is_refused(name: str) -> None:
    task = CASES["smooth"].task()
    with pytest.raises(SettingError, match="finite score"):
        method(name).run(replace(task, score=lambda z: z[:, 0] * math.nan), 1, rng())
    with pytest.raises(SettingError, match="finite score"):
        method(name).run(replace(task, starts=task.starts * math.nan, score=flat(24)), 1, rng())
    with pytest.raises(SettingError, match="count=0"):
        method(name).run(task, 0, rng())
    with pytest.raises(SettingError, match="shape"):
        method(name).run(replace(task, score=lambda z: z), 1, rng())


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_works_with_scores_in_double_precision_and_under_no_grad(name: str) -> None:
    task = replace(CASES["smooth"].task(), wanted=2.0)
    with torch.no_grad():
        found = method(name).run(replace(task, score=lambda z: task.score(z).double()), 2, rng())
    assert found.scores.dtype == torch.float64
    assert float(found.scores[0]) >= float(task.score(task.space.project(task.starts)).max()) - 1e-4


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_leaves_shared_random_numbers_and_starts_alone(name: str) -> None:
    task = CASES["smooth"].task()
    starts, before = task.starts.clone(), torch.get_rng_state()
    method(name).run(task, 2, rng())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(task.starts, starts)


class Twin(Search):
    """A search that keeps the laws, but for one change of what it found."""

    name = "twin"

    def __init__(self, change: Callable[[Task, Found], Found]) -> None:
        self.change = change

    def run(self, task: Task, count: int, generator: torch.Generator) -> Found:
        return self.change(task, GradientSearch(walks=4, steps=4, places=8).run(task, count, generator))


def worst_start(task: Task, found: Found) -> Found:
    _, shell, scores = begin(task, 1)
    return replace(found, latents=shell[-1:], scores=scores[-1:], complete=False)


def crowded(task: Task, found: Found) -> Found:
    return replace(found, latents=found.latents[:1].repeat(4, 1), scores=found.scores[:1].repeat(4), complete=True)


def strayed(task: Task, found: Found) -> Found:
    return replace(found, latents=-found.latents)


def unseeded(task: Task, found: Found) -> Found:
    noise = torch.frombuffer(bytearray(os.urandom(24)), dtype=torch.uint8).float()
    return replace(found, latents=task.space.project(found.latents + 1e-4 * noise))


TWINS: dict[str, Callable[[Task, Found], Found]] = {
    "count": lambda task, found: replace(found, complete=not found.complete),
    "type": lambda task, found: replace(found, latents=found.latents.double()),
    "finite": lambda task, found: replace(found, scores=found.scores * math.nan),
    "scores": lambda task, found: replace(found, scores=found.scores + 0.1),
    "order": lambda task, found: replace(found, latents=found.latents.flip(0), scores=found.scores.flip(0)),
    "start": worst_start,
    "shell": lambda task, found: replace(found, latents=found.latents * 1.001),
    "distance": crowded,
    "trust": strayed,
    "reached": lambda task, found: replace(found, reached=not found.reached),
    "steps": lambda task, found: replace(found, steps=found.steps - 1),
    "seed": unseeded,
}


@pytest.mark.parametrize("law", TWINS)
def test_a_twin_that_breaks_a_law_is_caught(law: str) -> None:
    task = replace(CASES["far apart and near home"].task(), wanted=0.5)
    assert faults(Twin(lambda task, found: found), task, 4) == set()
    assert law in faults(Twin(TWINS[law]), task, 4)


def test_a_name_that_is_not_listed_is_refused_with_the_choices() -> None:
    with pytest.raises(SettingError, match=r"'magic' is unknown; choose one of pool, gradient, "):
        search("magic")


def test_names_are_those_of_the_methods() -> None:
    assert {name: search(name).name for name in SEARCHES} == {name: name for name in SEARCHES}
