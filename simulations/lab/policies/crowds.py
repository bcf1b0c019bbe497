"""Everybody's policy under each budget: taught by people of the panel's population, shown to those who said nothing."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from client.generators.pack import GeneratorPack
from common.population_policy import PopulationPolicy
from common.prior import TYPICAL_SPREAD, PopulationPrior
from simulations.crowd import HeldCrowd, Items, pairs
from simulations.lab.crowd_policy import GRADIENT, made_of, taught
from simulations.lab.grid import Advance, Cell
from simulations.lab.policies.grid import POOL, PolicyGrid
from simulations.lab.policies.world import world_of
from simulations.yardstick import BATCH, pictures

COMPONENTS = 32  # features of the map that tastes are about


def release(grid: PolicyGrid, folder: str, cell: Cell, advance: Advance) -> dict[str, Any]:
    """Let the crowd of a panel teach a policy under a budget, and publish it in the folder."""
    generator, epsilon = str(cell.axes["generator"]), float(str(cell.axes["epsilon"]))
    crowd, flat = _crowd(grid, folder, generator, cell.seeds["panel"])
    advance(0.3)
    pack, began = GeneratorPack.open(generator), time.process_time()
    released = taught(crowd, flat, grid.promise(epsilon), way=GRADIENT, ratings=grid.ratings, seed=cell.seeds["public"])
    advance(0.4)
    policy, learned = made_of(released, pack, seed=cell.seeds["policy"], rounds=grid.rounds)
    policy.save(_place(folder, pack, epsilon, cell))
    return {
        "statement": released.statement.to_json(),
        "clipped": released.clipped,
        "divergence": learned.kept.divergence,
        "seconds": round(time.process_time() - began, 3),
    }


def published(folder: str, pack: GeneratorPack, epsilon: float, cell: Cell) -> PopulationPolicy:
    """The policy that `release` kept for the crowd of a cell's panel.

    Raises:
        PriorError: it is not there any more.
    """
    return PopulationPolicy.load(_place(folder, pack, epsilon, cell), pack=pack.hash)


def _place(folder: str, pack: GeneratorPack, epsilon: float, cell: Cell) -> Path:
    name = f"{pack.name}-{pack.hash[:12]}-epsilon-{epsilon:g}-crowd-{cell.axes['repeat']}"
    return Path(folder) / "policies" / name


@lru_cache(maxsize=1)
def _crowd(grid: PolicyGrid, folder: str, generator: str, seed: int) -> tuple[HeldCrowd, PopulationPrior]:
    """Those of the panel's population who do not test, what they said, and the prior of who knows nobody."""
    world = world_of(grid, folder, generator, seed)
    pack, k = world.pack, min(COMPONENTS, world.pack.components)
    draws = torch.Generator().manual_seed(seed + 2)
    latents = pack.latents.sample(POOL, draws)
    utilities = torch.cat(
        [world.panel.utilities_of_others(pictures(pack, part)) for part in torch.split(latents, BATCH)], dim=1
    )
    items = Items(pack.features(latents, k), latents)
    flat = PopulationPrior.flat(k + 1, pack.hash, TYPICAL_SPREAD, pack.component_scale[:k])
    return HeldCrowd(items, pairs(utilities, grid.ratings, world.noise, draws)), flat
