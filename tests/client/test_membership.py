"""Joining, leaving and what lies in a membership's folder."""

import dataclasses
import hashlib
import json
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from starlette.responses import JSONResponse, Response

from client.generators.installed import InstalledPacks
from client.generators.pack import MANIFEST, GeneratorPack
from client.joining import join
from client.journal import Event
from client.membership import Membership, membership_of, memberships, pack_of, sharing_line
from client.ratings import Choice, Glance, Like
from client.session import Session
from client.store import Store
from client.vault import Cost
from common.enrolment import MemberCertificate
from common.errors import (
    ConsentError,
    DeploymentError,
    EnrolmentError,
    LedgerError,
    PackError,
    SettingError,
    StorageError,
    StoreInUse,
    WrongKey,
)
from common.invite import Invite
from common.signing import SigningKey

CHEAP = Cost(passes=1, kib=64, lanes=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "federations"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_joining_makes_a_private_folder_that_opens_again(operator: Any, root: Path) -> None:
    made = join(operator.invite(), root=root, limit=2)
    assert made == Membership.open(made.folder)
    assert memberships(root) == [made]
    assert (made.member, made.limit, made.paused, made.profile, made.generator) == (1, 2, False, "me", "art")
    assert made.invite.token == ""
    assert mode(made.folder) == 0o700
    files = {path.name for path in made.folder.iterdir()}
    assert files == {"membership.json", "node.key", "enrolment.key", "ledger.db", "join.lock"}
    assert {mode(path) for path in made.folder.iterdir()} == {0o600}
    assert made.key().public == made.certificate.key
    assert len((made.folder / "enrolment.key").read_bytes()) == 32
    assert load_ssh_private_key((made.folder / "node.key").read_bytes(), None).curve.name == "secp384r1"  # type: ignore[union-attr]
    assert made.ledger().spent(made.terms.federation) == 0


def test_only_public_keys_a_token_and_a_proof_are_sent(operator: Any, root: Path) -> None:
    made = join(operator.invite(), root=root)
    assert [path for path, _ in operator.asked] == ["/healthz", "/plgl/enrol"]
    body = operator.asked[1][1]
    assert set(body) == {"token", "key", "node_key", "proof"}
    secrets = [made.key().to_bytes().hex(), (made.folder / "node.key").read_text().splitlines()[1]]
    assert not any(secret in json.dumps(body) for secret in secrets)


def test_the_same_keys_are_sent_again_after_a_crash(operator: Any, root: Path) -> None:
    invite = operator.invite()

    def crash() -> None:
        raise RuntimeError("the server falls over after it wrote the member down")

    operator.after_certifying = crash
    with pytest.raises(DeploymentError, match="try again later"):
        join(invite, root=root)
    assert memberships(root) == []
    operator.after_certifying = lambda: None
    made = join(invite, root=root)
    assert made.member == 1
    assert len(operator.members) == 1
    keys = [body["key"] for path, body in operator.asked if path == "/plgl/enrol"]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_another_invitation_gets_other_keys(operator: Any, root: Path) -> None:
    operator.enrolled = JSONResponse({"error-message": "not today"}, 403)
    with pytest.raises(EnrolmentError, match="not today"):
        join(operator.invite(), root=root)
    operator.enrolled = None
    join(operator.invite(), root=root)
    first, second = (body for path, body in operator.asked if path == "/plgl/enrol")
    assert first["key"] != second["key"]
    assert first["node_key"] != second["node_key"]


def test_who_is_a_member_already_is_told_so(operator: Any, root: Path) -> None:
    join(operator.invite(), root=root)
    with pytest.raises(EnrolmentError, match="member 1 of 'Test people' already"):
        join(operator.invite(), root=root)


def test_a_used_or_expired_invitation_is_refused(operator: Any, root: Path) -> None:
    with pytest.raises(EnrolmentError, match="expired 2 days ago, if this clock is right"):
        join(operator.invite(expires=int(time.time()) - 2 * 86_400 - 60), root=root)
    with pytest.raises(EnrolmentError, match="no token"):
        join(operator.invite(token=""), root=root)
    assert operator.asked == []
    invite = operator.invite()
    operator.tokens[invite.token] = ("somebody", "else")
    with pytest.raises(EnrolmentError, match="the gate refuses to enrol: the token was used with other keys"):
        join(invite, root=root)


@pytest.mark.parametrize(("ahead", "word"), [(60, "fast"), (-600, "slow")])
def test_a_wrong_clock_is_noticed_before_the_token_is_sent(operator: Any, root: Path, ahead: int, word: str) -> None:
    with pytest.raises(EnrolmentError, match=rf"this clock is \d+ seconds {word}.*set the clock"):
        join(operator.invite(), root=root, clock=lambda: time.time() + ahead)
    assert [path for path, _ in operator.asked] == ["/healthz"]


def test_another_authority_is_refused_and_hears_nothing(operator: Any, root: Path, make_certificates: Any) -> None:
    elsewhere = operator.folder / "elsewhere"
    elsewhere.mkdir()
    make_certificates(elsewhere)
    with pytest.raises(EnrolmentError, match="does not come from the authority of the invitation"):
        join(operator.invite(tls_authority=(elsewhere / "ca.crt").read_text()), root=root)
    assert operator.asked == []


@pytest.mark.parametrize(
    ("days", "names", "reason"),
    [
        ((-9, -2), ("127.0.0.1",), "has expired; compare this clock"),
        ((2, 9), ("127.0.0.1",), "is not valid yet; compare this clock"),
        ((-1, 9), ("gate.example", "127.0.0.2"), "is for another address"),
    ],
)
def test_a_certificate_out_of_date_or_of_another_host_is_refused(
    operator: Any, root: Path, serve: Any, make_certificates: Any, days: Any, names: Any, reason: str
) -> None:
    make_certificates(operator.folder, days=days, names=names)
    operator.port = 0
    serve(operator)
    with pytest.raises(EnrolmentError, match=reason):
        join(operator.invite(), root=root)
    assert operator.asked == []


def test_the_authorities_of_the_system_are_not_asked(
    operator: Any, root: Path, make_certificates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(operator.folder / "ca.crt"))  # as if the system trusted the gate
    elsewhere = operator.folder / "elsewhere"
    elsewhere.mkdir()
    make_certificates(elsewhere)
    with pytest.raises(EnrolmentError, match="authority of the invitation"):
        join(operator.invite(tls_authority=(elsewhere / "ca.crt").read_text()), root=root)


def test_a_gate_that_does_not_answer_is_named(operator: Any, root: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(DeploymentError, match=f"{address} does not answer"):
            join(operator.invite(address=address), root=root)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (Response(b"x" * 70_000), DeploymentError, "more than 65536 bytes"),
        (Response(b"[" * 9_000), DeploymentError, "status 200"),
        (Response(b"null"), DeploymentError, "status 200"),
        (JSONResponse({}), EnrolmentError, "no member certificate"),
        (JSONResponse({"certificate": 3}), EnrolmentError, "no member certificate"),
        (JSONResponse({"error-message": "no \x1b[2J more"}, 403), EnrolmentError, r"no  \[2J more"),
        (JSONResponse({}, 429, {"Retry-After": "7"}), DeploymentError, "again in 7 seconds"),
        (Response(status_code=302, headers={"location": "https://elsewhere.example"}), DeploymentError, "status 302"),
    ],
)
def test_whatever_a_gate_answers_there_is_no_membership(
    operator: Any, root: Path, answer: Response, error: type[Exception], message: str
) -> None:
    operator.enrolled = answer
    with pytest.raises(error, match=message):
        join(operator.invite(), root=root)
    assert memberships(root) == []


