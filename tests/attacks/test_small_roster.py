"""A round of the victim and one member the server controls: the sum of two is the victim's vector."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import secure_sum
from common.secure_sum import Roster
from common.shamir import coefficients, combine
from simulations.active_server import ActiveServer
from simulations.federation import Members, Watched, terms


class Twin(Watched):
    """Takes part however few there are."""

    def _check_size(self, roster: Roster) -> None:
        pass

    def _check_survivors(self, alive: Sequence[int]) -> None:
        pass


def attack(make: Callable[..., Any], folder: Path) -> bool:
    """Whether the attack works against such members."""
    members = Members(terms(6, minimum_people=4), 6, folder, make)
    server = ActiveServer(members)
    server.keys([1])
    colluding = members.devices[2]
    server.puppet(colluding.certificate, colluding.key)
    if not server.shares():
        return False
    server.masked()
    server.open_boxes()
    server.unmask({1: ({1, 2}, set[int]())})
    # the colluding member's masks with the victim have the opposite sign of the victim's own
    masks = secure_sum.pair_masks(server.puppets[2].mask, 2, [server.entries[1]], server.digest, server.words[1].size)
    words = server.words[1] + masks
    seed = combine(server.seeds, coefficients(sorted(server.seeds)))
    found = secure_sum.signed(words - secure_sum.expand(seed, words.size), server.bits())
    return bool(np.array_equal(found, members.sent[1]))


def test_is_refused(tmp_path: Path) -> None:
    assert not attack(Watched, tmp_path)


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    assert attack(Twin, tmp_path)
