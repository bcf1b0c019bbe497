from dataclasses import replace

import keyring.backend
import keyring.errors
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keyring.backends import fail, null

from client.vault import _LAYOUT, OVERHEAD, Cost, Header, Vault, forget_key, lock, subkey, unlock
from common.errors import DamagedStore, KeyringError, NewerStore, SettingError, WrongKey

CHEAP = Cost(passes=1, kib=32, lanes=1)
KEY, NUMBER = bytes(range(32)), bytes(range(16))


class Ring(keyring.backend.KeyringBackend):
    """A keyring in memory."""

    priority = 1.0

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.kept.pop((service, username), None) is None:
            raise keyring.errors.PasswordDeleteError


class LockedRing(Ring):
    """A keyring nobody has unlocked."""

    def get_password(self, service: str, username: str) -> str | None:
        raise keyring.errors.KeyringLocked

    def set_password(self, service: str, username: str, password: str) -> None:
        raise keyring.errors.KeyringLocked


class PlaintextKeyring(Ring):
    """As `keyrings.alt` calls the one that keeps keys in plain files."""


def header(passphrase: str | None = "four words are enough", ring: Ring | None = None) -> Header:
    return lock(KEY, "store", NUMBER, passphrase, CHEAP, ring)


def test_a_passphrase_opens_what_it_locked() -> None:
    kept = Header.decode(header().encode(), "store")
    assert unlock(kept, "four words are enough", None) == KEY


def test_two_ways_to_write_an_accent_are_one_passphrase() -> None:
    assert unlock(header("caf\u00e9"), "cafe\u0301", None) == KEY


@settings(max_examples=60, deadline=None)
@given(st.text(), st.text(min_size=1))
def test_a_wrong_passphrase_never_opens(tried: str, right: str) -> None:
    import unicodedata

    kept = header(right)
    if unicodedata.normalize("NFC", tried) == unicodedata.normalize("NFC", right):
        assert unlock(kept, tried, None) == KEY
    else:
        with pytest.raises(WrongKey):
            unlock(kept, tried, None)


def test_every_byte_of_a_header_counts() -> None:
    content = header().encode()
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1
        with pytest.raises((DamagedStore, WrongKey, NewerStore)):
            unlock(Header.decode(bytes(altered), "store"), "four words are enough", None)


def test_a_header_cut_anywhere_is_refused() -> None:
    content = header().encode()
    for length in range(len(content)):
        with pytest.raises((DamagedStore, NewerStore)):
            Header.decode(content[:length], "store")


@given(st.binary(max_size=400) | st.from_regex(_LAYOUT, fullmatch=True))
def test_any_bytes_are_a_header_or_an_error_of_ours(content: bytes) -> None:
    try:
        kept = Header.decode(content, "store")
    except (DamagedStore, NewerStore):
        return
    assert kept.encode() == content


def test_the_mac_covers_what_the_wrapping_does_not() -> None:
    """Who knows the data key of another header cannot take its wrapped key over."""
    kept = header()
    with pytest.raises(DamagedStore, match="header was altered"):
        unlock(replace(kept, mac=bytes(32)), "four words are enough", None)


@pytest.mark.parametrize(
    ("passes", "kib", "lanes"), [(99, 1024, 1), (1, 1 << 21, 1), (1, 1024, 99), (16, 1 << 20, 4), (999999999,) * 3]
)
def test_absurd_work_is_refused_before_any_is_done(passes: int, kib: int, lanes: int) -> None:
    forged = header().encode().replace(b" 1 32 1\n", f" {passes} {kib} {lanes}\n".encode())
    with pytest.raises(DamagedStore, match="absurd work"):
        Header.decode(forged, "store")
    with pytest.raises(SettingError):
        Cost(passes=passes, kib=kib, lanes=lanes)


def test_a_header_of_a_newer_version_or_another_purpose_says_so() -> None:
    content = header().encode()
    with pytest.raises(NewerStore, match="version 2"):
        Header.decode(content.replace(b"plgl-store/1", b"plgl-store/2"), "store")
    with pytest.raises(DamagedStore, match="not a plgl export"):
        Header.decode(content, "export")


