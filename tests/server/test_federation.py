import json
import stat
import time
from pathlib import Path

import pytest

from client.generators.pack import GeneratorPack
from common.errors import DeploymentError, FolderError, LedgerError, PackError, SettingError, SignatureError
from common.invite import Invite
from common.privacy.settings import PrivacySettings
from common.signing import SigningKey, read_document
from common.terms import Terms
from server.authority import RENEW_DAYS, SERVER_DAYS
from server.federation import PURPOSE, Federation, new_identifier, pack_hash, split_address
from server.journal import Journal
from tests.server.test_enrolment_book import node_key


@pytest.fixture(scope="module")
def terms() -> Terms:
    return Terms(
        federation=new_identifier(),
        name="a test",
        pack=pack_hash("art")[0],
        components=4,
        settings=PrivacySettings(expected_people=3, minimum_people=2),
        honest_people=1,
    )


@pytest.fixture
def federation(tmp_path: Path, terms: Terms) -> Federation:
    return Federation.create(tmp_path / "deep" / "federation", terms=terms, address="gate.example.org:8443")


def test_a_folder_opens_as_it_was_made(federation: Federation, terms: Terms) -> None:
    again = Federation.open(federation.folder)
    assert again == federation
    assert (again.terms, again.host, again.port) == (terms, "gate.example.org", 8443)
    assert read_document(again.document.read_bytes(), again.public, PURPOSE)["terms"] == terms.to_json()


def test_only_the_owner_can_read_what_is_secret(federation: Federation) -> None:
    assert stat.S_IMODE(federation.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((federation.folder / "keys").stat().st_mode) == 0o700
    keys = sorted(path.name for path in (federation.folder / "keys").iterdir())
    assert keys == ["authority.key", "ca.key", "journal.key", "release.key", "server.key"]
    for path in (*(federation.folder / "keys").iterdir(), federation.enrolment, federation.journal):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_every_key_is_another_one(federation: Federation) -> None:
    assert len({federation.key(name).public for name in ("authority", "release", "journal")}) == 3


def test_an_invitation_carries_what_a_device_pins(federation: Federation) -> None:
    invite = Invite.from_text(federation.invite("token", 2_000_000_000).to_text())
    assert invite.authority == federation.key("authority").public == federation.public
    assert invite.release_key == federation.key("release").public
    assert invite.tls_authority == federation.tls_authority.read_text()
    assert (invite.address, invite.terms, invite.token) == (federation.address, federation.terms, "token")
    assert invite.bundles == (federation.bundle_hash(),)


def test_no_secret_key_is_in_an_invitation(federation: Federation) -> None:
    text = json.dumps(federation.invite("token", 2_000_000_000).to_json())
    for path in (federation.folder / "keys").iterdir():
        raw = path.read_bytes()
        assert raw.hex() not in text
        assert "PRIVATE" not in text


def test_the_journal_begins_empty_and_under_these_terms(federation: Federation) -> None:
    with Journal.read(federation.journal, federation.key("journal").public) as view:
        assert (view.terms, view.rounds(), view.latest_release()) == (federation.terms, [], None)


def test_the_desk_knows_at_once_who_was_revoked_and_holds_the_journal(federation: Federation) -> None:
    book = federation.book()
    with federation.desk() as desk:
        assert desk.start.parameters == federation.terms.parameters
        assert desk.authority == federation.public
        assert desk.release_key.public == federation.key("release").public
        assert desk.active() == set()
        for _ in range(2):
            book.enrol(book.create_invite(60), SigningKey.generate().public, node_key())
        assert desk.active() == {1, 2}
        book.revoke(1, "test")
        assert desk.active() == {2}
        assert desk.journal.plan(session="a" * 32, start="start") == 1


def test_a_journal_older_than_a_published_release_is_noticed(federation: Federation) -> None:
    (federation.releases / "release-000003.json").write_bytes(b"{}")
    with pytest.raises(LedgerError), federation.desk():
        pass


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, terms: Terms) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(FolderError, match="not empty"):
        Federation.create(tmp_path, terms=terms, address="localhost:8443")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    with pytest.raises(FolderError, match="not empty"):
        Federation.create(tmp_path / "precious", terms=terms, address="localhost:8443")


