"""The server goes by terms of its own, with a hundred times the epsilon."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.rounds import Opening
from simulations.active_server import ActiveServer
from simulations.federation import Members, Watched, terms


class Twin(Watched):
    """Does not compare the terms."""

    def _check_terms(self, opening: Opening) -> None:
        pass


def attack(make: Callable[..., Any], folder: Path) -> bool:
    """Whether the attack works against such members."""
    members = Members(terms(6, minimum_people=4), 6, folder, make)
    weaker = terms(6, minimum_people=4, epsilon=100.0)
    opening = dataclasses.replace(members.opening(), terms=weaker.digest())
    return bool(ActiveServer(members, opening).keys())


def test_is_refused(tmp_path: Path) -> None:
    assert not attack(Watched, tmp_path)


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    assert attack(Twin, tmp_path)
