"""A malicious member: a hundred times the bytes that were asked for."""

from pathlib import Path

import pytest

from common.terms import Trust
from server.secure_round import PlainSum, Sums
from simulations.federation import Members, Poisoner, terms


class Twin(PlainSum):
    """Reads whatever comes."""

    def _most_bytes(self) -> int:
        return 2**40

    def _check_size(self, total: bytes) -> None:
        pass


def attacked(folder: Path, plain: type[PlainSum]) -> Sums:
    members = Members(terms(6, minimum_people=4, trust=Trust.CENTRAL), 6, folder)
    members.fault = Poisoner(members, 1, bytes(8 * 15 * 100))
    return members.round(plain=plain)


def test_is_left_out_before_it_is_read(tmp_path: Path) -> None:
    sums = attacked(tmp_path, PlainSum)
    assert sums.answered == 5
    assert [str(reason) for reason in sums.dropped] == ["oversize"]


def test_breaks_the_twin_without_the_control(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="same shape"):
        attacked(tmp_path, Twin)
