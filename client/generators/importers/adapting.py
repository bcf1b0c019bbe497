"""Fitting a network made elsewhere to what a pack takes and gives: law and shape of the latent, range and layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from client.generators.importers.base import ImportSettings, normal_to_uniform
from client.generators.interface import Condition, Output, SourceLaw
from common.errors import SettingError, UnreadableModel

SETTINGS = {
    "kind": "image, audio or points, where the shape of the output does not tell",
    "sample_rate": "of sound, numbers in a second",
    "clip": "yes to cut values outside the range",
}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How the output of a network becomes the output of a pack.

    Attributes:
        output: of the pack.
        given: shape of one item as the network gives it.
        low: least value the network gives.
        high: largest value the network gives.
        channels_last: whether pictures come as ``(h, w, c)``.
        grey: whether pictures come with one channel.
        clip: whether values outside the range are cut.
    """

    output: Output
    given: tuple[int, ...]
    low: float
    high: float
    channels_last: bool = False
    grey: bool = False
    clip: bool = False

    @property
    def scale(self) -> tuple[float, float]:
        """Factor and offset from the network's range to the pack's."""
        factor = (self.output.high - self.output.low) / (self.high - self.low)
        return factor, self.output.low - factor * self.low

    @classmethod
    def of(cls, given: tuple[int, ...], settings: ImportSettings) -> Fit:
        """From the shape of one item and what the person said.

        Raises:
            SettingError: the person has to say more, or said something impossible.
            UnreadableModel: no medium has this shape.
        """
        low, high = settings.output_range or (-1.0, 1.0)
        if not low < high:
            raise SettingError(f"output range {low:g} to {high:g} must be increasing, such as --output-range 0 1")
        clip = _yes(settings.settings.get("clip", ""))
        kind = settings.settings.get("kind") or _kind_of(given)
        if kind == "image":
            last, grey, shape = _picture(given)
            return cls(
                output=Output(shape=shape), given=given, low=low, high=high, channels_last=last, grey=grey, clip=clip
            )
        if kind == "points" and len(given) == 2:
            points = Output(kind="points", shape=given, low=low, high=high)
            return cls(output=points, given=given, low=low, high=high, clip=clip)
        samples = max(given, default=0)
        if kind != "audio" or samples != torch.Size(given).numel():
            raise UnreadableModel(
                f"an output of shape {given} is no {kind}; say which with --set kind=image|audio|points"
            )
        rate = settings.settings.get("sample_rate", "")
        if not rate.isdigit():
            raise SettingError("sound needs its sample rate; give it with --set sample_rate=24000")
        sound = Output(kind="audio", shape=(samples,), sample_rate=int(rate))
        return cls(output=sound, given=given, low=low, high=high, clip=clip)


class Adapted(nn.Module):
    """A network with the layers around it that make it a pack's: ``(n, d)`` from N(0, I) to ``(n, *output.shape)``.

    Args:
        network: from ``(n, *shape)`` of its own law, and further inputs, to ``(n, *fit.given)``.
        law: of its latent.
        shape: of its latent.
        fit: of its output.
    """

    def __init__(self, network: nn.Module, law: SourceLaw, shape: tuple[int, ...], fit: Fit) -> None:
        super().__init__()
        self.network = network
        self._law, self._latent_shape, self._fit = law, shape, fit

    def forward(self, latent: Tensor, *others: Tensor) -> Tensor:
        """Media of latents."""
        fit = self._fit
        z = normal_to_uniform(latent, self._law).reshape(-1, *self._latent_shape)
        made: Tensor = self.network(z, *others)
        made = made.reshape(-1, *fit.given)
        if fit.channels_last:
            made = made.movedim(-1, 1)
        if fit.grey:
            made = made.reshape(-1, 1, *fit.output.shape[1:]).expand(-1, 3, -1, -1)
        factor, offset = fit.scale
        made = made * factor + offset
        if fit.clip:
            made = made.clamp(fit.output.low, fit.output.high)
        return made.reshape(-1, *fit.output.shape)


def known_settings(settings: Mapping[str, str], known: Mapping[str, str]) -> None:
    """Refuse settings an importer does not know.

    Raises:
        SettingError: names the first, and those it knows.
    """
    if unknown := sorted(settings.keys() - known.keys()):
        listed = "; ".join(f"{name}: {about}" for name, about in sorted(known.items())) or "none"
        raise SettingError(f"--set {unknown[0]} is unknown here; known: {listed}")


def shape_of(text: str, what: str) -> tuple[int, ...]:
    """A shape as written, such as ``4,8,8``.

    Raises:
        SettingError: it is not one.
    """
    if not re.fullmatch(r"\d{1,7}(,\d{1,7}){0,5}", text):
        raise SettingError(f"{what}={text!r} must be numbers with commas, such as 4,8,8")
    return tuple(int(part) for part in text.split(","))


def condition_of(name: str, text: str) -> tuple[Condition, Tensor]:
    """A condition and its default as written: ``3/10`` is the fourth of ten classes, ``0.1,0.2`` a vector.

    Raises:
        SettingError: it is neither.
    """
    if found := re.fullmatch(r"(\d{1,6})/(\d{1,6})", text):
        index, count = int(found[1]), int(found[2])
        if not index < count:
            raise SettingError(f"condition {name}={text}: classes count from 0, so the last is {count - 1}/{count}")
        return Condition(name=name, shape=(count,), about="class"), torch.eye(count)[index]
    try:
        values = torch.tensor([float(part) for part in text.split(",")])
    except ValueError as error:
        raise SettingError(f"condition {name}={text[:40]} must be a class as 3/10, or numbers as 0.1,0.2") from error
    return Condition(name=name, shape=(len(values),)), values


def law_and_dimension(settings: ImportSettings, dimension: int | None) -> tuple[SourceLaw, int]:
    """The law (N(0, I) unless said otherwise) and ``d``, said by the person, the file or both.

    Raises:
        SettingError: nobody says ``d``, or they contradict each other.
    """
    if dimension is None and settings.dimension is None:
        raise SettingError("the file does not say how many numbers a latent has; give them with --latent D")
    if dimension is not None and settings.dimension not in (None, dimension):
        raise SettingError(f"--latent {settings.dimension}, and the file says {dimension}; leave --latent out")
    law = settings.law or SourceLaw()
    if law.name == "w":
        raise SettingError("--law w is for StyleGAN files; take normal or uniform")
    return law, dimension or settings.dimension or 0


def _kind_of(given: tuple[int, ...]) -> str:
    if len(given) == 3:
        return "image"
    if len(given) == 2 and given[1] in (2, 3):
        return "points"
    return "audio"


def _picture(given: tuple[int, ...]) -> tuple[bool, bool, tuple[int, ...]]:
    """Whether channels come last, whether there is one, and the pack's shape."""
    if len(given) == 2:
        return False, True, (3, *given)
    if len(given) == 3 and given[0] in (1, 3):
        return False, given[0] == 1, (3, *given[1:])
    if len(given) == 3 and given[2] in (1, 3):
        return True, given[2] == 1, (3, *given[:2])
    raise UnreadableModel(f"an output of shape {given} is no picture of 1 or 3 channels; is it a generator?")


def _yes(text: str) -> bool:
    if text not in ("", "yes", "no"):
        raise SettingError(f"--set clip={text!r} must be yes or no")
    return text == "yes"