def test_an_empty_passphrase_is_refused() -> None:
    with pytest.raises(SettingError, match="empty"):
        header("")


def test_the_keyring_holds_a_wrapping_key_and_never_the_data_key() -> None:
    ring = Ring()
    kept = header(None, ring)
    assert unlock(kept, None, ring) == KEY
    assert list(ring.kept) == [("plgl", NUMBER.hex())]
    assert KEY.hex() not in ring.kept.values()
    forget_key(kept, ring)
    assert ring.kept == {}
    forget_key(kept, ring)
    with pytest.raises(WrongKey, match="has no key"):
        unlock(kept, None, ring)


def test_a_passphrase_does_not_open_what_the_keyring_locks_and_the_other_way_round() -> None:
    ring = Ring()
    with pytest.raises(WrongKey, match="keyring"):
        unlock(header(None, ring), "four words are enough", ring)
    with pytest.raises(WrongKey, match="passphrase"):
        unlock(header(), None, ring)


@pytest.mark.parametrize("kind", [fail.Keyring, null.Keyring, LockedRing, PlaintextKeyring])
def test_without_a_keyring_that_keeps_secrets_there_is_no_header(kind: type[Ring]) -> None:
    with pytest.raises(KeyringError, match="passphrase"):
        header(None, kind())


def test_a_locked_keyring_is_no_wrong_key() -> None:
    with pytest.raises(KeyringError, match="unlock it"):
        unlock(header(None, Ring()), None, LockedRing())


def test_nothing_of_a_key_or_passphrase_stands_in_a_message() -> None:
    with pytest.raises(WrongKey) as caught:
        unlock(header(), "Tr0ub4dor", None)
    assert "Tr0ub4dor" not in str(caught.value)
    assert KEY.hex() not in str(caught.value)


@given(st.binary(max_size=300), st.integers(0, 2**63 - 1))
def test_what_is_sealed_opens_in_its_place_only(content: bytes, row: int) -> None:
    vault = Vault(KEY, NUMBER, 1)
    sealed = vault.seal("events", row, content)
    assert len(sealed) == len(content) + OVERHEAD
    assert vault.open("events", row, sealed) == content
    elsewhere = [
        (Vault(KEY, NUMBER, 1), "events", row ^ 1),
        (Vault(KEY, NUMBER, 1), "state", row),
        (Vault(KEY, NUMBER, 2), "events", row),
        (Vault(KEY, bytes(16), 1), "events", row),
        (Vault(bytes(32), NUMBER, 1), "events", row),
    ]
    for other, table, number in elsewhere:
        with pytest.raises(DamagedStore):
            other.open(table, number, sealed)


def test_every_bit_of_a_sealed_row_counts() -> None:
    vault = Vault(KEY, NUMBER, 1)
    sealed = vault.seal("events", 1, b"liked")
    for place in range(8 * len(sealed)):
        altered = bytearray(sealed)
        altered[place // 8] ^= 1 << place % 8
        with pytest.raises(DamagedStore):
            vault.open("events", 1, bytes(altered))
    for length in range(len(sealed)):
        with pytest.raises(DamagedStore):
            vault.open("events", 1, sealed[:length])


def test_sealing_the_same_twice_gives_nothing_alike() -> None:
    vault = Vault(KEY, NUMBER, 1)
    assert len({vault.seal("events", 1, bytes(64))[:12] for _ in range(1000)}) == 1000


@given(st.lists(st.binary(min_size=28, max_size=40), max_size=8))
def test_a_digest_is_of_the_set_and_adds_up(contents: list[bytes]) -> None:
    vault = Vault(KEY, NUMBER, 1)
    rows = list(enumerate(contents))
    split = len(rows) // 2
    assert vault.digest(rows) == vault.digest(rows[split:]) ^ vault.digest(rows[:split])
    assert vault.digest(rows) == vault.digest(reversed(rows))
    if rows:
        assert vault.digest(rows) != vault.digest(rows[1:])
        assert vault.digest(rows) != Vault(bytes(32), NUMBER, 1).digest(rows)


def test_each_use_has_its_own_key() -> None:
    uses = [subkey(KEY, use) for use in ("rows", "digest", "header", "mark", "stream")]
    assert len({*uses, KEY}) == 6
