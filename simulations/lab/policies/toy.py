"""Streams of the flow toy: one person picks shapes; its flow is taught, or chosen from, or told where to begin."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from client.flows.answers import PickReward
from client.flows.checkpoint import open_checkpoint
from client.flows.comparison import METHODS, ComparisonSettings, Lesson, lesson_of
from client.flows.judge import judge
from client.flows.model import FlowModel, of_checkpoint
from client.policy import LEVEL
from simulations.lab.grid import Advance, Cell
from simulations.lab.policies import front
from simulations.lab.policies.grid import PolicyGrid
from simulations.lab.policies.shapes import LOVED, ShapeYardstick
from simulations.lab.policies.sheets import SHOWN, is_shown

HELD = 20  # picks of each person that no method hears
_AT_ONCE = 8  # items that best-of-n draws candidates for together
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """A stream of shapes.

    Attributes:
        clouds: ``(n, points, 3)``.
        learning: seconds of the processor, to learn; choosing: to choose an item; drawing: to draw it.
        choosing: see above.
        drawing: see above.
        size: numbers that were learned.
        note: why a guard stopped, if one did.
    """

    clouds: Tensor
    learning: float
    choosing: float
    drawing: float
    size: int
    note: str = ""


def streamed(grid: PolicyGrid, folder: str, cell: Cell, advance: Advance) -> dict[str, Any]:
    """What a method's stream is to a person."""
    seed = cell.seeds["person"]
    base, lesson, held = _flow(), *_lessons(grid, seed)
    yardstick = _yardstick(grid, folder, cell.seeds["panel"])
    advance(0.1)
    drawn = drawn_by(str(cell.axes["method"]), lesson, grid.items, _noises(seed), of=grid.of, level=grid.level)
    return {
        **yardstick.measured(judge(drawn.clouds)),
        "held_out": _held_out(held, base, drawn.clouds),
        "seconds_per_item": drawn.choosing,
        "seconds_to_draw": drawn.drawing,
        "seconds_to_learn": drawn.learning,
        "parameters": drawn.size,
        "note": drawn.note,
        "shown": drawn.clouds[:SHOWN].tolist() if is_shown(grid, cell) else [],
    }


def drawn_by(
    method: str,
    lesson: Lesson,
    items: int,
    generator: torch.Generator,
    *,
    of: int = 64,
    level: float = LEVEL,
    rounds: int = 20,
) -> Drawn:
    """The stream of a method.

    Args:
        method: ``best-of-n``, ``policy``, or one of ``client.flows.comparison.METHODS``.
        lesson: what the person answered.
        items: how many are drawn.
        generator: of the noise.
        of: candidates for each item of best-of-n.
        level: of a policy, from 0 (safe) to 1 (surprising).
        rounds: of its learning, at most; it needs no more than its own few.
    """
    if method == "best-of-n":
        return _best(lesson, items, of, generator)
    if method == "policy":
        return _in_front(lesson, items, level, rounds, generator)
    started = time.process_time()
    flow = METHODS[method](lesson)
    learned = time.process_time()
    noise = flow.noise(items, generator)
    chosen = time.process_time()
    clouds = flow.draw(noise)
    drawing = (time.process_time() - chosen) / items
    size = numbers_learned(lesson.base, flow)
    choosing = (chosen - learned) / items
    return Drawn(clouds=clouds, learning=learned - started, choosing=choosing, drawing=drawing, size=size)


def _best(lesson: Lesson, items: int, of: int, generator: torch.Generator) -> Drawn:
    """For each item the one of so many that the fitted reward likes best; it has to draw what it rejects."""
    started, found = time.process_time(), []
    for at in range(0, items, _AT_ONCE):
        some = min(_AT_ONCE, items - at)
        candidates = lesson.base.draw(lesson.base.noise(some * of, generator))
        best = lesson.reward(candidates).view(some, of).argmax(1)
        found.append(candidates.view(some, of, *candidates.shape[1:])[torch.arange(some), best])
    each = (time.process_time() - started) / items
    return Drawn(clouds=torch.cat(found), learning=0.0, choosing=each * (of - 1) / of, drawing=each / of, size=0)


def _in_front(lesson: Lesson, items: int, level: float, rounds: int, generator: torch.Generator) -> Drawn:
    """The shapes that the flow draws from the noise a policy chose."""
    started = time.process_time()
    usual = front.FrontSettings()
    few = replace(usual.learn, rounds=min(rounds, usual.learn.rounds))
    learned = front.learned(lesson, replace(usual, learn=few))
    ready = time.process_time()
    noise = learned.policy.draw(items, level, generator).view(items, *lesson.base.shape)
    chosen = time.process_time()
    clouds = lesson.base.draw(noise)
    return Drawn(
        clouds=clouds,
        learning=ready - started,
        choosing=(chosen - ready) / items,
        drawing=(time.process_time() - chosen) / items,
        size=learned.policy.parameters_in_all,
        note=learned.stopped or "",
    )


def numbers_learned(base: FlowModel, flow: FlowModel) -> int:
    """How many numbers of a flow are not those of the base."""
    there = list(base.velocity.state_dict().values())
    new = [
        tensor
        for tensor in flow.velocity.state_dict().values()
        if not any(tensor.shape == other.shape and torch.equal(tensor, other) for other in there)
    ]
    return sum(tensor.numel() for tensor in new)


@lru_cache(maxsize=1)
def _flow() -> FlowModel:
    return of_checkpoint(open_checkpoint(None, _CPU))


@lru_cache(maxsize=1)
def _lessons(grid: PolicyGrid, seed: int) -> tuple[Lesson, Lesson]:
    """What a person answered, and what they answered to nobody's ears; the methods of one person share it."""
    settings = ComparisonSettings(picks=grid.picks, kind=LOVED)
    apart = ComparisonSettings(picks=HELD, kind=LOVED)
    return lesson_of(_flow(), settings, seed, _CPU), lesson_of(_flow(), apart, seed + 77, _CPU)


@lru_cache(maxsize=1)
def _yardstick(grid: PolicyGrid, folder: str, seed: int) -> ShapeYardstick:
    path = Path(folder) / f"yardstick-toy-{seed}.safetensors"
    if not path.exists():
        generator = torch.Generator().manual_seed(seed)
        ShapeYardstick.make(_flow(), law=grid.law, own=grid.own, generator=generator).save(path)
    return ShapeYardstick.load(path)


def _noises(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(9_000_000_000 + seed)


def _held_out(held: Lesson, base: FlowModel, clouds: Tensor) -> float:
    """Mean utility by a model of the answers no method heard, in deviations over the base's own shapes."""
    reward: PickReward = held.reward
    typical = reward.utility(base.media(held.anchors))
    return float((reward.utility(base.media(clouds)) - typical.mean()).mean() / typical.std().clamp(min=1e-9))
