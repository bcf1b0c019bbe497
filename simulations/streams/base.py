"""What a stream is made from, and what it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from client.policy.distillation import DistilSettings
from client.policy.goal import Goal
from client.policy.stream import StreamSettings, prepare, whole_goal
from client.policy.training import Learned, Training
from client.session import Session

Draw = Callable[[int], Tensor]


@dataclass(frozen=True, eq=False)
class Made:
    """A stream.

    Attributes:
        draw: latents ``(n, d)`` for a number of items.
        seconds: of processor time that making it took.
        note: something to be told of it, e.g. why a guard stopped.
        size: numbers in what has to be kept, 0 for nothing.
        policy: whether ``draw`` is a policy, one pass for each item.
    """

    draw: Draw
    seconds: float = 0.0
    note: str = ""
    size: int = 0
    policy: bool = False


class Listener:
    """One person's session after some answers, and what several streams learn from it once.

    Attributes:
        session: with the answers; in memory.
        level: from 0 (safe) to 1 (surprising).
        settings: how policies are learned.
        seed: of what is drawn.
        distil: how small policies are made.
        of: candidates for each item of best-of-n.
    """

    def __init__(
        self,
        session: Session,
        settings: StreamSettings,
        *,
        level: float,
        seed: int,
        distil: DistilSettings | None = None,
        of: int = 64,
    ) -> None:
        self.session, self.settings, self.level, self.seed = session, settings, level, seed
        self.distil, self.of = distil or DistilSettings(), of
        self._goal: Goal | None = None
        self._trainings: dict[str, Training] = {}
        self._learned: dict[str, tuple[Learned, float]] = {}

    def generator(self, purpose: int) -> torch.Generator:
        """Random numbers for one purpose."""
        return torch.Generator().manual_seed(self.seed * 1_000 + purpose)

    def training(self, learner: str = "reparameterised") -> Training:
        """A training by a learner."""
        if learner not in self._trainings:
            self._trainings[learner] = prepare(self.session, replace(self.settings, learner=learner))
        return self._trainings[learner]

    def goal(self) -> Goal:
        """What policies are learned for in the end, before or after they are learned."""
        if self._goal is None:
            whole = bool(self.settings.refit)
            self._goal = whole_goal(self.session, self.settings) if whole else self.training().learner.goal
        return self._goal

    def learned(self, learner: str = "reparameterised") -> tuple[Learned, float]:
        """A policy by a learner, and the seconds of processor time it took."""
        if learner not in self._learned:
            started = time.process_time()
            learned = self.training(learner).run()
            self._learned[learner] = learned, time.process_time() - started
        return self._learned[learner]


class Maker(Protocol):
    """Makes a stream."""

    def __call__(self, listener: Listener) -> Made:
        """Make the stream of one person."""