def test_a_certificate_of_another_authority_or_for_another_key_is_refused(operator: Any, root: Path) -> None:
    def certified(authority: SigningKey, key: bytes, federation: str = operator.terms.federation) -> Response:
        now = int(time.time())
        made = MemberCertificate.issue(authority, federation=federation, member=1, key=key, issued=now, expires=now + 9)
        return JSONResponse({"certificate": made.to_json()})

    other = SigningKey.generate()
    for answer, message in [
        (certified(other, other.public), "not certified by the federation's authority"),
        (certified(operator.authority, other.public), "another key than this device's"),
        (certified(operator.authority, other.public, "f" * 32), "another federation"),
    ]:
        operator.enrolled = answer
        with pytest.raises(EnrolmentError, match=message):
            join(operator.invite(), root=root)
    assert memberships(root) == []


def test_another_pack_or_too_many_features_or_participations_are_refused(operator: Any, root: Path) -> None:
    terms = operator.terms
    with pytest.raises(PackError, match=r"uses the generator pack ffffffffffff, here is art .*--generator"):
        join(operator.invite(terms=dataclasses.replace(terms, pack="f" * 64)), root=root)
    with pytest.raises(PackError, match="the terms ask for 999 features"):
        join(operator.invite(terms=dataclasses.replace(terms, components=999)), root=root)
    for limit in (0, 5):
        with pytest.raises(SettingError, match="between 1 and the 4 of the terms"):
            join(operator.invite(), root=root, limit=limit)
    assert operator.asked == []
    assert not root.exists()


