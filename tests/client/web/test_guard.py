"""Every way in that is not the person's own browser window, tried on the guard and on guards that lack one rule."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from client.generators.pack import GeneratorPack
from client.journal import MemoryJournal
from client.session import Session
from client.web.app import create_app
from client.web.guard import HEADERS, LONGEST_BODY, Guard, Refusal, cookie_name, new_token

TOKEN = new_token()
HOST = "127.0.0.1:8000"
SECRET = b"what this person likes"
OWN = {"host": HOST, "cookie": f"plgl-8000={TOKEN}"}
RUNNER = asyncio.Runner()  # one loop for all cases: making one takes longer than a refusal
Headers = dict[str, str] | list[tuple[str, str]]


async def secret(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that tells everybody everything."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": SECRET})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": SECRET})


@pytest.fixture(scope="module", autouse=True)
def loop() -> Iterator[None]:
    yield
    RUNNER.close()


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


def ask(app: ASGIApp, method: str, path: str, headers: Headers, query: str = "", body: bytes = b"") -> Reply:
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    if method == "POST" and all(name != "content-length" for name, _ in pairs):
        pairs = [*pairs, ("content-length", str(len(body)))]
    websocket = method == "WEBSOCKET"
    scope: dict[str, Any] = {
        "type": "websocket" if websocket else "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8000),
        "scheme": "ws" if websocket else "http",
        "root_path": "",
        "http_version": "1.1",
    }
    sent: list[Message] = []
    waiting = [{"type": "websocket.connect"} if websocket else {"type": "http.request", "body": body}]

    async def receive() -> Message:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    RUNNER.run(app(scope, receive, send))  # type: ignore[arg-type]
    start = next((message for message in sent if message["type"] == "http.response.start"), None)
    found = {} if start is None else {k.decode(): v.decode() for k, v in start["headers"]}
    content = b"".join(m.get("body", b"") or m.get("bytes", b"") for m in sent)
    accepted = any(message["type"] == "websocket.accept" for message in sent)
    return Reply(start["status"] if start else 200 if accepted else 403, found, content)


HOSTILE: dict[str, Headers] = {
    "no cookie": {"host": HOST},
    "wrong cookie": {"host": HOST, "cookie": f"plgl-8000={new_token()}"},
    "empty cookie": {"host": HOST, "cookie": "plgl-8000="},
    "first half of the token": {"host": HOST, "cookie": f"plgl-8000={TOKEN[:20]}"},
    "token and more": {"host": HOST, "cookie": f"plgl-8000={TOKEN}x"},
    "cookie of another port": {"host": HOST, "cookie": f"plgl-9000={TOKEN}"},
    "cookie of another name": {"host": HOST, "cookie": f"session={TOKEN}"},
    "cookie that is no ascii": {"host": HOST, "cookie": "plgl-8000=\xff\xfe"},
    "rebinding": {**OWN, "host": "evil.example"},
    "rebinding with the port": {**OWN, "host": "evil.example:8000"},
    "a name that begins like ours": {**OWN, "host": "127.0.0.1.evil.example:8000"},
    "another port": {**OWN, "host": "127.0.0.1:8001"},
    "without a port": {**OWN, "host": "127.0.0.1"},
    "a user in front": {**OWN, "host": f"evil@{HOST}"},
    "two hosts": [("host", HOST), ("host", "evil.example"), ("cookie", OWN["cookie"])],
    "no host": {"cookie": OWN["cookie"]},
    "foreign origin": {**OWN, "origin": "http://evil.example"},
    "origin that begins like ours": {**OWN, "origin": f"http://{HOST}.evil.example"},
    "origin of another port": {**OWN, "origin": "http://127.0.0.1:3000"},
    "origin of another scheme": {**OWN, "origin": f"https://{HOST}"},
    "origin of another of our names": {**OWN, "origin": "http://localhost:8000"},
    "null origin": {**OWN, "origin": "null"},
    "null origin from elsewhere": {**OWN, "origin": "null", "sec-fetch-site": "cross-site"},
    "two origins": [*OWN.items(), ("origin", f"http://{HOST}"), ("origin", "http://evil.example")],
    "cross-site": {**OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    "same-site": {**OWN, "sec-fetch-site": "same-site"},
    "two sites": [*OWN.items(), ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
    "site nobody knows": {**OWN, "sec-fetch-site": "friend"},
}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "WEBSOCKET")
ROUTES = ("/", "/answer", "/ahead", "/history", "/export.json", "/pictures/0-000000000000-big.jpg", "/forget", "/ws")


def leaks(app: ASGIApp) -> list[str]:
    """Cases in which somebody else got in."""
    found = []
    for method, (name, headers), route in product(METHODS, HOSTILE.items(), ROUTES):
        reply = ask(app, method, route, headers)
        if reply.status not in (401, 403, 411, 421) or SECRET in reply.body or "set-cookie" in reply.headers:
            found.append(f"{method} {route}: {name}")
    return found


def guarded(inner: ASGIApp) -> Guard:
    return Guard(inner, token=TOKEN, hosts={HOST, "localhost:8000"})


def test_nobody_else_gets_in() -> None:
    assert len(METHODS) * len(HOSTILE) * len(ROUTES) >= 40
    assert leaks(guarded(secret)) == []


def test_the_person_gets_in() -> None:
    app = guarded(secret)
    friendly: list[Headers] = [
        OWN,
        {**OWN, "origin": f"http://{HOST}"},
        {**OWN, "sec-fetch-site": "same-origin"},
        {**OWN, "sec-fetch-site": "none"},
        {**OWN, "origin": "null", "sec-fetch-site": "same-origin"},
        {**OWN, "cookie": f"other=1; plgl-8000={TOKEN}; more=2"},
        {"host": "localhost:8000", "cookie": OWN["cookie"], "origin": "http://localhost:8000"},
    ]
    for method, headers, route in product(("GET", "POST", "WEBSOCKET"), friendly, ROUTES):
        assert SECRET in ask(app, method, route, headers).body


class AnyHost(Guard):
    def _ours(self, host: str) -> bool:
        return True


class OriginBegins(Guard):
    def _same_origin(self, headers: Any, host: str, attested: bool) -> bool:
        return (headers.only("origin") or "").startswith(f"http://{host}")


class AnyNull(Guard):
    def _same_origin(self, headers: Any, host: str, attested: bool) -> bool:
        return super()._same_origin(headers, host, True)


class TokenBegins(Guard):
    def _holds_cookie(self, headers: Any, host: str) -> bool:
        return any(TOKEN.startswith(line.rpartition("=")[2]) for line in headers.all("cookie"))


class NoSites(Guard):
    def refusal(self, scope: Scope, headers: Any) -> Refusal | None:
        headers._all = [pair for pair in headers._all if pair[0] != "sec-fetch-site"]
        return super().refusal(scope, headers)


class HttpOnly(Guard):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


@pytest.mark.parametrize("broken", [AnyHost, OriginBegins, AnyNull, TokenBegins, NoSites, HttpOnly])
def test_a_guard_that_lacks_a_rule_is_found_out(broken: Callable[..., Guard]) -> None:
    assert leaks(broken(secret, token=TOKEN, hosts={HOST})) != []


@pytest.fixture(scope="module")
def page() -> Iterator[ASGIApp]:
    with Session(GeneratorPack.open("art"), MemoryJournal(), seed=0) as session:
        app = create_app(session, token=TOKEN, hosts={HOST})
        yield app
        app.state.deck.close()


def test_no_route_of_the_page_is_open(page: Any) -> None:
    declared = {path.replace("{", "").replace("}", "") for path in page.openapi()["paths"]}
    routes = sorted(declared | {"/openapi.json", "/docs", "/static/app.js"})
    assert len(routes) > 20
    for route, (name, headers), method in product(routes, HOSTILE.items(), ("GET", "POST")):
        reply = ask(page, method, route, headers)
        assert reply.status in (401, 403, 421), f"{method} {route}: {name}"


def test_the_door_opens_to_the_token_and_leads_to_a_clean_address() -> None:
    app = guarded(secret)
    reply = ask(app, "GET", "/", {"host": HOST, "sec-fetch-site": "none"}, f"token={TOKEN}")
    assert (reply.status, reply.headers["location"]) == (303, "/")
    cookie = reply.headers["set-cookie"]
    assert cookie.startswith(f"{cookie_name(HOST)}={TOKEN};")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert SECRET not in reply.body


def test_who_comes_from_a_local_file_with_the_token_gets_a_page_that_leads_on() -> None:
    reply = ask(guarded(secret), "GET", "/", {"host": HOST, "sec-fetch-site": "cross-site"}, f"token={TOKEN}")
    assert (reply.status, reply.headers["refresh"]) == (200, "0; url=/")
    assert SECRET not in reply.body
    assert TOKEN.encode() not in reply.body


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/", "token="),
        ("GET", "/", f"token={TOKEN[:-1]}"),
        ("GET", "/", f"token={TOKEN}&token=x"),
        ("GET", "/", f"Token={TOKEN}"),
        ("GET", "/history", f"token={TOKEN}"),
        ("POST", "/", f"token={TOKEN}"),
        ("HEAD", "/", f"token={TOKEN}"),
        ("WEBSOCKET", "/", f"token={TOKEN}"),
    ],
    ids=lambda value: str(value).replace(TOKEN, "TOKEN").replace(TOKEN[:-1], "SHORT"),  # the same on every worker
)
def test_the_door_is_one_address_and_nothing_less_than_the_token(method: str, path: str, query: str) -> None:
    reply = ask(guarded(secret), method, path, {"host": HOST}, query)
    assert reply.status in (401, 403)
    assert "set-cookie" not in reply.headers
    assert SECRET not in reply.body


def test_the_door_is_closed_under_another_name_too() -> None:
    assert ask(guarded(secret), "GET", "/", {"host": "evil.example:8000"}, f"token={TOKEN}").status == 421
    foreign = {"host": HOST, "origin": "http://evil.example"}
    assert ask(guarded(secret), "GET", "/", foreign, f"token={TOKEN}").status == 403


def test_every_answer_carries_the_headers(page: ASGIApp) -> None:
    replies = [
        ask(page, "GET", "/", {"host": HOST}),
        ask(page, "GET", "/", {"host": "evil.example"}),
        ask(page, "GET", "/", OWN),
        ask(page, "GET", "/nowhere", OWN),
        ask(page, "POST", "/answer", OWN),
        ask(page, "GET", "/static/app.js", OWN),
        ask(page, "GET", "/", {"host": HOST}, f"token={TOKEN}"),
    ]
    assert [reply.status for reply in replies] == [401, 421, 200, 404, 422, 200, 303]
    for reply in replies:
        for name, value in HEADERS:
            assert reply.headers[name.decode()] == value.decode()
        assert "cache-control" in reply.headers
        assert not any(name.startswith("access-control") for name in reply.headers)
    policy = dict(HEADERS)[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy


def test_a_body_has_a_stated_length_within_bounds() -> None:
    app = guarded(secret)
    for length, status in [("-1", 411), ("many", 411), (str(LONGEST_BODY + 1), 413), ("9" * 40, 413), ("10", 200)]:
        assert ask(app, "POST", "/answer", [*OWN.items(), ("content-length", length)]).status == status
    nothing = [*OWN.items(), ("content-length", "1"), ("content-length", "1")]
    assert ask(app, "POST", "/answer", nothing).status == 411


def test_behind_a_socket_any_port_of_this_machine_will_do_and_no_other_name() -> None:
    app = Guard(secret, token=TOKEN, any_port=True)
    for host in ("localhost:1234", "127.0.0.1:80", "[::1]:9", "localhost", "[::1]"):
        assert ask(app, "GET", "/", {"host": host, "cookie": f"{cookie_name(host)}={TOKEN}"}).status == 200
        assert ask(app, "GET", "/", {"host": host}).status == 401
    for host in ("evil.example:1234", "localhost:", "localhost:x", "localhost.evil.example:80", ""):
        assert ask(app, "GET", "/", {"host": host, "cookie": f"{cookie_name(host)}={TOKEN}"}).status == 421


def test_tokens_have_256_bits_and_differ() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) == 43 for token in tokens)
