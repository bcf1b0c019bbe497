"""The server leaves a member out of both lists, or names a stranger: members disagree about who is in the sum."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from simulations.active_server import ActiveServer
from simulations.federation import Members, Watched, terms


class Twin(Watched):
    """Does not compare the lists with who shared secrets."""

    def _check_complete(self, alive: Sequence[int], dead: Sequence[int]) -> None:
        pass


def attack(make: Callable[..., Any], folder: Path) -> bool:
    """Whether the attack works against such members."""
    server = ActiveServer(Members(terms(8, minimum_people=5), 8, folder, make))
    server.keys()
    server.shares()
    server.masked()
    alive = set(range(1, 8))  # member 8 answered and is not named
    stranger = server.unmask({1: (alive, {8, 77})})
    return stranger + server.unmask(dict.fromkeys(range(2, 8), (alive, set[int]()))) > 0


def test_is_refused(tmp_path: Path) -> None:
    assert not attack(Watched, tmp_path)


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    assert attack(Twin, tmp_path)
