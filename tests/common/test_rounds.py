import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.enrolment import MemberCertificate
from common.errors import PriorError, UpdateError
from common.prior import PopulationPrior
from common.rounds import Keys, Opening, ascending, blobs
from common.secure_sum import KeyPair, RosterEntry
from common.signing import SigningKey

PACK = "a" * 64


def prior() -> PopulationPrior:
    flat = PopulationPrior.flat(3, PACK)
    return dataclasses.replace(flat, mean=torch.tensor([0.1, -0.2, 1 / 3], dtype=torch.float64))


OPENING = Opening.of(prior(), federation="f" * 32, terms="b" * 64, session="s", number=3)


def test_an_opening_brings_the_prior_to_the_bit() -> None:
    found, sent = Opening.from_wire(OPENING.to_wire()).starting_prior(PACK), prior()
    for name in ("mean", "covariance", "thresholds"):
        assert torch.equal(getattr(found, name), getattr(sent, name))
    assert found.pack == PACK
    assert found.privacy.epsilon == float("inf")  # it claims nothing


def test_the_context_depends_on_every_field() -> None:
    """So masks cancel only between members who were told the same."""
    one = bytearray(OPENING.prior)
    one[0] ^= 1
    other: dict[str, Any] = {"federation": "e" * 32, "terms": "c" * 64, "session": "t", "round": 4, "prior": bytes(one)}
    larger: dict[str, Any] = {"parameters": 4, "prior": bytes(8 * (4 + 16 + 4))}
    contexts = {OPENING.context(), dataclasses.replace(OPENING, **larger).context()}
    contexts |= {dataclasses.replace(OPENING, **{name: value}).context() for name, value in other.items()}
    assert len(contexts) == 7
    assert other.keys() | larger.keys() == {field.name for field in dataclasses.fields(Opening)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"round": 0}, "round 0 of session 's' cannot be"),
        ({"session": ""}, "round 3 of session '' cannot be"),
        ({"parameters": 4}, "a prior of 128 bytes does not have 4 weights .2 to 1024."),
        ({"parameters": 1, "prior": bytes(48)}, "does not have 1 weights"),
        ({"parameters": 1_025, "prior": b""}, "does not have 1025 weights"),
        ({"parameters": -3}, "does not have -3 weights"),
        ({"prior": OPENING.prior[:-1]}, "a prior of 127 bytes"),
    ],
)
def test_an_opening_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UpdateError, match=message):
        Opening.from_wire({**OPENING.to_wire(), **changes})


@pytest.mark.parametrize("raw", [b"\0" * 128, b"\xff" * 128])
def test_a_prior_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(PriorError):
        dataclasses.replace(OPENING, prior=raw).starting_prior(PACK)


def test_keys_come_back_and_wrong_ones_are_refused() -> None:
    authority, key = SigningKey.generate(), SigningKey.generate()
    certificate = MemberCertificate.issue(authority, federation="f" * 32, member=5, key=key.public, issued=0, expires=9)
    box, mask = KeyPair.generate().public, KeyPair.generate().public
    entry = RosterEntry.sign(key, certificate, OPENING.context(), box, mask)
    keys = Keys.from_wire(Keys.of(entry).to_wire())
    assert keys.entry() == entry
    keys.entry().check_signature(OPENING.context())
    for changes in (
        {"box_key": box[:-1]},
        {"mask_key": mask + b"\0"},
        {"signature": bytes(63)},
        {"certificate": b"{}"},
        {"certificate": b"[" * 4_000},
        {"certificate": keys.certificate + b" " * 4_096},
        {"certificate": b"\xff"},
    ):
        with pytest.raises(UpdateError, match="round keys"):
            dataclasses.replace(keys, **changes).entry()


@given(st.lists(st.integers(-2, 9), max_size=5))
def test_ascending_is_positive_sorted_and_without_repetition(numbers: list[int]) -> None:
    right = numbers == sorted(set(numbers)) and all(number >= 1 for number in numbers)
    assert ascending(tuple(numbers)) == right


def test_joined_bytes_come_apart() -> None:
    assert blobs(b"aabbcc", 3, 2) == [b"aa", b"bb", b"cc"]
    assert blobs(b"", 0, 2) == []
    with pytest.raises(UpdateError, match="3 entries of 2 bytes expected, 5 bytes came"):
        blobs(b"aabbc", 3, 2)
