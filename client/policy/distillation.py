"""A small policy that draws what a large one draws: fewer parameters, less time, the same items.

The small one is shown what the large one makes of the same noise at the same level, in what people see and in latents
(after Luhman & Luhman 2021, who distil a sampler by its own pairs of noise and result).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from client.policy.flow import FlowSettings, LatentPolicy
from client.policy.goal import See, levels
from common.errors import SettingError

SHARE = 5  # a small policy has at most a fifth of the parameters


@dataclass(frozen=True, kw_only=True)
class DistilSettings:
    """How a policy is distilled.

    Attributes:
        share: the small policy has at most ``1 / share`` of the parameters.
        couplings: layers of the small policy.
        steps: of Adam.
        batch: items of a step, in groups of one level each.
        groups: see above.
        rate: learning rate, falling to zero by a cosine.
        seed: of everything random.

    Raises:
        SettingError: a value is out of range.
    """

    share: float = SHARE
    couplings: int = 4
    steps: int = 400
    batch: int = 256
    groups: int = 16
    rate: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.share >= 1 or min(self.couplings, self.groups) < 1 or self.steps < 0 or not self.rate > 0:
            raise SettingError(
                f"share={self.share} must be >= 1, couplings={self.couplings}, groups={self.groups} >= 1, "
                f"steps={self.steps} >= 0 and rate={self.rate} > 0"
            )
        if self.batch % self.groups:
            raise SettingError(f"batch={self.batch} must be a multiple of groups={self.groups}")


def distil(teacher: LatentPolicy, see: See, settings: DistilSettings | None = None) -> LatentPolicy:
    """A small policy that draws what ``teacher`` draws.

    Args:
        teacher: stays as it is.
        see: what people see in latents; differences there count as much as those of the latents.
        settings: size and steps.

    Raises:
        SettingError: no policy is so small.
    """
    how = settings or DistilSettings()
    student = _small(teacher, how)
    generator = torch.Generator().manual_seed(how.seed)
    dimension = teacher.settings.dimension
    optimiser = torch.optim.Adam(student.parameters(), lr=how.rate)
    with torch.no_grad():
        seen = see(torch.randn(1024, dimension, generator=generator).to(teacher.device))
    spread = float(seen.var(0).sum())
    for step in range(how.steps):
        for group in optimiser.param_groups:
            group["lr"] = how.rate * (1 + math.cos(math.pi * step / how.steps)) / 2
        level = levels(how.groups, how.batch // how.groups, generator).to(teacher.device)
        noise = torch.randn(how.batch, dimension, generator=generator).to(teacher.device)
        optimiser.zero_grad()
        loss = _apart(teacher, student, noise, level, see, spread)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return student


def _small(teacher: LatentPolicy, how: DistilSettings) -> LatentPolicy:
    """The widest fresh policy that is small enough."""
    room = teacher.parameters_in_all / how.share
    best = None
    for width in range(1, teacher.settings.width + 1):
        size = FlowSettings(
            dimension=teacher.settings.dimension, couplings=max(2, how.couplings), width=width, seed=how.seed
        )
        student = LatentPolicy(size)
        if student.parameters_in_all > room:
            break
        best = student
    if best is None:
        raise SettingError(
            f"no policy of {how.couplings} couplings has at most {room:.0f} parameters; take fewer couplings, or a "
            "smaller share"
        )
    return best.to(teacher.device)


def _apart(
    teacher: LatentPolicy, student: LatentPolicy, noise: Tensor, level: Tensor, see: See, spread: float
) -> Tensor:
    with torch.no_grad():
        wanted = teacher(noise, level).places
        seen = see(wanted)
    made = student(noise, level).places
    in_sight = (see(made) - seen).square().sum(1).mean() / spread
    apart: Tensor = in_sight + (made - wanted).square().mean()
    return apart
