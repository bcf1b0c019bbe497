"""A malicious member: a vector of NaN, as the bytes of floating-point numbers."""

from pathlib import Path

import numpy as np

from common.privacy.promise import promise
from common.terms import Trust
from server.secure_round import Integers, PlainSum, Sums
from simulations.federation import Members, Poisoner, terms


class Twin(PlainSum):
    """Takes a vector however long it is."""

    def _check_bound(self, vector: Integers) -> None:
        pass


def attacked(folder: Path, plain: type[PlainSum]) -> tuple[Sums, Members]:
    members = Members(terms(6, minimum_people=4, trust=Trust.CENTRAL), 6, folder)
    kept = promise(members.terms)
    vector = np.full(kept.numbers, np.nan).tobytes()
    members.fault = Poisoner(members, 1, vector)
    return members.round(plain=plain), members


def test_is_left_out_and_the_round_ends_well(tmp_path: Path) -> None:
    sums, members = attacked(tmp_path, PlainSum)
    assert sums.answered == 5
    assert np.array_equal(sums.released(), members.added(range(2, 7)))
    assert sum(sums.dropped.values()) == 1


def test_breaks_the_twin_without_the_control(tmp_path: Path) -> None:
    sums, members = attacked(tmp_path, Twin)
    moved = np.abs(sums.released().astype(float) - members.added(range(2, 7)))
    assert moved.max() > 6 * promise(members.terms).sensitivity
