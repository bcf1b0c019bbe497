"""A malicious member: it answers twice, with different vectors, to count twice."""

from pathlib import Path

import numpy as np

from common.rounds import UPDATE, UpdateRequest
from common.terms import Trust
from server.secure_round import PlainSum, Sums
from simulations.federation import Members, Poisoner, terms


class Twin(PlainSum):
    """Adds whatever arrives."""

    def run(self) -> Sums:
        request = UpdateRequest(session=self._opening.session, round=self._opening.round).to_wire()
        answers = list(self._exchange(UPDATE, dict.fromkeys(self._entries, request)))
        vectors = [self._read(answer.node, answer.content) for answer in answers if answer.content]
        return Sums(total=np.stack(vectors).sum(0), answered=len(vectors))


def attacked(folder: Path, plain: type[PlainSum]) -> tuple[Sums, Members]:
    members = Members(terms(6, minimum_people=4, trust=Trust.CENTRAL), 6, folder)
    vector = (np.eye(1, 15, 3)[0] * 2**14).astype("<i8")
    once = Poisoner(members, 1, vector.tobytes())
    members.fault = lambda stage, node, content: (
        [content, *once(stage, node, content)] if node == 1 and stage == UPDATE else [content]
    )
    return members.round(plain=plain), members


def test_is_left_out_and_the_round_ends_well(tmp_path: Path) -> None:
    sums, members = attacked(tmp_path, PlainSum)
    assert sums.answered == 5
    assert np.array_equal(sums.released(), members.added(range(2, 7)))


def test_the_same_answer_again_counts_once(tmp_path: Path) -> None:
    members = Members(terms(6, minimum_people=4, trust=Trust.CENTRAL), 6, tmp_path)
    members.fault = lambda stage, node, content: [content, content]
    sums = members.round()
    assert sums.answered == 6
    assert np.array_equal(sums.released(), members.added(range(1, 7)))


def test_breaks_the_twin_without_the_control(tmp_path: Path) -> None:
    sums, _ = attacked(tmp_path, Twin)
    assert sums.answered == 7
