"""The server pretends that fewer answered than the noise is sized for, to get a sum with less noise."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from simulations.active_server import ActiveServer
from simulations.federation import Members, Watched, terms


class Twin(Watched):
    """Gives its shares however few answered."""

    def _check_survivors(self, alive: Sequence[int]) -> None:
        pass


def attack(make: Callable[..., Any], folder: Path) -> bool:
    """Whether the attack works against such members."""
    members = Members(terms(10, minimum_people=9), 10, folder, make)
    server = ActiveServer(members)
    server.keys()
    server.shares()
    server.masked()
    few = set(range(1, 9))  # eight, where nine are promised; members 9 and 10 are called dead
    return server.unmask(dict.fromkeys(few, (few, {9, 10}))) >= server.threshold


def test_is_refused(tmp_path: Path) -> None:
    assert not attack(Watched, tmp_path)


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    assert attack(Twin, tmp_path)
