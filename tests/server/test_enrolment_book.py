import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import EnrolmentError, SettingError, StorageError
from common.signing import SigningKey, canonical
from server.enrolment_book import MEMBERSHIP_SECONDS, EnrolmentBook, plain_node_key

FEDERATION = "ab" * 16
WEEK = 7 * 86_400
NOW = 1_800_000_000


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def node_key(curve: ec.EllipticCurve | None = None) -> str:
    key = ec.generate_private_key(curve or ec.SECP384R1()).public_key()
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def book(tmp_path: Path, authority: SigningKey, clock: Clock) -> EnrolmentBook:
    return EnrolmentBook(tmp_path / "enrolment.db", FEDERATION, authority, clock=clock)


def leave_proof(key: SigningKey, member: int, when: int, federation: str = FEDERATION) -> bytes:
    return key.sign("leave", canonical([federation, member, when]))


def test_a_token_enrols_one_device_with_a_certificate_of_the_authority(
    book: EnrolmentBook, authority: SigningKey
) -> None:
    key, node = SigningKey.generate(), node_key()
    certificate = book.enrol(book.create_invite(WEEK), key.public, node)
    certificate.check(authority.public, FEDERATION, NOW)
    assert (certificate.member, certificate.key) == (1, key.public)
    (member,) = book.members()
    assert (member.number, member.key, member.node_key, member.revoked) == (1, key.public, node, None)


def test_the_same_request_again_gives_the_same_certificate(book: EnrolmentBook, clock: Clock) -> None:
    token, key, node = book.create_invite(WEEK), SigningKey.generate(), node_key()
    first = book.enrol(token, key.public, node)
    clock.now += 2 * WEEK  # also after the invitation has expired
    assert book.enrol(token, key.public, node + " a comment") == first
    assert len(book.members()) == 1


@pytest.mark.parametrize("changed", ["key", "node"])
def test_a_used_token_with_other_keys_is_refused(book: EnrolmentBook, changed: str) -> None:
    token, key, node = book.create_invite(WEEK), SigningKey.generate(), node_key()
    book.enrol(token, key.public, node)
    other = (SigningKey.generate().public, node) if changed == "key" else (key.public, node_key())
    with pytest.raises(EnrolmentError, match="another device"):
        book.enrol(token, *other)
    assert len(book.members()) == 1


def test_an_expired_and_an_unknown_token_are_refused(book: EnrolmentBook, clock: Clock) -> None:
    token = book.create_invite(60)
    clock.now += 61
    with pytest.raises(EnrolmentError, match="expired 1 seconds ago"):
        book.enrol(token, SigningKey.generate().public, node_key())
    with pytest.raises(EnrolmentError, match="unknown here"):
        book.enrol("nonsense", SigningKey.generate().public, node_key())
    assert book.members() == []


@pytest.mark.parametrize("same", ["key", "node"])
def test_one_key_is_never_two_members(book: EnrolmentBook, same: str) -> None:
    key, node = SigningKey.generate(), node_key()
    book.enrol(book.create_invite(WEEK), key.public, node)
    book.revoke(1, "test")
    token = book.create_invite(WEEK)
    other = (key.public, node_key()) if same == "key" else (SigningKey.generate().public, node)
    with pytest.raises(EnrolmentError, match="make new keys"):
        book.enrol(token, *other)
    assert book.enrol(token, SigningKey.generate().public, node_key()).member == 2  # the token is not used up


def test_a_number_is_never_given_twice(book: EnrolmentBook, tmp_path: Path, authority: SigningKey) -> None:
    for number in (1, 2):
        book.enrol(book.create_invite(WEEK), SigningKey.generate().public, node_key())
        book.revoke(number, "test")
    again = EnrolmentBook(tmp_path / "enrolment.db", FEDERATION, authority)
    assert again.enrol(book.create_invite(WEEK), SigningKey.generate().public, node_key()).member == 3


def test_a_revoked_member_stays_out(book: EnrolmentBook, clock: Clock) -> None:
    token, key, node = book.create_invite(WEEK), SigningKey.generate(), node_key()
    book.enrol(token, key.public, node)
    assert book.is_active(1)
    clock.now += 5
    assert book.revoke(1, "lost its laptop").revoked == NOW + 5
    clock.now += 5
    assert book.revoke(1, "again").revoked == NOW + 5  # the first word stands
    assert (book.active(), book.is_active(1), book.members()[0].reason) == ([], False, "lost its laptop")
    with pytest.raises(EnrolmentError, match="has ended"):
        book.enrol(token, key.public, node)


def test_a_membership_ends_with_its_certificate(book: EnrolmentBook, clock: Clock) -> None:
    book.enrol(book.create_invite(WEEK), SigningKey.generate().public, node_key())
    clock.now += MEMBERSHIP_SECONDS - 1
    assert book.is_active(1)
    clock.now += 1
    assert not book.is_active(1)
    assert book.active() == []


