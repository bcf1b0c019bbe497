import base64
import dataclasses
import hashlib
import json
import textwrap
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from common.errors import EnrolmentError
from common.invite import PREFIX, Invite
from common.privacy.settings import PrivacySettings
from common.signing import canonical
from common.terms import Terms

INVITE = Invite(
    terms=Terms(
        federation="0123456789abcdef" * 2,
        name="Test people",
        pack="ab" * 32,
        components=8,
        settings=PrivacySettings(),
        honest_people=40,
    ),
    address="gate.example.org:8443",
    tls_authority="-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n",
    authority=bytes(range(32)),
    release_key=bytes(range(32, 64)),
    bundles=("cd" * 32, "ef" * 32),
    token="token",
    expires=1_900_000_000,
)
TEXT = INVITE.to_text()


def test_an_invitation_is_one_line_and_comes_back() -> None:
    assert TEXT.startswith(PREFIX)
    assert len(TEXT.split()) == 1
    assert Invite.from_text(TEXT) == INVITE
    assert Invite.from_json(json.loads(canonical(INVITE.to_json()))) == INVITE


@pytest.mark.parametrize("width", [60, 72, 998])
def test_mail_may_break_and_indent_its_lines(width: int) -> None:
    broken = "\r\n  ".join(textwrap.wrap(TEXT, width, break_on_hyphens=False))
    assert Invite.from_text(f"  {broken}\n\n") == INVITE
    assert Invite.read(f"  {broken}\n\n") == INVITE


def test_a_file_that_holds_it_is_as_good(tmp_path: Path) -> None:
    path = tmp_path / "invitation.txt"
    path.write_text(TEXT + "\n")
    assert Invite.read(str(path)) == INVITE


def test_every_cut_is_noticed() -> None:
    for length in range(len(PREFIX), len(TEXT)):
        with pytest.raises(EnrolmentError, match="cut short or altered; copy all of it, or ask for a new one"):
            Invite.from_text(TEXT[:length])


def test_every_altered_character_is_noticed() -> None:
    for place in range(len(PREFIX), len(TEXT)):
        other = "A" if TEXT[place] != "A" else "B"
        made = TEXT[:place] + other + TEXT[place + 1 :]
        try:
            found = Invite.from_text(made)
        except EnrolmentError:
            continue
        assert place == len(TEXT) - 1  # the last character may hold bits that stand for nothing
        assert found == INVITE


@pytest.mark.parametrize("text", ["", "plgl2:" + TEXT[6:], "PLGL1:" + TEXT[6:], "https://example.org/", "é"])
def test_another_beginning_is_named(text: str) -> None:
    with pytest.raises(EnrolmentError, match="begins with plgl1:"):
        Invite.from_text(text)


@pytest.mark.parametrize("name", ["missing.txt", "", "x" * 300, "a\0b"])
def test_what_is_neither_text_nor_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError, match="neither an invitation nor a file that holds one"):
        Invite.read(str(tmp_path / name))


def test_a_picture_is_no_invitation(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    with pytest.raises(EnrolmentError, match="neither an invitation nor a file"):
        Invite.read(str(path))


def test_an_oversize_text_or_file_is_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(PREFIX + "A" * 10_000_000)
    for read, source in ((Invite.from_text, path.read_text()), (Invite.read, str(path))):
        with pytest.raises(EnrolmentError, match="characters is over the limit of 65536"):
            read(source)


def packed(plain: bytes) -> str:
    """An invitation with a right checksum around anything."""
    squeezed = zlib.compress(plain, 9)
    return PREFIX + base64.urlsafe_b64encode(hashlib.sha256(squeezed).digest()[:8] + squeezed).decode().rstrip("=")


def test_a_small_text_does_not_unfold_into_a_large_one() -> None:
    """A zip bomb: 30 KB that would be 30 MB."""
    text = packed(b'"' + b"x" * 30_000_000 + b'"')
    assert len(text) < 65_536
    tracemalloc.start()
    try:
        with pytest.raises(EnrolmentError, match="cut short or altered"):
            Invite.from_text(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize("plain", [b"", b"null", b"[]", b"5", b"{}", b"\xff", b"[" * 100_000, b'{"terms":NaN}'])
def test_other_content_behind_a_right_checksum_is_refused(plain: bytes) -> None:
    with pytest.raises(EnrolmentError):
        Invite.from_text(packed(plain))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"address": "gate.example.org"}, "address='gate.example.org' must be host:port"),
        ({"address": "https://gate.example.org:1"}, "must be host:port"),
        ({"address": "host:1\n"}, "must be host:port"),
        ({"address": 5}, "address must be text"),
        ({"token": None}, "token must be text"),
        ({"tls_authority": []}, "tls_authority must be text"),
        ({"expires": 1.5}, "expires must be a whole number"),
        ({"expires": True}, "expires must be a whole number"),
        ({"bundles": "ab"}, ""),
        ({"bundles": ["AB" * 32]}, ""),
        ({"bundles": [5]}, ""),
        ({"authority": "ab" * 31}, "keys must have 32 bytes"),
        ({"release_key": "zz"}, ""),
        ({"terms": {}}, "terms with missing or unknown fields"),
        ({"more": 1}, "missing or unknown fields"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EnrolmentError, match=f"this invitation cannot be used: .*{message}"):
        Invite.from_text(packed(canonical({**INVITE.to_json(), **changes})))


def test_two_invitations_differ_in_their_text() -> None:
    assert dataclasses.replace(INVITE, token="other").to_text() != TEXT
