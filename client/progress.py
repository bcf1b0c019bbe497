"""Progress of long work, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bar(*, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A function of stage, steps done and steps in all that draws a row for each stage; ``quiet`` draws nothing."""
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, quiet=quiet)) as bar:
        rows: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in rows:
                rows[stage] = bar.add_task(stage, total=total)
            bar.update(rows[stage], completed=done)

        yield report


class Round(Protocol):
    """Anything that stands for a finished round."""

    @property
    def round(self) -> int:
        """Number of it, from 0 for before the first."""


R = TypeVar("R", bound=Round)


@contextmanager
def rounds_bar(
    what: str, rounds: int, in_words: Callable[[R], str], *, quiet: bool = False
) -> Iterator[Callable[[R], None]]:
    """A function of a finished round that moves one bar on, with what the round came to beside it."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True, quiet=quiet), transient=True) as bar:
        task = bar.add_task("", total=rounds)

        def tell(finished: R) -> None:
            bar.update(task, completed=finished.round, description=in_words(finished))

        yield tell