def test_a_pack_that_was_added_is_found_without_its_name(
    operator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLGL_GENERATORS", str(tmp_path / "generators"))
    art = GeneratorPack.open("art")
    manifest = dataclasses.replace(art.manifest, name="mine")
    terms = dataclasses.replace(operator.terms, pack=hashlib.sha256(manifest.encode()).hexdigest())
    with pytest.raises(PackError, match="here is art"):
        pack_of(terms)
    InstalledPacks().install(manifest, {**art.files, MANIFEST: manifest.encode()})
    broken = InstalledPacks().folder("broken")  # comes before it, and keeps nobody from it
    broken.mkdir()
    (broken / MANIFEST).write_bytes(b"{}")
    assert pack_of(terms).name == "mine"
    with pytest.raises(PackError, match=r"broken .cannot be used.*mine [0-9a-f]{12}"):
        pack_of(dataclasses.replace(terms, pack="f" * 64))


def test_another_protocol_version_is_refused(operator: Any) -> None:
    values = operator.invite().to_json()
    values["terms"]["protocol"] = 2
    with pytest.raises(EnrolmentError, match="protocol 2 is not 1; update the older side"):
        Invite.from_json(values)


def test_two_processes_do_not_join_at_once(operator: Any, root: Path) -> None:
    outcome: list[object] = []
    invite = operator.invite()

    def second() -> None:
        try:
            join(invite, root=root)
        except EnrolmentError as error:
            outcome.append(error)

    def during() -> None:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(10)

    operator.after_certifying = during
    join(invite, root=root)
    assert "another process joins" in str(outcome[0])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with seven answers of all kinds and one look, locked by a passphrase."""
    path = tmp_path / "ratings.plgl"
    kept = Store.open(path, passphrase="a long one", cost=CHEAP)
    with Session(GeneratorPack.open("art"), kept, seed=0) as session:
        for _ in range(6):
            a, b = session.propose(2)
            session.rate(Choice(a, b, "a"))
        (item,) = session.propose(1)
        session.rate(Like(item, True))
        session.rate(Glance(item, 2.0))
    return path


def test_a_device_reads_what_the_store_holds_now(operator: Any, root: Path, store: Path) -> None:
    made = join(operator.invite(), root=root, store=store, limit=3)
    device = made.device("a long one")
    evidence = device.evidence()
    assert evidence.features.shape == (1, 8, 2, 9)
    assert evidence.weight[0].tolist() == [1] * 7 + [0.2]
    assert (device.limit, device.terms, device.authority) == (3, operator.terms, operator.authority.public)
    assert device.evidence() is evidence  # nothing new, nothing made again
    with Session(GeneratorPack.open("art"), Store.open(store, passphrase="a long one"), seed=0) as session:
        with pytest.raises(StoreInUse):
            device.evidence()
        session.remove(session.history[0].event)
    assert device.evidence().features.shape == (1, 7, 2, 9)


def test_a_device_without_the_key_of_the_store_reads_nothing(operator: Any, root: Path, store: Path) -> None:
    made = join(operator.invite(), root=root, store=store)
    with pytest.raises(WrongKey):
        made.device("another").evidence()


def test_a_paused_device_answers_nothing_and_remembers_nothing(operator: Any, root: Path, store: Path) -> None:
    made = join(operator.invite(), root=root, store=store)
    device = made.device("a long one")
    device.evidence()
    assert made.pausing(True).paused
    with pytest.raises(ConsentError, match="paused"):
        device.evidence()
    assert "Test people (paused)" in sharing_line(root)
    made.pausing(False)
    assert device.evidence().people == 1


def test_items_of_another_pack_are_no_evidence(operator: Any, root: Path, store: Path) -> None:
    with Store.open(store, passphrase="a long one") as kept:
        item = next(event for event in kept.events() if event.kind == "item")
        kept.append([Event("item", {**item.body, "pack": "f" * 64}, item.latent)])
    made = join(operator.invite(), root=root, store=store)
    with pytest.raises(PackError, match="another generator pack"):
        made.device("a long one").evidence()


def test_leaving_tells_the_operator_and_destroys_the_keys(operator: Any, root: Path, store: Path) -> None:
    before = store.read_bytes()
    made = join(operator.invite(), root=root, store=store)
    assert made.leave() is None
    assert operator.left == [1]
    assert {path.name for path in made.folder.iterdir()} == {"ledger.db", "join.lock"}
    assert store.read_bytes() == before
    assert memberships(root) == []
    assert sharing_line(root) == "sharing: off; you share nothing"
    with pytest.raises(EnrolmentError, match="no membership here"):
        membership_of(root=root)


def test_leaving_works_when_nobody_can_be_told(operator: Any, root: Path) -> None:
    made = join(operator.invite(), root=root)
    operator.leaving = JSONResponse({"error-message": "gone already"}, 403)
    assert "gone already" in str(made.leave())
    assert memberships(root) == []
    again = join_anew(operator, root)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        offline = dataclasses.replace(again, invite=dataclasses.replace(again.invite, address=address))
        assert "does not answer" in str(offline.leave())
    assert not (again.folder / "enrolment.key").exists()


def join_anew(operator: Any, root: Path) -> Membership:
    operator.leaving = None
    return join(operator.invite(), root=root)


def test_joining_again_keeps_what_was_spent_and_takes_new_keys(operator: Any, root: Path) -> None:
    first = join(operator.invite(), root=root)
    first.ledger().charge(federation=first.terms.federation, session="s", round=1, limit=4)
    first.leave()
    second = join_anew(operator, root)
    assert (second.member, second.certificate.key == first.certificate.key) == (2, False)
    assert second.ledger().spent(second.terms.federation) == 1


def test_a_lost_ledger_is_not_begun_again_at_zero(operator: Any, root: Path) -> None:
    made = join(operator.invite(), root=root)
    (made.folder / "ledger.db").unlink()
    with pytest.raises(LedgerError, match="what was spent is not known"):
        made.device("x")


def test_an_expired_certificate_is_noticed(operator: Any, root: Path) -> None:
    made = join(operator.invite(), root=root)
    with pytest.raises(EnrolmentError, match="expired"):
        made.device("x", clock=lambda: time.time() + 90_000)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"format": "plgl-membership-1"}', b"[" * 100_000])
def test_a_damaged_membership_is_named_and_nothing_else_breaks(operator: Any, root: Path, content: bytes) -> None:
    made = join(operator.invite(), root=root)
    (made.folder / "membership.json").write_bytes(content)
    with pytest.raises(EnrolmentError, match="is damaged"):
        Membership.open(made.folder)
    assert sharing_line(root) == "sharing: a membership cannot be read; see: plgl sharing show"


def test_damaged_keys_are_named_and_their_content_is_not(operator: Any, root: Path) -> None:
    made = join(operator.invite(), root=root)
    (made.folder / "enrolment.key").write_bytes(b"short")
    (made.folder / "node.key").write_bytes(b"short")
    for read in (made.key, made.node_key):
        with pytest.raises(EnrolmentError, match=r"\.key cannot be read") as caught:
            read()
        assert "short" not in str(caught.value)


def test_a_membership_is_found_by_name_and_beginning(operator: Any, root: Path) -> None:
    made = join(operator.invite(), root=root)
    operator.terms = dataclasses.replace(operator.terms, federation="f" * 32, name="Others")
    other = join(operator.invite(), root=root)
    assert membership_of("Others", root) == other
    assert membership_of("0123", root) == made
    with pytest.raises(EnrolmentError, match=r"several memberships fit: 01234567 \(Test people\), ffffffff"):
        membership_of(None, root)
    with pytest.raises(EnrolmentError, match="no membership of 'nobody' here"):
        membership_of("nobody", root)


def test_a_disk_that_refuses_leaves_no_membership(operator: Any, root: Path) -> None:
    root.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot use"):
        join(operator.invite(), root=root)
    assert [path for path, _ in operator.asked] == []
