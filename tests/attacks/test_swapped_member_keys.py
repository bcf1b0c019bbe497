"""The authority itself colludes: it certifies keys of the server under numbers that belonged to real members before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.secure_sum import Roster
from common.signing import SigningKey
from simulations.active_server import ActiveServer
from simulations.federation import Members, Watched, terms


class Twin(Watched):
    """Remembers nobody's key."""

    def _check_pins(self, roster: Roster) -> None:
        pass


def attack(make: Callable[..., Any], folder: Path) -> bool:
    """Whether the attack works against such members."""
    members = Members(terms(6, minimum_people=4), 6, folder, make)
    assert members.round(1).total is not None  # an honest round, in which keys are pinned
    server = ActiveServer(members, members.opening(2))
    server.keys([1])
    for number in range(2, 7):
        key = SigningKey.generate()
        server.puppet(members.certify(number, key), key)
    if not server.shares():
        return False
    server.masked()
    server.open_boxes()
    return server.reads(members.sent)


def test_is_refused(tmp_path: Path) -> None:
    assert not attack(Watched, tmp_path)


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    assert attack(Twin, tmp_path)