def test_a_member_leaves_on_its_own_word(book: EnrolmentBook) -> None:
    key = SigningKey.generate()
    book.enrol(book.create_invite(WEEK), key.public, node_key())
    assert book.leave(1, NOW - 299, leave_proof(key, 1, NOW - 299)).reason == "left"
    assert book.leave(1, NOW, leave_proof(key, 1, NOW)).revoked == NOW  # said twice


@pytest.mark.parametrize("off", [-301, 301])
def test_a_wrong_clock_is_told_by_how_much(book: EnrolmentBook, off: int) -> None:
    key = SigningKey.generate()
    book.enrol(book.create_invite(WEEK), key.public, node_key())
    with pytest.raises(EnrolmentError, match=f"301 seconds {'fast' if off > 0 else 'slow'}"):
        book.leave(1, NOW + off, leave_proof(key, 1, NOW + off))
    assert book.is_active(1)


def test_nobody_else_can_make_a_member_leave(book: EnrolmentBook) -> None:
    mine, other = SigningKey.generate(), SigningKey.generate()
    for key in (mine, other):
        book.enrol(book.create_invite(WEEK), key.public, node_key())
    forged: list[tuple[int, bytes]] = [
        (1, leave_proof(other, 1, NOW)),
        (1, leave_proof(mine, 2, NOW)),
        (1, leave_proof(mine, 1, NOW - 1)),
        (1, leave_proof(mine, 1, NOW, "cd" * 16)),
        (1, mine.sign("member certificate", canonical([FEDERATION, 1, NOW]))),
        (9, leave_proof(mine, 9, NOW)),
        (1, bytes(64)),
    ]
    for number, proof in forged:
        with pytest.raises(EnrolmentError, match="not signed by member"):
            book.leave(number, NOW, proof)
    assert len(book.active()) == 2


def test_a_request_to_enrol_is_for_this_federation_and_these_keys(book: EnrolmentBook) -> None:
    key, node = SigningKey.generate(), node_key()
    good = key.sign("enrolment request", canonical([FEDERATION, "token", node]))
    book.check_request("token", key.public, node, good)
    foreign = key.sign("enrolment request", canonical(["cd" * 16, "token", node]))
    for token, public, text, proof in (
        ("token", key.public, node, foreign),
        ("other", key.public, node, good),
        ("token", SigningKey.generate().public, node, good),
        ("token", key.public, node_key(), good),
    ):
        with pytest.raises(EnrolmentError, match="another federation"):
            book.check_request(token, public, text, proof)


@pytest.mark.parametrize(
    "make",
    [
        lambda: "",
        lambda: "ssh-ed25519 AAAA",
        lambda: node_key(ec.SECP256R1()),
        lambda: node_key()[:-20],
        lambda: "x" * 2_000,
        lambda: "ключ",
    ],
)
def test_only_a_p384_key_in_openssh_form_will_do(make: Callable[[], str]) -> None:
    with pytest.raises(EnrolmentError, match="P-384"):
        plain_node_key(make())


def test_the_file_is_private_and_holds_no_token(book: EnrolmentBook, tmp_path: Path) -> None:
    tokens = [book.create_invite(WEEK) for _ in range(20)]
    path = tmp_path / "enrolment.db"
    assert path.stat().st_mode & 0o777 == 0o600
    content = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert not any(token.encode() in content for token in tokens)
    assert book.open_invites() == 20


def test_values_that_are_of_no_use_are_refused(book: EnrolmentBook) -> None:
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(SettingError, match="7 days"):
            book.create_invite(seconds)
    for reason in ("", "x" * 201, "a\nb"):
        with pytest.raises(SettingError, match="reason"):
            book.revoke(1, reason)
    with pytest.raises(EnrolmentError, match="no member 7"):
        book.revoke(7, "test")


def test_a_file_of_another_kind_is_not_touched(tmp_path: Path, authority: SigningKey) -> None:
    path = tmp_path / "enrolment.db"
    path.write_bytes(b"something else" * 100)
    with pytest.raises(StorageError, match="cannot use"):
        EnrolmentBook(path, FEDERATION, authority)
    assert path.read_bytes() == b"something else" * 100


def _use(path: Path, authority: bytes, token: str, results: "multiprocessing.Queue[int]") -> None:
    book = EnrolmentBook(path, FEDERATION, SigningKey.from_bytes(authority))
    try:
        results.put(book.enrol(token, SigningKey.generate().public, node_key()).member)
    except EnrolmentError:
        results.put(0)


def test_two_processes_cannot_use_one_token_twice(tmp_path: Path, authority: SigningKey) -> None:
    path = tmp_path / "enrolment.db"
    book = EnrolmentBook(path, FEDERATION, authority)
    token = book.create_invite(WEEK)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    racers = [context.Process(target=_use, args=(path, authority.to_bytes(), token, results)) for _ in range(3)]
    for racer in racers:
        racer.start()
    found = sorted(results.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join()
    assert found == [0, 0, 1]
    assert len(book.members()) == 1
