"""The gate: the only port of a federation that the world sees.

It forwards Flower's fleet routes to the SuperLink, which authenticates each node by its key, and nothing else of
Flower: whoever reaches the control interface could submit code. Beside them are the routes of membership and releases.
A path is matched as the bytes that came, before any decoding, so no spelling of another route gets through.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any

import anyio
import httpx
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from common.errors import DeploymentError, EnrolmentError, PlglError, SettingError, StorageError
from common.signing import KEY_BYTES, SIGNATURE_BYTES
from server.audit import Audit, Event
from server.enrolment_book import EnrolmentBook, plain_node_key
from server.rates import Buckets, Rate, network
from server.superlink import tls_context

FLEET = re.compile(rb"/v1/fleet/[a-z]{1,32}(-[a-z]{1,32}){0,4}")
_RELEASE = re.compile(rb"/plgl/(release|policy)/(latest|[1-9][0-9]{0,8})")
_NODE_KEY_HEADER = b"flwr-public-key"
_FORWARDED = {  # nothing else of a request or an answer concerns the other side
    *(b"accept", b"content-type", b"user-agent", _NODE_KEY_HEADER, b"flwr-signature", b"flwr-timestamp"),
    *(b"flwr-package-name", b"flwr-package-version", b"flwr-component-name"),
}
_ANSWERED = {"content-type", "content-length"}
_LINGER_SECONDS = 2.0
# a device asks about three times a second and sends a round in some dozen requests; a household or office shares one
_NETWORK_RATE, _NODE_RATE = Rate(per_second=400.0, burst=2_000), Rate(per_second=40.0, burst=400)
_OWN_RATE = Rate(per_second=2.0, burst=40)


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """What the gate lets through; none of it changes what members are promised.

    Attributes:
        fleet_bytes: largest body to a fleet route.
        own_bytes: largest body to a route of this program.
        body_seconds: a body must have arrived by then.
        answer_seconds: the SuperLink must have begun to answer by then.
        network_rate: fleet requests from one network (an IPv4 address, an IPv6 /64).
        node_rate: fleet requests that claim one node key.
        own_rate: requests to routes of this program from one network.
        connections: open at once, altogether.
        network_connections: open at once from one network.
        head_seconds: a request line and its headers must have arrived by then.
    """

    fleet_bytes: int = 8 * 2**20
    own_bytes: int = 64 * 2**10
    body_seconds: float = 30.0
    answer_seconds: float = 60.0
    network_rate: Rate = _NETWORK_RATE
    node_rate: Rate = _NODE_RATE
    own_rate: Rate = _OWN_RATE
    connections: int = 2_000
    network_connections: int = 256
    head_seconds: float = 10.0

    def __post_init__(self) -> None:
        for name in ("fleet_bytes", "own_bytes", "connections", "network_connections"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}={getattr(self, name)} must be >= 1")
        for name in ("body_seconds", "answer_seconds", "head_seconds"):
            if not 0 < getattr(self, name) < 3_600:
                raise SettingError(f"{name}={getattr(self, name)} must be between 0 and an hour")


@dataclass(frozen=True, kw_only=True)
class Backstage:
    """What stands behind the gate.

    Attributes:
        book: who may take part.
        document: file with the signed terms.
        releases: folder of published releases.
        superlink: ``host:port`` of the SuperLink.
        tls_authority: certificate authority its certificate must come from, PEM.
        register: lets a node key in, by key and member number; called before an enrolment is answered.
        unregister: lets a node key in no more.
        audit: told of every enrolment, leave and refusal.
    """

    book: EnrolmentBook
    document: Path
    releases: Path
    superlink: str
    tls_authority: str
    register: Callable[[str, int], None]
    unregister: Callable[[str], None]
    audit: Audit


class _Refusal(Exception):
    """An answer that is not 200, with its reason for the audit log and its words for the other side."""

    def __init__(self, status: int, reason: str, message: str, *, retry_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.retry_seconds = status, reason, message, retry_seconds


class _Body:
    """The body of a request, in pieces, up to a size and a time."""

    def __init__(self, request: Request, seconds: float) -> None:
        self._receive, self._seconds = request.receive, seconds
        self._expected = "expect" in request.headers
        self.finished = False

    async def pieces(self, limit: int) -> AsyncIterator[bytes]:
        """The pieces; raises ``_Refusal`` past the size or the time, ``ClientDisconnect`` where it is cut short."""
        total, deadline = 0, anyio.current_time() + self._seconds
        while not self.finished:
            try:
                with anyio.fail_after(max(0.0, deadline - anyio.current_time())):
                    piece = await self._piece()
            except TimeoutError as error:
                message = f"the body did not arrive within {self._seconds:g} seconds"
                raise _Refusal(408, "slow", message) from error
            total += len(piece)
            if total > limit:
                raise _too_large(limit)
            yield piece

    async def drain(self, limit: int) -> None:
        """Read on for a moment and forget it: who is still sending would not see the answer."""
        self._seconds = _LINGER_SECONDS
        if not self._expected:
            with contextlib.suppress(_Refusal, ClientDisconnect):
                async for _ in self.pieces(limit):
                    pass

    async def _piece(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self.finished = not message.get("more_body", False)
        return bytes(message.get("body", b""))


class Gate:
    """The gate as an ASGI application. ``app`` is what a server runs."""

    def __init__(
        self,
        backstage: Backstage,
        settings: GateSettings | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is opened before the server starts."""
        self._back, self.settings = backstage, settings or GateSettings()
        self._networks = Buckets(self.settings.network_rate, monotonic)
        self._nodes = Buckets(self.settings.node_rate, monotonic)
        self._own = Buckets(self.settings.own_rate, monotonic)
        self._client: httpx.AsyncClient | None = None
        self._starlette = Starlette(lifespan=self._lifespan)
        self.app = self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._starlette(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(Request(scope, receive), send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        timeout = httpx.Timeout(self.settings.answer_seconds, connect=10.0)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=2.0)
        verify = tls_context(self._back.tls_authority)
        # the environment's proxies must not see the way to the SuperLink; redirects are not followed
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # nodes share the client, and no state
        async with httpx.AsyncClient(
            verify=verify,
            timeout=timeout,
            limits=limits,
            trust_env=False,
            cookies=no_cookies,
            headers={"accept-encoding": "identity"},
        ) as self._client:
            yield

    async def _answer(self, request: Request, send: Send) -> None:
        body = _Body(request, self.settings.body_seconds)
        try:
            response = await self._route(request, body)
        except _Refusal as refusal:
            if refusal.reason != "release":  # devices look for one before there is any
                await self._note(partial(Audit.refused, reason=refusal.reason))
            await body.drain(2 * self.settings.fleet_bytes)
            headers = {} if refusal.retry_seconds is None else {"retry-after": str(refusal.retry_seconds)}
            if not body.finished:
                headers["connection"] = "close"
            response = JSONResponse({"error-message": refusal.message}, refusal.status, headers)
        except ClientDisconnect:
            await self._note(partial(Audit.refused, reason="cut short"))
            return
        with anyio.move_on_after(2 * self.settings.answer_seconds):  # who reads too slowly is cut off
            await response(request.scope, request.receive, send)

    async def _route(self, request: Request, body: _Body) -> Response:
        path, method = request.scope["raw_path"], request.method
        if FLEET.fullmatch(path):
            if method != "POST":
                raise _Refusal(405, "method", "a fleet route takes POST only")
            return await self._forward(request, body, path.decode("ascii"))
        if path == b"/healthz" and method == "GET":
            return JSONResponse({"ok": True})
        handlers: dict[tuple[str, bytes], Callable[[Request, _Body], Awaitable[Response]]] = {
            ("POST", b"/plgl/enrol"): self._enrol,
            ("POST", b"/plgl/leave"): self._leave,
            ("GET", b"/plgl/terms"): self._terms,
        }
        handler = handlers.get((method, path))
        release = _RELEASE.fullmatch(path) if method == "GET" else None
        if handler is None and release is None:
            raise _Refusal(404, "path", "there is nothing here")
        self._spend(self._own, network(_address(request)), "requests from this network")
        if release is not None:
            return await run_in_threadpool(self._release, *(part.decode("ascii") for part in release.groups()))
        assert handler is not None
        return await handler(request, body)

    async def _forward(self, request: Request, body: _Body, path: str) -> Response:
        self._spend(self._networks, network(_address(request)), "requests from this network")
        key = request.headers.get(_NODE_KEY_HEADER.decode(), "")
        self._spend(self._nodes, hashlib.sha256(key.encode()).digest(), "requests of this node")
        length = _declared_length(request, self.settings.fleet_bytes)
        headers = [(name, value) for name, value in request.headers.raw if name in _FORWARDED]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        assert self._client is not None
        asked = self._client.build_request(
            "POST",
            f"https://{self._back.superlink}{path}",
            headers=headers,
            content=body.pieces(self.settings.fleet_bytes),
        )
        try:
            with anyio.fail_after(self.settings.body_seconds + self.settings.answer_seconds):
                answer = await self._client.send(asked, stream=True)
        except (httpx.HTTPError, TimeoutError) as error:
            raise _Refusal(503, "superlink", "the server is starting; try again", retry_seconds=5) from error
        kept = {name: value for name, value in answer.headers.items() if name in _ANSWERED or name.startswith("flwr-")}
        return _Passed(answer, kept)

    async def _fields(self, request: Request, body: _Body, kinds: Mapping[str, type]) -> dict[str, Any]:
        """The JSON object in a body, with exactly these fields."""
        _declared_length(request, self.settings.own_bytes)
        raw = b"".join([piece async for piece in body.pieces(self.settings.own_bytes)])
        try:
            values = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise _Refusal(400, "malformed", "the body is no JSON; it may be cut short") from error
        if not isinstance(values, dict) or set(values) != set(kinds):
            raise _Refusal(400, "malformed", f"the body must be an object with {', '.join(kinds)}")
        for name, kind in kinds.items():
            if type(values[name]) is not kind:
                raise _Refusal(400, "malformed", f"{name} must be of type {kind.__name__}")
        return values

    async def _enrol(self, request: Request, body: _Body) -> Response:
        fields = await self._fields(request, body, {"token": str, "key": str, "node_key": str, "proof": str})
        key, proof = _hex(fields, "key", KEY_BYTES), _hex(fields, "proof", SIGNATURE_BYTES)
        certificate = await run_in_threadpool(self._admit, fields["token"], key, fields["node_key"], proof)
        await self._note(lambda audit: audit.record(Event.ENROLLED, member=certificate["member"]))
        return JSONResponse({"certificate": certificate})

    def _admit(self, token: str, key: bytes, node_key: str, proof: bytes) -> dict[str, Any]:
        try:
            self._back.book.check_request(token, key, node_key, proof)
            certificate = self._back.book.enrol(token, key, node_key)
            # after the book: if this fails, the device asks again and gets the same certificate
            self._back.register(plain_node_key(node_key), certificate.member)
        except PlglError as error:
            raise _refusal(error) from error
        return certificate.to_json()

    async def _leave(self, request: Request, body: _Body) -> Response:
        fields = await self._fields(request, body, {"member": int, "time": int, "proof": str})
        proof = _hex(fields, "proof", SIGNATURE_BYTES)
        if not 0 < fields["member"] < 2**31 or not 0 <= fields["time"] < 2**53:
            raise _Refusal(400, "malformed", "member or time is out of range")
        await run_in_threadpool(self._dismiss, fields["member"], fields["time"], proof)
        await self._note(lambda audit: audit.record(Event.REVOKED, member=fields["member"], reason="left"))
        return JSONResponse({"left": True})

    def _dismiss(self, number: int, when: int, proof: bytes) -> None:
        try:
            member = self._back.book.leave(number, when, proof)
        except PlglError as error:
            raise _refusal(error) from error
        try:
            self._back.unregister(member.node_key)
        except DeploymentError:
            return  # the book has it; who runs the SuperLink removes the key when it is back

    async def _terms(self, request: Request, _: _Body) -> Response:
        content = await run_in_threadpool(self._back.document.read_bytes)
        return Response(content, media_type="application/json")

    def _release(self, kind: str, name: str) -> Response:
        """A prior's release, or a policy that was published; the signed bytes."""
        if name == "latest":
            files = sorted(self._back.releases.glob(f"{kind}-*.json"))
            path = files[-1] if files else None
        else:
            path = self._back.releases / f"{kind}-{int(name):06d}.json"
        if path is None or not path.is_file():
            raise _Refusal(404, "release", f"there is no such {kind}")
        return Response(path.read_bytes(), media_type="application/json")

    def _spend(self, buckets: Buckets, who: object, what: str) -> None:
        wait = buckets.take(who)
        if wait > 0:
            seconds = int(wait) + 1
            raise _Refusal(429, "rate", f"too many {what}; try again in {seconds} seconds", retry_seconds=seconds)

    async def _note(self, write: Callable[[Audit], object]) -> None:
        try:
            await run_in_threadpool(write, self._back.audit)
        except PlglError as error:  # what happened has happened; the answer must still go out
            print(f"the audit log cannot be written: {error}", file=sys.stderr, flush=True)


class _Passed(StreamingResponse):
    """The SuperLink's answer, piece by piece as it came; always lets go of the connection."""

    def __init__(self, answer: httpx.Response, headers: Mapping[str, str]) -> None:
        super().__init__(answer.aiter_raw(), answer.status_code, headers)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._answer.aclose()


def _refusal(error: PlglError) -> _Refusal:
    if isinstance(error, EnrolmentError):
        return _Refusal(403, "enrolment", str(error))
    if isinstance(error, DeploymentError | StorageError):  # says nothing about this machine to the world
        return _Refusal(503, "unavailable", "the server cannot do this now; try again", retry_seconds=5)
    raise error


def _declared_length(request: Request, limit: int) -> int | None:
    declared = request.headers.get("content-length")
    if declared is None:
        return None
    if not declared.isascii() or not declared.isdigit() or len(declared) > 18:
        raise _Refusal(400, "malformed", "the declared length is no number")
    if int(declared) > limit:
        raise _too_large(limit)
    return None if "transfer-encoding" in request.headers else int(declared)


def _too_large(limit: int) -> _Refusal:
    return _Refusal(413, "size", f"the body is over the limit of {limit} bytes")


def _hex(fields: Mapping[str, Any], name: str, size: int) -> bytes:
    if not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", fields[name]):
        raise _Refusal(400, "malformed", f"{name} must be {2 * size} hexadecimal digits")
    return bytes.fromhex(fields[name])


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""
