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

from client.generators.onnx import export
from client.generators.pack import GeneratorPack
from client.generators.pictures import FeatureScale, picture_blocks
from client.generators.sounds import sound_blocks
from common.errors import DamagedPack, SettingError

Progress = Callable[[str, int, int], None]
_PICTURES_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class LatentMapSettings:
    """How a latent map is learned.

    Attributes:
        components: ``k``, principal components the map predicts.
        pictures: generated to learn from; a tenth of them is held out.
        size: height and width of those pictures, pixels; a generator that cannot be resized uses its own.
        width: units in each hidden layer.
        epochs: most passes over the pictures.
        seed: of the latents, of the first weights and of the order of training.

    Raises:
        SettingError: a value is out of range.
    """

    components: int = 64
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
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingError(f"{name}={value} must lie between {low} and {high}")
        if self.components * 10 > self.pictures:
            raise SettingError(f"components={self.components} need at least {self.components * 10} pictures")


@dataclass(frozen=True, kw_only=True)
class LearnedMap:
    """A latent map and how good it is.

    Attributes:
        content: the map as an ONNX file: ``latent`` ``(n, d)`` to ``features`` ``(n, k)``.
        module: the same map in torch.
        r2: ``(k,)`` share of each component's variance explained on held-out latents.
        scale: ``(k,)`` standard deviation of each component among perceptual features, root mean square 1.
    """

    content: bytes
    module: nn.Module
    r2: tuple[float, ...]
    scale: tuple[float, ...]


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
        """Reorder the outputs, then subtract their ``mean`` and divide by their ``deviation``, each ``(k,)``."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight.copy_(last.weight[order] / deviation[order, None])
        last.bias.copy_((last.bias[order] - mean[order]) / deviation[order])


def learn_latent_map(pack: GeneratorPack, settings: LatentMapSettings, progress: Progress | None = None) -> LearnedMap:
    """Learn the latent map of a generator.

    Guarantee: the same pack and settings give the same map on the same machine. Components come in the order of the
    perceptual variance the map explains (variance of the component times R2).

    Args:
        pack: the generator; a map it may already have is not used.
        settings: how.
        progress: called with the name of the stage, steps done and steps in all.

    Raises:
        SettingError: the pictures have fewer features than ``components``.
    """
    report = progress or (lambda stage, done, total: None)
    latents = pack.latents.sample(settings.pictures, torch.Generator().manual_seed(settings.seed))
    blocks = describe(pack, latents, settings.size, report)
    held_out = settings.pictures // 10
    train, test = latents[held_out:], latents[:held_out]
    scale = FeatureScale.fit({kind: block[held_out:] for kind, block in blocks.items()})
    target, variance = _principal_components(scale.apply(blocks), held_out, settings.components)
    module = LatentMap(pack.latents.dimension, settings.width, settings.components)
    _train(module, train, target[held_out:], test, target[:held_out], settings, report)
    with torch.no_grad():
        predicted = module(latents).double()
    error = (predicted[:held_out] - target[:held_out]).square().mean(0)
    r2 = 1 - error / target[:held_out].double().var(0)
    order = (variance * r2.clamp(min=0) + 1e-9 * variance).argsort(descending=True)
    module.settle(order, predicted.mean(0).float(), predicted.std(0).clamp(min=1e-6).float())
    content = export(module, {"latent": test[:7]}, "features", {"latent": {0: "n"}})
    deviation = (variance / variance.mean()).sqrt()[order]
    return LearnedMap(content=content, module=module, r2=_rounded(r2[order]), scale=_rounded(deviation))


def describe(pack: GeneratorPack, latents: Tensor, size: int, report: Progress) -> dict[str, Tensor]:
    """Perceptual features, by kind, of what is made of ``latents`` ``(n, d)``; pictures at ``size`` where possible.

    Raises:
        SettingError: the generator makes neither pictures nor sounds.
    """
    side, output = size if pack.manifest.resizable else None, pack.manifest.output
    if output.kind not in ("image", "audio"):
        raise SettingError(f"{pack.name} makes {output.kind}; a latent map is learned from pictures or sounds")
    found = []
    for part in torch.split(latents, _PICTURES_AT_ONCE):
        made = pack.generate(part, side)
        found.append(sound_blocks(made, output.sample_rate) if output.kind == "audio" else picture_blocks(made))
        report("drawing", min(len(found) * _PICTURES_AT_ONCE, len(latents)), len(latents))
    return {kind: torch.cat([blocks[kind] for blocks in found]) for kind in found[0]}


def _principal_components(features: Tensor, held_out: int, components: int) -> tuple[Tensor, Tensor]:
    """Standardised leading components ``(n, k)`` of features ``(n, f)``, and their variances; without the held out."""
    if components > features.shape[1]:
        raise SettingError(f"components={components} are more than the {features.shape[1]} features of a picture")
    train = features[held_out:].double()
    centred = train - train.mean(0)
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(train))
    variance, axes = variance.flip(0)[:components].clamp(min=1e-12), axes.flip(1)[:, :components]
    axes = axes * torch.sign(axes.sum(0))  # an eigenvector's sign is a matter of the library; this one is not
    return ((features.double() - train.mean(0)) @ axes / variance.sqrt()).float(), variance


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
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=settings.epochs * steps, pct_start=0.05)
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
