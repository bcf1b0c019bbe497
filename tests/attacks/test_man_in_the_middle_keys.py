"""The server puts keys of its own in the place of everybody else's: all masks and boxes are made with the server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.secure_sum import Roster
from common.signing import SigningKey
from simulations.active_server import ActiveServer
from simulations.federation import Members, Watched, terms


class Twin(Watched):
    """Does not look at the members' signatures of their round keys."""

    def _check_signatures(self, roster: Roster) -> None:
        pass


def attack(make: Callable[..., Any], folder: Path) -> bool:
    """Whether the attack works against such members."""
    members = Members(terms(6, minimum_people=4), 6, folder, make)
    server = ActiveServer(members)
    server.keys()
    for number in range(2, 7):  # the certificate is the member's own, the signature cannot be
        server.puppet(members.devices[number].certificate, SigningKey.generate())
    if not server.shares():
        return False
    server.masked()
    server.open_boxes()
    return server.reads(members.sent)


def test_is_refused(tmp_path: Path) -> None:
    assert not attack(Watched, tmp_path)


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    assert attack(Twin, tmp_path)
