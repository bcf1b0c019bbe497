"""How fast people are made up and fitted by the batched engine, beside the client's own functions and the machine.

    python tests/benchmarks/dp_em_speed.py --people 4096 --repeats 3

Everything is interleaved, on one core, and in seconds of processor time, which other processes take less from than
from the clock. The floor is the arithmetic a fit needs (``simulations.scale_run.Scale.operations``) at the rate of a
large float32 matrix product measured in the same repetition. Rows: the client's ``contribution`` in float64 (people
made up beforehand), the batched engine in float64 and float32 (people made up as they are fitted), and the parts of
the latter.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from client.contribution import contribution
from common.privacy.fixed_point import SCALE
from common.privacy.settings import PrivacySettings
from simulations.batched import CHUNK, summed
from simulations.cold_start import FEEDBACK
from simulations.invented_crowd import InventedCrowd, World
from simulations.mechanisms import Everyone
from simulations.scale_run import Scale
from simulations.strategies.base import Task
from simulations.strategies.dp_em import DpEm

CPU = torch.device("cpu")


def seconds(work: Callable[[], object]) -> float:
    """Of processor time."""
    began = time.process_time()
    work()
    return time.process_time() - began


class Bench:
    """One kind of feedback."""

    def __init__(self, feedback: str, people: int) -> None:
        self.settings = Scale(feedback=feedback, people=people)
        world = World.abstract(components=32, pool=4_000, unseen=100)
        self.learner, self.people = DpEm(), people
        self.mechanism = Everyone(PrivacySettings(norm_bound=6.0, expected_people=people, minimum_people=1))
        self.crowds = {
            dtype: InventedCrowd(world.to(CPU, dtype), people, kind=FEEDBACK[feedback])
            for dtype in (torch.float64, torch.float32)
        }
        items = self.crowds[torch.float64].items
        self.flat = world.flat
        self.state = self.learner.start(Task(items=items, flat=world.flat, rounds=4, ratings=30))
        self.held = self.crowds[torch.float64].answers(0, min(people, 1_024)).seen_as(items.features)

    def rows(self) -> dict[str, Callable[[], int]]:
        """What is timed; each gives the people it worked on."""
        return {
            "client functions, float64": self._client,
            "batched, float64": lambda: self._batched(torch.float64),
            "batched, float32": lambda: self._batched(torch.float32),
            "  of which making people up": self._answers,
        }

    def _client(self) -> int:
        contribution(self.held, self.flat, 6.0, SCALE)
        return self.held.people

    def _batched(self, dtype: torch.dtype) -> int:
        summed(self.learner, self.crowds[dtype], self.mechanism, self.state, 1)
        return self.people

    def _answers(self) -> int:
        for first in range(0, self.people, CHUNK):
            self.crowds[torch.float32].answers(first, min(first + CHUNK, self.people))
        return self.people


def floor() -> float:
    """Float32 operations per second of processor time."""
    a = torch.randn(1_024, 1_024)
    return 2 * 1_024**3 / min(seconds(lambda: a @ a) for _ in range(3))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=4_096)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'people per second of processor time':<38}{'median':>10}{'x client':>10}{'of floor':>10}")
    for feedback in ("like", "choice", "stars"):
        bench = Bench(feedback, asked.people)
        rates: dict[str, list[float]] = {name: [] for name in bench.rows()}
        floors = []
        for _ in range(asked.repeats):
            floors.append(floor() / bench.settings.operations())
            for name, work in bench.rows().items():
                began = time.process_time()
                people = work()
                rates[name].append(people / (time.process_time() - began))
        client = rates["client functions, float64"]
        for name, found in rates.items():
            ratio = statistics.median(x / y for x, y in zip(found, client, strict=True))
            share = statistics.median(x / y for x, y in zip(found, floors, strict=True))
            print(f"{feedback + ': ' + name:<38}{statistics.median(found):>10,.0f}{ratio:>10.1f}{share:>10.1%}")


if __name__ == "__main__":
    main()
