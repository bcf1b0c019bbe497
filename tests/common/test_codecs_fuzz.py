"""Whatever bytes, text or JSON arrive in a federation: a value that reads back the same, or one of our own errors.

Valid inputs are changed in all the ways a sender can: fields replaced by anything, left out or added, text and bytes
cut short, altered or lengthened.
"""

import base64
import contextlib
import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import secure_sum
from common.enrolment import MemberCertificate
from common.errors import EnrolmentError, PlglError, ProtocolError, SettingError, SignatureError, UpdateError
from common.invite import PREFIX, Invite
from common.prior import PopulationPrior
from common.privacy.promise import promise, statement_of
from common.privacy.settings import PrivacySettings
from common.rounds import (
    Keys,
    Masked,
    MaskedRequest,
    Opening,
    Record,
    Shares,
    SharesRequest,
    Unmasked,
    UnmaskRequest,
    Update,
    UpdateRequest,
    blobs,
)
from common.secure_sum import KeyPair, Roster, RosterEntry
from common.signing import SigningKey, canonical, read_document, sign_document
from common.terms import Terms

AUTHORITY, KEY, OTHER = (SigningKey.from_bytes(bytes([byte]) * 32) for byte in (1, 2, 3))
TERMS = Terms(
    federation="0123456789abcdef" * 2, name="test", pack="a" * 64, components=2, settings=PrivacySettings(),
    honest_people=50,
)  # fmt: skip
OPENING = Opening.of(PopulationPrior.flat(3, "a" * 64), federation="f", terms="t", session="s", number=3)


def certificate(member: int, key: SigningKey) -> MemberCertificate:
    return MemberCertificate.issue(
        AUTHORITY, federation=TERMS.federation, member=member, key=key.public, issued=1, expires=9
    )


def entry(member: int, key: SigningKey) -> RosterEntry:
    box, mask = (KeyPair(hashlib.sha256(bytes([member, use])).digest()).public for use in (1, 2))
    return RosterEntry.sign(key, certificate(member, key), OPENING.context(), box, mask)


ROSTER = Roster((entry(4, KEY), entry(7, OTHER)))
INVITE = Invite(
    terms=TERMS, address="localhost:8443", tls_authority="PEM", authority=AUTHORITY.public, release_key=OTHER.public,
    bundles=("c" * 64,), token="token", expires=99,
)  # fmt: skip
ROUND: dict[str, Any] = {"session": "s", "round": 3}
RECORDS: list[Record] = [
    OPENING,
    Keys.of(ROSTER.entries[0]),
    SharesRequest(**ROUND, roster=ROSTER.to_bytes(), threshold=2),
    Shares(**ROUND, recipients=(7, 9), boxes=bytes(296), commitment=bytes(32)),
    MaskedRequest(**ROUND, senders=(7, 9), boxes=bytes(296)),
    Masked(**ROUND, total=bytes(40)),
    UnmaskRequest(**ROUND, alive=(4, 7), dead=(9,)),
    Unmasked(**ROUND, alive=(4, 7), seeds=bytes(132), dead=(9,), masks=bytes(66)),
    UpdateRequest(**ROUND),
    Update(**ROUND, total=bytes(80), signature=bytes(64)),
]

some, many = settings(max_examples=40, deadline=None), settings(max_examples=150, deadline=None)

plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**53, 2**63, 2**64, 10**309, 10**400]),
    st.floats(),
    st.text(max_size=40),
    st.sampled_from(["\ud800", "\0", "é" * 200, "a" * 64, "0123456789abcdef" * 2, "1e400"]),
)
anything = st.recursive(
    plain, lambda more: st.one_of(st.lists(more, max_size=4), st.dictionaries(st.text(max_size=8), more, max_size=4))
)
flat = st.one_of(anything, st.binary(max_size=80), st.lists(st.integers(-(2**70), 2**70), max_size=8))


