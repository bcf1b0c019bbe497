"""Whatever members answer at whatever stage: no exception, and a sum that is exact or none."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.rounds import KEYS, MASKED, SHARES, UNMASK, UPDATE
from common.terms import Trust
from server.secure_round import Sums
from simulations.federation import Members, terms

COUNT, LEAST = 6, 3
Content = Mapping[str, object] | None
Change = Callable[[dict[str, Any]], list[Content]]

anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=99),
    st.lists(st.integers(-1, 9), max_size=9), st.lists(st.none(), max_size=2),
)  # fmt: skip


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """What becomes of one honest answer on its way: lost, doubled, contradicted, altered, or another thing."""
    kind = draw(st.sampled_from(["lost", "refused", "twice", "contradicted", "field", "byte", "without", "other"]))
    value, place = draw(anything), draw(st.integers(0, 10_000))
    strange: dict[str, object] = draw(st.dictionaries(st.text(max_size=5), anything, max_size=3))

    def change(honest: dict[str, Any]) -> list[Content]:
        names = sorted(honest)
        name = names[place % len(names)]
        made = dict(honest)
        if kind == "byte":
            name = next((each for each in names[place % len(names) :] + names if isinstance(made[each], bytes)), name)
        if kind == "byte" and isinstance(made[name], bytes) and made[name]:
            raw = bytearray(made[name])
            raw[place % len(raw)] ^= 1 + place % 255
            made[name] = bytes(raw)
        elif kind == "field":
            made[name] = value
        elif kind == "without":
            del made[name]
        found: dict[str, list[Content]] = {
            "lost": [],
            "refused": [None],
            "twice": [honest, honest],
            "contradicted": [honest, {**honest, name: value}],
            "other": [strange],
        }
        return found.get(kind, [made])

    return change


faults = st.dictionaries(
    st.tuples(st.sampled_from([KEYS, SHARES, MASKED, UNMASK, UPDATE]), st.integers(1, COUNT)), changes(), max_size=4
)


@pytest.fixture(scope="module", params=list(Trust))
def members(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Members, Any]:
    agreed = terms(COUNT, components=1, minimum_people=LEAST, participations=1_000_000, trust=request.param)
    return Members(agreed, COUNT, Path(tmp_path_factory.mktemp("ledgers"))), itertools.count(1)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=faults)
def test_any_answers_give_an_exact_sum_or_none(
    members: tuple[Members, Any], found: dict[tuple[str, int], Change]
) -> None:
    made, number = members[0], next(members[1])
    vectors = set[int]()  # members whose vector was altered, which masks cannot show

    def fault(stage: str, node: int, content: Content) -> list[Content]:
        if (stage, node) not in found or content is None:
            return [content]
        arrived = found[stage, node](dict(content))
        if stage == MASKED and [each for each in arrived if each and dict(each) != dict(content)]:
            vectors.add(node)
        return arrived

    made.fault = fault
    made.sent.clear()
    sums = made.round(number)
    if sums.total is None:
        assert sums.reason
        return
    assert sums.answered >= LEAST
    if not vectors:
        assert exact(made, sums), "a sum of nobody's vectors"


def exact(made: Members, sums: Sums) -> bool:
    """Whether the sum is that of as many vectors as it says."""
    return any(
        np.array_equal(sums.released(), made.added(who)) for who in itertools.combinations(made.sent, sums.answered)
    )


def test_one_bit_of_one_masked_vector_is_enough_to_see_it(members: tuple[Members, Any]) -> None:
    """So the comparison above can fail. With other trust the vectors are signed, and the altered one is left out."""
    made, number = members[0], next(members[1])

    def fault(stage: str, node: int, content: Content) -> list[Content]:
        if node != 2 or stage not in (MASKED, UPDATE) or content is None:
            return [content]
        raw = content["total"]
        assert isinstance(raw, bytes)
        return [{**content, "total": bytes([raw[0] ^ 1]) + raw[1:]}]

    made.fault = fault
    made.sent.clear()
    sums = made.round(number)
    distributed = made.terms.trust is Trust.DISTRIBUTED
    assert sums.answered == COUNT - (not distributed)
    assert exact(made, sums) is not distributed
