"""How high each search gets, how long it takes and how often it asks, on tastes over the art pack.

Times are those of the processor, on one thread, so that other work on the machine does not count.
"""

import statistics
import time

import pytest
import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.lens import Lens
from client.search.base import Found, Score, Task, angles
from client.search.distribution import diverse
from client.search.methods import SEARCHES, search

COMPONENTS, CENTRES, SEEN, COUNT = 48, 30, 40, 8
TASTES = 3


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def taste(lens: Lens, pack: GeneratorPack, seed: int) -> Score:
    """A linear part and bumps around some pictures, both of the same weight, in standard deviations of the prior."""
    space, draw = pack.latents, rng(seed)
    scale = lens.scale.float() / lens.scale.norm()
    weight = torch.cat([torch.randn(COMPONENTS, generator=draw) * scale, torch.zeros(1)])
    centres = lens(space.sample(CENTRES, draw)).features
    height = torch.randn(CENTRES, generator=draw)

    def parts(z: Tensor) -> tuple[Tensor, Tensor]:
        seen = lens(z).features
        return seen @ weight, torch.exp(-torch.cdist(seen, centres).square() / (2 * COMPONENTS)) @ height

    with torch.no_grad():
        linear, bumps = parts(space.sample(4000, draw))
        both = linear / linear.std() + bumps / bumps.std()
    mean, deviation = float(both.mean()), float(both.std())
    a, b = float(linear.std()) * deviation, float(bumps.std()) * deviation

    def score(z: Tensor) -> Tensor:
        linear, bumps = parts(z)
        return linear / a + bumps / b - mean / deviation

    return score


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    pack = GeneratorPack.open("art")
    lens = Lens(pack, COMPONENTS)
    return [
        Task(score=taste(lens, pack, seed), space=pack.latents, starts=pack.latents.sample(SEEN, rng(100 + seed)))
        for seed in range(TASTES)
    ]


def row(name: str, found: list[Found], seconds: list[float]) -> tuple[float, float]:
    """Prints a line of the table; gives the mean best score and the fewest milliseconds."""
    best = statistics.mean(float(one.scores[0]) for one in found)
    mean = statistics.mean(float(one.scores.mean()) for one in found)
    apart = statistics.mean(float(angles(f.latents, f.latents).sum()) / (COUNT * (COUNT - 1)) for f in found)
    ms, least = 1e3 * statistics.median(seconds), 1e3 * min(seconds)
    steps = statistics.mean(one.steps for one in found)
    print(f"{name:16} {best:8.2f} {mean:8.2f} {apart:8.2f} {ms:9.1f} {least:9.1f} {steps:8.0f}")
    return best, least


def heading(of: str) -> None:
    print(f"\n{of:16} {'best sd':>8} {'mean sd':>8} {'apart':>8} {'ms':>9} {'least ms':>9} {'scored':>8}")


def test_searches_on_the_art_pack(tasks: list[Task]) -> None:
    torch.set_num_threads(1)
    heading("search")
    best = {}
    for name in SEARCHES:
        method, found, seconds = search(name), [], []
        for task in tasks:
            begun = time.process_time()
            found.append(method.run(task, COUNT, rng(1)))
            seconds.append(time.process_time() - begun)
        best[name], _ = row(name, found, seconds)
    assert max(best, key=lambda name: best[name]) in {"gradient", "root", "closed-form"}
    assert best["gradient"] > best["pool"] + 0.5


def test_a_diverse_set_costs_a_few_dozen_steps(tasks: list[Task]) -> None:
    torch.set_num_threads(1)
    heading("surprise")
    took, asked = [], []
    for surprise in (0.0, 0.1, 0.3, 0.6, 1.0):
        found, seconds = [], []
        for task in tasks:
            for seed in range(4):
                begun = time.process_time()
                found.append(diverse(task, COUNT, surprise, rng(seed)))
                seconds.append(time.process_time() - begun)
                asked.append(one_step(task))
        took.append(row(str(surprise), found, seconds)[1])
        assert all(len(each) == COUNT and bool(each.scores.isfinite().all()) for each in found)
    step = 1e3 * min(asked)
    print(f"one step of 16 walks: {step:.2f} ms, a set is worth {min(took) / step:.0f} of them")


def one_step(task: Task) -> float:
    """Seconds that the score of 16 latents and its gradient take, whatever a search makes of them."""
    latents = task.space.project(task.starts[:16]).requires_grad_()
    begun = time.process_time()
    torch.autograd.grad(task.score(latents).sum(), latents)
    return time.process_time() - begun
