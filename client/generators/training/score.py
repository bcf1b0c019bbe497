"""How far generated pictures are from real ones: a Frechet distance like FID, on features of this program's own.

FID (Heusel et al. 2017, equation 6) fits a Gaussian to features of an Inception network, which would have to be
fetched. Here the features are those of `pictures.picture_blocks` (layout, colour, edges, symmetry, and a fixed random
convolutional network), reduced to the principal components of the real pictures. Numbers compare trainings on the same
pictures; they are no FID and do not compare with one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from client.generators.pictures import FeatureScale, picture_blocks

COMPONENTS = 32
_AT_ONCE = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """Measured once on real pictures.

    Attributes:
        scale: of the features.
        axes: ``(f, k)`` principal axes of the real pictures' features.
        mean: ``(k,)``.
        covariance: ``(k, k)``.
        halves: distance between two halves of the real pictures: what a perfect generator would get.
    """

    scale: FeatureScale
    axes: Tensor
    mean: Tensor
    covariance: Tensor
    halves: float

    @classmethod
    def of(cls, pictures: Tensor) -> Judge:
        """From real pictures ``(n, 3, h, w)`` in [-1, 1], at least 4."""
        blocks = _blocks(pictures)
        scale = FeatureScale.fit(blocks)
        features = scale.apply(blocks).double()
        _, _, axes = torch.linalg.svd(features, full_matrices=False)
        axes = axes[: min(COMPONENTS, len(features) // 2)].T
        seen = features @ axes
        halves = frechet_distance(*moments(seen[::2]), *moments(seen[1::2]))
        mean, covariance = moments(seen)
        return cls(scale=scale, axes=axes, mean=mean, covariance=covariance, halves=halves)

    def score(self, pictures: Tensor) -> float:
        """Distance of generated pictures ``(n, 3, h, w)`` in [-1, 1] from the real ones; 0 is best."""
        seen = self.scale.apply(_blocks(pictures)).double() @ self.axes
        return frechet_distance(*moments(seen), self.mean, self.covariance)


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(k,)`` and covariance ``(k, k)`` of features ``(n, k)``."""
    mean = features.mean(0)
    return mean, (features - mean).T @ (features - mean) / max(1, len(features) - 1)


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))`` between two Gaussians, float64, never negative.

    The trace of the root is the sum of the singular values of ``C^(1/2) C'^(1/2)``, which needs no complex numbers.
    """
    product = _root(covariance) @ _root(other_covariance)
    overlap = torch.linalg.svdvals(product).sum()
    apart = (mean - other_mean).square().sum()
    return max(0.0, float(apart + covariance.trace() + other_covariance.trace() - 2 * overlap))


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root


def _blocks(pictures: Tensor) -> dict[str, Tensor]:
    parts = [picture_blocks(part) for part in torch.split(pictures, _AT_ONCE)]
    return {kind: torch.cat([part[kind] for part in parts]) for kind in parts[0]}
