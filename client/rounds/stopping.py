"""When rounds stop before their limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from client.rounds.record import Row

SATISFIED = 0.8  # share of the questions of a round that a satisfied user answers with "both good"


class Stopping(Protocol):
    """Looks at the rounds so far."""

    def __call__(self, rows: Sequence[Row], distance: float, patience: int) -> bool:
        """Whether to stop after the last of these rounds; False for none.

        Args:
            rows: one for each round.
            distance: the setting of that name.
            patience: the setting of that name.
        """


def at_distance(rows: Sequence[Row], distance: float, patience: int) -> bool:
    """The favourite is as near to the target as was asked for. See `Stopping`."""
    return bool(rows) and rows[-1].distance_favourite <= distance


def when_satisfied(rows: Sequence[Row], distance: float, patience: int) -> bool:
    """The user called both good in most questions of the last round. See `Stopping`."""
    return bool(rows) and rows[-1].both >= SATISFIED * rows[-1].questions > 0


def at_plateau(rows: Sequence[Row], distance: float, patience: int) -> bool:
    """At the distance, or when the last ``patience`` rounds brought the favourite no nearer. See `Stopping`."""
    if at_distance(rows, distance, patience):
        return True
    before, lately = rows[:-patience], rows[-patience:]
    return bool(before) and min(row.distance_favourite for row in lately) >= before[-1].distance_favourite


def never(rows: Sequence[Row], distance: float, patience: int) -> bool:
    """Only at the limit of rounds. See `Stopping`."""
    return False


STOPPINGS: dict[str, Stopping] = {
    "distance": at_distance,
    "satisfied": when_satisfied,
    "plateau": at_plateau,
    "limit": never,
}
