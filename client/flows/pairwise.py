"""A pairwise loss for flows: what was picked becomes likelier than what was shown beside it, without a reward model.

Diffusion-DPO (Wallace et al. 2024, equation 14) with the error of the velocity in place of that of the noise, as Liu et
al. 2025 (Flow-DPO) do it for rectified flows: a flow explains a sample well where its flow-matching error is small, and
the loss compares by how much the errors of both samples fell below those of the base. On its own that loss may also be
lowered by explaining both worse, so the anchor of `teaching` holds the rest to the base.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from client.flows.model import FlowModel
from client.flows.rectified import interpolate
from common.errors import RewardError, SettingError


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """How pairs teach a flow.

    Attributes:
        steps: of Adam, >= 1.
        pairs: in a step, >= 1.
        anchors: samples of the base in a step, >= 0.
        anchor: weight of the anchor, >= 0.
        strength: beta T of the paper, above 0; a pair counts as settled once the mean squared errors per entry have
            moved apart by a few times its inverse. A large one settles pairs near the base, a small one far from it.
        learning_rate: above 0.
    """

    steps: int = 80
    pairs: int = 24
    anchors: int = 40
    anchor: float = 1.0
    strength: float = 20.0
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.steps < 1 or self.pairs < 1 or self.anchors < 0:
            raise SettingError(
                f"steps={self.steps} and pairs={self.pairs} must be >= 1, anchors={self.anchors} >= 0; "
                "try 80, 24 and 40"
            )
        if not (0 < self.learning_rate < math.inf and 0 < self.strength < math.inf and 0 <= self.anchor < math.inf):
            raise SettingError(
                f"learning_rate={self.learning_rate} and strength={self.strength} must be > 0 and "
                f"anchor={self.anchor} >= 0; try 0.001, 20 and 1"
            )


def contrast(
    base: FlowModel,
    winners: Tensor,
    losers: Tensor,
    anchors: Tensor,
    settings: PairSettings,
    generator: torch.Generator,
    report: Callable[[int], None] | None = None,
    student: FlowModel | None = None,
) -> FlowModel:
    """Teach a copy of a flow from pairs.

    Guarantee: ``base`` stays as it is, also when this is interrupted.

    Args:
        base: the flow, which is also the reference.
        winners: ``(m, *shape)`` what was picked, m >= 1.
        losers: ``(m, *shape)`` what was shown beside it.
        anchors: ``(k, *shape)`` samples of the base, k >= 1 unless ``settings.anchors`` is 0.
        settings: how.
        generator: random numbers, on the device of the samples.
        report: called with the number of steps done.
        student: what was taught of the base before, to go on from; the base itself without. It stays as it is.

    Raises:
        RewardError: there is no pair.
        SettingError: the samples do not fit together, or the loss is no longer finite.
    """
    if not len(winners):
        raise RewardError("nothing was picked yet, so there is nothing to learn; pick at least one")
    if winners.shape != losers.shape or (settings.anchors and not len(anchors)):
        raise SettingError(
            f"winners {tuple(winners.shape)}, losers {tuple(losers.shape)} and {len(anchors)} anchors do not fit; "
            "give as many losers as winners, and samples of the base"
        )
    taught = copy.deepcopy((student or base).velocity).requires_grad_(True)
    descent = torch.optim.Adam(taught.parameters(), settings.learning_rate, betas=(0.9, 0.99))
    for step in range(settings.steps):
        rows = torch.randint(len(winners), (settings.pairs,), generator=generator, device=winners.device)
        held = torch.randint(max(1, len(anchors)), (settings.anchors,), generator=generator, device=winners.device)
        loss = _pair_loss(taught, base, winners[rows], losers[rows], settings.strength, generator)
        if settings.anchors:
            loss = loss + settings.anchor * _anchor_loss(taught, base, anchors[held], generator)
        descent.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        descent.step()
        if not math.isfinite(float(loss.detach())):
            raise SettingError(f"teaching lost its way at step {step}; try a lower rate than {settings.learning_rate}")
        if report is not None:
            report(step + 1)
    return base.moved(taught.requires_grad_(False))


def _pair_loss(
    taught: nn.Module, base: FlowModel, winners: Tensor, losers: Tensor, strength: float, generator: torch.Generator
) -> Tensor:
    """Both samples of a pair at the same time; each with noise as the flow was trained to pair it."""
    time = torch.rand(len(winners), generator=generator, device=winners.device)
    gains = [_gain(taught, base, samples, time, generator) for samples in (winners, losers)]
    return -logsigmoid(strength * (gains[0] - gains[1])).mean()


def _gain(taught: nn.Module, base: FlowModel, samples: Tensor, time: Tensor, generator: torch.Generator) -> Tensor:
    """``(n,)`` by how much less the flow errs than its base, mean over the entries of each sample."""
    noise = torch.randn(samples.shape, generator=generator, device=samples.device)
    paired, order = base.pairing(noise, samples)
    back = order.argsort()  # noise i goes with sample order[i]; bring the samples of all pairs back into one order
    noise, paired = noise[back], paired[back]
    place, wanted = interpolate(noise, paired, time), paired - noise
    with torch.no_grad():
        before = (base.velocity(place, time) - wanted).square().flatten(1).mean(1)
    gain: Tensor = before - (taught(place, time) - wanted).square().flatten(1).mean(1)
    return gain


def _anchor_loss(taught: nn.Module, base: FlowModel, samples: Tensor, generator: torch.Generator) -> Tensor:
    """Squared difference of the velocities on the ways of the base."""
    noise = torch.randn(samples.shape, generator=generator, device=samples.device)
    paired, _ = base.pairing(noise, samples)
    time = torch.rand(len(samples), generator=generator, device=samples.device)
    place = interpolate(noise, paired, time)
    with torch.no_grad():
        wanted = base.velocity(place, time)
    error: Tensor = (taught(place, time) - wanted).square().mean()
    return error
