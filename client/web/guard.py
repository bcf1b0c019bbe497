"""Who may speak to the page: only a browser window of this machine that was given the token.

A pure ASGI wrapper, so that nothing inside can be reached around it, WebSockets included. In order:

1. ``Host`` is exactly one of ours: another name that leads to this machine is DNS rebinding (421).
2. ``Origin``, where there is one, is that of the host (403). A form of our own pages says ``null``, because they send
   no referrer (Fetch standard, "append a request Origin header"); that counts only where the browser itself attests
   ``Sec-Fetch-Site: same-origin``.
3. ``Sec-Fetch-Site``, where there is one, is ``same-origin`` or ``none`` (403): no other page, not even one on
   another port of this machine, may link here, embed, or post.
4. The door: ``GET /?token=...`` with the token of this start sets a cookie and leads to an address without it. Who
   knows the token may come through it from anywhere, so that a link in a terminal or a local file works.
5. Everything else needs the cookie (401), and a body has a stated length within bounds (411, 413).

The token is 256 bits, new with each start, compared in constant time.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST_BODY = 64 * 1024  # bytes; our forms are far below
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-embedder-policy", b"require-corp"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_WORDS = {
    401: "This page belongs to the program that was started in the terminal. Open the address it printed there.",
    403: "This request comes from another page. Copy the address that the program printed into the address bar.",
    404: "There is nothing here.",
    411: "This form does not say how long it is.",
    413: "This form is too long.",
    421: "This machine does not answer to that name. Open the address that the program printed.",
}


def new_token() -> str:
    """256 random bits from the operating system, as text for an address."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Refusal:
    """Why a request is not let in: an HTTP status."""

    status: int


class Guard:
    """Wraps an ASGI application; see the module for the rules."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Collection[str] = (), any_port: bool = False) -> None:
        """Guard an application.

        Args:
            app: what is behind the guard.
            token: that opens the door.
            hosts: every ``Host`` there may be, with its port.
            any_port: also the loopback names with any port; for a Unix socket, whose port somebody else forwards.
        """
        self._app, self._token = app, token.encode()
        self._hosts, self._any_port = frozenset(hosts), any_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = _Headers(scope)
        refusal = self.refusal(scope, headers)
        if isinstance(refusal, Refusal):
            await _refuse(scope, receive, send, refusal.status)
        elif self._at_the_door(scope):
            await self._open(headers, send)
        else:
            await self._app(scope, receive, _with_headers(send))

    def refusal(self, scope: Scope, headers: _Headers) -> Refusal | None:
        """Why this request is not let in; None where it is."""
        host = headers.only("host")
        if host is None or not self._ours(host):
            return Refusal(421)
        door = self._at_the_door(scope)
        attested = headers.only("sec-fetch-site") == "same-origin"
        if "origin" in headers and not self._same_origin(headers, host, attested):
            return Refusal(403)
        if "sec-fetch-site" in headers and headers.only("sec-fetch-site") not in ("same-origin", "none") and not door:
            return Refusal(403)
        if not door and not self._holds_cookie(headers, host):
            return Refusal(401)
        return _about_body(scope, headers)

    def _ours(self, host: str) -> bool:
        if host in self._hosts:
            return True
        name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        name = name if colon else host
        return self._any_port and name in _LOOPBACK and (not colon or (port.isascii() and port.isdigit()))

    def _same_origin(self, headers: _Headers, host: str, attested: bool) -> bool:
        origin = headers.only("origin")
        return origin == f"http://{host}" or (origin == "null" and attested)

    def _holds_cookie(self, headers: _Headers, host: str) -> bool:
        # every cookie is compared, so that the time says nothing about which one was right
        wanted, found = cookie_name(host), False
        for line in headers.all("cookie"):
            for part in line.split(";"):
                name, _, value = part.strip().partition("=")
                if name == wanted:
                    found |= hmac.compare_digest(value.encode("utf-8", "replace"), self._token)
        return found

    def _at_the_door(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] != "/":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return len(given) == 1 and hmac.compare_digest(given[0].encode("utf-8", "replace"), self._token)

    async def _open(self, headers: _Headers, send: Send) -> None:
        host = headers.only("host") or ""
        cookie = f"{cookie_name(host)}={self._token.decode()}; HttpOnly; SameSite=Strict; Path=/"
        start: list[tuple[bytes, bytes]] = [
            *HEADERS,
            (b"set-cookie", cookie.encode()),
            (b"cache-control", b"no-store"),
        ]
        if headers.only("sec-fetch-site") in (None, "none", "same-origin"):
            await _send(send, 303, [*start, (b"location", b"/")], b"")
            return
        # a redirect would still count as coming from elsewhere, and a strict cookie would stay at home
        page = b'<!doctype html><meta charset="utf-8"><title>plgl</title><p><a href="/">Open the page</a>'
        await _send(
            send, 200, [*start, (b"refresh", b"0; url=/"), (b"content-type", b"text/html; charset=utf-8")], page
        )


def cookie_name(host: str) -> str:
    """Name of the cookie for a host: browsers share cookies between ports, so the port is in the name."""
    port = host.rpartition(":")[2]
    return f"plgl-{port}" if port.isdigit() else "plgl"


class _Headers:
    """Headers as they came, every one of them."""

    def __init__(self, scope: Scope) -> None:
        self._all = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]

    def __contains__(self, name: str) -> bool:
        return any(found == name for found, _ in self._all)

    def all(self, name: str) -> list[str]:
        """Values of a header."""
        return [value for found, value in self._all if found == name]

    def only(self, name: str) -> str | None:
        """The value of a header that came once; None where it is missing or came twice."""
        values = self.all(name)
        return values[0] if len(values) == 1 else None


def _about_body(scope: Scope, headers: _Headers) -> Refusal | None:
    if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return None
    length = headers.only("content-length")
    if length is None or not (length.isascii() and length.isdigit()):
        return Refusal(411)
    return Refusal(413) if len(length) > 9 or int(length) > LONGEST_BODY else None


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = [pair for pair in message.get("headers", []) if pair[0].lower() not in dict(HEADERS)]
            kept = any(name.lower() == b"cache-control" for name, _ in given)
            # what a person was shown does not stay in the browser's files
            extra = [] if kept else [(b"cache-control", b"no-store")]
            message = {**message, "headers": [*given, *HEADERS, *extra]}
        await send(message)

    return sending


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int) -> None:
    if scope["type"] == "websocket":
        await receive()  # "connect"; closing before accepting is HTTP 403
        await send({"type": "websocket.close", "code": 1008})
        return
    text = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await _send(send, status, [*HEADERS, *text], _WORDS[status].encode() + b"\n")


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
