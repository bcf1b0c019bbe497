"""What a learner must do to be compared: ask one question, be told the answer, recommend.

A player serves one person. It sees latents and answers and nothing else: no picture, no utility.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from client.ratings import Kind
from common.latents import LatentSpace

FIRST = 5  # random questions before a model is asked, for those that say nothing else
FROM_LAW, MIXED = 300, 300  # candidates for a question, where a method needs some
PLACES = 5
NEAREST, FARTHEST = 0.97, 0.3


class Player(Protocol):
    """A learner at work for one person.

    Guarantee of every player: what it shows and recommends is finite and of the right shape, and the same seed and
    answers give the same latents, up to the rounding of the libraries' own fits.

    Attributes:
        feedback: kind of question it asks; decides how many items a question shows.
    """

    feedback: Kind

    def ask(self) -> Tensor:
        """The next question: ``(m, d)`` float32 latents; two for A or B, one for a like or stars."""

    def tell(self, answer: int) -> None:
        """The answer to the last question, as ``client.ratings`` stores it for this kind."""

    def recommend(self, k: int) -> Tensor:
        """``(k, d)`` float32 latents this person should love, best first."""


def mixed(space: LatentSpace, places: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``(count, d)`` latents on the shell around places ``(p, d)``, at cosines from ``FARTHEST`` to ``NEAREST``."""
    home = space.project(places)[torch.arange(count) % len(places)] / space.radius
    other = space.sample(count, generator)
    other = other - (other * home).sum(1, keepdim=True) * home
    other = torch.nn.functional.normalize(other, dim=1)
    cosine = FARTHEST + (NEAREST - FARTHEST) * torch.rand(count, 1, generator=generator)
    return space.project(cosine * home + (1 - cosine.square()).sqrt() * other)


def candidates(space: LatentSpace, best: Tensor, generator: torch.Generator) -> Tensor:
    """Places a model may choose from: half samples of the law on the shell, half around the best so far ``(p, d)``."""
    law = space.project(space.sample(FROM_LAW, generator))
    return torch.cat([law, mixed(space, best[:PLACES], MIXED, generator)])
