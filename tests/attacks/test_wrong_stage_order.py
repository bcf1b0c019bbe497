"""The server asks the last stage twice: first the victim answered, then it dropped out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.rounds import Stage
from simulations.active_server import ActiveServer
from simulations.federation import Members, Watched, terms


class Twin(Watched):
    """Answers a stage as often as it is asked, and forgets nothing."""

    def _advance(self, stage: str, request: Stage) -> None:
        pass

    def _forget(self) -> None:
        pass


def attack(make: Callable[..., Any], folder: Path) -> bool:
    """Whether the attack works against such members."""
    server = ActiveServer(Members(terms(6, minimum_people=4), 6, folder, make))
    server.keys()
    server.shares()
    server.masked()
    everybody = set(server.words)
    server.unmask(dict.fromkeys(everybody, (everybody, set[int]())))
    server.unmask(dict.fromkeys(everybody - {1}, (everybody - {1}, {1})))
    return server.reads(server.members.sent)


def test_is_refused(tmp_path: Path) -> None:
    assert not attack(Watched, tmp_path)


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    assert attack(Twin, tmp_path)
