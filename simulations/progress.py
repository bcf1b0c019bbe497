"""Progress with an honest time to go: a bar on a terminal, a line now and then in a log. Always on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
_FORETELL = 0.005  # share of the work that must be done before its pace says anything about the rest


class Stages:
    """Work made of stages of known size; use as a context manager.

    Args:
        work: seconds each stage would take on a slow machine; only their ratios matter.
        quiet: print nothing.
    """

    def __init__(self, work: dict[str, float], *, quiet: bool = False) -> None:
        self.work, self.total = work, sum(work.values())
        self.done: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.quiet = quiet
        self.started = self.printed = self.stage_started = time.monotonic()
        self.stage = ""
        self.skipped = 0.0
        terminal = sys.stderr.isatty() and not quiet
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            disable=not terminal,
            transient=True,
        )
        self.live = terminal
        self.task = self.bar.add_task("starting", total=self.total)

    def __enter__(self) -> Stages:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_stage()
        self.bar.stop()

    def begin(self, stage: str) -> None:
        """Start a stage."""
        self._close_stage()
        self.stage, self.stage_started = stage, time.monotonic()
        self.bar.update(self.task, description=stage)
        self._line(force=True)

    def advance(self, share: float) -> None:
        """Another ``share`` (0 to 1) of the current stage is done."""
        self.done[self.stage] = min(self.done.get(self.stage, 0.0) + share, 1.0)
        self._show()

    def skip(self, stage: str) -> None:
        """A stage was found finished by an earlier run."""
        self.done[stage] = 1.0
        self.skipped += self.work[stage]
        self._show()

    def finish(self, stage: str) -> None:
        """A stage that ran beside others, in another process, is done."""
        self.done[stage] = 1.0
        self._show()

    def end(self) -> None:
        """The current stage is done, and nothing else has begun."""
        if self.stage:
            self._close_stage()

    def _close_stage(self) -> None:
        if self.stage:
            if self.stage in self.work:  # the name of several that run beside each other is no work of its own
                self.done[self.stage] = 1.0
            self.seconds[self.stage] = round(time.monotonic() - self.stage_started, 2)
            self.stage = ""
            self._show()

    def _show(self) -> None:
        self.bar.update(self.task, completed=self._completed())
        self._line()

    def _completed(self) -> float:
        return sum(self.work[stage] * share for stage, share in self.done.items())

    def _line(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if self.live or self.quiet or not self.stage or (not force and now - self.printed < LINE_SECONDS):
            return
        self.printed = now
        completed = self._completed()
        worked, elapsed = completed - self.skipped, now - self.started
        left = (
            f", about {elapsed * (self.total - completed) / worked:.0f} s left"
            if worked > _FORETELL * self.total
            else ""
        )
        print(f"[{completed / self.total:4.0%}] {self.stage}{left}", file=sys.stderr, flush=True)
