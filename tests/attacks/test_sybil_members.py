"""All other members are made up by the server, with certificates nobody but the server signed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.enrolment import MemberCertificate
from common.secure_sum import Roster
from common.signing import SigningKey
from simulations.active_server import ActiveServer
from simulations.federation import Members, Watched, terms


class Twin(Watched):
    """Does not look at certificates."""

    def _check_certificates(self, roster: Roster) -> None:
        pass


def attack(make: Callable[..., Any], folder: Path) -> bool:
    """Whether the attack works against such members."""
    members = Members(terms(6, minimum_people=4), 6, folder, make)
    server = ActiveServer(members)
    server.keys([1])
    false_authority = SigningKey.generate()
    for number in range(2, 7):
        key = SigningKey.generate()
        certificate = MemberCertificate.issue(
            false_authority, federation="f" * 32, member=number, key=key.public, issued=0, expires=2**40
        )
        server.puppet(certificate, key)
    if not server.shares():
        return False
    server.masked()
    server.open_boxes()
    return server.reads(members.sent)


def test_is_refused(tmp_path: Path) -> None:
    assert not attack(Watched, tmp_path)


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    assert attack(Twin, tmp_path)
