"""A malicious member: a single number, which would be added to every entry if it were broadcast."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.terms import Trust
from server.secure_round import Integers, PlainSum, Sums
from simulations.federation import Members, Poisoner, terms


class Twin(PlainSum):
    """Takes a vector of any number of bytes, as numpy would."""

    def _check_size(self, total: bytes) -> None:
        pass

    def _read(self, node: int, content: Mapping[str, object]) -> Integers:
        vector = super()._read(node, content)[: self._kept.numbers]
        return vector + np.zeros(self._kept.numbers, dtype=np.int64)


def attacked(folder: Path, plain: type[PlainSum]) -> tuple[Sums, Members]:
    members = Members(terms(6, minimum_people=4, trust=Trust.CENTRAL), 6, folder)
    vector = np.full(1, 2**12, dtype="<i8").tobytes()
    members.fault = Poisoner(members, 1, vector)
    return members.round(plain=plain), members


def test_is_left_out_and_the_round_ends_well(tmp_path: Path) -> None:
    sums, members = attacked(tmp_path, PlainSum)
    assert sums.answered == 5
    assert np.array_equal(sums.released(), members.added(range(2, 7)))
    assert sum(sums.dropped.values()) == 1


def test_breaks_the_twin_without_the_control(tmp_path: Path) -> None:
    sums, members = attacked(tmp_path, Twin)
    assert sums.answered == 6
    assert not np.array_equal(sums.released(), members.added(range(2, 7)))
