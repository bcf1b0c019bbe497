"""A flow that can learn a preference, whatever it draws, and how flows of other kinds become one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from client.flows.rectified import Pairing, SamplerSettings, independent, sample
from common.errors import SettingError

if TYPE_CHECKING:
    from client.flows.checkpoint import Checkpoint
    from client.generators.training.course import Course


def _as_it_is(samples: Tensor) -> Tensor:
    return samples


def _in_range(samples: Tensor) -> Tensor:
    return samples.clamp(-1, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowModel:
    """A rectified flow with everything that teaching it needs.

    Attributes:
        velocity: places ``(n, *shape)`` and times ``(n,)`` in [0, 1], 0 noise and 1 sample, to ``(n, *shape)``.
        shape: of one sample.
        sampler: how it is followed.
        pairing: which noises go with which samples in training; the one it was trained with.
        media: samples ``(n, *shape)`` to what a person sees or hears, ``(n, ...)``.
    """

    velocity: nn.Module
    shape: tuple[int, ...]
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    pairing: Pairing = independent
    media: Callable[[Tensor], Tensor] = _as_it_is

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(iter([*self.velocity.parameters(), *self.velocity.buffers()]), torch.empty(0)).device

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """``(n, *shape)`` noise, on the device of the generator."""
        return torch.randn(n, *self.shape, generator=generator, device=generator.device)

    def draw(self, noise: Tensor) -> Tensor:
        """Samples ``(n, *shape)`` of noises; the same noise always gives the same sample."""
        return sample(self.velocity, noise, self.sampler)

    def moved(self, velocity: nn.Module) -> FlowModel:
        """The same with another velocity, such as one that was taught."""
        return replace(self, velocity=velocity)


class Reversed(nn.Module):
    """The velocity of a network that runs time the other way and answers with noise minus sample.

    So do the flows of `client.generators.training` and, with times up to 1000, those of diffusers.
    """

    def __init__(self, network: nn.Module, longest: float = 1.0) -> None:
        """Wrap a network that is told times from 0, the sample, to ``longest``, noise."""
        super().__init__()
        self.network, self.longest = network, longest

    def forward(self, place: Tensor, time: Tensor) -> Tensor:
        """See `FlowModel.velocity`."""
        answer: Tensor = self.network(place, self.longest * (1 - time))
        return -answer


class Diffusion(nn.Module):
    """The velocity of a diffusion model, exactly: a change of scale and of time.

    ``y = a x_1 + b noise`` with ``a^2 + b^2 = 1`` is ``(a + b) x_t`` with ``t = a / (a + b)``; what the network says
    gives both ends, and their difference is the velocity. DDIM follows this flow (Song, Meng and Ermon 2021,
    equation 14). Between two levels of the training the network is told the time in between.
    """

    levels: Tensor

    def __init__(self, network: nn.Module, levels: Tensor, prediction: str = "epsilon") -> None:
        """Wrap a network.

        Args:
            network: ``y`` ``(n, ...)`` and times ``(n,)``, 0 to ``len(levels) - 1``, to what it predicts.
            levels: ``(T,)`` falling, in (0, 1): cumulative products of alphas.
            prediction: ``epsilon``, ``sample`` or ``v_prediction``.

        Raises:
            SettingError: another prediction, or levels that do not fall.
        """
        super().__init__()
        if prediction not in ("epsilon", "sample", "v_prediction"):
            raise SettingError(f"prediction={prediction!r} must be epsilon, sample or v_prediction")
        if levels.ndim != 1 or len(levels) < 2 or not bool((levels.diff() < 0).all() and levels.min() > 0):
            raise SettingError("levels must be two or more numbers that fall and stay above 0")
        self.network, self.prediction = network, prediction
        self.register_buffer("levels", levels.double())

    def forward(self, place: Tensor, time: Tensor) -> Tensor:
        """See `FlowModel.velocity`; at times beyond the levels it is that of the nearest level."""
        column = (-1, *(1,) * (place.ndim - 1))
        a, told = self._level(time)
        a, b = a.view(column).to(place), (1 - a.square()).clamp(min=0).sqrt().view(column).to(place)
        y = place * (a + b)
        answer = self.network(y, told)
        if self.prediction == "epsilon":
            noise, found = answer, (y - b * answer) / a
        elif self.prediction == "sample":
            noise, found = (y - a * answer) / b, answer
        else:
            noise, found = b * y + a * answer, a * y - b * answer
        velocity: Tensor = found - noise
        return velocity

    def _level(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """``a`` and the network's time, ``(n,)`` each, by linear interpolation in ``t``."""
        a = self.levels.sqrt()
        ends = (a / (a + (1 - self.levels).sqrt())).flip(0)  # t of each level, rising
        at = time.to(ends).clamp(ends[0], ends[-1]).contiguous()
        high = torch.searchsorted(ends, at).clamp(1, len(ends) - 1)
        share = (at - ends[high - 1]) / (ends[high] - ends[high - 1])
        t = at.clamp(1e-6, 1 - 1e-6)
        return t / (t.square() + (1 - t).square()).sqrt(), (len(ends) - high - share).to(time)


def of_checkpoint(checkpoint: Checkpoint, sampler: SamplerSettings | None = None) -> FlowModel:
    """The flow of ``plgl toy``."""
    from client.flows.coupling import pair

    return FlowModel(
        velocity=checkpoint.flow,
        shape=(checkpoint.settings.shapes.points, 3),
        sampler=sampler or SamplerSettings(steps=10),
        pairing=pair,
    )


def of_training(course: Course) -> FlowModel:
    """A flow of ``plgl generator train --kind flow``, on pixels or in the latents of its VAE.

    Raises:
        SettingError: it is a VAE alone.
    """
    settings = course.settings
    if settings.kind != "flow":
        raise SettingError(f"kind={settings.kind!r} has no flow; train one: plgl generator train --kind flow")
    inside = settings.space == "vae"
    return FlowModel(
        velocity=Reversed(course.velocity).eval(),
        shape=(settings.dimension,) if inside else (3, settings.side, settings.side),
        sampler=SamplerSettings(steps=settings.sampler),
        media=course.decoder if inside else _in_range,
    )
