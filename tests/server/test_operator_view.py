"""The operator's page: who may read it, what it says, and that it only reads."""

import asyncio
import csv
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from server.audit import Audit, Event
from server.federation import Federation
from server.operator_view import make_app

TOKEN = "a-token-of-this-start"
HOST = "127.0.0.1:9000"
PATHS = ("/", "/status.json", "/metrics", "/rounds.csv", "/rounds.json", "/audit.json", "/releases.csv", "/releases/1")


@pytest.fixture(scope="module")
def federation(make_federation: Any) -> Any:
    def play(rounds: Any) -> None:
        rounds.fail(answered=13)
        rounds.release(answered=22, dropped={"malformed": 2})

    made = make_federation(play=play)
    Audit(made.audit_log).record(Event.UP, gate="203.0.113.9:8443", text="<script>alert(1)</script>")
    return made


class Visitor:
    """A browser without pages: keeps cookies, follows nothing."""

    def __init__(self, federation: Federation, now: float, token: str | None, headers: dict[str, str]) -> None:
        self._app, self._headers = make_app(federation, token, clock=lambda: now), headers
        self._cookies = httpx.Cookies()

    def request(self, method: str, path: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(
                transport=transport, base_url=f"http://{HOST}", headers=self._headers, cookies=self._cookies
            ) as client:
                answer = await client.request(method, path)
                self._cookies = client.cookies
                return answer

        return asyncio.run(ask())

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)


def visit(federation: Federation, now: float, token: str | None = TOKEN, **headers: str) -> Visitor:
    return Visitor(federation, now, token, headers)


def known(federation: Federation, now: float) -> Visitor:
    return visit(federation, now, Authorization=f"Bearer {TOKEN}")


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_shown_without_the_token(federation: Federation, now: float, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "plgl-operator-9000=wrong"}):
        answer = visit(federation, now, **headers).get(path)
        assert answer.status_code == 401
        assert federation.terms.name not in answer.text
    assert known(federation, now).get(path).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_token(federation: Federation, now: float, path: str) -> None:
    assert visit(federation, now).get(path).status_code == 200


def test_the_token_in_the_address_is_exchanged_for_a_cookie(federation: Federation, now: float) -> None:
    client = visit(federation, now)
    answer = client.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert client.get("/").status_code == 200
    assert visit(federation, now).get("/?token=wrong").status_code == 401
    assert visit(federation, now).get(f"/status.json?token={TOKEN}").status_code == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/", "/rounds.json", "/healthz", "/nowhere"])
def test_it_only_reads(federation: Federation, now: float, method: str, path: str) -> None:
    assert known(federation, now).request(method, path).status_code == 405


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9000", "127.0.0.1.evil.example", "127.0.0.1:9000@evil", "", "10.0.0.1", "a b"],
)
@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics"])
def test_another_name_for_this_machine_is_refused(federation: Federation, now: float, host: str, path: str) -> None:
    for token in (TOKEN, None):
        answer = visit(federation, now, token, Host=host, Authorization=f"Bearer {TOKEN}").get(path)
        assert answer.status_code == 421


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
                                     {"Origin": "http://evil.example"}, {"Origin": "null"}])  # fmt: skip
def test_another_page_is_refused(federation: Federation, now: float, headers: dict[str, str]) -> None:
    for token in (TOKEN, None):
        answer = visit(federation, now, token, Authorization=f"Bearer {TOKEN}", **headers).get("/status.json")
        assert answer.status_code == 403


def test_every_answer_forbids_scripts_and_other_hosts(federation: Federation, now: float) -> None:
    for path in (*PATHS, "/healthz", "/nowhere", "/style.css"):
        answer = known(federation, now).get(path)
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


