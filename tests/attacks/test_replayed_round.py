"""The server opens a round again that is over, to get a second vector for one charge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.rounds import Opening
from simulations.federation import Members, Watched, terms


class Twin(Watched):
    """Keeps no record of rounds."""

    def _check_fresh(self, opening: Opening) -> None:
        pass

    def _charge(self) -> None:
        pass


def attack(make: Callable[..., Any], folder: Path) -> bool:
    """Whether the attack works against such members."""
    members = Members(terms(6, minimum_people=4), 6, folder, make)
    assert members.round(1).total is not None
    return members.round(1).total is not None


def test_is_refused(tmp_path: Path) -> None:
    assert not attack(Watched, tmp_path)


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    assert attack(Twin, tmp_path)
