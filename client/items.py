"""What a person was shown: latents, how the taste model sees them, and the pictures, drawn when first looked at."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from client.classifiers.base import Points
from client.generators.pack import GeneratorPack
from client.generators.sounds import sound_pictures

KEPT = 256  # pictures kept in memory


class Item:
    """One thing that was shown. Use it wherever a rating asks for an item.

    Attributes:
        id: position in the list of everything this person was shown, from 0.
        latent: ``(d,)`` float32.
        features: ``(p,)`` float32 features of the latent map, the constant last.
    """

    __slots__ = ("_draw", "features", "id", "latent")

    def __init__(self, id: int, latent: Tensor, features: Tensor, draw: Callable[[int, int | None], Tensor]) -> None:
        self.id, self.latent, self.features, self._draw = id, latent, features, draw

    def __index__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"Item({self.id})"

    @property
    def media(self) -> Tensor:
        """``(3, h, w)`` float32 in [-1, 1], at the generator's own size; of a sound its ``(samples,)``."""
        return self._draw(self.id, None)

    def picture(self, size: int | None = None) -> Tensor:
        """``(3, size, size)`` float32 in [-1, 1]; other sizes only from a generator that can be resized.

        A sound's picture is its spectrum over time, see `sounds.sound_pictures`, at any size.
        """
        return self._draw(self.id, size)


class Catalogue:
    """All items of one person in order, with a bounded memory of drawn pictures."""

    def __init__(self, pack: GeneratorPack, lens: Callable[[Tensor], Points]) -> None:
        """Items of ``pack`` seen through ``lens``."""
        self._pack, self._lens = pack, lens
        self._latents = torch.empty(0, pack.latents.dimension)
        self._features: Tensor | None = None
        self._drawn: OrderedDict[tuple[int, int | None], Tensor] = OrderedDict()

    def __len__(self) -> int:
        return self._latents.shape[0]

    def __getitem__(self, id: int) -> Item:
        points = self.points
        return Item(id, points.latents[id], points.features[id], self._picture)

    @property
    def points(self) -> Points:
        """Everything shown, as taste models see it."""
        if self._features is None or len(self._features) != len(self):
            start = 0 if self._features is None else len(self._features)
            fresh = self._lens(self._latents[start:]).features
            self._features = fresh if start == 0 or self._features is None else torch.cat([self._features, fresh])
        return Points(self._latents, self._features)

    def add(self, latents: Tensor) -> list[int]:
        """Add latents ``(n, d)``; returns their numbers."""
        first = len(self)
        self._latents = torch.cat([self._latents, latents.to(self._latents)])
        return list(range(first, len(self)))

    def draw(self, ids: Sequence[int], size: int | None = None) -> Tensor:
        """Pictures ``(n, 3, h, w)``, missing ones drawn together."""
        missing = [id for id in dict.fromkeys(ids) if (id, size) not in self._drawn]
        fresh: dict[int, Tensor] = {}
        if missing:
            fresh = dict(zip(missing, self._made(self._latents[missing], size), strict=True))
        found = [fresh[id] if id in fresh else self._drawn[id, size] for id in ids]
        for id, picture in fresh.items():
            self._drawn[id, size] = picture
        for id in ids:
            self._drawn.move_to_end((id, size))
        while len(self._drawn) > KEPT:
            self._drawn.popitem(last=False)
        return torch.stack(found) if found else self._made(self._latents[:0], size)

    def _made(self, latents: Tensor, size: int | None) -> Tensor:
        rate = self._pack.manifest.output.sample_rate
        if size is None or not rate:
            return self._pack.generate(latents, size)
        return sound_pictures(self._pack.generate(latents), rate, size)

    def _picture(self, id: int, size: int | None) -> Tensor:
        self.draw([id], size)
        return self._drawn[id, size]
