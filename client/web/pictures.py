"""Pictures and sounds as the browser takes them: made, kept in memory and nowhere else.

A sound has a picture too, of its spectrum over time; so it appears wherever pictures do.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.generators.sounds import sound_pictures, wav_file
from client.items import Item
from common.errors import SettingError

Kind = Literal["big", "medium", "small"]
SIZES: dict[Kind, int] = {"big": 448, "medium": 256, "small": 96}  # pixels, on the longer side, at most
SAVED = 1024  # pixels of a saved picture, where the generator can draw any size
KEPT = 600  # encoded pictures in memory, a few tens of MB
QUALITY = 90
_SOUND_NUMBERS = 1 << 23  # of all sounds in memory together, 32 MB: each is seen in three sizes and then heard


def tag(latent: Tensor) -> str:
    """Name of a latent ``(d,)``: the same number of two people's items must not be taken for the same picture."""
    return hashlib.sha256(latent.numpy().tobytes()).hexdigest()[:12]


class Pictures:
    """Encoded pictures of one generator. Safe to use from several threads."""

    def __init__(self, pack: GeneratorPack, largest: int = SIZES["big"]) -> None:
        """Draw with ``pack``, no picture of the page larger than ``largest`` pixels."""
        self._pack = pack
        self._sizes = {kind: min(size, largest) for kind, size in SIZES.items()}
        self._kept: OrderedDict[tuple[str, Kind], bytes] = OrderedDict()
        self._sounds: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def sample_rate(self) -> int:
        """Samples in a second of sound; 0 from a generator of pictures."""
        return self._pack.manifest.output.sample_rate

    def sound(self, item: Item) -> bytes:
        """A sound as a WAV file.

        Raises:
            SettingError: the generator makes pictures.
        """
        if not self.sample_rate:
            raise SettingError(f"{self._pack.name} makes pictures; it has no sounds")
        return wav_file(self._heard([item.latent])[0], self.sample_rate)

    def prepare(self, items: Sequence[Item], kind: Kind = "big") -> None:
        """Draw and encode what is missing, all together."""
        with self._lock:
            missing = [item for item in items if (tag(item.latent), kind) not in self._kept]
        if not missing:
            return
        drawn = self._draw([item.latent for item in missing], self._size(kind))
        for item, picture in zip(missing, drawn, strict=True):
            self._keep(tag(item.latent), kind, _encode(_image(picture), self._sizes[kind]))

    def get(self, item: Item, kind: Kind) -> bytes:
        """A picture as JPEG."""
        name = tag(item.latent)
        with self._lock:
            found = self._kept.get((name, kind))
            if found is not None:
                self._kept.move_to_end((name, kind))
                return found
        self.prepare([item], kind)
        with self._lock:
            found = self._kept.get((name, kind))
        return (
            found
            if found is not None
            else _encode(_image(self._draw([item.latent], self._size(kind))[0]), self._sizes[kind])
        )

    def save(self, item: Item, *, recipe: bool) -> bytes:
        """A picture as PNG, large where the generator allows it.

        Args:
            item: what to draw.
            recipe: put in what is needed to make it again: the latent, the generator's hash, the item's number. A
                rating is never inside.
        """
        picture = self._draw([item.latent], SAVED if self._pack.manifest.resizable else None)[0]
        info, content = PngInfo(), io.BytesIO()
        if recipe:
            info.add_text("plgl:latent", json.dumps(item.latent.tolist()))
            info.add_text("plgl:generator", self._pack.hash)
            info.add_text("plgl:pack", f"{self._pack.name} {self._pack.version}")
            info.add_text("plgl:item", str(item.id))
        _image(picture).save(content, "PNG", pnginfo=info)
        return content.getvalue()

    def forget(self) -> None:
        """Drop all that is kept."""
        with self._lock:
            self._kept.clear()
            self._sounds.clear()

    def _size(self, kind: Kind) -> int | None:
        return self._sizes[kind] if self._pack.manifest.resizable else None

    def _draw(self, latents: list[Tensor], size: int | None) -> Tensor:
        import torch

        if self.sample_rate:
            return sound_pictures(self._heard(latents), self.sample_rate, self._sizes["big"])
        return self._pack.generate(torch.stack(latents), size)

    def _heard(self, latents: list[Tensor]) -> Tensor:
        """Sounds ``(n, samples)``, those that are not in memory made together."""
        import torch

        names = [tag(latent) for latent in latents]
        with self._lock:
            found = {name: self._sounds[name] for name in names if name in self._sounds}
        missing = {name: latent for name, latent in zip(names, latents, strict=True) if name not in found}
        if missing:
            found |= zip(missing, self._pack.generate(torch.stack(list(missing.values()))), strict=True)
        most = max(1, _SOUND_NUMBERS // self._pack.manifest.output.shape[0])
        with self._lock:
            for name in names:
                self._sounds[name] = found[name]
                self._sounds.move_to_end(name)
            while len(self._sounds) > most:
                self._sounds.popitem(last=False)
        return torch.stack([found[name] for name in names])

    def _keep(self, name: str, kind: Kind, content: bytes) -> None:
        with self._lock:
            self._kept[name, kind] = content
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)


def _image(picture: Tensor) -> Image.Image:
    """From ``(3, h, w)`` in [-1, 1]."""
    levels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def _encode(image: Image.Image, longest: int) -> bytes:
    content = io.BytesIO()
    if max(image.size) > longest:
        image.thumbnail((longest, longest))
    # no chroma subsampling: flat, saturated colours next to each other are what these pictures are made of
    image.save(content, "JPEG", quality=QUALITY, subsampling=0)
    return content.getvalue()
