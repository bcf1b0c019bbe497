"""Everybody's policy under each budget: taught by people of the panel's population, shown to those who said nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.journal import MemoryJournal
from client.policy.flow import LatentPolicy
from client.policy.stream import Stream
from client.session import Session
from common.population_policy import PopulationPolicy
from common.prior import TYPICAL_SPREAD, PopulationPrior
from simulations.crowd import HeldCrowd, Items, pairs
from simulations.lab.crowd_policy import GRADIENT, made_of, taught
from simulations.lab.grid import Advance, Cell
from simulations.lab.policies.grid import POOL, PolicyGrid
from simulations.lab.policies.world import world_of
from simulations.yardstick import BATCH, pictures

FIRST = 20  # items that a newcomer looks at
COMPONENTS = 32  # features of the map that tastes are about


def release(grid: PolicyGrid, folder: str, cell: Cell, advance: Advance) -> dict[str, Any]:
    """Let the crowd of a panel teach a policy under a budget, and publish it in the folder."""
    generator, epsilon = str(cell.axes["generator"]), float(str(cell.axes["epsilon"]))
    others = _others(grid, folder, generator, cell.seeds["panel"])
    advance(0.3)
    pack, began = GeneratorPack.open(generator), time.process_time()
    promised, seed = grid.promise(epsilon), cell.seeds["public"]
    released = taught(others.crowd, others.flat, promised, way=GRADIENT, ratings=grid.ratings, seed=seed)
    advance(0.4)
    policy, learned = made_of(released, pack, seed=cell.seeds["policy"], rounds=grid.rounds)
    policy.save(_place(folder, pack, epsilon, cell))
    return {
        "statement": released.statement.to_json(),
        "clipped": released.clipped,
        "divergence": learned.kept.divergence,
        "seconds": round(time.process_time() - began, 3),
        "newcomers": newcomers(grid, folder, cell, learned.policy),
    }


def newcomers(grid: PolicyGrid, folder: str, cell: Cell, policy: LatentPolicy) -> list[float]:
    """Mean percentile of the first items that people see who neither taught nor test, before any answer.

    Returns:
        One number for each newcomer, 0 to 1; the generator's own items lie at a half.
    """
    generator, seed = str(cell.axes["generator"]), cell.seeds["panel"]
    world, others = world_of(grid, folder, generator, seed), _others(grid, folder, generator, seed)
    before = Session(world.pack, MemoryJournal(), seed=cell.seeds["policy"])
    latents = Stream(before, policy, level=grid.level, seed=cell.seeds["policy"]).latents(grid.items)
    utilities = world.panel.utilities_of_others(pictures(world.pack, latents))[grid.crowd :]
    place = torch.searchsorted(others.ranked, utilities.contiguous()).double() / others.ranked.shape[1]
    count = len(place)
    seen = (torch.arange(count)[:, None] * FIRST + torch.arange(FIRST)) % grid.items  # different ones for each
    return [round(value, 5) for value in place.gather(1, seen).mean(1).tolist()]


def published(folder: str, pack: GeneratorPack, epsilon: float, cell: Cell) -> PopulationPolicy:
    """The policy that `release` kept for the crowd of a cell's panel.

    Raises:
        PriorError: it is not there any more.
    """
    return PopulationPolicy.load(_place(folder, pack, epsilon, cell), pack=pack.hash)


def _place(folder: str, pack: GeneratorPack, epsilon: float, cell: Cell) -> Path:
    name = f"{pack.name}-{pack.hash[:12]}-epsilon-{epsilon:g}-crowd-{cell.axes['repeat']}"
    return Path(folder) / "policies" / name


@dataclass(frozen=True, eq=False)
class Others:
    """Those of a panel's population who do not test.

    Attributes:
        crowd: who teach, and what they said.
        flat: the prior of who knows nobody.
        ranked: ``(newcomers, POOL)`` rising, what newcomers feel about the generator's own items.
    """

    crowd: HeldCrowd
    flat: PopulationPrior
    ranked: Tensor


@lru_cache(maxsize=1)
def _others(grid: PolicyGrid, folder: str, generator: str, seed: int) -> Others:
    world = world_of(grid, folder, generator, seed)
    pack, k = world.pack, min(COMPONENTS, world.pack.components)
    draws = torch.Generator().manual_seed(seed + 2)
    latents = pack.latents.sample(POOL, draws)
    utilities = torch.cat(
        [world.panel.utilities_of_others(pictures(pack, part)) for part in torch.split(latents, BATCH)], dim=1
    )
    items = Items(pack.features(latents, k), latents)
    said = pairs(utilities[: grid.crowd], grid.ratings, world.noise, draws)
    flat = PopulationPrior.flat(k + 1, pack.hash, TYPICAL_SPREAD, pack.component_scale[:k])
    return Others(HeldCrowd(items, said), flat, utilities[grid.crowd :].sort(dim=1).values)
