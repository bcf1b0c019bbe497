"""An artificial user with a picture in mind: sees two pictures and says A, B, both good or neither. Never sees latents.

Distances are relative: 1 is the median distance of the generator's own random pictures from the target, 0 the target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from client.generators.pictures import FeatureScale, picture_blocks
from client.ratings import ANSWERS
from common.errors import SettingError

A, B, BOTH, NEITHER = (ANSWERS.index(answer) for answer in ("a", "b", "both", "neither"))

View = Callable[[Tensor], Tensor]  # pictures (n, 3, h, w) to what is compared (n, f)


class Eye:
    """Distances of pictures from a target, as somebody sees them.

    Attributes:
        good: the distance below which a picture counts as good: that of the best ``good_share`` of random pictures.
    """

    def __init__(self, view: View, target: Tensor, reference: Tensor, good_share: float) -> None:
        """Look at a target.

        Args:
            view: what of a picture is compared.
            target: ``(3, h, w)`` in [-1, 1].
            reference: ``(n, f)`` what is compared of random pictures of the generator.
            good_share: between 0 and 1.

        Raises:
            SettingError: all random pictures look like the target, so there is nothing to search for.
        """
        self._view, self._target = view, view(target[None])
        distances = torch.linalg.vector_norm(reference - self._target, dim=1)
        self._unit = distances.median()
        if float(self._unit) < 1e-9:
            raise SettingError("the generator's random pictures all equal the target; choose another target")
        self.good = float((distances / self._unit).quantile(good_share))

    def distance(self, pictures: Tensor) -> Tensor:
        """``(n,)`` distances of pictures ``(n, 3, h, w)`` from the target, each for itself."""
        found: Tensor = torch.linalg.vector_norm(self._view(pictures) - self._target, dim=1) / self._unit
        return found


def perceptual_eye(target: Tensor, random_pictures: Tensor, good_share: float) -> Eye:
    """Compares layout, colour, edges, symmetry and texture, each kind with the same weight (`picture_blocks`)."""
    parts = [picture_blocks(part) for part in torch.split(random_pictures, 64)]
    blocks = {kind: torch.cat([part[kind] for part in parts]) for kind in parts[0]}
    scale = FeatureScale.fit(blocks)

    def view(pictures: Tensor) -> Tensor:
        return scale.apply(picture_blocks(pictures))

    return Eye(view, target, scale.apply(blocks), good_share)


def pixel_eye(target: Tensor, random_pictures: Tensor, good_share: float) -> Eye:
    """Compares colours of the picture shrunk to 16 x 16."""

    def view(pictures: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(pictures, 16).flatten(1)

    return Eye(view, target, view(random_pictures), good_share)


class User(Protocol):
    """Somebody who compares pictures."""

    @property
    def eye(self) -> Eye:
        """What distances are measured with, for the log and for stopping."""

    def compare(self, a: Tensor, b: Tensor, generator: torch.Generator) -> Tensor:
        """``(n,)`` int64 answers, `A`, `B`, `BOTH` or `NEITHER`, on pairs of pictures, each ``(n, 3, h, w)``."""


@dataclass(frozen=True, eq=False)
class TargetUser:
    """Prefers the picture nearer to the target; calls it a tie where both are about as near.

    Attributes:
        eye: how near a picture looks.
        tie: two distances closer than this share of their mean are the same (Weber's law), >= 0.
        noise: standard deviation of what is added to each distance each time it is judged, >= 0.
    """

    eye: Eye
    tie: float
    noise: float

    def compare(self, a: Tensor, b: Tensor, generator: torch.Generator) -> Tensor:
        """See `User`. A tie is `BOTH` where the mean distance is good, else `NEITHER`."""
        errors = self.noise * torch.randn(2, len(a), generator=generator)
        near_a, near_b = self.eye.distance(a) + errors[0], self.eye.distance(b) + errors[1]
        middle = (near_a + near_b) / 2
        choice = torch.where(near_b < near_a, B, A)
        tied = torch.where(middle <= self.eye.good, BOTH, NEITHER)
        return torch.where((near_a - near_b).abs() <= self.tie * middle.abs(), tied, choice)


@dataclass(frozen=True, eq=False)
class RandomUser:
    """Answers without looking: a control that nothing can be learned from.

    Attributes:
        eye: only for the log.
    """

    eye: Eye

    def compare(self, a: Tensor, b: Tensor, generator: torch.Generator) -> Tensor:
        """See `User`."""
        return torch.randint(len(ANSWERS), (len(a),), generator=generator)


class MakeUser(Protocol):
    """Makes a user for a target."""

    def __call__(self, target: Tensor, random_pictures: Tensor, good_share: float, tie: float, noise: float) -> User:
        """A user.

        Args:
            target: ``(3, h, w)`` in [-1, 1].
            random_pictures: ``(n, 3, h, w)`` of the generator, for scale.
            good_share: share of random pictures the user calls good.
            tie: see `TargetUser`.
            noise: see `TargetUser`.
        """


def _perceptual(target: Tensor, random_pictures: Tensor, good_share: float, tie: float, noise: float) -> User:
    return TargetUser(perceptual_eye(target, random_pictures, good_share), tie, noise)


def _pixels(target: Tensor, random_pictures: Tensor, good_share: float, tie: float, noise: float) -> User:
    return TargetUser(pixel_eye(target, random_pictures, good_share), tie, noise)


def _at_random(target: Tensor, random_pictures: Tensor, good_share: float, tie: float, noise: float) -> User:
    return RandomUser(perceptual_eye(target, random_pictures, good_share))


USERS: dict[str, MakeUser] = {"perceptual": _perceptual, "pixels": _pixels, "random": _at_random}
