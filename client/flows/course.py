"""The course of a toy: a flow A, its copy B, what was proposed and what was picked so far."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from client.flows.coupling import pair
from client.flows.network import PointFlow
from client.flows.proposals import most_different
from client.flows.rectified import SamplerSettings, sample
from client.flows.teaching import TeachSettings, inject
from common.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class CourseSettings:
    """How B is taught.

    Attributes:
        proposals: shapes to choose from, >= 2.
        candidates: shapes B draws for them, at least as many as proposals.
        anchored: samples of A that the anchor draws from, >= 1.
        sampler: how flows are followed.
        teach: one injection.
        seed: of the proposals and of teaching.
    """

    proposals: int = 4
    candidates: int = 32
    anchored: int = 192
    sampler: SamplerSettings = field(default_factory=lambda: SamplerSettings(steps=10))
    teach: TeachSettings = field(default_factory=TeachSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.proposals <= self.candidates:
            raise SettingError(
                f"proposals={self.proposals} must be >= 2 and at most candidates={self.candidates}; try 4 of 32"
            )
        if self.anchored < 1:
            raise SettingError(f"anchored={self.anchored} must be >= 1; try 192")
        if not 0 <= self.seed < 2**62:
            raise SettingError(f"seed={self.seed} must lie between 0 and 2^62 - 1; try 0")


class Course:
    """A flow and the copy that is taught.

    Guarantee: the same settings and the same picks give the same B on the same kind of device, however often it is
    asked to propose in between; an injection that fails or is interrupted leaves B and the picks as they were.

    Attributes:
        base: A.
        student: B; a copy of A until the first injection.
        picks: ``(m, points, 3)`` what was injected.
    """

    def __init__(self, base: PointFlow, points: int, settings: CourseSettings, device: torch.device) -> None:
        """Start with a copy.

        Args:
            base: A, on ``device``.
            points: of each shape.
            settings: how B is taught.
            device: where everything happens.
        """
        self.base, self.settings, self.device = base, settings, device
        self.student = copy.deepcopy(base)
        self.picks = torch.zeros(0, points, 3, device=device)
        self._anchors: Tensor | None = None
        self._asked = 0
        self._before: list[PointFlow] = []  # B before each injection since the start or `restore`

    @property
    def injections(self) -> int:
        """How many picks B has learned from."""
        return len(self.picks)

    def noise(self, n: int, seed: int) -> Tensor:
        """``(n, points, 3)`` noise that is always the same for a seed."""
        generator = torch.Generator().manual_seed(seed)  # on the CPU, so that all devices draw the same shapes
        return torch.randn(n, *self.picks.shape[1:], generator=generator).to(self.device)

    def by_a(self, noise: Tensor) -> Tensor:
        """``(n, points, 3)`` what A makes of noise."""
        return sample(self.base, noise, self.settings.sampler)

    def by_b(self, noise: Tensor) -> Tensor:
        """``(n, points, 3)`` what B makes of noise."""
        return sample(self.student, noise, self.settings.sampler)

    def propose(self) -> Tensor:
        """Shapes ``(proposals, points, 3)`` by B to choose from, as different as B draws them; others each time."""
        self._asked += 1
        seed = 1 + self._asked + 1000 * (self.injections + 1000 * self.settings.seed)
        drawn = self.by_b(self.noise(self.settings.candidates, seed))
        sound = drawn[drawn.isfinite().flatten(1).all(1)]
        return sound[most_different(sound, self.settings.proposals)]

    def inject(self, pick: Tensor, report: Callable[[int], None] | None = None) -> None:
        """Teach B one more pick ``(points, 3)``, or several at once ``(m, points, 3)``.

        Raises:
            SettingError: another shape, not finite, or teaching lost its way.
        """
        if pick.shape[-2:] != self.picks.shape[1:] or pick.dim() > 3 or not bool(pick.isfinite().all()):
            raise SettingError(
                f"a pick of shape {tuple(pick.shape)} should be {tuple(self.picks.shape[1:])} and finite"
            )
        picks = torch.cat([self.picks, pick.to(self.device).view(-1, *self.picks.shape[1:])])
        generator = torch.Generator(self.device).manual_seed(len(picks) + 1000 * self.settings.seed)
        taught = inject(self.student, self.base, picks, self.anchors(), self.settings.teach, generator, pair, report)
        self._before.append(self.student)
        self.student, self.picks, self._asked = taught, picks, 0

    def undo(self, report: Callable[[int], None] | None = None) -> bool:
        """Take the last injection back; after a `restore` the others are taught again, so that takes as long.

        Returns:
            Whether there was one.
        """
        if not self.injections:
            return False
        picks = self.picks[:-1]
        if self._before:
            self.student, self.picks, self._asked = self._before.pop(), picks, 0
            return True
        self.restore(self.base, self.picks[:0])
        for pick in picks:
            self.inject(pick, report)
        return True

    def restore(self, student: PointFlow, picks: Tensor) -> None:
        """Go on from a B and the picks that made it, ``(m, points, 3)``."""
        self.student, self.picks, self._asked = copy.deepcopy(student), picks.to(self.device), 0
        self._before.clear()

    def anchors(self) -> Tensor:
        """``(anchored, points, 3)`` samples of A, drawn once."""
        if self._anchors is None:
            self._anchors = self.by_a(self.noise(self.settings.anchored, 7_000_000_000 + self.settings.seed))
        return self._anchors
