"""A flow whose law is known: smooth pictures that mix six patterns, each as much as a number from N(0, 0.6^2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from client.flows.model import FlowModel
from client.flows.pack_lesson import PackLesson
from client.flows.rectified import SamplerSettings

DEVIATION, NUMBERS, SIDE = 0.6, 6, 16
_ALONG = torch.linspace(-1, 1, SIDE)


def _patterns() -> Tensor:
    """``(6, 3, 16, 16)``: redness, blueness, light from the left, from above, a spot, stripes."""
    flat, across, down = torch.ones(SIDE, SIDE), _ALONG.expand(SIDE, SIDE), _ALONG.expand(SIDE, SIDE).T
    spot, stripes = (-4 * (across.square() + down.square())).exp(), (9 * across).sin()
    grey = [shape.expand(3, -1, -1) for shape in (across, down, spot, stripes)]
    return torch.stack([flat * torch.eye(3)[0].view(3, 1, 1), flat * torch.eye(3)[2].view(3, 1, 1), *grey])


class Mixture(nn.Module):
    """The exact velocity of that law, and a small network beside it that is 0 until it learns."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.middle = nn.Linear(NUMBERS + 1, 32), nn.Linear(32, 32)
            self.last = nn.Linear(32, NUMBERS)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, place: Tensor, time: Tensor) -> Tensor:
        """E[x_1 - x_0 | x_t], and what was learned."""
        t = time[:, None]
        exact = (t * DEVIATION**2 - (1 - t)) / ((1 - t).square() + (t * DEVIATION).square()) * place
        inner = torch.tanh(self.middle(torch.tanh(self.first(torch.cat([place, t], 1)))))
        learned: Tensor = self.last(inner)
        return exact + learned


def flow() -> FlowModel:
    """The flow, frozen."""
    patterns = _patterns()

    def media(samples: Tensor) -> Tensor:
        return torch.tanh(torch.tensordot(samples, patterns, 1))

    sampler = SamplerSettings(times=tuple(i / 10 for i in range(11)))
    return FlowModel(velocity=Mixture().requires_grad_(False), shape=(NUMBERS,), sampler=sampler, media=media)


def redness(pictures: Tensor) -> Tensor:
    """``(n,)`` what the person of `lesson` likes."""
    return pictures[:, 0].mean((1, 2)) - pictures[:, 2].mean((1, 2))


def lesson(base: FlowModel, *, sign: float = 1.0, answers: int = 40, held: int = 8, seed: int = 5) -> PackLesson:
    """Answers of somebody who prefers the redder of two pictures, or with ``sign`` -1 the bluer."""
    samples = base.draw(base.noise(2 * answers, torch.Generator().manual_seed(seed)))
    liking = sign * redness(base.media(samples)).view(2, -1)
    first, rows = liking.argmax(0), torch.arange(answers)
    pairs = samples.view(2, answers, -1)
    better, worse = pairs[first, rows], pairs[1 - first, rows]
    return PackLesson(better[held:], better[held:], worse[held:], better[:held], worse[:held], answers)
