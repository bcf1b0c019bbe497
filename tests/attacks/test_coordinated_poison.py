"""m of n members send the longest vectors they may, all in one direction: the mean moves by m C / n at most."""

import math
from pathlib import Path

import numpy as np
import pytest

from common.privacy.fixed_point import SCALE
from common.privacy.promise import promise
from common.terms import Trust
from server.secure_round import Integers, PlainSum
from simulations.federation import Members, Poisoner, terms


class Twin(PlainSum):
    """Takes a vector however long it is."""

    def _check_bound(self, vector: Integers) -> None:
        pass


def shift(folder: Path, malicious: int, length: float, plain: type[PlainSum]) -> float:
    """How far the mean moves from where it is with zeros in the place of the malicious, in update units."""
    members = Members(terms(12, minimum_people=4, trust=Trust.CENTRAL), 12, folder)
    vector = np.zeros(promise(members.terms).numbers)
    vector[3] = math.floor(length * SCALE)
    poison = [Poisoner(members, number, vector.astype("<i8").tobytes()) for number in range(1, malicious + 1)]
    members.fault = lambda stage, node, content: (
        poison[node - 1](stage, node, content) if node <= malicious else [content]
    )
    sums = members.round(plain=plain)
    moved = sums.released() - members.added(range(malicious + 1, 13))
    return float(np.linalg.norm(moved)) / SCALE / 12


@pytest.mark.parametrize("malicious", [1, 3, 6])
def test_the_mean_moves_by_their_share_of_the_bound_at_most(tmp_path: Path, malicious: int) -> None:
    bound = promise(terms(12)).norm_bound
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    moved = shift(allowed, malicious, bound, PlainSum)
    assert 0.99 * malicious * bound / 12 < moved <= malicious * bound / 12 * 1.001
    assert shift(tmp_path, malicious, 1_000 * bound, PlainSum) == 0  # left out


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    bound = promise(terms(12)).norm_bound
    assert shift(tmp_path, 1, 1_000 * bound, Twin) > 50 * bound
