import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.types import Receive, Scope, Send

from common.enrolment import MemberCertificate
from common.errors import DeploymentError
from common.signing import SigningKey, canonical
from server.audit import Audit, Event
from server.authority import make_authority, make_server_certificate
from server.enrolment_book import EnrolmentBook
from server.gate import Backstage, Gate, GateSettings
from server.gate_server import Serving, gate_config
from server.rates import Rate

FEDERATION = "ab" * 16
FLEET = "/v1/fleet/pull-messages"


class Upstream:
    """Stands where the SuperLink is: keeps what reaches it, answers with what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[bytes, bytes], bytes]] = []
        self.answer = b"answer"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.seen.append((scope["method"], scope["raw_path"].decode(), dict(scope["headers"]), body))
        headers = [
            (b"content-type", b"application/x-protobuf"),
            (b"connection", b"x-secret"),
            (b"x-secret", b"inside"),
            (b"set-cookie", b"a=b"),
            (b"flwr-version-incompatibility-message", b"old"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for start in range(0, len(self.answer), 65_536):
            piece = self.answer[start : start + 65_536]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@dataclass
class Site:
    """A gate that is served over real TLS, and what stands behind it."""

    port: int
    tls: ssl.SSLContext
    upstream: Upstream
    book: EnrolmentBook
    audit: Audit
    folder: Path
    registered: list[tuple[str, int]] = field(default_factory=list)
    unregistered: list[str] = field(default_factory=list)
    broken: bool = False
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=f"https://127.0.0.1:{self.port}", verify=self.tls, trust_env=False)

    def register(self, key: str, number: int) -> None:
        if self.broken:
            raise DeploymentError("away")
        self.registered.append((key, number))

    def unregister(self, key: str) -> None:
        if self.broken:
            raise DeploymentError("away")
        self.unregistered.append(key)

    def raw(self, content: bytes, *, seconds: float = 5.0) -> bytes:
        """What comes back for these bytes, until the gate closes or falls silent."""
        answer = b""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as plain,
            self.tls.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
        ):
            sock.settimeout(seconds)
            with contextlib.suppress(TimeoutError, ConnectionError, ssl.SSLError):
                sock.sendall(content)
                while piece := sock.recv(65_536):
                    answer += piece
                    if b"\r\n\r\n" in answer and b"connection: close" not in content.lower():
                        break
        return answer


@dataclass(frozen=True)
class Place:
    folder: Path
    authority: bytes
    certificate: Path
    key: Path
    upstream: Upstream
    upstream_port: int


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("gate")
    authority, authority_key = make_authority(FEDERATION, time.time())
    certificate, key = make_server_certificate(authority, authority_key, "localhost", time.time())
    (folder / "server.crt").write_bytes(certificate)
    (folder / "server.key").write_bytes(key)
    upstream = Upstream()
    config = uvicorn.Config(
        upstream,
        interface="asgi3",
        port=0,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        ssl_certfile=str(folder / "server.crt"),
        ssl_keyfile=str(folder / "server.key"),
    )
    serving = Serving(config)
    serving.start()
    yield Place(folder, authority, folder / "server.crt", folder / "server.key", upstream, serving.port)
    serving.stop()


@contextlib.contextmanager
def site_at(
    place: Place,
    folder: Path,
    settings: GateSettings,
    *,
    superlink: str | None = None,
    tls_authority: str | None = None,
) -> Iterator[Site]:
    folder.mkdir(exist_ok=True)
    book = EnrolmentBook(folder / "enrolment.db", FEDERATION, SigningKey.generate())
    (folder / "federation.json").write_bytes(b'{"signed":"terms"}')
    (folder / "releases").mkdir(exist_ok=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.load_verify_locations(cadata=place.authority.decode())
    made: list[Site] = []
    backstage = Backstage(
        book=book,
        document=folder / "federation.json",
        releases=folder / "releases",
        register=lambda key, number: made[0].register(key, number),
        unregister=lambda key: made[0].unregister(key),
        superlink=superlink or f"127.0.0.1:{place.upstream_port}",
        tls_authority=tls_authority or place.authority.decode(),
        audit=Audit(folder / "audit.jsonl"),
    )
    gate = Gate(backstage, settings)
    serving = Serving(gate_config(gate, host="127.0.0.1", port=0, certificate=place.certificate, key=place.key))
    serving.start()
    made.append(Site(serving.port, tls, place.upstream, book, backstage.audit, folder))
    place.upstream.seen.clear()
    place.upstream.answer = b"answer"
    try:
        yield made[0]
    finally:
        made[0].client.close()
        serving.stop()


PLENTY = Rate(per_second=1e6, burst=10**6)
SMALL = GateSettings(
    fleet_bytes=100_000, own_bytes=10_000, own_rate=PLENTY, body_seconds=0.6, head_seconds=0.6, network_connections=20
)


@pytest.fixture(scope="module")
def shared(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_at(place, tmp_path_factory.mktemp("site"), SMALL) as site:
        yield site


@pytest.fixture
def site(shared: Site) -> Site:
    shared.upstream.seen.clear()
    shared.upstream.answer = b"answer"
    shared.registered.clear()
    shared.unregistered.clear()
    shared.broken = False
    shared.client.cookies.clear()
    return shared


# -- what reaches the SuperLink


def test_a_fleet_request_reaches_the_superlink_and_its_answer_comes_back(site: Site) -> None:
    site.upstream.answer = bytes(range(256)) * 2_000
    headers = {"flwr-public-key": "k", "flwr-signature": "s", "flwr-timestamp": "t", "content-type": "application/x"}
    answer = site.client.post(FLEET, content=b"question", headers=headers)
    assert (answer.status_code, answer.content) == (200, site.upstream.answer)
    ((method, path, got, body),) = site.upstream.seen
    assert (method, path, body) == ("POST", FLEET, b"question")
    assert {name: got[name.encode()].decode() for name in headers} == headers


def test_headers_that_concern_nobody_stay_outside(site: Site) -> None:
    strange = {
        "host": "evil.example",
        "connection": "keep-alive, flwr-thing",
        "flwr-thing": "1",
        "cookie": "a=b",
        "authorization": "Bearer x",
        "flwr-task-token": "stolen",
        "x-forwarded-for": "10.0.0.1",
        "te": "trailers",
        "proxy-authorization": "x",
    }
    answer = site.client.post(FLEET, content=b"x", headers=strange)
    assert answer.status_code == 200
    assert site.client.post(FLEET, content=b"x", headers={"cookie": "a=b"}).status_code == 200
    got = {name: value for _, _, headers, _ in site.upstream.seen for name, value in headers.items()}
    passed = {b"host", b"accept", b"accept-encoding", b"connection", b"user-agent", b"content-length"}
    assert set(got) <= passed
    assert got[b"host"].startswith(b"127.0.0.1:")
    assert got[b"connection"] == b"keep-alive"
    assert "x-secret" not in answer.headers
    assert "set-cookie" not in answer.headers
    assert "server" not in answer.headers
    assert answer.headers["flwr-version-incompatibility-message"] == "old"


def test_a_query_is_not_passed_on(site: Site) -> None:
    assert site.client.post(FLEET + "?a=/v1/control/list-runs", content=b"x").status_code == 200
    assert site.upstream.seen[0][1] == FLEET


def test_a_body_in_chunks_arrives_whole(site: Site) -> None:
    pieces = [b"a" * 10_000] * 5
    assert site.client.post(FLEET, content=iter(pieces)).status_code == 200
    assert site.upstream.seen[0][3] == b"".join(pieces)


CLOSED = [
    "/",
    "/health",
    "/docs",
    "/openapi.json",
    "/redoc",
    "/v1",
    "/v1/",
    "/v1/fleet",
    "/v1/fleet/",
    "/v1/control/list-runs",
    "/v1/control/start-run",
    "/v1/control/register-node",
    "/v1/runtime/acquire-task",
    "/v1/runtime/pull-task-input",
    "/v1/responses",
    "/V1/FLEET/pull-messages",
    "/v1/fleet/Pull-Messages",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/..%2fcontrol/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/%2E%2E%2Fcontrol%2Flist-runs",
    "/v1/fleet/./pull-messages",
    "/v1/fleet//pull-messages",
    "//v1/fleet/pull-messages",
    "/v1//fleet/pull-messages",
    "/v1/fleet/pull-messages/",
    "/v1/fleet/pull-messages/..",
    "/v1/fleet/pull-messages/../../control/list-runs",
    "/v1/fleet/pull%2dmessages",
    "/v1/fleet/pull-messages%00",
    "/v1/fleet/pull-messages;a=b",
    "/v1/fleet/pull-messages#/x",
    "/v1/fleet%2fpull-messages",
    "/v1%2ffleet/pull-messages",
    "/v1/fleet\\..\\control\\list-runs",
    "/v1/control/list-runs/../../fleet/pull-messages",
    "/v1/fleet/%252e%252e/control/list-runs",
    "/v1/fleet/..;/control/list-runs",
    "/%76%31/fleet/pull-messages",
    "https://localhost/v1/fleet/pull-messages",
    "http://127.0.0.1/v1/control/list-runs",
    "//evil.example/v1/fleet/pull-messages",
    "*",
    "/plgl",
    "/plgl/",
    "/plgl/enrol/",
    "/plgl//enrol",
    "/PLGL/enrol",
    "/plgl/releases",
    "/plgl/release/",
    "/plgl/release/0",
    "/plgl/release/-1",
    "/plgl/release/../../keys/authority.key",
    "/plgl/release/..%2f..%2fkeys%2fauthority.key",
    "/plgl/release/1.json",
    "/keys/authority.key",
    "/federation.json",
    "/healthz/",
    "/metrics",
]


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_everything_else_is_not_there(site: Site, path: str, method: str) -> None:
    request = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    head = site.raw(request.encode()).split(b"\r\n", 1)[0]
    assert head in (b"HTTP/1.1 404 Not Found", b"HTTP/1.1 400 Bad Request")
    assert head.split()[1] == (b"404" if path.isascii() and "\\" not in path else head.split()[1])
    assert site.upstream.seen == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW"])
def test_a_fleet_route_takes_post_only(site: Site, method: str) -> None:
    request = f"{method} {FLEET} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    assert b" 405 " in site.raw(request.encode()).split(b"\r\n", 1)[0]
    assert site.upstream.seen == []


def test_a_websocket_is_not_opened(site: Site) -> None:
    for path, status in ((FLEET, b" 405 "), ("/v1/control/list-runs", b" 404 "), ("/healthz", b" 200 ")):
        request = (
            f"GET {path} HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert status in site.raw(request.encode()).split(b"\r\n", 1)[0]
    assert site.upstream.seen == []


def test_two_lengths_are_no_way_to_hide_a_second_request(site: Site) -> None:
    hidden = b"POST /v1/control/list-runs HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    body = b"5\r\nhello\r\n0\r\n\r\n"
    request = (
        f"POST {FLEET} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body) + len(hidden)}\r\n"
        "transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    ).encode()
    site.raw(request + body + hidden)
    assert all((path, sent) == (FLEET, b"hello") for _, path, _, sent in site.upstream.seen)
    assert len(site.upstream.seen) <= 1


# -- sizes and times


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_read(site: Site) -> None:
    for path, limit in ((FLEET, SMALL.fleet_bytes), ("/plgl/enrol", SMALL.own_bytes)):
        answer = site.client.post(path, content=b"x" * (limit + 1))
        assert answer.status_code == 413
        assert answer.json() == {"error-message": f"the body is over the limit of {limit} bytes"}
    assert site.upstream.seen == []


def test_a_body_that_turns_out_too_large_is_refused_and_the_superlink_never_gets_it(site: Site) -> None:
    for path, limit in ((FLEET, SMALL.fleet_bytes), ("/plgl/enrol", SMALL.own_bytes)):
        answer = site.client.post(path, content=iter([b"x" * (limit // 3)] * 4))
        assert answer.status_code == 413
    assert site.upstream.seen == []


def test_the_largest_allowed_body_passes(site: Site) -> None:
    assert site.client.post(FLEET, content=b"x" * SMALL.fleet_bytes).status_code == 200
    assert len(site.upstream.seen[0][3]) == SMALL.fleet_bytes


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "9" * 30, "1, 2", ""])
def test_a_length_that_is_no_number_is_refused(site: Site, length: str) -> None:
    request = f"POST {FLEET} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    assert b" 400 " in site.raw(request.encode()).split(b"\r\n", 1)[0] or b" 413 " in site.raw(request.encode())
    assert site.upstream.seen == []


def test_a_body_cut_short_reaches_nobody(site: Site) -> None:
    site.raw(f"POST {FLEET} HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\nhalf".encode(), seconds=0.2)
    assert site.client.get("/healthz").status_code == 200
    assert site.upstream.seen == []


def test_a_slow_body_is_refused(site: Site) -> None:
    for path in (FLEET, "/plgl/enrol"):
        request = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\nconnection: close\r\n\r\nhalf"
        answer = site.raw(request.encode())
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"within 0.6 seconds" in answer
    assert site.upstream.seen == []


@pytest.mark.parametrize("head", [b"", b"POST /v1/fl", b"POST /healthz HTTP/1.1\r\nhost: x\r\nx-slow: "])
def test_a_slow_head_ends_the_connection(site: Site, head: bytes) -> None:
    began = time.monotonic()
    assert site.raw(head, seconds=20.0) == b""
    assert time.monotonic() - began < 10.0  # not until our own patience ends


def test_a_slow_second_head_ends_the_connection_too(site: Site) -> None:
    first = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=20) as plain,
        site.tls.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        sock.sendall(first)
        assert b"200 OK" in sock.recv(65_536)
        sock.sendall(b"GET /heal")
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while sock.recv(65_536):
                pass


def test_one_network_has_so_many_connections_and_gets_them_back(place: Place, tmp_path: Path) -> None:
    few = GateSettings(network_connections=3, head_seconds=30.0)
    with site_at(place, tmp_path, few) as site, contextlib.ExitStack() as held:
        for _ in range(3):
            plain = held.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=10))
            held.enter_context(site.tls.wrap_socket(plain, server_hostname="127.0.0.1"))
        with pytest.raises(httpx.HTTPError):
            site.client.get("/healthz")
        held.close()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if site.client.get("/healthz").status_code == 200:
                    return
        pytest.fail("the places were not given back")


def test_a_head_of_any_size_is_not_kept_in_memory(site: Site) -> None:
    answer = site.raw(b"GET /healthz HTTP/1.1\r\nx-large: " + b"a" * 200_000 + b"\r\n\r\n")
    assert b"200 OK" not in answer


# -- how often


def test_too_many_requests_are_told_when_to_come_again(place: Place, tmp_path: Path) -> None:
    slow = Rate(per_second=0.01, burst=3)
    with site_at(place, tmp_path / "a", GateSettings(network_rate=slow)) as site:
        answers = [site.client.post(FLEET, content=b"x", headers={"flwr-public-key": str(n)}) for n in range(5)]
        assert [each.status_code for each in answers] == [200] * 3 + [429] * 2
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 101
        assert "try again in" in answers[-1].json()["error-message"]
        assert site.client.get("/plgl/terms").status_code == 200  # has a bucket of its own
        site.audit.flush()
        (line,) = site.audit.tail(1)
        assert (line.kind, line.body["counts"]) == (Event.REFUSED, {"rate": 1})  # the first was told at once


def test_one_node_cannot_use_up_what_others_have(place: Place, tmp_path: Path) -> None:
    with site_at(place, tmp_path, GateSettings(node_rate=Rate(per_second=0.01, burst=2))) as site:
        loud = [site.client.post(FLEET, content=b"x", headers={"flwr-public-key": "loud"}) for _ in range(3)]
        quiet = site.client.post(FLEET, content=b"x", headers={"flwr-public-key": "quiet"})
        assert [each.status_code for each in loud] == [200, 200, 429]
        assert quiet.status_code == 200


def test_enrolment_and_releases_have_a_rate_of_their_own(place: Place, tmp_path: Path) -> None:
    with site_at(place, tmp_path, GateSettings(own_rate=Rate(per_second=0.01, burst=2))) as site:
        statuses = [site.client.get("/plgl/release/latest").status_code for _ in range(3)]
        assert statuses == [404, 404, 429]
        assert site.client.post(FLEET, content=b"x").status_code == 200


# -- the SuperLink behind


def test_a_superlink_that_is_away_is_answered_for(place: Place, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with site_at(place, tmp_path, SMALL, superlink=f"127.0.0.1:{nobody.getsockname()[1]}") as site:
            answer = site.client.post(FLEET, content=b"x")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")  # a stock node tries again


def test_a_superlink_with_a_foreign_certificate_gets_nothing(place: Place, tmp_path: Path) -> None:
    foreign = make_authority(FEDERATION, time.time())[0].decode()
    with site_at(place, tmp_path, SMALL, tls_authority=foreign) as site:
        assert site.client.post(FLEET, content=b"x").status_code == 503
        assert site.upstream.seen == []


# -- membership


def node_key() -> str:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def request_of(token: str, key: SigningKey, node: str, federation: str = FEDERATION) -> dict[str, str]:
    proof = key.sign("enrolment request", canonical([federation, token, node]))
    return {"token": token, "key": key.public.hex(), "node_key": node, "proof": proof.hex()}


def test_a_device_enrols_and_its_node_key_is_let_in_first(site: Site) -> None:
    key, node = SigningKey.generate(), node_key()
    body = request_of(site.book.create_invite(60), key, node)
    answer = site.client.post("/plgl/enrol", json=body)
    assert answer.status_code == 200
    certificate = MemberCertificate.from_json(answer.json()["certificate"])
    assert certificate.key == key.public
    assert site.registered == [(node, certificate.member)]
    assert site.client.post("/plgl/enrol", json=body).json() == answer.json()
    line = site.audit.tail(1)[0]
    assert (line.kind, line.body) == (Event.ENROLLED, {"member": certificate.member})


def test_an_enrolment_waits_for_the_superlink_and_is_not_lost(site: Site) -> None:
    key, node = SigningKey.generate(), node_key()
    body = request_of(site.book.create_invite(60), key, node)
    site.broken = True
    answer = site.client.post("/plgl/enrol", json=body)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "away" not in answer.text
    site.broken = False
    assert site.client.post("/plgl/enrol", json=body).status_code == 200


def test_why_an_enrolment_is_refused_is_said(site: Site) -> None:
    key, node = SigningKey.generate(), node_key()
    token = site.book.create_invite(60)
    used = request_of(token, SigningKey.generate(), node_key())
    assert site.client.post("/plgl/enrol", json=used).status_code == 200
    for body, reason in (
        (request_of("never given", key, node), "unknown here"),
        (request_of(token, key, node), "another device"),
        (request_of(site.book.create_invite(60), key, node, "cd" * 16), "another federation"),
        ({**request_of(token, key, node), "proof": "00" * 64}, "another federation"),
        (request_of(site.book.create_invite(60), key, "ssh-ed25519 AAAA"), "P-384"),
    ):
        answer = site.client.post("/plgl/enrol", json=body)
        assert answer.status_code == 403
        assert reason in answer.json()["error-message"]
    assert len(site.registered) == 1


GOOD = {"token": "t", "key": "00" * 32, "node_key": "n", "proof": "00" * 64}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 9_000,
        b"\xff\xfe",
        json.dumps({**GOOD, "more": 1}).encode(),
        json.dumps({name: value for name, value in GOOD.items() if name != "proof"}).encode(),
        json.dumps({**GOOD, "token": 1}).encode(),
        json.dumps({**GOOD, "key": "00" * 31}).encode(),
        json.dumps({**GOOD, "key": "0G" * 32}).encode(),
        json.dumps({**GOOD, "proof": "00" * 65}).encode(),
        json.dumps({**GOOD, "proof": None}).encode(),
    ],
)
def test_a_malformed_request_is_told_so(site: Site, content: bytes) -> None:
    answer = site.client.post("/plgl/enrol", content=content)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error-message"}


def test_a_member_leaves_and_its_node_key_is_removed(site: Site) -> None:
    key, node = SigningKey.generate(), node_key()
    enrolled = site.client.post("/plgl/enrol", json=request_of(site.book.create_invite(60), key, node)).json()
    number, now = enrolled["certificate"]["member"], int(time.time())

    def leave(when: int, federation: str = FEDERATION) -> httpx.Response:
        proof = key.sign("leave", canonical([federation, number, when])).hex()
        return site.client.post("/plgl/leave", json={"member": number, "time": when, "proof": proof})

    late = leave(now - 400)
    assert late.status_code == 403
    assert "set the clock" in late.json()["error-message"]
    assert leave(now, "cd" * 16).status_code == 403
    assert site.book.is_active(number)
    assert leave(now).json() == {"left": True}
    assert not site.book.is_active(number)
    assert site.unregistered == [node]
    assert site.audit.tail(1)[0].body == {"member": number, "reason": "left"}


def test_who_leaves_while_the_superlink_is_away_has_left(site: Site) -> None:
    key = SigningKey.generate()
    body = request_of(site.book.create_invite(60), key, node_key())
    number, now = site.client.post("/plgl/enrol", json=body).json()["certificate"]["member"], int(time.time())
    site.broken = True
    proof = key.sign("leave", canonical([FEDERATION, number, now])).hex()
    answer = site.client.post("/plgl/leave", json={"member": number, "time": now, "proof": proof})
    assert answer.json() == {"left": True}
    assert not site.book.is_active(number)


@pytest.mark.parametrize("change", [{"member": 0}, {"member": 2**40}, {"time": -1}, {"time": 2**60}, {"member": True}])
def test_leaving_with_nonsense_is_refused(site: Site, change: dict[str, Any]) -> None:
    body = {"member": 1, "time": 1, "proof": "00" * 64, **change}
    assert site.client.post("/plgl/leave", json=body).status_code == 400


def test_terms_and_releases_come_as_they_were_signed(site: Site) -> None:
    assert site.client.get("/plgl/terms").content == b'{"signed":"terms"}'
    assert site.client.get("/plgl/release/latest").status_code == 404
    for version in (9, 10):
        (site.folder / "releases" / f"release-{version:06d}.json").write_bytes(b"%d" % version)
    assert site.client.get("/plgl/release/latest").content == b"10"
    assert site.client.get("/plgl/release/9").content == b"9"
    assert site.client.get("/plgl/release/8").status_code == 404
    assert site.client.get("/plgl/policy/latest").status_code == 404
    (site.folder / "releases" / "policy-000003.json").write_bytes(b"everybody")
    assert site.client.get("/plgl/policy/latest").content == site.client.get("/plgl/policy/3").content == b"everybody"
    assert site.client.get("/plgl/release/latest").content == b"10"


def test_the_gate_says_it_is_there_and_what_time_it_is(site: Site) -> None:
    answer = site.client.get("/healthz")
    assert answer.json() == {"ok": True}
    assert "date" in answer.headers  # devices compare their clocks


def test_plain_http_and_foreign_authorities_get_nothing(site: Site) -> None:
    with httpx.Client(trust_env=False) as plain, pytest.raises(httpx.RemoteProtocolError):
        plain.get(f"http://127.0.0.1:{site.port}/healthz")
    with httpx.Client(trust_env=False) as stranger, pytest.raises(httpx.ConnectError, match="CERTIFICATE"):
        stranger.get(f"https://127.0.0.1:{site.port}/healthz")
