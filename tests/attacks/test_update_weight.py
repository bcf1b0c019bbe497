"""A malicious member: a weight of 10^12 beside its vector, as if it had that many ratings."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.rounds import UPDATE, Update
from common.terms import Trust
from server.secure_round import Integers, PlainSum, Sums
from simulations.federation import Members, terms


class Twin(PlainSum):
    """Trusts weights, as federated averaging does."""

    def _read(self, node: int, content: Mapping[str, object]) -> Integers:
        weight = content.get("num-examples", 1)
        assert isinstance(weight, int)
        return super()._read(node, content) * weight

    def _answer(self, content: Mapping[str, object]) -> Update:
        return super()._answer({name: value for name, value in content.items() if name != "num-examples"})


def attacked(folder: Path, plain: type[PlainSum]) -> tuple[Sums, Members]:
    members = Members(terms(6, minimum_people=4, trust=Trust.CENTRAL), 6, folder)
    members.fault = lambda stage, node, content: [
        {**content, "num-examples": 10**12} if stage == UPDATE and node == 1 and content else content
    ]
    return members.round(plain=plain), members


def test_is_left_out_and_the_round_ends_well(tmp_path: Path) -> None:
    sums, members = attacked(tmp_path, PlainSum)
    assert sums.answered == 5
    assert np.array_equal(sums.released(), members.added(range(2, 7)))
    assert [str(reason) for reason in sums.dropped] == ["malformed"]


def test_breaks_the_twin_without_the_control(tmp_path: Path) -> None:
    sums, members = attacked(tmp_path, Twin)
    assert np.array_equal(sums.released() - members.added(range(2, 7)), members.sent[1] * (10**12))
