"""Learn a latent map: from latents to what people see in the pictures, from the generator alone.

Pictures of random latents -> perceptual features -> principal components -> a network that predicts the components from
the latent. No person is involved, so the map costs no privacy.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from client.generators.embedding import PictureFeatures
from client.generators.onnx import export
from client.generators.pack import GeneratorPack
from client.generators.pictures import FeatureScale, picture_blocks
from client.generators.sounds import sound_blocks
from common.errors import DamagedPack, SettingError

Progress = Callable[[str, int, int], None]
MOST_BY_ITSELF, EXPLAINED = 128, 0.95
"""Where the number of components is found: most of them, and the share of what they predict that is kept."""
_PICTURES_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class LatentMapSettings:
    """How a latent map is learned.

    Attributes:
        components: ``k``, principal components the map predicts; None for as many of up to `MOST_BY_ITSELF` as hold
            `EXPLAINED` of what the map can predict, because every further one costs a federation noise.
        pictures: generated to learn from; a tenth of them is held out.
        size: height and width of those pictures, pixels; a generator that cannot be resized uses its own.
        width: units in each hidden layer.
        epochs: most passes over the pictures.
        seed: of the latents, of the first weights and of the order of training.

    Raises:
        SettingError: a value is out of range.
    """

    components: int | None = 64
    pictures: int = 60_000
    size: int = 48
    width: int = 384
    epochs: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "components": (1, 512),
            "pictures": (1000, 10_000_000),
            "size": (16, 512),
            "width": (8, 4096),
            "epochs": (1, 1000),
        }
        for name, (low, high) in limits.items():
            value = self.candidates if name == "components" else getattr(self, name)
            if not low <= value <= high:
                raise SettingError(f"{name}={value} must lie between {low} and {high}")
        if self.candidates * 10 > self.pictures:
            raise SettingError(f"components={self.candidates} need at least {self.candidates * 10} pictures")

    @property
    def candidates(self) -> int:
        """Components that are learned, of which some may be left out in the end."""
        return min(MOST_BY_ITSELF, self.pictures // 10) if self.components is None else self.components


@dataclass(frozen=True, kw_only=True)
class LearnedMap:
    """A latent map and how good it is.

    Attributes:
        content: the map as an ONNX file: ``latent`` ``(n, d)`` to ``features`` ``(n, k)``.
        module: the same map in torch.
        r2: ``(k,)`` share of each component's variance explained on held-out latents.
        scale: ``(k,)`` standard deviation of each component among perceptual features, root mean square 1.
        explained: share of the variance of all features that the map predicts on held-out latents.
    """

    content: bytes
    module: nn.Module
    r2: tuple[float, ...]
    scale: tuple[float, ...]
    explained: float


class LatentMap(nn.Module):
    """Network from latents ``(n, d)`` to components ``(n, k)``; `settle` fixes their order, mean and variance."""

    def __init__(self, dimension: int, width: int, components: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dimension, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, components)
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Components of latents."""
        predicted: Tensor = self.layers(latent)
        return predicted

    @classmethod
    def of(cls, pack: GeneratorPack) -> LatentMap:
        """The map of a pack as a torch network, on the CPU, frozen.

        Raises:
            PackError: the pack has no latent map yet.
            DamagedPack: the map is another kind of network.
        """
        weights = pack.latent_map.weights()
        try:
            width, dimension = weights["layers.0.weight"].shape
            module = cls(dimension, width, weights["layers.4.weight"].shape[0])
            module.load_state_dict({name: weights[name] for name in module.state_dict()})
        except (KeyError, RuntimeError, ValueError) as error:
            raise DamagedPack(
                f"the latent map of pack {pack.name!r} is no network of this program; run: "
                f"plgl generator map {pack.folder}"
            ) from error
        probe = pack.latents.sample(16, torch.Generator().manual_seed(0))
        if not torch.allclose(module(probe), pack.latent_map.run(latent=probe), atol=1e-4, rtol=1e-4):
            raise DamagedPack(f"the latent map of pack {pack.name!r} does more than its weights say; fetch it again")
        return module.requires_grad_(False).eval()

    @torch.no_grad()
    def settle(self, order: Tensor, mean: Tensor, deviation: Tensor) -> None:
        """Keep outputs in this order, less ``mean`` and divided by ``deviation``, each ``(k,)`` of all outputs."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight = nn.Parameter(last.weight[order] / deviation[order, None])
        last.bias = nn.Parameter((last.bias[order] - mean[order]) / deviation[order])
        last.out_features = len(order)


def learn_latent_map(
    pack: GeneratorPack,
    settings: LatentMapSettings,
    progress: Progress | None = None,
    features: PictureFeatures = picture_blocks,
) -> LearnedMap:
    """Learn the latent map of a generator.

    Guarantee: the same pack and settings give the same map on the same machine. Components come in the order of the
    perceptual variance the map explains (variance of the component times R2).

    Args:
        pack: the generator; a map it may already have is not used.
        settings: how.
        progress: called with the name of the stage, steps done and steps in all.
        features: what counts about a picture; sounds have features of their own.

    Raises:
        SettingError: the pictures have fewer features than ``components``, or features of pictures for sounds.
    """
    report = progress or (lambda stage, done, total: None)
    latents = pack.latents.sample(settings.pictures, torch.Generator().manual_seed(settings.seed))
    blocks = describe(pack, latents, settings.size, report, features)
    held_out = settings.pictures // 10
    train, test = latents[held_out:], latents[:held_out]
    scale = FeatureScale.fit({kind: block[held_out:] for kind, block in blocks.items()})
    described = scale.apply(blocks)
    count = min(settings.candidates, described.shape[1]) if settings.components is None else settings.components
    target, variance, whole = _principal_components(described, held_out, count)
    module = LatentMap(pack.latents.dimension, settings.width, count)
    _train(module, train, target[held_out:], test, target[:held_out], settings, report)
    with torch.no_grad():
        predicted = module(latents).double()
    error = (predicted[:held_out] - target[:held_out]).square().mean(0)
    r2 = 1 - error / target[:held_out].double().var(0)
    predictable = variance * r2.clamp(min=0)
    order = (predictable + 1e-9 * variance).argsort(descending=True)
    if settings.components is None:
        order = order[: _enough(predictable[order])]
    module.settle(order, predicted.mean(0).float(), predicted.std(0).clamp(min=1e-6).float())
    content = export(module, {"latent": test[:7]}, "features", {"latent": {0: "n"}})
    deviation = (variance[order] / variance[order].mean()).sqrt()
    return LearnedMap(
        content=content,
        module=module,
        r2=_rounded(r2[order]),
        scale=_rounded(deviation),
        explained=float(predictable[order].sum() / whole),
    )


def describe(
    pack: GeneratorPack, latents: Tensor, size: int, report: Progress, features: PictureFeatures = picture_blocks
) -> dict[str, Tensor]:
    """Perceptual features, by kind, of what is made of ``latents`` ``(n, d)``; pictures at ``size`` where possible.

    Raises:
        SettingError: the generator makes neither pictures nor sounds, or sounds and features of pictures were chosen.
    """
    side, output = size if pack.manifest.resizable else None, pack.manifest.output
    if output.kind not in ("image", "audio"):
        raise SettingError(f"{pack.name} makes {output.kind}; a latent map is learned from pictures or sounds")
    if output.kind == "audio" and features is not picture_blocks:
        raise SettingError(f"{pack.name} makes sounds, which have features of their own; leave --features out")
    found = []
    for part in torch.split(latents, _PICTURES_AT_ONCE):
        made = pack.generate(part, side)
        found.append(sound_blocks(made, output.sample_rate) if output.kind == "audio" else features(made))
        report("drawing", min(len(found) * _PICTURES_AT_ONCE, len(latents)), len(latents))
    return {kind: torch.cat([blocks[kind] for blocks in found]) for kind in found[0]}


def _principal_components(features: Tensor, held_out: int, components: int) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised leading components ``(n, k)`` of features ``(n, f)``, their variances, and that of all features.

    Measured without the held out.
    """
    if components > features.shape[1]:
        raise SettingError(f"components={components} are more than the {features.shape[1]} features of a picture")
    train = features[held_out:].double()
    centred = train - train.mean(0)
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(train))
    whole = variance.clamp(min=0).sum()
    variance, axes = variance.flip(0)[:components].clamp(min=1e-12), axes.flip(1)[:, :components]
    axes = axes * torch.sign(axes.sum(0))  # an eigenvector's sign is a matter of the library; this one is not
    return ((features.double() - train.mean(0)) @ axes / variance.sqrt()).float(), variance, whole


