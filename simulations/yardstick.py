"""What recommendations are measured by: the person's own utility over the generator's law, realism and variety.

Made once for a generator and a panel, from many pictures of the generator; no learner ever sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from client.generators.pack import GeneratorPack
from client.generators.pictures import FeatureScale, picture_blocks
from common.errors import PeopleError
from common.files import write_atomically
from simulations.panel import Panel

SIZE = 32  # pixels a side of what people and measures look at
BATCH = 500
AXES = 64  # principal components of picture features that realism looks at
EXTREME = 0.999  # share of the generator's own pictures that are less extreme than an unrealistic one
PAIRS = 20_000


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Measures of one generator and panel.

    Attributes:
        mean: ``(people,)`` of the raw utility over the law; deviation: ``(people,)``.
        deviation: see above.
        ranked: ``(people, law)`` standardised utilities in rising order.
        centre: ``(f,)`` of balanced picture features; axes: ``(f, AXES)``; variance: ``(AXES,)`` along them.
        axes: see above.
        variance: see above.
        limits: ``(2,)`` largest typical distance along the axes, and away from them.
        apart: mean distance of two random pictures.
        scale: balances features.
    """

    mean: Tensor
    deviation: Tensor
    ranked: Tensor
    centre: Tensor
    axes: Tensor
    variance: Tensor
    limits: Tensor
    apart: Tensor
    scale: FeatureScale

    @classmethod
    def make(
        cls, pack: GeneratorPack, panel: Panel, *, law: int, seed: int, advance: Callable[[float], None]
    ) -> Yardstick:
        """Let everybody judge ``law`` pictures of the generator.

        Raises:
            PeopleError: somebody likes everything the same.
        """
        generator = torch.Generator().manual_seed(seed)
        rows, blocks = [], []
        for start in range(0, law, BATCH):
            media = pictures(pack, pack.latents.sample(min(BATCH, law - start), generator))
            rows.append(panel.utilities(media))
            blocks.append(picture_blocks(2 * media - 1))
            advance(media.shape[0] / law)
        raw = torch.cat(rows, dim=1)
        mean, deviation = raw.mean(1), raw.std(1)
        if bool((deviation < 1e-9).any()):
            person = int((deviation < 1e-9).nonzero()[0, 0])
            raise PeopleError(f"person {person} likes all {law} pictures the same; nothing can be learned from them")
        ranked = ((raw - mean[:, None]) / deviation[:, None]).sort(dim=1).values
        whole = {kind: torch.cat([block[kind] for block in blocks]) for kind in blocks[0]}
        scale = FeatureScale.fit(whole)
        return cls(mean, deviation, ranked, *_shape(scale.apply(whole), generator), scale)

    def standard(self, raw: Tensor) -> Tensor:
        """Utilities in standard deviations of each person; ``(people, ...)``."""
        shape = (-1,) + (1,) * (raw.ndim - 1)
        return (raw - self.mean.reshape(shape)) / self.deviation.reshape(shape)

    def percentile(self, utilities: Tensor) -> Tensor:
        """Share ``(people, k)`` of the law that each person likes less; ties count half."""
        below = torch.searchsorted(self.ranked, utilities.contiguous())
        above = torch.searchsorted(self.ranked, utilities.contiguous(), right=True)
        return (below + above) / (2 * self.ranked.shape[1])

    def loved(self, utilities: Tensor) -> Tensor:
        """Whether each item is among the person's best hundredth; ``(people, k)``."""
        return self.percentile(utilities) >= 0.99

    def features(self, media: Tensor) -> Tensor:
        """Balanced picture features ``(n, f)`` of pictures in [0, 1]."""
        return self.scale.apply(picture_blocks(2 * media - 1))

    def extreme(self, features: Tensor) -> Tensor:
        """Whether pictures ``(n,)`` are more extreme than ``EXTREME`` of the generator's own."""
        distance = _distances(features - self.centre, self.axes, self.variance)
        return (distance > self.limits).any(1)

    def diversity(self, features: Tensor) -> Tensor:
        """Mean distance ``(people,)`` among ``(people, k, f)``, relative to that of random pictures; 0 for k = 1."""
        k = features.shape[1]
        found: Tensor = torch.cdist(features, features).sum((1, 2)) / max(1, k * (k - 1)) / self.apart
        return found

    def save(self, path: Path) -> None:
        """Write as safetensors, all or nothing."""
        tensors = {name: value.contiguous() for name, value in vars(self).items() if isinstance(value, Tensor)}
        for kind, value in self.scale.mean.items():
            tensors[f"scale.{kind}"] = value
            tensors[f"factor.{kind}"] = torch.tensor(self.scale.factor[kind], dtype=torch.float64)
        write_atomically(path, safetensors.torch.save(tensors))

    @classmethod
    def load(cls, path: Path) -> Yardstick:
        """Read what ``save`` wrote."""
        tensors = safetensors.torch.load(path.read_bytes())
        kinds = [name.removeprefix("factor.") for name in tensors if name.startswith("factor.")]
        # the order of kinds is that of the features, which safetensors does not keep
        order = [kind for kind in picture_blocks(torch.zeros(1, 3, SIZE, SIZE)) if kind in kinds]
        scale = FeatureScale(
            mean={kind: tensors.pop(f"scale.{kind}") for kind in order},
            factor={kind: float(tensors.pop(f"factor.{kind}")) for kind in order},
        )
        return cls(**tensors, scale=scale)


def pictures(pack: GeneratorPack, latents: Tensor) -> Tensor:
    """Pictures ``(n, 3, SIZE, SIZE)`` in [0, 1]; a generator that cannot be resized draws at its size first."""
    if pack.manifest.resizable:
        return (pack.generate(latents, size=SIZE) + 1) / 2
    media = (pack.generate(latents) + 1) / 2
    return media if media.shape[-2:] == (SIZE, SIZE) else interpolate(media, size=(SIZE, SIZE), mode="area")


def _shape(features: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Centre, axes, variance along them, limits, and mean distance of a pair, of features ``(n, f)``."""
    centre = features.mean(0)
    away = features - centre
    value, vectors = torch.linalg.eigh((away.T @ away).double() / len(away))
    axes, variance = vectors[:, -AXES:].float(), value[-AXES:].clamp(min=1e-9).float()
    # one threshold for both distances, so that together they leave EXTREME of the law
    distance = _distances(away, axes, variance)
    ranks = distance.argsort(0).argsort(0).amax(1)
    allowed = ranks.sort().values[min(len(ranks) - 1, round(EXTREME * len(ranks)))]
    limits = distance.sort(0).values[allowed]
    one, other = torch.randint(len(features), (2, min(PAIRS, len(features) ** 2)), generator=generator)
    apart = torch.linalg.vector_norm(features[one] - features[other], dim=1).mean()
    return centre, axes, variance, limits, apart


def _distances(away: Tensor, axes: Tensor, variance: Tensor) -> Tensor:
    """Mahalanobis distance along the axes, and distance away from them; ``(n, 2)``."""
    along = away @ axes
    rest = (away.square().sum(1) - along.square().sum(1)).clamp(min=0).sqrt()
    return torch.stack([torch.linalg.vector_norm(along / variance.sqrt(), dim=1), rest], dim=1)
