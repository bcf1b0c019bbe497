"""The training: each step depends on its number alone, so that a resumed training ends with the same weights."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from client.generators.training import checkpoint
from client.generators.training.checkpoint import Checkpoint
from client.generators.training.course import Course, TrainingSettings
from client.generators.training.pictures import Pictures
from client.generators.training.score import Judge
from common.errors import Interrupted, PlglError

SCORED, _SHOWN = 512, 24
_DECAY, _AT_ONCE = 0.999, 32


class TrainingError(PlglError):
    """A training cannot go on: its loss is no number any more."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a training shows at a checkpoint.

    Attributes:
        step: steps done.
        loss: mean since the last one.
        score: see `Judge`.
        samples: ``(24, 3, side, side)``, always of the same latents.
    """

    step: int
    loss: float
    score: float
    samples: Tensor = field(repr=False)


class Trainer:
    """One training in one folder.

    Guarantee: after `run`, or after it was stopped and run again with the same settings and pictures on the same
    machine, the weights are the same.

    Args:
        settings: how.
        pictures: what to learn from.
        folder: new, empty, or of a training with the same settings and pictures, which then goes on.
        device: where; a GPU trains in bfloat16 where that is safe, with float32 weights.

    Raises:
        FolderError: the folder holds something else.
    """

    def __init__(self, settings: TrainingSettings, pictures: Pictures, folder: Path, device: torch.device) -> None:
        self.settings, self.folder, self.device = settings, folder, device
        self.about = checkpoint.note(settings, pictures.sha256)
        self.values = pictures.values.to(device)
        self.course = Course(settings).to(device)
        self.average = copy.deepcopy(self.course).requires_grad_(False).eval()
        self.optimiser = torch.optim.AdamW(self.course.parameters(), lr=settings.rate, weight_decay=1e-4)
        self.step = 0
        real = self.values[: 4 * SCORED].cpu().float() / 127.5 - 1
        self.judge = Judge.of(real)
        if (found := checkpoint.load(folder, self.about)) is not None:
            self._restore(found)

    def run(
        self,
        every: int,
        seen: Callable[[Seen], None],
        progress: Callable[[int, float], None] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to the last step.

        Args:
            every: steps between checkpoints.
            seen: called with each checkpoint.
            progress: called with the steps done and the loss of the last one.
            stopped: asked after each step; True ends the training with a checkpoint.

        Raises:
            Interrupted: it was stopped; a checkpoint was written.
            TrainingError: the loss became NaN or infinite; the last checkpoint stays.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        total, count = torch.zeros((), device=self.device), 0
        while self.step < self.settings.steps:
            loss = self._advance()
            total, count = total + loss, count + 1
            if progress is not None:
                progress(self.step, float(loss))
            last = self.step == self.settings.steps
            if last or self.step % every == 0:
                self._check(float(total))
                self._save()
                seen(self.show(float(total) / count))
                total, count = torch.zeros((), device=self.device), 0
            elif stopped():
                self._check(float(total))
                self._save()
            if stopped() and not last:
                raise Interrupted(
                    f"stopped after {self.step} of {self.settings.steps} steps; the same command goes on from there"
                )

    @torch.no_grad()
    def show(self, loss: float = math.nan) -> Seen:
        """Score and samples of the averaged weights."""
        network = self.average.network()
        latents = torch.randn(SCORED, self.course.dimension, generator=torch.Generator().manual_seed(1))
        parts = [network(part.to(self.device)).float().cpu() for part in torch.split(latents, _AT_ONCE)]
        drawn = torch.cat(parts)
        return Seen(step=self.step, loss=loss, score=self.judge.score(drawn), samples=drawn[:_SHOWN])

    def _advance(self) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(self.settings.seed * 1_000_003 + self.step)
        batch = torch.randint(len(self.values), (self.settings.batch,), generator=generator, device=self.device)
        mirrored = torch.rand(self.settings.batch, 1, 1, 1, generator=generator, device=self.device) < 0.5
        pictures = self.values[batch].float() / 127.5 - 1
        pictures = torch.where(mirrored, pictures.flip(3), pictures)
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        self.optimiser.zero_grad(set_to_none=True)
        with self._precision():
            loss: Tensor = self.course(pictures, generator)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.course.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self._move_average()
        return loss.detach()

    def _rate(self) -> float:
        """Rising over the first steps, then falling as a cosine."""
        done = self.step / self.settings.steps
        rising = min(1.0, (self.step + 1) / min(200, max(1, self.settings.steps // 10)))
        return self.settings.rate * rising * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))

    def _precision(self) -> Any:
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        return torch.autocast("cuda", torch.bfloat16)  # as wide a range as float32, so no loss needs scaling

    @torch.no_grad()
    def _move_average(self) -> None:
        decay = min(_DECAY, (1 + self.step) / (10 + self.step))
        for kept, new in zip(self.average.parameters(), self.course.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)

    def _check(self, total: float) -> None:
        if not math.isfinite(total):
            raise TrainingError(
                f"the loss is not finite before step {self.step}; start in a new folder with a smaller --rate than "
                f"{self.settings.rate:g}"
            )

    def _save(self) -> None:
        parts = {
            "weights": self.course.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": checkpoint.optimiser_tensors(self.optimiser),
        }
        tensors = {f"{part}/{name}": value for part, each in parts.items() for name, value in each.items()}
        checkpoint.save(self.folder, self.about, Checkpoint(step=self.step, tensors=tensors))

    def _restore(self, found: Checkpoint) -> None:
        self.course.load_state_dict(found.part("weights"))
        self.average.load_state_dict(found.part("average"))
        checkpoint.restore_optimiser(self.optimiser, found.part("optimiser"))
        self.step = found.step
