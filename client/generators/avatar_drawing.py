"""Pixel avatars drawn exactly: which parts a latent stands for, and the picture made of them.

Parts are DiceBear's "Pixel Art" (https://www.dicebear.com, design CC0 1.0), exported by `avatar_parts.mjs`. Every
drawing is linear in its colours: a pixel is a mixture of the avatar's own colours, white and black.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

DIMENSION = 24
SIDE = 16
PARTS_FILE = Path(__file__).parent / "avatar_parts.safetensors"
SEED = 5  # of the directions; the fixed turn below hides them from the axes
COLOURS = ("background", "skin", "hair", "mouth", "clothing", "eyes", "glasses", "hat", "accessories")
SLOTS = (*COLOURS, "white", "black")
"""What a pixel is a mixture of."""
PARTS = {
    "hair": "long01 long02 long05 long07 long08 long09 long10 long13 long14 long15 long18 long21 "
    "short01 short05 short06 short09 short11 short13 short14 short16 short17 short18",
    "mouth": "happy09 happy06 happy12 happy13 sad01 sad09 sad05 happy08",
    "eyes": "variant01 variant02 variant04 variant05 variant06 variant08 variant09 variant12",
    "clothing": "variant01 variant03 variant06 variant08 variant12 variant13 variant15 variant18 variant22 variant23",
    "glasses": "none dark02 dark05 dark07 light02 light06 light07",
    "beard": "none variant01 variant03 variant05",
    "hat": "none variant02 variant04 variant06 variant10",
    "accessories": "none variant01 variant02",
}
"""Parts in use, by attribute; many more differ by a pixel that nobody sees."""
SHARES = {"glasses": 0.35, "beard": 0.2, "hat": 0.15, "accessories": 0.2}
"""Share of avatars that wear one."""
_DRAWN = ("accessories", "clothing", "eyes", "glasses", "beard", "mouth", "hair", "hat")
_COLOUR_OF = {"beard": "hair"}
_STUBBLE = 3.0  # the original beards are faint; so much stronger they can be seen
_SKIN = "ffdbac f5cfa0 eac393 e0b687 cb9e6e b68655 a26d3d 8d5524"
_HAIR = "e0c9a0 cab188 a78961 83623b 603a14 4a2a12 28150a 1a1114"
_DYED = "009bbd bd1700 91cb15 d65aa8"
_CLOTHING = "5bc0de 428bca 1d4f91 2f9e8f 44c585 00a050 ff6f69 d11141 9a1a3c c9b8e8 ffd969 ff9f25"
_EYES = "4a5f8a 3f6f9a 3c7a5a 6a5a3a 5a3f28 333a4a"
_MOUTH = "c9756a d0505c e0202a"
_GLASSES = "303030 191919 3a2a55 43677d a04b5d"
_HAT = "2e1e05 2663a3 989789 3d8a6b cc6192 614f8a a62116"
_GOLD = "daa520 ffd700 d3d3d3 a9a9a9"
_BACKGROUND = "cfe8f6 d8ddf8 e9d9f4 f8d9e6 fbe0d0 fbf0cc e3f3d0 cdeee0"


@dataclass(frozen=True, kw_only=True)
class Avatars:
    """What latents stand for.

    Attributes:
        parts: for each attribute of `PARTS`, ``(n,)`` int64, which part.
        palette: ``(n, 9, 3)`` sRGB in [0, 1], the `COLOURS`.
    """

    parts: dict[str, Tensor]
    palette: Tensor


@cache
def turn() -> Tensor:
    """``(24, 24)`` orthogonal: attributes lie along these directions, not along the axes of the latent."""
    generator = torch.Generator().manual_seed(SEED)
    found: Tensor = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=generator, dtype=torch.float64))[0]
    return found.float()


def read_latents(latents: Tensor) -> Avatars:
    """The attributes of latents ``(n, 24)``.

    Every attribute cuts a few directions of the latent into cells, one for each part, so that N(0, I) draws each
    avatar with a known probability and no combination is left out. Hair and clothing are the nearest of some points on
    a sphere, mouths and eyes are sectors of a circle where neighbours look alike, what may be missing is beyond a
    threshold.
    """
    u = latents @ turn()
    level = 0.5 * (1 + torch.erf(u / math.sqrt(2)))  # uniform on [0, 1]
    parts = {
        "hair": _nearest(u[:, 0:4], _count("hair")),
        "mouth": _sector(u[:, 4:6], _count("mouth")),
        "eyes": _sector(u[:, 6:8], _count("eyes")),
        "glasses": _worn(level[:, 8], level[:, 9], "glasses"),
        "beard": _worn(level[:, 10], None, "beard"),
        "hat": _worn(level[:, 11], level[:, 12], "hat"),
        "accessories": _worn(level[:, 13], None, "accessories"),
        "clothing": _nearest(u[:, 14:17], _count("clothing")),
    }
    far = 1 - torch.exp(-0.5 * u.square())  # not uniform, but smooth and symmetric: good enough for small colours
    hair = _ramp(_HAIR, level[:, 18])
    dyed = torch.sigmoid(10 * (u[:, 19] - 1.1))[:, None]
    colours = {
        "background": _wheel(_BACKGROUND, u[:, 22:24]),
        "skin": _ramp(_SKIN, level[:, 17]),
        "hair": (1 - dyed) * hair + dyed * _ramp(_DYED, level[:, 18]),
        "mouth": _ramp(_MOUTH, far[:, 4]),
        "clothing": _wheel(_CLOTHING, u[:, 20:22]),
        "eyes": _ramp(_EYES, far[:, 6]),
        "glasses": _ramp(_GLASSES, level[:, 9]),
        "hat": _ramp(_HAT, level[:, 12]),
        "accessories": _ramp(_GOLD, level[:, 13]),
    }
    return Avatars(parts=parts, palette=torch.stack([colours[name] for name in COLOURS], 1))


def mixtures(parts: dict[str, Tensor]) -> Tensor:
    """Shares of each slot in each pixel, ``(n, 11, 256)``, at least 0 and with sum 1; ``parts`` as of `Avatars`."""
    n = len(next(iter(parts.values())))
    share = torch.zeros(n, len(SLOTS), SIDE * SIDE)
    share[:, 0] = 1
    share = _over(share, _tables()["base"].expand(n, -1, -1), "skin")
    for name in _DRAWN:
        share = _over(share, _tables()[name][parts[name]], _COLOUR_OF.get(name, name))
    return share


def paint(share: Tensor, palette: Tensor) -> Tensor:
    """Pictures ``(n, 3, 256)`` in [0, 1] of mixtures ``(n, 11, 256)`` and palettes ``(n, 9, 3)``."""
    return palette.transpose(1, 2) @ share[:, : len(COLOURS)] + share[:, len(COLOURS) : len(COLOURS) + 1]


def _over(share: Tensor, layer: Tensor, slot: str) -> Tensor:
    """Lay ``(n, 3, 256)`` shares of own colour, white and black over what is there; changes ``share``."""
    share *= 1 - layer.sum(1, keepdim=True)
    share[:, SLOTS.index(slot)] += layer[:, 0]
    share[:, -2:] += layer[:, 1:]
    return share


@cache
def _tables() -> dict[str, Tensor]:
    """For each attribute its parts ``(count, 3, 256)``."""
    stored = {name: part.float().flatten(1) / 255 for name, part in load_file(PARTS_FILE).items()}
    nothing = torch.zeros(3, SIDE * SIDE)
    tables = {
        group: torch.stack([nothing if name == "none" else stored[f"{group}.{name}"] for name in names.split()])
        for group, names in PARTS.items()
    }
    strong = tables["beard"] * _STUBBLE
    tables["beard"] = strong / strong.sum(1, keepdim=True).clamp(min=1)
    return tables | {"base": stored["base.head"][None]}


def _count(name: str) -> int:
    return len(PARTS[name].split())


def _nearest(directions: Tensor, count: int) -> Tensor:
    """Which of ``count`` spread points on the sphere each of ``(n, k)`` is nearest to."""
    return (directions @ _spread(count, directions.shape[1]).T).argmax(1)


@cache
def _spread(count: int, dimension: int) -> Tensor:
    """Points on a sphere that push each other apart, ``(count, dimension)``: cells of about the same size."""
    generator = torch.Generator().manual_seed(SEED)
    points = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    for _ in range(300):
        points = points / points.norm(dim=1, keepdim=True)
        apart = points[:, None] - points[None]
        push = apart / (apart.square().sum(-1, keepdim=True) + 1e-3) ** 1.5
        points = points + 0.2 / count * push.sum(1)
    found: Tensor = points / points.norm(dim=1, keepdim=True)
    return found.float()


def _angle(pair: Tensor) -> Tensor:
    """Angle of ``(n, 2)`` as a share of the circle, in [0, 1)."""
    return (torch.atan2(pair[:, 1], pair[:, 0]) / (2 * math.pi)) % 1.0


def _sector(pair: Tensor, count: int) -> Tensor:
    return (_angle(pair) * count).long().clamp(max=count - 1)


def _worn(level: Tensor, kind: Tensor | None, name: str) -> Tensor:
    """0 for none; else which, by the rank of ``kind``, or of ``level`` among those that wear one."""
    count, share = _count(name) - 1, SHARES[name]
    rank = (level - (1 - share)) / share if kind is None else kind
    which = (rank.clamp(0, 1) * count).long().clamp(max=count - 1) + 1
    return torch.where(level > 1 - share, which, 0)


def _ramp(colours: str, position: Tensor) -> Tensor:
    """Colours ``(n, 3)`` at positions in [0, 1] along a list, mixed between neighbours."""
    table = _table(colours)
    at = position.clamp(0, 1) * (len(table) - 1)
    low = at.long().clamp(max=len(table) - 2)
    part = (at - low)[:, None]
    return (1 - part) * table[low] + part * table[low + 1]


def _wheel(colours: str, pair: Tensor) -> Tensor:
    """Colours ``(n, 3)`` by the angle of ``(n, 2)``, around a list that closes."""
    names = colours.split()
    return _ramp(" ".join([*names, names[0]]), _angle(pair))


def _table(colours: str) -> Tensor:
    return torch.tensor([[int(name[i : i + 2], 16) / 255 for i in (0, 2, 4)] for name in colours.split()])
