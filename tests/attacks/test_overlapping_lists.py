"""The server names the victim among those who answered and among those who dropped out, to get both its secrets."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from simulations.active_server import ActiveServer
from simulations.federation import Members, Watched, terms


class Twin(Watched):
    """Without the check that the lists are disjoint."""

    def _check_disjoint(self, alive: Sequence[int], dead: Sequence[int]) -> None:
        pass


def attack(make: Callable[..., Any], folder: Path) -> bool:
    """Whether the attack works against such members."""
    server = ActiveServer(Members(terms(6, minimum_people=4), 6, folder, make))
    server.keys()
    server.shares()
    server.masked()
    everybody = set(server.words)
    server.unmask(dict.fromkeys(everybody, (everybody, {1})))
    return server.reads(server.members.sent)


def test_is_refused(tmp_path: Path) -> None:
    assert not attack(Watched, tmp_path)


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    assert attack(Twin, tmp_path)
