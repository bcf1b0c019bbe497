"""What a policy is to raise: tastes, functions of the media, and mixtures of several.

A reward maps latents ``(n, d)`` to numbers ``(n,)``. Differentiable ones can be learned from by gradient; the others
are black boxes. `Scaled` puts any reward on one scale, standard deviations over the generator's own items, and turns
whatever can go wrong in somebody's function into one clear error.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from client.classifiers.base import Points, Taste
from client.generators.pack import GeneratorPack
from common.errors import OutOfMemory, PlglError, RewardError, SettingError
from common.latents import LatentSpace

CONSTANT = 1e-9  # a spread over items below this is none
MEASURED = 2048  # items a reward is put to scale on

Lens = Callable[[Tensor], Points]


class Reward(ABC):
    """A number for each latent, the higher the better.

    Attributes:
        differentiable: whether torch can follow it back to the latents.
    """

    differentiable: bool

    @abstractmethod
    def __call__(self, latents: Tensor) -> Tensor:
        """Rewards ``(n,)`` of latents ``(n, d)`` float32, each of its own row only."""


class TasteReward(Reward):
    """What a model of one person's taste expects, less what it is not sure of.

    The reward is the mean minus ``caution`` times a deviation whose square is the model's own variance plus the mean
    squared difference of an ensemble from it. Where the ensemble disagrees, which is where a policy could cheat the
    model, the reward falls.
    """

    differentiable = True

    def __init__(self, lens: Lens, taste: Taste, ensemble: Sequence[Taste] = (), *, caution: float = 0.5) -> None:
        """Take a taste.

        Args:
            lens: latents to what taste models see.
            taste: what is expected.
            ensemble: the same taste, learned from parts of the answers.
            caution: deviations that are taken off; 0 trusts the model blindly, and then the ensemble is not asked.

        Raises:
            SettingError: a caution that is negative or not finite.
        """
        if not 0 <= caution < math.inf:
            raise SettingError(f"caution={caution} must be >= 0; try 0.5")
        self.lens, self.taste, self.ensemble, self.caution = lens, taste, tuple(ensemble), caution

    def __call__(self, latents: Tensor) -> Tensor:
        """See `Reward`; log-odds of liking."""
        points = self.lens(latents)
        if not self.caution:
            return self.taste.score(points).float()
        beliefs = self.taste.over(points)
        mean, variance = beliefs.mean[0].float(), beliefs.deviation[0].float().square()
        if self.ensemble:
            others = torch.stack([taste.score(points).float() for taste in self.ensemble])
            variance = variance + (others - mean).square().mean(0)
        return mean - self.caution * (variance + 1e-12).sqrt()


class MediaReward(Reward):
    """Any function of what is drawn, heard or plotted; a black box.

    Latents may hold the inputs of several generators side by side, so that one policy serves several modalities.
    """

    differentiable = False

    def __init__(
        self,
        pack: GeneratorPack,
        judge: Callable[[Tensor], Tensor],
        *,
        size: int | None = None,
        columns: slice = slice(None),
    ) -> None:
        """Take a function of media.

        Args:
            pack: what makes them.
            judge: media ``(n, *shape)`` to rewards ``(n,)``.
            size: of pictures, in pixels, where the pack can be resized.
            columns: part of the latent that this generator gets.
        """
        self.pack, self.judge, self.size, self.columns = pack, judge, size, columns

    def __call__(self, latents: Tensor) -> Tensor:
        """See `Reward`."""
        return self.judge(self.pack.generate(latents[:, self.columns], size=self.size))


class Typical(Reward):
    """Zero for items like the generator's own, and the more below it the more extreme an item is."""

    differentiable = True

    def __init__(self, lens: Lens, extremeness: Callable[[Points], Tensor]) -> None:
        """Take how far items lie from the middle of the generator's own; 1 is as far as is fine."""
        self.lens, self.extremeness = lens, extremeness

    def __call__(self, latents: Tensor) -> Tensor:
        """See `Reward`."""
        return -(self.extremeness(self.lens(latents)).float() - 1).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One reward among several.

    Attributes:
        reward: of a person, a metric or a modality.
        weight: how much it counts; below 0 for what is to be avoided.
        above: None for a dense part, which counts everywhere. For a sparse one the level that has to be passed, in
            standard deviations over the generator's own items; passing it is worth one deviation of a dense part.
        width: of the step at that level; 0 is a true step, which has no gradient.
        scaled: whether the part is brought to mean 0 and deviation 1 first.

    Raises:
        SettingError: a number is not finite, or the width negative.
    """

    reward: Reward
    weight: float = 1.0
    above: float | None = None
    width: float = 0.25
    scaled: bool = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or not 0 <= self.width < math.inf:
            raise SettingError(f"weight={self.weight} must be finite and width={self.width} >= 0")
        if self.above is not None and not (math.isfinite(self.above) and self.scaled):
            raise SettingError(f"above={self.above} must be finite, in deviations of a part that is scaled")


class Mixed(Reward):
    """Several rewards, weighted: people, metrics, modalities; dense and sparse parts."""

    def __init__(self, parts: Sequence[Part], space: LatentSpace, generator: torch.Generator) -> None:
        """Mix.

        Args:
            parts: at least one.
            space: the law the parts are put to scale over.
            generator: draws the items for that.

        Raises:
            SettingError: there is no part, or no weight.
            RewardError: a part is constant, broken or raises.
        """
        if not parts or not any(part.weight for part in parts):
            raise SettingError("a mixed reward needs a part whose weight is not 0")
        self.parts = [
            (Scaled.measure(part.reward, space, generator) if part.scaled else part.reward, part) for part in parts
        ]
        self.differentiable = all(
            part.reward.differentiable and (part.above is None or part.width > 0) for part in parts
        )

    def __call__(self, latents: Tensor) -> Tensor:
        """See `Reward`."""
        total = latents.new_zeros(len(latents))
        for reward, part in self.parts:
            value = reward(latents)
            if part.above is not None:
                over = value - part.above
                value = torch.sigmoid(over / part.width) if part.width else (over > 0).to(value)
            total = total + part.weight * value
        return total


@dataclass(frozen=True, eq=False)
class Scaled(Reward):
    """A reward in standard deviations over the generator's own items, checked whenever it is asked.

    Attributes:
        reward: the raw one.
        mean: over the latent law; deviation: over it.
        deviation: see above.
    """

    reward: Reward
    mean: float
    deviation: float
    smallest: ClassVar[float] = CONSTANT

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """See `Reward`."""
        return self.reward.differentiable

    @classmethod
    def measure(cls, reward: Reward, space: LatentSpace, generator: torch.Generator, count: int = MEASURED) -> Scaled:
        """Put a reward to scale on ``count`` items of the generator.

        Raises:
            RewardError: it is the same for all of them, NaN or infinite for one, has another shape, or raises.
        """
        with torch.no_grad():
            values = usable(reward, space.sample(count, generator)).double()
        mean, deviation = float(values.mean()), float(values.std())
        if deviation <= cls.smallest * max(1.0, abs(mean)):
            raise RewardError(
                f"the reward is {mean:.6g} for all of {count} items; nothing can be learned from it: rate more items, "
                "or give a reward that tells them apart"
            )
        return cls(reward, mean, deviation)

    def __call__(self, latents: Tensor) -> Tensor:
        """See `Reward`.

        Raises:
            RewardError: the reward is NaN or infinite, has another shape, or raises.
        """
        return (usable(self.reward, latents) - self.mean) / self.deviation


def usable(reward: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
    """What a reward says ``(n,)``, checked: it may be somebody else's code.

    Raises:
        RewardError: it raised, answered with something else than ``(n,)``, or with NaN or an infinity.
        OutOfMemory: it does not fit.
    """
    try:
        said = reward(latents)
    except PlglError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemory(f"rewards of {len(latents)} items do not fit in memory; take a smaller batch") from error
    except Exception as error:  # somebody else's code can raise anything
        raise RewardError(f"the reward raised {type(error).__name__}: {error}; try it on a few items") from error
    if not isinstance(said, Tensor) or said.shape != latents.shape[:1]:
        shape = tuple(said.shape) if isinstance(said, Tensor) else type(said).__name__
        raise RewardError(f"the reward answered with {shape}; expected a tensor of shape ({len(latents)},)")
    if broken := int((~said.isfinite()).sum()):
        raise RewardError(f"the reward is NaN or infinite for {broken} of {len(latents)} items; return finite numbers")
    return said.to(latents.dtype)
