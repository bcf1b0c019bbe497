"""Progress of work on very many people: how far, how fast, how long to go. Always on standard error."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from simulations.progress import LINE_SECONDS


class Pace:
    """A bar on a terminal, a line now and then in a log; use as a context manager.

    Args:
        total: people to be worked on, each as often as there are rounds.
        done: how many of them an earlier run has worked on.
        unit: what is counted.
        quiet: print nothing.
    """

    def __init__(self, total: int, done: int = 0, *, unit: str = "people", quiet: bool = False) -> None:
        self.unit = unit
        self.total, self.done, self.before, self.quiet = total, done, done, quiet
        self.began = self.printed = time.monotonic()
        self.console = Console(stderr=True)
        self.live = self.console.is_terminal and not quiet
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("left"))
        self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console, disable=not self.live)
        self.task = self.bar.add_task("starting", total=total, completed=done)

    def __enter__(self) -> Pace:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def advance(self, people: int, what: str) -> None:
        """Some more people have been worked on, in the stage ``what``."""
        self.done += people
        now = time.monotonic()
        rate = (self.done - self.before) / max(now - self.began, 1e-9)
        self.bar.update(self.task, completed=self.done, description=f"{what}, {rate:,.0f} {self.unit}/s")
        if self.live or self.quiet or now - self.printed < LINE_SECONDS:
            return
        self.printed = now
        left = (self.total - self.done) / rate
        self.say(f"[{self.done / self.total:4.0%}] {what}, {rate:,.0f} {self.unit}/s, about {left:.0f} s left")

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)
