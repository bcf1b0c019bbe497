"""The server gives one member another prior, so that its update stands out (Pasquini et al. 2021, arXiv 2111.07380)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from client.masking import RoundMember
from common import secure_sum
from common.prior import PopulationPrior
from common.rounds import KEYS, Keys, Opening
from common.secure_sum import Roster
from common.wire import Wire
from server.secure_round import Sums, add_up, gather_keys
from simulations.federation import PACK, Members, Watched, terms


class WithoutSignatures(Watched):
    """Does not look at signatures of round keys, so that only the masks are left."""

    def _check_signatures(self, roster: Roster) -> None:
        pass


def loose(opening: Opening) -> bytes:
    """A context without the prior."""
    return secure_sum.context(session=opening.session, round=opening.round)


class LooseOpening(Opening):
    """An opening whose keys do not depend on the prior."""

    def context(self) -> bytes:
        return loose(self)


class Twin(WithoutSignatures):
    """Binds its keys to the round only."""

    def _context(self, opening: Opening) -> bytes:
        return loose(opening)


def attacked(
    make: type[RoundMember], folder: Path, opened: type[Opening], session: str = "s" * 32
) -> tuple[Sums, Members]:
    members = Members(terms(6, minimum_people=4, participations=200), 6, folder, make)
    agreed, other = members.terms, PopulationPrior.flat(members.terms.parameters, PACK, 3.0)
    made = [
        opened.of(prior, federation=agreed.federation, terms=agreed.digest(), session=session, number=1)
        for prior in (PopulationPrior.flat(agreed.parameters, PACK), other)
    ]

    def exchange(stage: str, contents: Mapping[int, Wire]) -> object:
        changed = {node: made[1].to_wire() if stage == KEYS and node == 1 else wire for node, wire in contents.items()}
        return members.exchange(stage, changed)

    entries, _ = gather_keys(exchange, [2, 3, 4, 5, 6], made[0], lambda entry: None)  # type: ignore[arg-type]
    answer = members.ask(KEYS, 1, made[1].to_wire())
    assert answer is not None
    entries[1] = Keys.from_wire(answer).entry()
    return add_up(exchange, entries, made[0], agreed), members  # type: ignore[arg-type]


def total(members: Members) -> np.ndarray:
    return sum(members.sent.values())  # type: ignore[return-value]


def test_is_refused(tmp_path: Path) -> None:
    sums, members = attacked(Watched, tmp_path, Opening)
    assert sums.total is None
    assert any("signed" in str(error) for _, _, error in members.refusals)


@pytest.mark.parametrize("part", range(4))
def test_masks_of_members_with_different_priors_never_cancel(tmp_path: Path, part: int) -> None:
    """100 of 100 sums cannot be read, even by members who check no signature."""
    for number in range(25):
        folder = tmp_path / str(number)
        folder.mkdir()
        sums, _ = attacked(WithoutSignatures, folder, Opening, session=f"{part} {number}")
        assert sums.total is None
        assert sums.reason


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    sums, members = attacked(Twin, tmp_path, LooseOpening)
    assert sums.total is not None
    assert np.array_equal(sums.total, total(members))