def _enough(predictable: Tensor) -> int:
    """How many of the leading components hold `EXPLAINED` of what all of them do; at least 2 where there are."""
    share = predictable.cumsum(0) / predictable.sum().clamp(min=1e-12)
    return min(len(share), max(2, int((share < EXPLAINED).sum()) + 1))


def _train(
    module: LatentMap,
    latents: Tensor,
    target: Tensor,
    test_latents: Tensor,
    test_target: Tensor,
    settings: LatentMapSettings,
    report: Progress,
    batch: int = 256,
) -> None:
    """Least squares by AdamW with a cosine schedule; keeps the weights that were best on the held-out latents."""
    generator = torch.Generator().manual_seed(settings.seed + 1)
    _initialise(module, generator)
    steps = len(latents) // batch
    optimiser = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=0.02)
    whole = settings.epochs * steps
    rising = max(0.05, min(0.9, 1.5 / whole))  # it divides by the steps of rising less one
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=whole, pct_start=rising)
    best, best_error = copy.deepcopy(module.state_dict()), math.inf
    for epoch in range(settings.epochs):
        order = torch.randperm(len(latents), generator=generator)
        for chosen in torch.split(order[: steps * batch], batch):
            optimiser.zero_grad()
            (module(latents[chosen]) - target[chosen]).square().mean().backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            error = float((module(test_latents) - test_target).square().mean())
        if error < best_error:
            best, best_error = copy.deepcopy(module.state_dict()), error
        report("learning", epoch + 1, settings.epochs)
    module.load_state_dict(best)


@torch.no_grad()
def _initialise(module: LatentMap, generator: torch.Generator) -> None:
    for layer in module.layers:
        if isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
