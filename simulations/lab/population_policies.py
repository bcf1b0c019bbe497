"""``plgl simulate population-policies``: what new people are shown before they rated anything.

A crowd teaches a population under a budget, a policy is made of what was released, and newcomers who never took part
look at the first items of its stream. Two ways to learn, and the generator alone:

- policy-gradient: people's own policy gradients, clipped, added up and noised (``strategies.policy_gradient``);
- dp-em: the policy of a released prior, which costs nothing beyond the prior (``client.policy.population``).

With 2,000 people they are as good as each other (art, three crowds, epsilon 1, 2 and 8: 0.19 to 0.20 of a percentile
above the generator at level 0.3): whoever releases a prior anyway need not pay for another release. The gradient is 32
numbers from everybody in place of 594, so it is ahead where noise is loud: with 300 people at epsilon 0.5, tilts of two
nats lie 0.16 above the generator by gradients and 0.07 by a prior (four crowds).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.policy.flow import LatentPolicy, check_level
from common.errors import SettingError
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from simulations.cold_start import FEEDBACK
from simulations.crowd import Items
from simulations.invented_crowd import InventedCrowd
from simulations.lab import population_policies_findings
from simulations.lab.crowd_policy import WAYS, made_of, promise, taught
from simulations.lab.frames import Value, strict
from simulations.lab.grid import Advance, Cell, compute_all, derived_seed
from simulations.lab.lab_run import LabRun
from simulations.lab.scene import check_axis
from simulations.lab.trial import world_at
from simulations.people import Judge, Population
from simulations.progress import Stages
from simulations.run_folder import RunFolder
from simulations.world import World, further, judge_of

COMMAND = "simulate population-policies"
GENERATOR = "generator"
_ITEMS, _SECONDS = "items.safetensors", {"items": 15.0, "cell": 30.0}


@dataclass(frozen=True, kw_only=True)
class PopulationPolicyGrid:
    """Settings; every field changes the result.

    Attributes:
        ways: some of ``WAYS``.
        epsilon: budgets over all rounds together; infinity for no noise.
        levels: of the stream, from 0 (safe) to 1 (surprising); the first is what the headline is about.
        first: items that each newcomer looks at.
        items: drawn from each stream; newcomers see different ones.
        people: who teach; ratings: answers of each of them.
        ratings: see above.
        new_people: newcomers.
        feedback: like, choice, stars, best or worst.
        shared: how much people have in common, 0 to 1; archetypes: how many there are.
        archetypes: see above.
        delta: failure probability of each budget.
        participations: rounds; 0 for as many as suit each way.
        rounds: most rounds of learning, when a policy is made of what was released.
        generator: pack, a name or a folder; components: features of its map.
        components: see above.
        pool: items that questions are about; unseen: the generator's own, that streams are compared with.
        unseen: see above.
        seed: master seed.
        repeats: independent crowds.
    """

    ways: tuple[str, ...] = WAYS
    epsilon: tuple[float, ...] = (1.0, 2.0, 8.0)
    levels: tuple[float, ...] = (0.3, 0.0)
    first: int = 20
    items: int = 400
    people: int = 2_000
    ratings: int = 30
    new_people: int = 300
    feedback: str = "choice"
    shared: float = 0.9
    archetypes: int = 5
    delta: float = 1e-6
    participations: int = 0
    rounds: int = 20
    generator: str = "art"
    components: int = 32
    pool: int = 1_000
    unseen: int = 2_000
    seed: int = 0
    repeats: int = 3

    def __post_init__(self) -> None:
        for name in ("ways", "epsilon", "levels"):
            check_axis(name, getattr(self, name))
        if unknown := [name for name in self.ways if name not in WAYS]:
            raise SettingError(f"ways={unknown[0]!r} is unknown; choose from {', '.join(WAYS)}")
        for level in self.levels:
            check_level(level)
        if self.feedback not in FEEDBACK:
            raise SettingError(f"feedback={self.feedback!r} must be one of {', '.join(FEEDBACK)}")
        least = {"first": 1, "ratings": 1, "new_people": 2, "repeats": 1, "rounds": 1, "components": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise SettingError(f"{name}={getattr(self, name)} must be >= {smallest}")
        if self.items < max(self.first, 2):
            raise SettingError(f"items={self.items} must be at least the first={self.first} that a newcomer looks at")
        for way, epsilon in product(self.ways, self.epsilon):
            self.promise(way, epsilon)  # refuses what cannot be promised before anything is computed
        Population(shared=self.shared, archetypes=self.archetypes)

    def promise(self, way: str, epsilon: float) -> PrivacySettings:
        """What each of those who teach is promised."""
        return promise(epsilon, people=self.people, delta=self.delta, way=way, participations=self.participations)

    def cells(self) -> list[Cell]:
        """The generator alone, then every way under every budget, for each repeat."""
        found = []
        for repeat in range(self.repeats):
            seeds = {purpose: derived_seed(self.seed, purpose, repeat) for purpose in ("crowd", "public", "policy")}
            axes: list[dict[str, Value]] = [{"way": GENERATOR, "epsilon": 0.0}]
            axes += [{"way": way, "epsilon": epsilon} for way, epsilon in product(self.ways, self.epsilon)]
            found += [Cell(axes={**where, "repeat": repeat}, seeds=seeds, work=_SECONDS["cell"]) for where in axes]
        return found

    @property
    def sizes(self) -> Mapping[str, Any]:
        """What the items are made with."""
        sizes = {"components": self.components, "pool": self.pool, "unseen": self.unseen}
        return {**sizes, "seed": derived_seed(self.seed, "items")}

    def crowd(self, world: World, seed: int) -> InventedCrowd:
        """Who teaches."""
        law = Population(shared=self.shared, archetypes=self.archetypes)
        return InventedCrowd(world, self.people, law, seed=seed, ratings=self.ratings, kind=FEEDBACK[self.feedback])


def run(
    grid: PopulationPolicyGrid, out: str | Path = "plgl-population-policies", *, jobs: int = 1, quiet: bool = False
) -> LabRun:
    """Compute what is not computed yet; write tables, report, and each policy as ``policies/NAME``.

    Args:
        grid: what to compare.
        out: folder; a run with the same settings is gone on with.
        jobs: processes.
        quiet: no progress.

    Raises:
        SettingError: more components than the generator's map has.
        FolderError: the folder holds something else.
    """
    pack = GeneratorPack.open(grid.generator)
    if grid.components > pack.components:
        raise SettingError(
            f"components={grid.components} is more than the {pack.components} the map of {pack.name} has"
        )
    settings = strict({**asdict(grid), "pack": f"{pack.name} {pack.version} {pack.hash}"})
    cells = grid.cells()
    with RunFolder.open(out, COMMAND, settings, seeds=[grid.seed]) as folder:
        stages = Stages({"items": _SECONDS["items"], **{cell.label: cell.work for cell in cells}}, quiet=quiet)
        with stages:
            stages.begin("items")
            World.cached(folder.path(_ITEMS), lambda: World.make(pack, **grid.sizes))
            stages.end()
            found = compute_all(cells, partial(_compute, grid, folder.folder), folder, stages, jobs=jobs)
        rows = [{**cell.axes, **values} for cell, values in zip(cells, found, strict=True)]
        report = population_policies_findings.report(grid, rows, settings, stages.seconds)
        report.write(folder)
        folder.finish()
        return LabRun.of(folder.folder, report)


def _compute(grid: PopulationPolicyGrid, folder: Path, cell: Cell, advance: Advance) -> dict[str, Any]:
    world, pack = world_at(folder / _ITEMS), GeneratorPack.open(grid.generator)
    way, epsilon = str(cell.axes["way"]), float(str(cell.axes["epsilon"]))
    crowd, began = grid.crowd(world, cell.seeds["crowd"]), time.process_time()
    policy, told = None, {"statement": PrivacyStatement.public().to_json(), "divergence": 0.0, "clipped": 0.0}
    if way != GENERATOR:
        promised, seed = grid.promise(way, epsilon), cell.seeds["public"]
        released = taught(crowd, world.flat, promised, way=way, ratings=grid.ratings, seed=seed)
        advance(0.4)
        published, learned = made_of(released, pack, seed=cell.seeds["policy"] % 2**31, rounds=grid.rounds)
        policy = learned.policy
        published.save(folder / "policies" / f"{way}-epsilon-{epsilon:g}-crowd-{cell.axes['repeat']}")
        told = {
            "statement": released.statement.to_json(),
            "divergence": learned.kept.divergence,
            "clipped": released.clipped,
        }
        advance(0.4)
    shown = {f"{level:g}": shown_to(grid, crowd, pack, policy, level, cell.seeds["policy"]) for level in grid.levels}
    return {**told, "levels": shown, "seconds": round(time.process_time() - began, 3)}


def shown_to(
    grid: PopulationPolicyGrid,
    crowd: InventedCrowd,
    pack: GeneratorPack,
    policy: LatentPolicy | None,
    level: float,
    seed: int,
) -> dict[str, Any]:
    """The first items newcomers see, judged by their true tastes; without a policy, of the generator alone.

    Returns:
        ``percentile`` of each newcomer, mean over the first items, in 0 .. 1 of the generator's own; ``diversity``,
        the mean distance of two items in picture factors, over that of two of the generator's own.
    """
    generator = torch.Generator().manual_seed(seed)
    latents = (
        pack.latents.sample(grid.items, generator) if policy is None else policy.draw(grid.items, level, generator)
    )
    drawn = further(pack, latents, _judge(grid), grid.components)
    both = _together(crowd.world, drawn)
    utilities = dataclasses.replace(crowd, world=both).newcomers(grid.new_people).utilities
    own = utilities[:, : grid.unseen].sort(dim=1).values
    place = torch.searchsorted(own, utilities[:, grid.unseen :].contiguous()).double() / grid.unseen
    each = (torch.arange(grid.new_people)[:, None] * grid.first + torch.arange(grid.first)) % grid.items
    percentile = place.gather(1, each).mean(1)
    return {
        "percentile": [round(value, 5) for value in percentile.tolist()],
        "diversity": _spread(drawn.unseen_factors) / _spread(crowd.world.unseen_factors),
    }


@lru_cache(maxsize=1)
def _judge(grid: PopulationPolicyGrid) -> Judge:
    """Made once in each process: it looks at a thousand pictures first."""
    sizes = {name: value for name, value in grid.sizes.items() if name != "components"}
    return judge_of(GeneratorPack.open(grid.generator), **sizes)


def _together(world: World, drawn: World) -> World:
    """A world whose unseen items are those of both."""
    one, other = world.unseen, drawn.unseen
    items = Items(torch.cat([one.features, other.features.to(one.features)]), torch.cat([one.latents, other.latents]))
    factors = torch.cat([world.unseen_factors, drawn.unseen_factors])
    return dataclasses.replace(world, unseen=items, unseen_factors=factors)


def _spread(factors: Tensor) -> float:
    n = len(factors)
    return float(torch.cdist(factors, factors).sum() / (n * (n - 1)))


def gained(rows: Sequence[Mapping[str, Any]], level: str) -> dict[tuple[str, float], list[list[float]]]:
    """Percentile of each newcomer less that of the generator's own items, by way and budget, then repeat."""
    found: dict[tuple[str, float], list[list[float]]] = {}
    own = {row["repeat"]: row["levels"][level]["percentile"] for row in rows if row["way"] == GENERATOR}
    for row in rows:
        if row["way"] == GENERATOR:
            continue
        pairs = zip(row["levels"][level]["percentile"], own[row["repeat"]], strict=True)
        found.setdefault((row["way"], row["epsilon"]), []).append([here - there for here, there in pairs])
    return found
