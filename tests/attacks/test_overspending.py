"""The server asks for one round more than the person agreed to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulations.federation import Members, Watched, terms


class Twin(Watched):
    """Believes the server that there is budget left."""

    def _check_budget(self) -> None:
        pass

    def _charge(self) -> None:
        pass


def attack(make: Callable[..., Any], folder: Path) -> bool:
    """Whether the attack works against such members."""
    members = Members(terms(6, minimum_people=4, participations=2), 6, folder, make)
    assert members.round(1).total is not None
    assert members.round(2).total is not None
    return members.round(3).total is not None


def test_is_refused(tmp_path: Path) -> None:
    assert not attack(Watched, tmp_path)


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    assert attack(Twin, tmp_path)
