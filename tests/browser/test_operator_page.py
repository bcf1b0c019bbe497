"""The operator's page in a real browser, with every request it makes on record."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from common.privacy.settings import PrivacySettings
from common.terms import Terms, Trust
from server.audit import Audit, Event
from server.federation import Federation, new_identifier
from server.journal import Journal
from server.operator_view import make_app

TOKEN = "a-token-for-the-browser"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    terms = Terms(
        federation=new_identifier(),
        name="Museum of small pictures",
        pack="c" * 64,
        components=3,
        settings=PrivacySettings(epsilon=4.0, participations=8, minimum_people=100, expected_people=160),
        trust=Trust.DISTRIBUTED,
        honest_people=50,
    )
    made = Federation.create(tmp_path_factory.mktemp("page") / "federation", terms=terms, address="localhost:8443")
    with contextlib.closing(Journal.open(made.journal, made.key("journal"), terms)) as journal:
        for turn, answered in enumerate([142, 150, 61, 139, 147, 131]):
            number = journal.plan(session="s" * 32, start="start")
            journal.debit(number, range(1, 156))
            record: dict[str, Any] = {
                "asked": 155,
                "answered": answered,
                "seconds": 21.3 + turn,
                "clip_fraction": 0.31 - 0.02 * turn,
            }
            record |= {"noise_std": 0.91, "update_norm": 0.6 - 0.05 * turn}
            record["dropped"] = {"missing": 155 - answered - (turn == 3), "out of bound": int(turn == 3)}
            if answered < 100:
                journal.abort(number, f"{answered} members sent a masked update, 100 are needed", record)
                continue
            content = f"invented release {number}".encode()
            journal.release(number, content, record)
            journal.published(number)
            (made.releases / f"release-{len(journal.releases()):06d}.json").write_bytes(content)
    audit = Audit(made.audit_log)
    audit.record(Event.UP, gate="203.0.113.9:8443")
    audit.record(Event.ENROLLED, member=17)
    audit.record(Event.RUN_STARTED, rounds=6)
    for _ in range(240):
        audit.refused("rate")
    audit.refused("token")
    audit.flush()
    return made


@pytest.fixture(scope="module")
def address(federation: Federation) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(make_app(federation, TOKEN), log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_whole_within_its_width_and_asks_nobody_else(
    browser: Any, address: str, width: int, scheme: str, tmp_path: Path
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, asked, complaints = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(f"{address}/?token={TOKEN}")
    page.wait_for_load_state("networkidle")
    assert page.url == f"{address}/"
    assert complaints == []
    assert all(url.startswith(address) for url in asked)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('svg.chart')].map(s => s.clientWidth > 200)") == [True, True]
    assert page.evaluate("getComputedStyle(document.querySelector('.spent')).fill") != "rgb(0, 0, 0)"
    assert page.locator("#main table").first.locator("tbody tr").count() == 6
    assert page.locator("text=fewer than 100").first.is_visible()
    assert "61" not in page.inner_text("main table")
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    context.close()


def test_a_keyboard_reaches_the_tables_and_a_stranger_gets_nothing(browser: Any, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    assert page.goto(address).status == 401
    page.goto(f"{address}/?token={TOKEN}")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "jump"
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "wide"
    with page.expect_download() as download:
        page.click("text=Download")
    assert download.value.suggested_filename.startswith("release-0000")
    context.close()
