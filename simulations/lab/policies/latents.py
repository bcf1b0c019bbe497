"""Streams of a generator that takes latents, for one person each."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import torch

from client.journal import MemoryJournal
from client.policy.population import policy_of
from client.session import Session
from simulations.lab.grid import Advance, Cell
from simulations.lab.policies import crowds
from simulations.lab.policies.grid import PolicyGrid, budget_of
from simulations.lab.policies.listening import Heard, held_out_judge, person_of, session_of, who
from simulations.lab.policies.sheets import SHOWN, is_shown
from simulations.lab.policies.world import World, measured, seconds_to_draw, world_of
from simulations.streams import stream
from simulations.streams.base import Listener, Made
from simulations.streams.latent_policy import made as of_policy


def streamed(grid: PolicyGrid, folder: str, heard: Heard, cell: Cell, advance: Advance) -> dict[str, Any]:
    """What a method's stream is to a person."""
    world = world_of(grid, folder, str(cell.axes["generator"]), cell.seeds["panel"])
    person, seed = person_of(cell), cell.seeds["person"]
    session = session_of(world.pack, heard[who(cell)], seed)
    made = _made(grid, folder, world, session, cell)
    started = time.process_time()
    latents = made.draw(grid.items)
    seconds = time.process_time() - started
    with torch.no_grad():
        held_out = float(held_out_judge(world, session, person, seed)(latents).mean())
    return {
        **measured(world, latents, person),
        "held_out": held_out,
        "seconds_per_item": seconds / grid.items,
        "seconds_to_draw": seconds_to_draw(world.pack, latents),
        "seconds_to_learn": made.seconds,
        "parameters": made.size,
        "note": made.note,
        "shown": latents[:SHOWN].tolist() if is_shown(grid, cell) else [],
    }


def _made(grid: PolicyGrid, folder: str, world: World, session: Session, cell: Cell) -> Made:
    method, seed = str(cell.axes["method"]), cell.seeds["person"]
    epsilon = budget_of(method)
    if epsilon is None:
        return stream(method)(_listener(grid, session, cell))
    published = crowds.published(folder, world.pack, epsilon, cell)
    before = Session(world.pack, MemoryJournal(), seed=seed)  # nothing was answered yet
    listener = Listener(before, grid.stream_settings(seed), level=grid.level, seed=seed)
    return of_policy(listener, policy_of(published, world.pack), 0.0, "")


@lru_cache(maxsize=1)
def _remembered(grid: PolicyGrid, generator: str, panel: int, person: int) -> list[Listener]:
    return []


def _listener(grid: PolicyGrid, session: Session, cell: Cell) -> Listener:
    """The listener of a person; the methods of one person come after each other and share what they learned."""
    seed = cell.seeds["person"]
    kept = _remembered(grid, str(cell.axes["generator"]), cell.seeds["panel"], seed)
    if not kept:
        kept.append(Listener(session, grid.stream_settings(seed), level=grid.level, seed=seed, of=grid.of))
    return kept[0]
