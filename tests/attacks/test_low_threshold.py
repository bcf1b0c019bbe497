"""With a threshold of half the members, one half is asked for one secret of the victim, the other for the other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.secure_sum import Roster
from simulations.active_server import ActiveServer
from simulations.federation import Members, Watched, terms


class Twin(Watched):
    """Believes any threshold."""

    def _check_threshold(self, threshold: int, roster: Roster) -> None:
        pass


def attack(make: Callable[..., Any], folder: Path) -> bool:
    """Whether the attack works against such members."""
    server = ActiveServer(Members(terms(10, minimum_people=5), 10, folder, make))
    server.keys()
    server.shares(threshold=5)
    server.masked()
    everybody = set(range(1, 11))
    lists = {member: (everybody, set[int]()) for member in range(1, 6)}
    lists |= {member: (everybody - {1}, {1}) for member in range(6, 11)}
    server.unmask(lists)
    return server.reads(server.members.sent)


def test_is_refused(tmp_path: Path) -> None:
    assert not attack(Watched, tmp_path)


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    assert attack(Twin, tmp_path)