@st.composite
def altered_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes like the valid ones: a piece of them replaced by others, perhaps cut short."""
    start = draw(st.integers(0, len(valid)))
    stop = draw(st.integers(start, min(len(valid), start + 8)))
    made = valid[:start] + draw(st.binary(max_size=8)) + valid[stop:]
    return made[: draw(st.integers(0, len(made)))] if draw(st.booleans()) else made


@st.composite
def altered_json(draw: st.DrawFn, valid: Any) -> Any:
    """JSON values like the valid ones: one node somewhere replaced, left out, doubled or added."""
    if isinstance(valid, dict) and valid and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(valid)))
        kind = draw(st.sampled_from(["deeper", "deeper", "without", "more"]))
        if kind == "deeper":
            return {**valid, key: draw(altered_json(valid[key]))}
        rest = {name: value for name, value in valid.items() if name != key}
        return rest if kind == "without" else {**valid, draw(st.text(max_size=8)): draw(anything)}
    if isinstance(valid, list) and valid and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(valid) - 1))
        kind = draw(st.sampled_from(["deeper", "deeper", "without", "twice"]))
        middle = {"without": [], "twice": [valid[place]] * 2}.get(kind)
        if middle is None:
            middle = [draw(altered_json(valid[place]))]
        return [*valid[:place], *middle, *valid[place + 1 :]]
    return draw(anything)


@st.composite
def altered_wire(draw: st.DrawFn, valid: dict[str, Any]) -> dict[str, Any]:
    """A flat record like the valid one."""
    made = dict(valid)
    for name in draw(st.lists(st.sampled_from(sorted(valid)), min_size=1, max_size=2)):
        value, kind = made.get(name), draw(st.sampled_from(["any", "same kind", "without", "more"]))
        if kind == "without":
            made.pop(name, None)
        elif kind == "more":
            made[draw(st.text(max_size=8))] = draw(flat)
        elif kind == "same kind" and isinstance(value, bytes):
            made[name] = draw(altered_bytes(value))
        elif kind == "same kind" and isinstance(value, int):
            made[name] = draw(st.integers())
        else:
            made[name] = draw(flat)
    return made


def names(record: Record) -> str:
    return type(record).__name__


def test_every_record_of_a_round_is_among_those_that_are_tried() -> None:
    every, waiting = set[type[Record]](), [Record]
    while waiting:
        waiting += (below := waiting.pop().__subclasses__())
        every.update(kind for kind in below if kind.__module__ == "common.rounds" and kind.__name__ != "Stage")
    assert {type(record) for record in RECORDS} == every


@pytest.mark.parametrize("record", RECORDS, ids=names)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert type(record).from_wire(record.to_wire()) == record


@pytest.mark.parametrize("record", RECORDS, ids=names)
@some
@given(data=st.data())
def test_an_altered_record_is_read_exactly_or_refused(record: Record, data: st.DataObject) -> None:
    wire = data.draw(altered_wire(record.to_wire()))
    try:
        made = type(record).from_wire(wire)
    except UpdateError:
        return
    assert made.to_wire() == wire
    with contextlib.suppress(PlglError):
        if isinstance(made, Opening):
            made.context()
            made.starting_prior("a" * 64)
        elif isinstance(made, Keys):
            made.entry().check_signature(OPENING.context())
        elif isinstance(made, SharesRequest):
            Roster.from_bytes(made.roster)


@pytest.mark.parametrize("record", RECORDS, ids=names)
@some
@given(wire=st.dictionaries(st.one_of(st.text(max_size=8), st.sampled_from(["version", "session", "round"])), flat))
def test_no_other_dictionary_is_a_record(record: Record, wire: dict[str, Any]) -> None:
    with pytest.raises(UpdateError):
        type(record).from_wire(wire)


def read_roster(raw: bytes) -> bytes:
    made = Roster.from_bytes(raw)
    made.digest(b"")
    for each in made.entries:  # what a member does with it
        with pytest.raises(ProtocolError):
            each.check_signature(b"")
        with pytest.raises(EnrolmentError):
            each.certificate.check(AUTHORITY.public, "f", 2.0)
        each.certificate.digest()
    return made.to_bytes()


def read_certificate(raw: bytes) -> bytes:
    return canonical(MemberCertificate.from_json(json.loads(raw)).to_json())


def read_terms(raw: bytes) -> bytes:
    made = Terms.from_json(json.loads(raw))
    with contextlib.suppress(SettingError):  # terms whose noise cannot be accounted for are nobody's round
        promise(made)
        statement_of(made, 3)
    return canonical(made.to_json())


def read_invite(raw: bytes) -> bytes:
    made = Invite.from_json(json.loads(raw))
    assert Invite.from_text(made.to_text()) == made
    return canonical(made.to_json())


READERS: dict[str, tuple[Callable[[bytes], bytes], bytes, type[PlglError]]] = {
    "roster": (read_roster, ROSTER.to_bytes(), ProtocolError),
    "certificate": (read_certificate, canonical(certificate(4, KEY).to_json()), EnrolmentError),
    "terms": (read_terms, canonical(TERMS.to_json()), SettingError),
    "invite": (read_invite, canonical(INVITE.to_json()), EnrolmentError),
}


@pytest.mark.parametrize("name", READERS)
def test_json_comes_back_as_it_was(name: str) -> None:
    read, valid, _ = READERS[name]
    assert read(valid) == valid


@pytest.mark.parametrize("name", READERS)
@many
@given(data=st.data())
def test_altered_json_is_read_or_refused(name: str, data: st.DataObject) -> None:
    read, valid, error = READERS[name]
    values = data.draw(altered_json(json.loads(valid)))
    with contextlib.suppress(error):
        read(json.dumps(values).encode())


@some
@given(st.one_of(st.binary(max_size=60), altered_bytes(ROSTER.to_bytes())))
def test_bytes_are_a_roster_or_refused(raw: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert read_roster(raw) == raw


DOCUMENT = sign_document({"terms": TERMS.to_json(), "address": "a:1"}, KEY, "federation")


@some
@given(st.one_of(st.binary(max_size=60), altered_bytes(DOCUMENT), anything.map(lambda each: json.dumps(each).encode())))
def test_only_the_very_bytes_that_were_signed_are_a_document(raw: bytes) -> None:
    if raw == DOCUMENT:
        assert read_document(raw, KEY.public, "federation")["address"] == "a:1"
        return
    with pytest.raises(SignatureError):
        read_document(raw, KEY.public, "federation")


@some
@given(st.one_of(st.text(max_size=60), altered_bytes(INVITE.to_text().encode()).map(lambda raw: raw.decode("latin-1"))))
def test_text_is_the_invitation_or_refused(text: str) -> None:
    for read in (Invite.from_text, Invite.read):
        with contextlib.suppress(EnrolmentError):
            assert read(text) == INVITE  # nothing else has its checksum


@some
@given(st.one_of(st.binary(max_size=60), anything.map(lambda each: json.dumps(each).encode())), st.booleans())
def test_whatever_lies_behind_a_right_checksum_is_read_or_refused(plain: bytes, squeezed: bool) -> None:
    packed = zlib.compress(plain) if squeezed else plain
    whole = hashlib.sha256(packed).digest()[:8] + packed
    with pytest.raises(EnrolmentError):
        Invite.from_text(PREFIX + base64.urlsafe_b64encode(whole).decode())


@some
@given(st.binary(max_size=200), st.integers(0, 40), st.integers(2, 62))
def test_bytes_are_words_of_the_right_size_or_refused(raw: bytes, count: int, bits: int) -> None:
    try:
        words = secure_sum.unpack(raw, count, bits)
    except ProtocolError:
        assert len(raw) != secure_sum.packed_bytes(count, bits)
        return
    assert words.size == count
    assert all(int(word) < 2**bits for word in words)


@some
@given(st.binary(max_size=200), st.integers(0, 8), st.integers(1, 60))
def test_joined_bytes_come_apart_or_are_refused(raw: bytes, count: int, size: int) -> None:
    try:
        parts = blobs(raw, count, size)
    except UpdateError:
        assert len(raw) != count * size
        return
    assert b"".join(parts) == raw
    assert [len(part) for part in parts] == [size] * count


def test_a_certificate_in_a_roster_is_the_one_that_was_signed() -> None:
    """A reader that ignored fields would let two rosters with one meaning have two digests."""
    values = json.loads(ROSTER.to_bytes())
    values[0][0]["more"] = 1
    with pytest.raises(ProtocolError):
        Roster.from_bytes(canonical(values))
    assert replace(ROSTER, raw=b"").to_bytes() == ROSTER.to_bytes()


_NUMBERS = [0, 1, -1, 10**12, 10**300, 10**309, 10**400, 5e-324, 1e-12, 0.999999, 1e300, float("inf"), float("nan")]


@pytest.mark.parametrize("name", [name for name, value in TERMS.to_json().items() if type(value) in (int, float)])
def test_any_number_in_terms_gives_a_promise_or_is_refused(name: str) -> None:
    for number in _NUMBERS:
        with contextlib.suppress(SettingError):
            promise(Terms.from_json({**TERMS.to_json(), name: number}))


@pytest.mark.parametrize("name", TERMS.to_json()["settings"])
def test_any_number_in_settings_gives_a_promise_or_is_refused(name: str) -> None:
    for number in _NUMBERS:
        values = TERMS.to_json()["settings"] | {name: number}
        with contextlib.suppress(SettingError):
            promise(Terms.from_json({**TERMS.to_json(), "settings": values}))


@pytest.mark.parametrize("path", ["\0", "a\0b", "/", "", "." * 5_000, "\ud800"])
def test_a_path_no_file_can_have_is_no_invitation(path: str) -> None:
    with pytest.raises(EnrolmentError):
        Invite.read(path)
