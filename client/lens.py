"""How taste models see the latents of a generator: through its latent map, in torch, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from client.classifiers.base import Points
from client.generators.latent_map import LatentMap
from client.generators.pack import GeneratorPack
from common.errors import SettingError


class Lens(nn.Module):
    """Latents to points: latents together with features of the first ``k`` components and a constant.

    Guarantee: the features are those of ``GeneratorPack.features`` up to rounding. A pack without a latent map, or with
    ``components=0``, is seen through its latents alone: ``[z, 1]``.

    Attributes:
        components: ``k``, or ``d`` without a map.
        scale: ``(k,)`` float64, how much each component varies among perceptual features; root mean square 1.
    """

    def __init__(self, pack: GeneratorPack, components: int | None = None) -> None:
        """Look through the map of a pack.

        Args:
            pack: the generator.
            components: ``k``; None for all.

        Raises:
            SettingError: more components than the map has.
        """
        super().__init__()
        most = pack.components
        k = most if components is None else components
        if not 0 <= k <= most:
            raise SettingError(f"components={k} must lie between 0 and the {most} of pack {pack.name!r}")
        self.map = LatentMap.of(pack) if k else None
        self.components = k or pack.latents.dimension
        self.scale = pack.component_scale[:k] if k else torch.ones(self.components, dtype=torch.float64)

    def __call__(self, latents: Tensor) -> Points:
        """See `forward`; typed."""
        points: Points = super().__call__(latents)
        return points

    def forward(self, latents: Tensor) -> Points:
        """Points of latents ``(n, d)``, differentiable."""
        seen = latents if self.map is None else self.map(latents)[:, : self.components]
        return Points(latents, torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1))
