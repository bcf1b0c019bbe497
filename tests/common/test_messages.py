from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common import update
from common.errors import PriorError, UpdateError
from common.messages import Enrolment, Reason, RejectedReply, RoundReply, RoundRequest
from common.prior import PopulationPrior

P = 3
D = update.length(P)
PRIOR = PopulationPrior.flat(P, "a" * 64)


def request(number: int = 1) -> RoundRequest:
    return RoundRequest.of(PRIOR, session="s" * 32, number=number, norm_bound=2.0, scale=4096, people=5)


def reply(number: int = 1) -> RoundReply:
    return RoundReply(session="s" * 32, round=number, total=np.arange(D, dtype=np.int64) - 4)


def test_a_request_survives_the_journey() -> None:
    back = RoundRequest.from_wire(request().to_wire())
    assert torch.equal(back.prior().mean, PRIOR.mean)
    assert torch.equal(back.prior().covariance, PRIOR.covariance)
    assert torch.equal(back.prior().thresholds, PRIOR.thresholds)
    assert (back.session, back.round, back.pack) == ("s" * 32, 1, PRIOR.pack)
    assert (back.norm_bound, back.scale, back.first, back.last) == (2.0, 4096, 0, 5)


def test_a_reply_survives_the_journey_and_carries_nothing_but_the_sum() -> None:
    wire = reply().to_wire()
    assert set(wire) == {"version", "session", "round", "total", "total.dtype", "total.shape"}
    assert np.array_equal(RoundReply.from_wire(wire, request()).total, reply().total)


def test_an_array_in_another_byte_order_travels_little_endian() -> None:
    wire = RoundReply(session="s" * 32, round=1, total=reply().total.astype(">i8")).to_wire()
    assert wire == reply().to_wire()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, Reason.MALFORMED),
        ({"version": True}, Reason.MALFORMED),
        ({"loss": 0.3}, Reason.MALFORMED),
        ({"round": 1.0}, Reason.MALFORMED),
        ({"round": True}, Reason.MALFORMED),
        ({"total.dtype": "<f8"}, Reason.MALFORMED),
        ({"total.dtype": "|O"}, Reason.MALFORMED),
        ({"total.shape": [D, 1]}, Reason.MALFORMED),
        ({"total.shape": [2**60]}, Reason.MALFORMED),
        ({"total": b"\0" * 8 * (D - 1)}, Reason.MALFORMED),
        ({"total": "text"}, Reason.MALFORMED),
        ({"total": b"\0" * (16 * D + 1)}, Reason.OVERSIZE),
        ({"round": 2}, Reason.STALE),
        ({"session": "t" * 32}, Reason.STALE),
        ({"session": "t" * 10_000}, Reason.MALFORMED),
    ],
)
def test_a_reply_that_does_not_fit_is_rejected_with_its_reason(change: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(RejectedReply) as caught:
        RoundReply.from_wire({**reply().to_wire(), **change}, request())
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"norm_bound": 0.0},
        {"norm_bound": float("inf")},
        {"norm_bound": float("nan")},
        {"scale": 0},
        {"scale": 1000},
        {"round": 0},
        {"first": 5},
        {"first": -1},
        {"mean": b""},
        {"mean": np.array([0.0, np.nan, 0.0]).tobytes()},
        {"mean": b"\0" * 8 * 1025},
        {"covariance": b"\0" * 8},
        {"thresholds.dtype": "<f4"},
        {"pack": 7},
        {"extra": b"\0"},
    ],
)
def test_a_request_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UpdateError):
        RoundRequest.from_wire({**request().to_wire(), **change})


def test_a_covariance_that_is_not_positive_definite_is_refused() -> None:
    wire = {**request().to_wire(), "covariance": (-np.eye(P)).tobytes()}
    with pytest.raises(PriorError):
        RoundRequest.from_wire(wire).prior()


VALUES = st.one_of(
    st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=90), st.lists(st.integers(), max_size=3)
)


@given(st.sampled_from(sorted(reply().to_wire())), VALUES)
def test_whatever_a_node_sends_only_a_rejection_comes_of_it(name: str, value: Any) -> None:
    wire = {**reply().to_wire(), name: value}
    try:
        total = RoundReply.from_wire(wire, request()).total
    except RejectedReply:
        return
    assert total.shape == (D,)
    assert total.dtype == np.int64


@pytest.mark.parametrize("people", [0, -1, 8, True, 3.0])
def test_an_enrolment_outside_its_limits_is_refused(people: Any) -> None:
    with pytest.raises(UpdateError):
        Enrolment.from_wire({"version": 1, "people": people}, most=7)
    assert Enrolment.from_wire(Enrolment(people=7).to_wire(), most=7).people == 7
