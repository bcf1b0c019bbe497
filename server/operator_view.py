"""The operator's view: a page and JSON about a federation, for reading only, on this machine only.

``/healthz`` and ``/readyz`` are open; everything else needs the token where there is one: as ``Authorization: Bearer``,
as the cookie, or once as ``/?token=...``, which sets the cookie and leads to an address without it. Made without a
token, the view is open to every user of this machine: choose that only where nobody else has an account.

Every request: GET or HEAD (405), a ``Host`` that means this machine, against DNS rebinding (421), and not from another
site's page (403). What is shown is ``server.status``: nothing by member, nothing below the minimum cohort.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import LedgerError, PlglError
from common.release import Release
from server.audit import Audit
from server.federation import Federation
from server.metrics import CONTENT_TYPE, metrics
from server.operator_charts import budget_chart, people_chart
from server.status import Snapshot, look, summarise, troubles

REFRESH_SECONDS = 20
LOOK_SECONDS = 2.0
"""One verified reading of the journal serves requests for so long."""
AUDIT_LINES = 50
_TEMPLATES = Path(__file__).parent / "templates"
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_OPEN = ("/healthz", "/readyz")
_PUBLIC_FILES = {"/style.css": "text/css", "/icon.svg": "image/svg+xml"}
_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_ROUND_COLUMNS = (
    *("round", "result", "state", "asked", "answered", "no_answer", "rejected", "seconds"),
    *("clip_fraction", "noise_std", "update_norm", "reason"),
)


def make_app(federation: Federation, token: str | None = None, *, clock: Callable[[], float] = time.time) -> Starlette:
    """The view of one federation; serve it on a loopback address.

    Args:
        federation: the operator's folder.
        token: opens page, data and metrics; ``None`` leaves them open to everybody on this machine.
        clock: seconds since 1970.
    """
    desk = _Desk(federation, clock)
    routes = [
        Route("/", desk.page),
        Route("/healthz", desk.healthz),
        Route("/readyz", desk.readyz),
        Route("/metrics", desk.metrics),
        Route("/status.json", desk.status),
        *(Route(f"/{table}.{{kind:str}}", desk.table, name=table) for table in ("rounds", "releases", "audit")),
        Route("/releases/{version:int}", desk.release),
        *(Route(path, _file) for path in _PUBLIC_FILES),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(_Guard, token=token)],
        exception_handlers={PlglError: _refused},
    )


class _Desk:
    """Answers requests from one reading of the journal at a time."""

    def __init__(self, federation: Federation, clock: Callable[[], float]) -> None:
        self._federation, self._clock = federation, clock
        self._audit = Audit(federation.audit_log)
        self._kept: tuple[float, Snapshot] | None = None
        environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True)
        environment.filters |= {"number": _number, "when": _when}
        self._template = environment.get_template("operator.html")

    def look(self) -> Snapshot:
        """The newest reading; its errors are never kept."""
        now = time.monotonic()
        if self._kept is None or now - self._kept[0] > LOOK_SECONDS:
            self._kept = now, look(self._federation, self._clock())
        return self._kept[1]

    def summary(self) -> dict[str, Any]:
        """The status of the newest reading."""
        return summarise(self.look())

    def trouble(self) -> list[str]:
        """Why the federation is not ready; what cannot be read is a reason too."""
        found: list[str] = []
        checks: tuple[Callable[[], list[str]], ...] = (self._blocked, self._stale, self._damaged_log)
        for check in checks:
            try:
                found += [reason for reason in check() if reason not in found]
            except PlglError as error:
                reason = _without_paths(error, self._federation)
                found += [reason] * (reason not in found)
        return found

    def _blocked(self) -> list[str]:
        return troubles(self.look())

    def _stale(self) -> list[str]:
        releases = self.look().view.releases()
        if not releases or self._expires(*releases[-1]) > self._clock():
            return []
        return ["the newest release has expired; run a round"]

    def _damaged_log(self) -> list[str]:
        self._audit.verify()
        return []

    async def page(self, request: Request) -> Response:
        return await run_in_threadpool(self._page, request)

    async def healthz(self, request: Request) -> Response:
        return JSONResponse({"ok": True})

    async def readyz(self, request: Request) -> Response:
        reasons = await run_in_threadpool(self.trouble)
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def metrics(self, request: Request) -> Response:
        return Response(await run_in_threadpool(metrics, self.summary), headers={"content-type": CONTENT_TYPE})

    async def status(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.summary))

    async def table(self, request: Request) -> Response:
        name, kind = request.url.path[1:].split(".", 1)
        if kind not in ("csv", "json"):
            return PlainTextResponse("there is csv and json\n", 404)
        columns, rows = await run_in_threadpool(self._rows, name)
        return _as_csv(name, columns, rows) if kind == "csv" else JSONResponse(rows)

    async def release(self, request: Request) -> Response:
        return await run_in_threadpool(self._release, request.path_params["version"])

    def _page(self, request: Request) -> Response:
        found = self.summary()
        try:
            lines, damage = self._audit.tail(AUDIT_LINES), ""
        except LedgerError as error:
            lines, damage = [], _without_paths(error, self._federation)
        still = request.query_params.get("refresh") == "off"
        content = self._template.render(
            found=found,
            reasons=self.trouble(),
            lines=lines,
            damage=damage,
            budget=budget_chart(found["privacy"], found["rounds"]),
            people=people_chart(found["rounds"], found["federation"]["minimum_people"]),
            refresh=None if still else REFRESH_SECONDS,
        )
        return Response(content, headers={"content-type": "text/html; charset=utf-8"})

    def _rows(self, name: str) -> tuple[Sequence[str], list[dict[str, Any]]]:
        if name == "rounds":
            return _ROUND_COLUMNS, [{key: entry[key] for key in _ROUND_COLUMNS} for entry in self.summary()["rounds"]]
        if name == "releases":
            return ("version", "sha256"), self.summary()["releases"]
        return ("number", "time", "kind", "body", "previous", "hash"), [vars(line) for line in self._audit.lines()]

    def _release(self, version: int) -> Response:
        digest = dict(self.look().view.releases()).get(version)
        if digest is None:
            return PlainTextResponse("there is no release of that version\n", 404)
        headers = {"content-disposition": f'attachment; filename="release-{version:06d}.json"'}
        return Response(self._content(version, digest), media_type="application/json", headers=headers)

    def _content(self, version: int, digest: str) -> bytes:
        try:
            raw = (self._federation.releases / f"release-{version:06d}.json").read_bytes()
        except OSError as error:
            raise LedgerError(
                f"release {version} is not in its folder yet; plgl federation run publishes it"
            ) from error
        if hashlib.sha256(raw).hexdigest() != digest:
            raise LedgerError(f"the file of release {version} is not the one in the journal; publish it again")
        return raw

    def _expires(self, version: int, digest: str) -> float:
        public = self._federation.key("release").public
        return float(Release.from_bytes(self._content(version, digest), public).expires)


class _Guard:
    """Who may ask, and how; see the module for the rules."""

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        self._app, self._token = app, None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            answer = self._answer(scope)
            await (answer or self._app)(scope, receive, _with_headers(send))

    def _answer(self, scope: Scope) -> Response | None:
        """The answer to a request that is not let in, or is at the door; None where it is let in."""
        headers, path = Headers(scope=scope), scope["path"]
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not _means_this_machine(hosts[0]):
            return PlainTextResponse("this machine does not answer to that name\n", 421)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("this view is for reading only\n", 405, {"allow": "GET, HEAD"})
        at_the_door = path == "/" and self._right(*parse_qs(scope["query_string"].decode("latin-1")).get("token", []))
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if not at_the_door and (foreign or (origin is not None and origin != f"http://{hosts[0]}")):
            return PlainTextResponse("this request comes from another page\n", 403)
        if at_the_door:
            return self._opened(hosts[0], foreign)
        if self._token is None or path in _OPEN or path in _PUBLIC_FILES or self._knows(headers, hosts[0]):
            return None
        return PlainTextResponse("open the address that plgl federation up printed\n", 401)

    def _knows(self, headers: Headers, host: str) -> bool:
        given = [
            text.removeprefix("Bearer ") for text in headers.getlist("authorization") if text.startswith("Bearer ")
        ]
        for line in headers.getlist("cookie"):
            pairs = (part.strip().partition("=") for part in line.split(";"))
            given += [value for name, _, value in pairs if name == _cookie(host)]
        return sum(self._right(text) for text in given) > 0  # every one is compared, so time tells nothing

    def _right(self, *given: str) -> bool:
        if self._token is None or len(given) != 1:
            return False
        return hmac.compare_digest(given[0].encode("utf-8", "replace"), self._token)

    def _opened(self, host: str, foreign: bool) -> Response:
        # from another page a redirect would still count as foreign, and a strict cookie would stay at home
        answer: Response = (
            Response('<!doctype html><title>plgl</title><p><a href="/">Open the view</a>', media_type="text/html")
            if foreign
            else RedirectResponse("/", 303)
        )
        answer.set_cookie(_cookie(host), (self._token or b"").decode(), httponly=True, samesite="strict", path="/")
        return answer


def _means_this_machine(host: str) -> bool:
    if host in _LOOPBACK:
        return True
    name, _, port = host.rpartition(":")
    return name in _LOOPBACK and port.isascii() and port.isdigit()


def _cookie(host: str) -> str:
    """Browsers share cookies between ports, so the port is in the name."""
    port = host.rpartition(":")[2]
    return f"plgl-operator-{port}" if port.isdigit() else "plgl-operator"


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return sending


async def _file(request: Request) -> Response:
    content = (_TEMPLATES / request.url.path[1:]).read_bytes()
    return Response(content, headers={"content-type": _PUBLIC_FILES[request.url.path]})


async def _refused(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{type(error).__name__}: the state of the federation cannot be shown; see /readyz\n", 503)


def _without_paths(error: PlglError, federation: Federation) -> str:
    return str(error).replace(str(federation.folder), "the federation's folder")


def _as_csv(name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Response:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    headers = {"content-disposition": f'attachment; filename="{name}.csv"', "content-type": "text/csv; charset=utf-8"}
    return Response(out.getvalue(), headers=headers)


def _cell(value: Any) -> Any:
    """A cell that a spreadsheet does not take for a formula."""
    if isinstance(value, dict):
        value = "; ".join(f"{key}: {entry}" for key, entry in value.items())
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _number(value: Any, digits: int = 3) -> str:
    """A number for people; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _when(seconds: float | None) -> str:
    """Seconds since 1970 as a UTC date and time."""
    return "–" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
