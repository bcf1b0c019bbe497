"""A panel of people over one generator, and what streams are measured by."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from simulations.lab.policies.grid import PolicyGrid
from simulations.panel import Panel
from simulations.people import AnswerNoise, Population
from simulations.streams.measures import coverage, frechet
from simulations.yardstick import Yardstick, pictures

REFERENCE = 400  # pictures that people's factors are standardised by
_TIMED = 8  # items drawn as large as they are shown, to time it


@dataclass(frozen=True, eq=False)
class World:
    """One panel, what it is measured by, and the generator's own items.

    Attributes:
        pack: draws; panel: judges; yardstick: measures.
        panel: see above; its others teach everybody's policies, and the last of them only look.
        yardstick: see above.
        own: ``(own, f)`` picture features of the generator's own items, along the yardstick's axes.
        levels: ``(people,)`` where each person's liking starts.
        noise: of answers.
    """

    pack: GeneratorPack
    panel: Panel
    yardstick: Yardstick
    own: Tensor
    levels: Tensor
    noise: AnswerNoise = field(default_factory=AnswerNoise)

    def judged(self, latents: Tensor, person: int) -> tuple[Tensor, Tensor]:
        """The person's utilities ``(n,)``, and picture features ``(n, f)``."""
        media = pictures(self.pack, latents)
        utilities = self.yardstick.standard(self.panel.utilities(media))
        return utilities[person], self.yardstick.features(media)

    def along(self, features: Tensor) -> Tensor:
        """Features ``(n, f)`` along the axes that vary most."""
        return (features - self.yardstick.centre) @ self.yardstick.axes


@lru_cache(maxsize=1)
def world_of(grid: PolicyGrid, folder: str, generator: str, seed: int) -> World:
    """The world of a generator and a panel's seed; its yardstick is kept in the folder."""
    pack = GeneratorPack.open(generator)
    draws = torch.Generator().manual_seed(seed)
    reference = pictures(pack, pack.latents.sample(REFERENCE, draws))
    wanted = pack.latents.sample(grid.people + grid.others, draws)
    panel = Panel(
        Population(),
        people=grid.people,
        others=grid.others,  # also where nobody teaches, so that those who test are always the same
        seed=seed,
        reference=reference,
        targets=lambda rows: pictures(pack, wanted[rows]),
        kinds=grid.kinds,
    )
    path = Path(folder) / f"yardstick-{pack.hash[:12]}-{seed}.safetensors"
    if not path.exists():
        Yardstick.make(pack, panel, law=grid.law, seed=seed + 1, advance=lambda share: None).save(path)
    yardstick = Yardstick.load(path)
    own = yardstick.features(pictures(pack, pack.latents.sample(grid.own, draws)))
    levels = AnswerNoise().levels(grid.people, draws)
    return World(pack, panel, yardstick, (own - yardstick.centre) @ yardstick.axes, levels)


def measured(world: World, latents: Tensor, person: int) -> dict[str, float]:
    """What a stream ``(n, d)`` is to a person, and to the generator."""
    utilities, features = world.judged(latents, person)
    along = world.along(features)
    found = coverage(along, world.own[: len(along)])
    percentile = world.yardstick.percentile(utilities.expand(world.panel.people, -1))[person]
    return {
        "utility": float(utilities.mean()),
        "percentile": float(percentile.mean()),
        "loved": float((percentile >= 0.99).double().mean()),
        "diversity": float(world.yardstick.diversity(features[None])),
        "frechet": frechet(along, world.own),
        "precision": found.precision,
        "recall": found.recall,
        "extreme": float(world.yardstick.extreme(features).double().mean()),
    }


def seconds_to_draw(pack: GeneratorPack, latents: Tensor) -> float:
    """Processor seconds an item takes to be drawn as large as it is shown."""
    some = latents[:_TIMED]
    started = time.process_time()
    pack.generate(some)
    return (time.process_time() - started) / len(some)