def test_an_empty_folder_is_taken(tmp_path: Path, terms: Terms) -> None:
    assert Federation.create(tmp_path, terms=terms, address="localhost:8443").folder == tmp_path


def test_nothing_is_left_where_making_it_fails(tmp_path: Path, terms: Terms) -> None:
    with pytest.raises(SettingError, match="host:port"):
        Federation.create(tmp_path / "new", terms=terms, address="localhost")
    assert list(tmp_path.iterdir()) == []


def test_altered_terms_are_noticed(federation: Federation) -> None:
    text = federation.document.read_text()
    federation.document.write_text(text.replace('"epsilon":1.0', '"epsilon":9.0'))
    assert federation.document.read_text() != text
    with pytest.raises(SignatureError):
        Federation.open(federation.folder)


def test_another_authority_s_terms_are_noticed(federation: Federation) -> None:
    (federation.folder / "keys" / "authority.key").write_bytes(SigningKey.generate().to_bytes())
    with pytest.raises(SignatureError):
        Federation.open(federation.folder)


def test_what_is_no_federation_is_named(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="plgl federation init"):
        Federation.open(tmp_path)


def test_where_it_runs_is_told_and_else_how_to_start_it(federation: Federation) -> None:
    with pytest.raises(DeploymentError, match="plgl federation up"):
        federation.where()
    federation.running.write_text('{"pid": 1, "gate": 2, "superlink": 3, "view": null, "started": 4}')
    assert federation.where() == {"pid": 1, "gate": 2, "superlink": 3, "view": None, "started": 4}
    federation.running.write_text('{"pid": 1')
    with pytest.raises(DeploymentError, match="plgl federation up"):
        federation.where()


def test_a_certificate_is_renewed_before_it_ends_and_not_sooner(federation: Federation) -> None:
    now, before = time.time(), federation.certificate.read_bytes()
    assert not federation.renew_certificate(now)
    assert not federation.renew_certificate(now + (SERVER_DAYS - RENEW_DAYS - 1) * 86_400)
    assert federation.certificate.read_bytes() == before
    assert federation.renew_certificate(now + (SERVER_DAYS - RENEW_DAYS + 1) * 86_400)
    assert federation.certificate.read_bytes() != before


def test_a_certificate_whose_key_does_not_fit_is_made_anew(
    federation: Federation, tmp_path: Path, terms: Terms
) -> None:
    other = Federation.create(tmp_path / "other", terms=terms, address="localhost:8443")
    federation.server_key.write_bytes(other.server_key.read_bytes())
    assert federation.renew_certificate(time.time())
    assert not federation.renew_certificate(time.time())


def test_a_pack_is_known_by_name_folder_or_hash() -> None:
    art = GeneratorPack.open("art")
    assert pack_hash("art") == (art.hash, art.component_scale.tolist())
    assert pack_hash(str(art.folder)) == (art.hash, art.component_scale.tolist())
    assert pack_hash(art.hash) == (art.hash, None)


@pytest.mark.parametrize("pack", ["", "no-such-pack", "../packs", "art/../art2", "f" * 63, "F" * 64])
def test_an_unknown_pack_is_named(pack: str) -> None:
    with pytest.raises(PackError, match="manifest"):
        pack_hash(pack)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("localhost:1", ("localhost", 1)),
        ("gate.example.org:65535", ("gate.example.org", 65_535)),
        ("192.0.2.7:8443", ("192.0.2.7", 8443)),
        ("[2001:db8::7]:8443", ("2001:db8::7", 8443)),
    ],
)
def test_an_address_is_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address",
    [
        *("", "localhost", ":8443", "localhost:", "localhost:0", "localhost:65536", "localhost:١", "a b:1"),
        *("https://a:1", "2001:db8::7:8443", "-a:1", "a/b:1", "a:1:2", "a:+1", "a:" + "9" * 5_000),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(SettingError, match="host:port"):
        split_address(address)
