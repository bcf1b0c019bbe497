"""The server asks somebody who has given so few answers that an update would tell them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulations.active_server import ActiveServer
from simulations.federation import Members, Watched, terms


class Twin(Watched):
    """Takes part after a single answer."""

    def _check_ratings(self) -> None:
        pass


def attack(make: Callable[..., Any], folder: Path) -> bool:
    """Whether the attack works against such members."""
    members = Members(terms(6, minimum_people=4, minimum_ratings=5), 6, folder, make)  # they gave four
    return bool(ActiveServer(members).keys())


def test_is_refused(tmp_path: Path) -> None:
    assert not attack(Watched, tmp_path)


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    assert attack(Twin, tmp_path)
