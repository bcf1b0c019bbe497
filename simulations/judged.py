"""Pictures that invented people have judged: made once, rendered in batches, never all in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from common.errors import PeopleError
from common.files import write_atomically
from simulations.people import People, PeopleFactory, judged

SIZE = 32  # pixels a side: what people judge; they never look at finer detail than this
BATCH = 500
REFERENCE = 1_000  # pictures that factors are standardised by


@dataclass(frozen=True)
class JudgedItems:
    """A pool that questions are made of, and unseen items that recommendations are chosen from.

    Attributes:
        pool_latents: ``(pool, d)`` float32; unseen_latents: ``(unseen, d)``.
        unseen_latents: see above.
        pool: ``(people, pool)`` utilities in standard deviations of each person, everybody's.
        unseen: ``(new people, unseen)``, the new people's, who come last in ``pool``.
    """

    pool_latents: Tensor
    unseen_latents: Tensor
    pool: Tensor
    unseen: Tensor

    @classmethod
    def make(
        cls,
        pack: GeneratorPack,
        factory: PeopleFactory,
        *,
        count: int,
        new: int,
        pool: int,
        unseen: int,
        seed: int,
        advance: Callable[[int], None],
    ) -> JudgedItems:
        """Invent ``count`` people and let them judge ``pool`` + ``unseen`` pictures (the last ``new`` judge all).

        Raises:
            PeopleError: a plug-in answered with something unusable, or likes everything the same.
        """
        generator = torch.Generator().manual_seed(seed)
        pool_latents = pack.latents.sample(pool, generator)
        unseen_latents = pack.latents.sample(unseen, generator)
        reference = _pictures(pack, pack.latents.sample(REFERENCE, generator))
        people = factory(count=count, seed=seed, reference=reference)
        in_pool = _judge(pack, people, pool_latents, count, 0, advance)
        mean, deviation = in_pool.mean(1, keepdim=True), in_pool.std(1, keepdim=True)
        if bool((deviation < 1e-9).any()):
            person = int((deviation < 1e-9).nonzero()[0, 0])
            raise PeopleError(f"person {person} likes all {pool} pictures the same; nothing can be learned from them")
        unseen_utilities = _judge(pack, people, unseen_latents, count, count - new, advance)
        return cls(
            pool_latents,
            unseen_latents,
            (in_pool - mean) / deviation,
            (unseen_utilities - mean[count - new :]) / deviation[count - new :],
        )

    def save(self, path: Path) -> None:
        """Write as safetensors, all or nothing."""
        write_atomically(path, safetensors.torch.save(dict(vars(self))))

    @classmethod
    def load(cls, path: Path) -> JudgedItems:
        """Read what ``save`` wrote."""
        return cls(**safetensors.torch.load(path.read_bytes()))


def _pictures(pack: GeneratorPack, latents: Tensor) -> Tensor:
    return (pack.generate(latents, size=SIZE) + 1) / 2


def _judge(
    pack: GeneratorPack, people: People, latents: Tensor, count: int, first: int, advance: Callable[[int], None]
) -> Tensor:
    rows = []
    for start in range(0, latents.shape[0], BATCH):
        media = _pictures(pack, latents[start : start + BATCH])
        rows.append(judged(people, media, count)[first:])
        advance(media.shape[0])
    return torch.cat(rows, dim=1).contiguous()
