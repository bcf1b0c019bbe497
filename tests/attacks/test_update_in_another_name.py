"""A malicious member: it answers with what another sent in an earlier round."""

from collections.abc import Mapping
from pathlib import Path

from common.rounds import UPDATE, Update
from common.secure_sum import RosterEntry
from common.terms import Trust
from server.secure_round import PlainSum, Sums
from simulations.federation import Members, terms


class Twin(PlainSum):
    """Does not look at the signature."""

    def _check_signature(self, entry: RosterEntry, answer: Update) -> None:
        pass


def attacked(folder: Path, plain: type[PlainSum]) -> Sums:
    members = Members(terms(6, minimum_people=4, trust=Trust.CENTRAL), 6, folder)
    kept: list[Mapping[str, object]] = []

    def keep(stage: str, node: int, content: Mapping[str, object] | None) -> list[Mapping[str, object] | None]:
        if stage == UPDATE and node == 2 and content:
            kept.append(content)
        return [content]

    members.fault = keep
    members.round(1)
    # the vector of member 2 of round 1, called an answer to round 2
    members.fault = lambda stage, node, content: [{**kept[0], "round": 2} if stage == UPDATE and node == 1 else content]
    return members.round(2, plain=plain)


def test_is_left_out_and_the_round_ends_well(tmp_path: Path) -> None:
    sums = attacked(tmp_path, PlainSum)
    assert sums.answered == 5
    assert [str(reason) for reason in sums.dropped] == ["not certified"]


def test_works_on_the_twin_without_the_control(tmp_path: Path) -> None:
    assert attacked(tmp_path, Twin).answered == 6
