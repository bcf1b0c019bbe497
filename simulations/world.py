"""What invented people look at: a pool that questions are made of, unseen items, and the factors tastes are made of.

A world is public and the same for everybody. It is made once, which takes seconds to a minute of drawing pictures,
and kept in a file; a million people then cost only arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from common.errors import FolderError, SettingError
from common.files import write_atomically
from common.prior import TYPICAL_SPREAD, PopulationPrior
from simulations.crowd import Items
from simulations.judged import BATCH, REFERENCE, SIZE
from simulations.people import Judge

FACTORS = 32  # of an abstract world; as many as a judge of pictures sees


@dataclass(frozen=True)
class World:
    """Items with the two ways to see them: what a learner sees (features, latents) and what people feel (factors).

    Attributes:
        pool: questions are about these.
        pool_factors: ``(pool, f)`` float32, what tastes are functions of; no learner sees them.
        unseen: recommendations are chosen from these.
        unseen_factors: ``(unseen, f)``.
        scale: ``(p - 1,)`` relative spread of the taste weights that the flat prior expects.
        pack: SHA-256 of the generator pack, or of what stands for one.
    """

    pool: Items
    pool_factors: Tensor
    unseen: Items
    unseen_factors: Tensor
    scale: Tensor
    pack: str

    @classmethod
    def make(
        cls,
        pack: GeneratorPack,
        *,
        components: int,
        pool: int,
        unseen: int,
        seed: int,
        advance: Callable[[int], None] = lambda drawn: None,
    ) -> World:
        """Draw the items of a generator pack and look at them.

        Args:
            pack: the generator, with its latent map.
            components: features k; a taste has p = k + 1 weights.
            pool: items that questions are made of; unseen: others, to recommend from.
            unseen: see above.
            seed: of the items.
            advance: told how many more pictures have been looked at.

        Raises:
            SettingError: fewer than 100 items of a sort, or more components than the pack has.
        """
        _check(pool, unseen)
        latents = _drawn(pack, pool, unseen, seed)
        judge = Judge(_pictures(pack, latents[2]))

        def factors(z: Tensor) -> Tensor:
            found = []
            for start in range(0, len(z), BATCH):
                found.append(judge.factors(_pictures(pack, z[start : start + BATCH])))
                advance(len(found[-1]))
            return torch.cat(found)

        items = [Items(pack.features(z, components), z) for z in latents[:2]]
        scale = pack.component_scale[:components]
        return cls(items[0], factors(latents[0]), items[1], factors(latents[1]), scale, pack.hash)

    @classmethod
    def abstract(
        cls, *, components: int = 8, latents: int = 16, pool: int = 500, unseen: int = 500, seed: int = 0
    ) -> World:
        """A world without pictures, made in milliseconds: factors and features are random networks of the latent.

        Features are noisy views of combinations of factors, as a latent map's are, so a taste is nearly but not quite
        linear in them.
        """
        _check(pool, unseen)
        generator = torch.Generator().manual_seed(seed)

        def draw(rows: int, columns: int) -> Tensor:
            return torch.randn(rows, columns, generator=generator)

        hidden, out = draw(latents, 64) / latents**0.5, draw(64, FACTORS) / 8
        mixing = draw(FACTORS, components) / FACTORS**0.5

        def look(count: int) -> tuple[Items, Tensor]:
            z = draw(count, latents)
            factors = torch.tanh(1.5 * z @ hidden) @ out * 1.3
            seen = torch.tanh(factors @ mixing) * 1.5 + 0.1 * draw(count, components)
            return Items(torch.cat([seen, torch.ones(count, 1)], dim=1).double(), z), factors

        (pool_items, pool_factors), (unseen_items, unseen_factors) = look(pool), look(unseen)
        name = f"{seed:x}".rjust(64, "0")[-64:]
        return cls(pool_items, pool_factors, unseen_items, unseen_factors, torch.ones(components).double(), name)

    @property
    def flat(self) -> PopulationPrior:
        """The prior of somebody who knows nobody."""
        return PopulationPrior.flat(self.pool.features.shape[1], self.pack, TYPICAL_SPREAD, self.scale)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> World:
        """The same world on a device, with features of a dtype (float64 unless asked for otherwise)."""

        def move(items: Items) -> Items:
            return Items(items.features.to(device, dtype), items.latents.to(device))

        factors = (self.pool_factors.to(device), self.unseen_factors.to(device))
        return World(move(self.pool), factors[0], move(self.unseen), factors[1], self.scale, self.pack)

    def save(self, path: Path) -> None:
        """Write as safetensors, all or nothing."""
        tensors = {
            "pool.features": self.pool.features,
            "pool.latents": self.pool.latents,
            "pool.factors": self.pool_factors,
            "unseen.features": self.unseen.features,
            "unseen.latents": self.unseen.latents,
            "unseen.factors": self.unseen_factors,
            "scale": self.scale,
        }
        held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_atomically(path, safetensors.torch.save(held, metadata={"pack": self.pack}))

    @classmethod
    def load(cls, path: Path) -> World:
        """Read what ``save`` wrote.

        Raises:
            FolderError: it cannot be read.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                t = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (the file is no dict)
                pack = file.metadata()["pack"]
            pool, unseen = (Items(t[f"{name}.features"], t[f"{name}.latents"]) for name in ("pool", "unseen"))
            return cls(pool, t["pool.factors"], unseen, t["unseen.factors"], t["scale"], pack)
        except (OSError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise FolderError(f"cannot read the items in {path}: {error}; remove it to draw them again") from error

    @classmethod
    def cached(cls, path: Path, make: Callable[[], World]) -> World:
        """What lies in the file, or else what ``make`` gives, which is then kept there."""
        if path.exists():
            return cls.load(path)
        world = make()
        world.save(path)
        return world


def judge_of(pack: GeneratorPack, *, pool: int, unseen: int, seed: int) -> Judge:
    """Who looks at the items of a world made with these settings; arguments as for ``World.make``."""
    _check(pool, unseen)
    return Judge(_pictures(pack, _drawn(pack, pool, unseen, seed)[2]))


def further(pack: GeneratorPack, latents: Tensor, judge: Judge, components: int) -> World:
    """Other items of a generator, ``latents`` ``(n, d)``, as the unseen ones of a world whose pool is empty.

    Args:
        pack: the generator.
        latents: of the items.
        judge: who looks at them; that of another world gives factors on its scale.
        components: features k.
    """
    factors = torch.cat([judge.factors(_pictures(pack, part)) for part in torch.split(latents, BATCH)])
    items = Items(pack.features(latents, components), latents)
    nothing = Items(items.features[:0], latents[:0])
    return World(nothing, factors[:0], items, factors, pack.component_scale[:components], pack.hash)


def _drawn(pack: GeneratorPack, pool: int, unseen: int, seed: int) -> list[Tensor]:
    """Latents of the pool, of the unseen items, and of the reference that factors are standardised by."""
    generator = torch.Generator().manual_seed(seed)
    return [pack.latents.sample(count, generator) for count in (pool, unseen, REFERENCE)]


def _pictures(pack: GeneratorPack, latents: Tensor) -> Tensor:
    return (pack.generate(latents, size=SIZE) + 1) / 2


def _check(pool: int, unseen: int) -> None:
    if pool < 100 or unseen < 100:
        raise SettingError(f"pool={pool} and unseen={unseen} must be >= 100 items; try 4000 of each")
