"""A federation to join: certificates, an authority, and a small gate over real TLS."""

import dataclasses
import datetime
import io
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_ssh_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from client.generators.pack import GeneratorPack
from client.ratings import Choice
from client.session import Session
from client.store import Store
from client.vault import Cost
from common.cli import GROUP, run
from common.enrolment import MemberCertificate
from common.errors import SignatureError
from common.invite import Invite
from common.privacy.settings import PrivacySettings
from common.signing import SigningKey, canonical, verify
from common.terms import Terms

DAY = datetime.timedelta(days=1)


def certificates(
    folder: Path, *, days: tuple[float, float] = (-1, 30), names: tuple[str, ...] = ("localhost", "127.0.0.1")
) -> None:
    """``ca.crt``, ``server.crt``, ``server.key`` in a folder; valid from and to, in days from now."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test authority {time.time_ns()}")])
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    ca = (
        x509.CertificateBuilder(ca_name, ca_name, ca_key.public_key(), x509.random_serial_number())
        .not_valid_before(now - 400 * DAY)
        .not_valid_after(now + 400 * DAY)
        .add_extension(x509.BasicConstraints(True, 0), True)
        .add_extension(
            x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False), True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False)
        .sign(ca_key, hashes.SHA256())
    )
    alternatives = [
        x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names
    ]
    server = (
        x509.CertificateBuilder(ca_name, x509.Name([]), key.public_key(), x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.SubjectAlternativeName(alternatives), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False)
        .sign(ca_key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(ca.public_bytes(Encoding.PEM))
    (folder / "server.crt").write_bytes(server.public_bytes(Encoding.PEM))
    (folder / "server.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


class Operator:
    """The other side: answers as the gate does, and writes down what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        certificates(folder)
        self.authority, self.release_key = SigningKey.generate(), SigningKey.generate()
        self.terms = Terms(
            federation="0123456789abcdef" * 2,
            name="Test people",
            pack=GeneratorPack.open("art").hash,
            components=8,
            settings=PrivacySettings(minimum_people=3, expected_people=5),
            honest_people=2,
            minimum_ratings=5,
        )
        self.tokens: dict[str, tuple[str, str] | None] = {}
        self.members: list[tuple[str, str]] = []
        self.left: list[int] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.release: bytes | None = None
        self.policy: bytes | None = None
        self.clock = time.time
        self.enrolled: Response | None = None  # instead of the right answer
        self.leaving: Response | None = None
        self.after_certifying: Callable[[], None] = lambda: None
        self.port = 0

    def invite(self, **changes: Any) -> Invite:
        token = f"token-{len(self.tokens)}"
        self.tokens[token] = None
        made = Invite(
            terms=self.terms,
            address=f"127.0.0.1:{self.port}",
            tls_authority=(self.folder / "ca.crt").read_text(),
            authority=self.authority.public,
            release_key=self.release_key.public,
            bundles=("ab" * 32,),
            token=token,
            expires=int(time.time()) + 3600,
        )
        return dataclasses.replace(made, **changes)

    async def _healthz(self, request: Request) -> Response:
        self.asked.append(("/healthz", {}))
        return JSONResponse({"ok": True})

    async def _enrol(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(("/plgl/enrol", body))
        if self.enrolled is not None:
            return self.enrolled
        token, keys = body["token"], (body["key"], body["node_key"])
        signed = canonical([self.terms.federation, token, body["node_key"]])
        try:
            verify(bytes.fromhex(body["key"]), "enrolment request", signed, bytes.fromhex(body["proof"]))
        except SignatureError:
            return JSONResponse({"error-message": "the proof is wrong"}, 403)
        load_ssh_public_key(body["node_key"].encode())
        if token not in self.tokens or self.tokens[token] not in (None, keys):
            return JSONResponse({"error-message": "the token was used with other keys"}, 403)
        self.tokens[token] = keys
        if keys not in self.members:
            self.members.append(keys)
        now = int(self.clock())
        certificate = MemberCertificate.issue(
            self.authority,
            federation=self.terms.federation,
            member=self.members.index(keys) + 1,
            key=bytes.fromhex(body["key"]),
            issued=now,
            expires=now + 86_400,
        )
        self.after_certifying()
        return JSONResponse({"certificate": certificate.to_json()})

    async def _leave(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(("/plgl/leave", body))
        if self.leaving is not None:
            return self.leaving
        key = bytes.fromhex(self.members[body["member"] - 1][0])
        signed = canonical([self.terms.federation, body["member"], body["time"]])
        verify(key, "leave", signed, bytes.fromhex(body["proof"]))
        self.left.append(body["member"])
        return JSONResponse({"left": True})

    async def _latest(self, request: Request) -> Response:
        return Response(self.release) if self.release is not None else JSONResponse({"error-message": "none"}, 404)

    async def _policy(self, request: Request) -> Response:
        return Response(self.policy) if self.policy is not None else JSONResponse({"error-message": "none"}, 404)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/healthz", self._healthz),
                Route("/plgl/enrol", self._enrol, methods=["POST"]),
                Route("/plgl/leave", self._leave, methods=["POST"]),
                Route("/plgl/release/latest", self._latest),
                Route("/plgl/policy/latest", self._policy),
            ]
        )


class Gatehouse:
    """The operator's gate, served until `stop`."""

    def __init__(self, operator: Operator) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", operator.port))
        operator.port = self.listener.getsockname()[1]
        config = uvicorn.Config(
            operator.app(),
            log_level="critical",
            ws="none",
            timeout_graceful_shutdown=1,
            ssl_certfile=operator.folder / "server.crt",
            ssl_keyfile=str(operator.folder / "server.key"),
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],))
        self.thread.start()
        while self.thread.is_alive() and not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.listener.close()


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    """An operator whose gate is open."""
    folder = tmp_path / "operator"
    folder.mkdir()
    made = Operator(folder)
    gatehouse = Gatehouse(made)
    yield made
    gatehouse.stop()


@pytest.fixture
def serve() -> Iterator[Any]:
    """Serves an operator's gate, with the certificates that lie in its folder now."""
    opened: list[Gatehouse] = []

    def start(operator: Operator) -> Gatehouse:
        opened.append(Gatehouse(operator))
        return opened[-1]

    yield start
    for gatehouse in opened:
        gatehouse.stop()


@pytest.fixture
def make_certificates() -> Any:
    """Writes certificates into a folder."""
    return certificates


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "federations"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Six answers."""
    path = tmp_path / "ratings.plgl"
    kept = Store.open(path, passphrase="a long one", cost=Cost(passes=1, kib=64, lanes=1))
    with Session(GeneratorPack.open("art"), kept, seed=0) as session:
        for _ in range(6):
            a, b = session.propose(2)
            session.rate(Choice(a, b, "a"))
    return path


@pytest.fixture
def plgl(home: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Types a command; gives exit code, standard output and standard error."""

    def typed(*words: str, passphrase: str | None = "a long one", answer: str = "") -> tuple[int, str, str]:
        monkeypatch.delenv("PLGL_PASSPHRASE", raising=False)
        if passphrase is not None:
            monkeypatch.setenv("PLGL_PASSPHRASE", passphrase)
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        entries = [EntryPoint(name, f"client.{name}_cli:app", GROUP) for name in ("join", "sharing")]
        place = ["--store", str(store)] if words[0] == "join" else []
        code = run([*words, *place, "--home", str(home)], entries)
        said = capsys.readouterr()
        return code, said.out, said.err

    return typed