class Page(HTMLParser):
    """Tags and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.styled = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.styled += "style" in values
        self.addresses += [value for name in ("href", "src", "action") if (value := values.get(name))]


def test_the_page_needs_no_script_and_links_nowhere_else(federation: Federation, now: float) -> None:
    text = known(federation, now).get("/").text
    page = Page(text)
    assert {"script", "form", "style"} & set(page.tags) == set()
    assert page.styled == 0  # the policy forbids inline styles
    assert all(address.startswith(("/", "#")) for address in page.addresses)
    assert page.tags.count("svg") == 2
    assert "A &lt;test&gt; federation" in text
    client = known(federation, now)
    for address in {address for address in page.addresses if address.startswith("/")}:
        assert client.get(address).status_code == 200, address


def test_it_renews_itself_unless_told_not_to(federation: Federation, now: float) -> None:
    client = known(federation, now)
    assert 'http-equiv="refresh"' in client.get("/").text
    assert 'http-equiv="refresh"' not in client.get("/?refresh=off").text


def test_no_form_of_it_tells_a_number_below_the_minimum(federation: Federation, now: float) -> None:
    client = known(federation, now)
    assert "fewer than 20" in client.get("/").text
    for path in ("/", "/status.json", "/metrics", "/rounds.csv", "/rounds.json", "/readyz"):
        text = client.get(path).text
        assert not re.search(
            r"\b(13|11)\b(?!:|\.)", re.sub(r"[0-9a-f]{16,}|\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d", "", text)
        ), path


def test_tables_come_as_csv_and_json_with_the_same_rows(federation: Federation, now: float) -> None:
    client = known(federation, now)
    for name in ("rounds", "releases", "audit"):
        rows = list(csv.DictReader(io.StringIO(client.get(f"/{name}.csv").text)))
        values = client.get(f"/{name}.json").json()
        assert len(rows) == len(values) > 0
        assert set(rows[0]) == set(values[0])
    assert client.get("/rounds.xml").status_code == 404


def test_a_release_is_given_out_as_it_was_published_or_not_at_all(make_federation: Any, now: float) -> None:
    made = make_federation(play=lambda rounds: rounds.release())
    file = made.releases / "release-000001.json"
    client, raw = known(made, now), file.read_bytes()
    assert client.get("/releases/1").content == raw
    assert client.get("/releases/2").status_code == 404
    assert client.get("/releases/..%2F..%2Ffederation.json").status_code == 404
    file.write_bytes(raw.replace(b"0", b"1", 1))
    assert client.get("/releases/1").status_code == 503
    assert "not the one in the journal" in client.get("/readyz").json()["reasons"][0]


def reasons(federation: Federation, now: float) -> list[str]:
    answer = visit(federation, now).get("/readyz")
    values: list[str] = answer.json()["reasons"]
    assert answer.status_code == (503 if values else 200)
    assert visit(federation, now).get("/healthz").status_code == 200
    return values


def test_ready_means_that_a_round_can_be_run(make_federation: Any, now: float) -> None:
    good = make_federation(play=lambda rounds: rounds.release())
    assert reasons(good, now) == []
    assert "expired" in " ".join(reasons(good, now + 100_000))
    assert "last round failed" in reasons(make_federation(play=lambda rounds: rounds.fail(answered=0)), now)[0]
    spent = make_federation(participations=1, play=lambda rounds: rounds.release())
    assert "budget is spent" in reasons(spent, now)[0]
    good.audit_log.write_bytes(b"{}\n")
    both = reasons(good, now + 100_000)
    assert ["expired" in both[0], "audit log" in both[1], len(both)] == [True, True, 2]
    assert str(good.folder) not in "".join(both)
    good.journal.unlink()
    assert reasons(good, now) != []
    assert known(good, now).get("/").status_code == 503
    assert known(good, now).get("/metrics").status_code == 503


def test_a_damaged_audit_log_is_on_the_page(make_federation: Any, now: float) -> None:
    made = make_federation()
    Audit(made.audit_log).record(Event.UP)
    made.audit_log.write_bytes(made.audit_log.read_bytes()[:-5])
    assert "is damaged" in known(made, now).get("/").text


def test_a_cell_is_no_formula_to_a_spreadsheet(make_federation: Any, now: float) -> None:
    made = make_federation(members=0, play=lambda rounds: rounds.fail(answered=0, reason="=HYPERLINK(1)"))
    assert "'=HYPERLINK" in known(made, now).get("/rounds.csv").text


def test_head_is_answered_like_get_without_a_body(federation: Federation, now: float) -> None:
    answer = known(federation, now).request("HEAD", "/status.json")
    assert (answer.status_code, answer.content) == (200, b"")


def test_without_a_token_this_machine_may_scrape(federation: Federation, now: float) -> None:
    assert "plgl_rounds_total" in visit(federation, now, None).get("/metrics").text
    assert json.loads(visit(federation, now, None).get("/status.json").text)["format"] == 1
