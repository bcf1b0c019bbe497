"""Invented people: tastes are functions of the picture, never of the latent, and answers are noisy.

A population has a dial ``shared``: 1 means everybody belongs to one of a few archetypes, 0 means nobody has anything
in common with anybody. In between a taste is a mixture of the two. People like weighted factors of a picture, or
pictures near an ideal point, or near either of two ideal points.

Bring your own with ``--people module:object``: a callable that meets ``PeopleFactory``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from client.ratings import Kind
from common.errors import PeopleError, SettingError


class People(Protocol):
    """What the experiments need to know about people: how much each of them likes each picture."""

    def utilities(self, media: Tensor) -> Tensor:
        """How much everybody likes each item.

        Args:
            media: ``(n, 3, h, w)`` float32 pictures in [0, 1].

        Returns:
            ``(people, n)``, finite; any scale: it is standardised for each person.
        """


class PeopleFactory(Protocol):
    """Makes people: ``make(count=2200, seed=0, reference=pictures)``."""

    def __call__(self, *, count: int, seed: int, reference: Tensor) -> People:
        """Make people.

        Args:
            count: how many.
            seed: the same seed gives the same people.
            reference: ``(n, 3, h, w)`` typical pictures in [0, 1], to standardise factors by.
        """


@dataclass(frozen=True, kw_only=True)
class Population:
    """Settings of the built-in people; calling it makes them.

    Attributes:
        shared: share of a taste's variance that comes from the person's archetype, 0 to 1.
        archetypes: number of archetypes.
        ideal: share of people with one ideal point; ``two_peaked``: share with two. The rest weigh factors.
        two_peaked: see above.
    """

    shared: float = 0.9
    archetypes: int = 5
    ideal: float = 0.2
    two_peaked: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.shared <= 1:
            raise SettingError(f"shared={self.shared} must be between 0 (nothing in common) and 1 (archetypes only)")
        if self.archetypes < 1:
            raise SettingError(f"archetypes={self.archetypes} must be >= 1; try 5")
        if not (self.ideal >= 0 and self.two_peaked >= 0 and self.ideal + self.two_peaked <= 1):
            raise SettingError(
                f"ideal={self.ideal} and two_peaked={self.two_peaked} must be >= 0 and add up to at most 1"
            )

    def __call__(self, *, count: int, seed: int, reference: Tensor) -> InventedPeople:
        """Invent ``count`` people; see ``PeopleFactory``."""
        return InventedPeople(self, count, seed, reference)


PEAK_WIDTH = 1.0  # of an ideal point, in standard deviations per factor; wider is closer to a linear taste


@dataclass(frozen=True)
class Tastes:
    """What some people like, as a function of picture factors.

    Attributes:
        weights: ``(people, factors)``; other: the same, towards the second ideal point.
        other: see above.
        peaks: ``(people,)`` 0 for weighted factors, 1 for one ideal point, 2 for two.
    """

    weights: Tensor
    other: Tensor
    peaks: Tensor

    @classmethod
    def of(
        cls, settings: Population, centres: Tensor, archetype: Tensor, kind: Tensor, own: tuple[Tensor, Tensor]
    ) -> Tastes:
        """Mix what people share with what is their own.

        Args:
            settings: the dials.
            centres: ``(archetypes, factors)`` of length one, see ``archetype_centres``.
            archetype: ``(people,)`` int64.
            kind: ``(people,)`` uniform on [0, 1): who has ideal points.
            own: two ``(people, factors)`` standard normal directions, for the taste and for its second peak.
        """
        common, personal = settings.shared**0.5, (1 - settings.shared) ** 0.5
        second = (archetype + 1) % settings.archetypes
        some = kind < settings.two_peaked + settings.ideal
        return cls(
            common * centres[archetype] + personal * _unit(own[0]),
            common * centres[second] + personal * _unit(own[1]),
            torch.where(kind < settings.two_peaked, 2, some.long()),
        )

    def select(self, people: Tensor | slice) -> Tastes:
        """Only some of the people."""
        return Tastes(self.weights[people], self.other[people], self.peaks[people])

    def of_all(self, factors: Tensor) -> Tensor:
        """Utilities ``(people, n)`` of items with factors ``(n, factors)``."""
        return self._felt(self.weights @ factors.T, self.other @ factors.T)

    def of_each(self, factors: Tensor) -> Tensor:
        """Utilities ``(people, t)`` of items of their own for everybody, factors ``(people, t, factors)``."""
        return self._felt(*((factors @ x.unsqueeze(-1)).squeeze(-1) for x in (self.weights, self.other)))

    def _felt(self, along: Tensor, along_other: Tensor) -> Tensor:
        felt = along.clone()
        some, two = (rows.nonzero().squeeze(1) for rows in (self.peaks > 0, self.peaks > 1))
        felt[some] = closeness(along[some])  # rows, not masks: few people have peaks, and these functions cost most
        felt[two] = torch.logaddexp(4 * felt[two], 4 * closeness(along_other[two])) / 4
        return felt


def closeness(along: Tensor) -> Tensor:
    """Closeness to the ideal point two standard deviations out in a direction: rises, then falls beyond it."""
    close: Tensor = -0.5 * ((along - 2.0) / (2.0 * PEAK_WIDTH)).square()
    return close


def archetype_centres(settings: Population, factors: int, generator: torch.Generator) -> Tensor:
    """``(archetypes, factors)`` of length one: sparse, and mostly about things with a name."""
    centres = torch.randn(settings.archetypes, factors, generator=generator)
    centres *= torch.rand(settings.archetypes, factors, generator=generator) < 0.5
    centres[:, NAMED:] *= 0.3  # what is personal, on the other hand, can be anything
    return _unit(centres)


class InventedPeople:
    """People whose tastes are made of named picture factors and a random-network embedding."""

    def __init__(self, settings: Population, count: int, seed: int, reference: Tensor) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.judge = Judge(reference)
        dimension = self.judge.factors(reference[:1]).shape[1]
        self.archetype = torch.randint(settings.archetypes, (count,), generator=generator)
        centres = archetype_centres(settings, dimension, generator)
        own = torch.randn(count, dimension, generator=generator)
        kind = torch.rand(count, generator=generator)
        other = torch.randn(count, dimension, generator=generator)
        self.tastes = Tastes.of(settings, centres, self.archetype, kind, (own, other))

    def utilities(self, media: Tensor) -> Tensor:
        """``(people, n)``; see ``People``."""
        return self.tastes.of_all(self.judge.factors(media))


def _unit(rows: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / length.clamp(min=1e-9)


NAMED = 12  # factors with a name come first


class Judge:
    """Factors of a picture that people look at, standardised by typical pictures.

    Twelve have names (light, warmth, green, colourfulness, contrast, edges, fine detail, left-right and up-down
    symmetry, bright centre, dark share, variety of hue); the others are a random convolutional network's. Neither the
    latent map nor any learner ever sees them.
    """

    def __init__(self, reference: Tensor, embedding: int = 20, seed: int = 90_210) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.first = torch.randn(24, 3, 5, 5, generator=generator) / 75**0.5
        self.second = torch.randn(48, 24, 3, 3, generator=generator) / 216**0.5
        self.last = torch.randn(48 * 5, embedding, generator=generator) / (48 * 5) ** 0.5
        self.gain = 1.0
        self.gain = 1 / float(self._pooled(_small(reference)).std().clamp(min=1e-6))
        raw = self._raw(reference)
        self.mean, self.deviation = raw.mean(0), raw.std(0).clamp(min=1e-6)

    def factors(self, media: Tensor) -> Tensor:
        """``(n, 32)`` factors of pictures ``(n, 3, h, w)`` in [0, 1], each of about unit variance, within +-4."""
        standard: Tensor = (self._raw(media) - self.mean) / self.deviation
        return standard.clamp(-4, 4)

    def _raw(self, media: Tensor) -> Tensor:
        picture = _small(media)
        return torch.cat([_named(picture), self._embed(picture)], dim=1)

    def _embed(self, picture: Tensor) -> Tensor:
        embedding: Tensor = torch.tanh(self._pooled(picture) * self.gain) @ self.last
        return embedding

    def _pooled(self, picture: Tensor) -> Tensor:
        hidden = torch.relu(conv2d(2 * picture - 1, self.first, padding=2, stride=2))
        hidden = torch.tanh(conv2d(hidden, self.second, padding=1))
        return torch.cat([avg_pool2d(hidden, 8).flatten(1), hidden.std((2, 3))], dim=1)


def _small(media: Tensor) -> Tensor:
    return media if media.shape[-2:] == (32, 32) else interpolate(media, size=(32, 32), mode="area")


def _named(picture: Tensor) -> Tensor:
    red, green, blue = picture.unbind(1)
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = picture.max(1).values - picture.min(1).values
    across, down = light.diff(dim=2), light.diff(dim=1)
    blurred = avg_pool2d(light[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    return torch.stack(
        [
            light.mean((1, 2)),
            (red - blue).mean((1, 2)),
            (green - (red + blue) / 2).mean((1, 2)),
            chroma.mean((1, 2)),
            light.std((1, 2)),
            across.abs().mean((1, 2)) + down.abs().mean((1, 2)),
            (light - blurred).square().mean((1, 2)).sqrt(),
            -(light - light.flip(2)).abs().mean((1, 2)),
            -(light - light.flip(1)).abs().mean((1, 2)),
            light[:, 8:24, 8:24].mean((1, 2)) - light.mean((1, 2)),
            torch.sigmoid(30 * (0.3 - light)).mean((1, 2)),
            (red - blue).std((1, 2)) + (green - red).std((1, 2)),
        ],
        dim=1,
    )


def load_factory(reference: str) -> PeopleFactory:
    """The people factory named ``module:object``.

    Raises:
        PeopleError: it cannot be imported or is not callable.
    """
    module, _, name = reference.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PeopleError(
            f"cannot load people from {reference!r}: {error}; write --people module:object, with the module importable"
        ) from error
    if not callable(factory):
        raise PeopleError(
            f"{reference} must be callable as make(count=..., seed=..., reference=...); see PeopleFactory"
        )
    return factory  # type: ignore[no-any-return]


def judged(people: People, media: Tensor, count: int) -> Tensor:
    """Utilities ``(count, n)`` of a batch of pictures, checked: a plug-in is somebody else's code.

    Raises:
        PeopleError: wrong shape, not a tensor, NaN or infinite values.
    """
    utilities = people.utilities(media)
    expected = (count, media.shape[0])
    if not isinstance(utilities, Tensor) or tuple(utilities.shape) != expected:
        shape = tuple(utilities.shape) if isinstance(utilities, Tensor) else type(utilities).__name__
        raise PeopleError(f"people answered with {shape}; expected a tensor of shape (people, n) = {expected}")
    broken = ~utilities.isfinite()
    if bool(broken.any()):
        person, item = broken.nonzero()[0].tolist()
        raise PeopleError(
            f"{int(broken.sum())} of {broken.numel()} utilities are NaN or infinite, first for person {person}, "
            f"picture {item} of the batch; return finite numbers"
        )
    return utilities.float()


@dataclass(frozen=True, kw_only=True)
class AnswerNoise:
    """How people turn utilities (in standard deviations) into answers.

    Attributes:
        sharpness: slope of the logistic noise; 3 makes 78 % of likes come out the same when asked again.
        tie: utilities closer than this get "both" or "neither".
        pickiness: standard deviation of the level above which a person says "like".
    """

    sharpness: float = 3.0
    tie: float = 0.25
    pickiness: float = 0.3

    def __post_init__(self) -> None:
        if not self.sharpness > 0 or self.tie < 0 or self.pickiness < 0:
            raise SettingError(
                f"sharpness={self.sharpness} must be > 0, tie={self.tie} and pickiness={self.pickiness} >= 0"
            )

    def levels(self, people: int, generator: torch.Generator) -> Tensor:
        """``(people,)`` the utility above which each person says "like"."""
        return self.pickiness * torch.randn(people, generator=generator)

    def answer(self, kind: Kind, utilities: Tensor, levels: Tensor, generator: torch.Generator) -> Tensor:
        """Values of answers of one kind, as ``client.ratings`` stores them.

        Args:
            kind: the kind of question.
            utilities: ``(people, t, m)`` of the items shown.
            levels: ``(people,)``.
            generator: source of the noise.

        Returns:
            ``(people, t)`` int64.
        """
        return self.say(kind, utilities, levels, torch.rand(utilities.shape, generator=generator))

    def say(self, kind: Kind, utilities: Tensor, levels: Tensor, uniform: Tensor) -> Tensor:
        """The same from numbers ``(people, t, m)`` uniform on [0, 1) that the caller drew; on any device."""
        uniform = uniform.clamp(1e-6, 1 - 1e-6)
        if kind in (Kind.BEST, Kind.WORST):
            gumbel = -torch.log(-torch.log(uniform)) / self.sharpness
            sign = 1 if kind == Kind.BEST else -1
            return (sign * utilities + gumbel).argmax(-1)
        seen = utilities - levels[:, None, None] + torch.logit(uniform) / self.sharpness
        if kind == Kind.LIKE:
            return (seen[..., 0] > 0).long()
        if kind == Kind.STARS:
            return 1 + (seen[..., :1] > seen.new_tensor([-1.2, -0.4, 0.4, 1.2])).sum(-1)
        gap = seen[..., 0] - seen[..., 1]
        absolute = torch.where(seen[..., :2].mean(-1) > 0, 2, 3)
        return torch.where(gap.abs() < self.tie, absolute, (gap < 0).long())
