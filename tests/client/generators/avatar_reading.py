"""Reading an avatar's attributes from its pixels alone, by drawing every part and taking what fits best.

Coordinate descent: colours by least squares given the parts, then each part given colours and the other parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from client.generators import avatar_drawing as drawing

_ORDER = ("hair", "hat", "glasses", "clothing", "eyes", "mouth", "beard", "accessories")
_ROUNDS = 3


def read_parts(pictures: Tensor) -> dict[str, Tensor]:
    """Which part of each attribute pictures ``(n, 3, 16, 16)`` in [-1, 1] show, each ``(n,)``; no latent is used."""
    picture = (pictures.flatten(2) + 1) / 2
    n = len(picture)
    parts = {name: torch.zeros(n, dtype=torch.int64) for name in drawing.PARTS}
    for _ in range(_ROUNDS):
        for name in _ORDER:
            errors = [_error(picture, parts | {name: torch.full((n,), i)}) for i in range(_count(name))]
            parts[name] = torch.stack(errors).argmin(0)
    return parts


def _error(picture: Tensor, parts: dict[str, Tensor]) -> Tensor:
    """Squared error ``(n,)`` of the best drawing with these parts, over all palettes."""
    share = drawing.mixtures(parts)
    own, white = share[:, : len(drawing.COLOURS)], share[:, len(drawing.COLOURS)][:, None]
    rest = picture - white
    gram = own @ own.transpose(1, 2) + 1e-3 * torch.eye(len(drawing.COLOURS))
    palette = torch.linalg.solve(gram, own @ rest.transpose(1, 2)).clamp(0, 1)
    return (drawing.paint(share, palette) - picture).square().sum((1, 2))


def _count(name: str) -> int:
    return len(drawing.PARTS[name].split())
