import dataclasses
from typing import Any

import pytest

from common.enrolment import LARGEST_MEMBER, MemberCertificate
from common.errors import EnrolmentError
from common.signing import SigningKey

AUTHORITY, KEY, OTHER = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
FEDERATION = "f" * 32
VALUES: dict[str, Any] = {"federation": FEDERATION, "member": 7, "key": KEY.public, "issued": 1_000, "expires": 9_000}
CERTIFICATE = MemberCertificate.issue(AUTHORITY, **VALUES)


def test_a_certificate_is_good_from_its_issue_to_its_end() -> None:
    for now in (700, 1_000, 8_999.9):  # clocks may differ by five minutes
        CERTIFICATE.check(AUTHORITY.public, FEDERATION, now)
    assert MemberCertificate.from_json(CERTIFICATE.to_json()) == CERTIFICATE


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (9_000, "the certificate of member 7 expired at 9000; join again"),
        (10**9, "expired"),
        (699, "begins at 1000, this clock shows 699; set the clock"),
    ],
)
def test_outside_its_time_it_is_not(now: float, message: str) -> None:
    for known in (False, True):
        with pytest.raises(EnrolmentError, match=message):
            CERTIFICATE.check(AUTHORITY.public, FEDERATION, now, known=known)


def test_it_is_good_for_one_federation() -> None:
    for known in (False, True):
        with pytest.raises(EnrolmentError, match="member 7 is certified for another federation"):
            CERTIFICATE.check(AUTHORITY.public, "e" * 32, 2_000, known=known)


def test_another_authority_certifies_nobody() -> None:
    with pytest.raises(EnrolmentError, match="member 7"):
        CERTIFICATE.check(OTHER.public, FEDERATION, 2_000)
    forged = MemberCertificate.issue(OTHER, **VALUES)
    with pytest.raises(EnrolmentError, match="member 7"):
        forged.check(AUTHORITY.public, FEDERATION, 2_000)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("member", 8),
        ("key", OTHER.public),
        ("issued", 999),
        ("expires", 9_001),
        ("signature", bytes(64)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,  # keys are random
)
def test_no_field_can_be_altered(name: str, value: object) -> None:
    altered = dataclasses.replace(CERTIFICATE, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(EnrolmentError):
        altered.check(AUTHORITY.public, FEDERATION, 2_000)
    assert altered.digest() != CERTIFICATE.digest()


def test_the_federation_cannot_be_altered() -> None:
    altered = dataclasses.replace(CERTIFICATE, federation="e" * 32)
    with pytest.raises(EnrolmentError):
        altered.check(AUTHORITY.public, "e" * 32, 2_000)


@pytest.mark.parametrize(
    "changes",
    [{"member": 0}, {"member": LARGEST_MEMBER + 1}, {"key": b"short"}, {"expires": 1_000}],
)
def test_what_cannot_be_is_not_certified(changes: dict[str, Any]) -> None:
    with pytest.raises(EnrolmentError, match="cannot certify member"):
        MemberCertificate.issue(AUTHORITY, **{**VALUES, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"member": True},
        {"member": -1},
        {"member": 2**53},
        {"issued": 1.5},
        {"expires": "9000"},
        {"federation": 5},
        {"federation": "f" * 65},
        {"key": "zz"},
        {"key": "ab" * 31},
        {"key": 5},
        {"signature": "ab" * 63},
        {"more": 1},
    ],
)
def test_json_that_is_no_certificate_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(EnrolmentError, match="no member certificate; join again"):
        MemberCertificate.from_json({**CERTIFICATE.to_json(), **changes})


@pytest.mark.parametrize("values", [None, [], {}, "certificate"])
def test_other_json_is_refused(values: object) -> None:
    with pytest.raises(EnrolmentError, match="no member certificate"):
        MemberCertificate.from_json(values)
