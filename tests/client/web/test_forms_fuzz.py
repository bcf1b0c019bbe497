"""Forms and addresses nobody would send: never a crash, never a lost rating."""

from typing import Any

import httpx
import requests
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from client.web.deck import Deck

EXAMPLES = 8  # for each address and method
FORMS = {
    "/answer": ("question", "answer", "seconds"),
    "/skip": ("question", "seconds"),
    "/more": ("item",),
    "/favourite": ("item", "back"),
    "/mode": ("mode",),
    "/wall": ("surprise",),
    "/history/remove": ("event",),
    "/settings/person": ("profile", "context"),
    "/settings/noticing": ("on",),
    "/forget": ("word",),
    "/sharing/pause": ("federation", "on"),
    "/sharing/leave": ("federation", "sure"),
}
few = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def entered(page: tuple[FastAPI, str]) -> tuple[Deck, httpx.Client]:
    """A browser that is let in, and the deck after one answer."""
    app, address = page
    deck: Deck = app.state.deck
    browser = httpx.Client(base_url=address, timeout=30)
    browser.get(f"/?token={'t' * 43}")
    deck.answer(deck.current().key, "a")
    return deck, browser


def test_no_request_that_fits_or_breaks_the_schema_crashes_the_page(page: tuple[FastAPI, str]) -> None:
    deck, browser = entered(page)
    schema = schemathesis.openapi.from_dict(page[0].openapi())
    tried: dict[str, int] = {}

    def send(case: Any) -> None:
        reply = case.call(base_url=page[1], session=session, cookies=dict(browser.cookies), allow_redirects=False)
        assert reply.status_code < 500, f"{case.method} {case.path}: {reply.text[:300]}"
        tried[case.operation.label] = tried.get(case.operation.label, 0) + 1

    with requests.Session() as session:
        for found in schema.get_all_operations():
            operation: Any = found.ok()  # type: ignore[union-attr]
            few(given(case=operation.as_strategy())(send))()
    assert len(tried) > 20
    assert sum(tried.values()) > 100
    assert browser.get("/").status_code == 200
    before = len(deck.session.history)  # undo and delete were among what was tried, so how many are left is chance
    deck.answer(deck.current().key, deck.current().mode.answers[0].name)
    assert len(deck.session.history) == before + 1
    browser.close()


def test_no_text_in_any_field_crashes_the_page_or_loses_an_answer(page: tuple[FastAPI, str]) -> None:
    deck, browser = entered(page)
    kept = deck.session.history[0]
    words = st.one_of(
        st.text(max_size=80), st.sampled_from(["", "0", "-1", "nan", "1e999", "٣", "\x00", "a" * 300, "[]"])
    )

    def send(path: str, values: list[str]) -> None:
        reply = browser.post(path, data=dict(zip(FORMS[path], values, strict=False)))
        assert reply.status_code in (200, 303, 404, 422), f"{path} {values}: {reply.text[:300]}"

    tries = settings(few, max_examples=EXAMPLES * len(FORMS))
    tries(given(path=st.sampled_from(sorted(FORMS)), values=st.lists(words, min_size=3, max_size=3))(send))()
    deck.use("me", "")
    assert kept in deck.session.history
    assert browser.get("/").status_code == 200
    browser.close()


def test_a_body_that_is_no_form_is_a_sentence(page: tuple[FastAPI, str]) -> None:
    deck, browser = entered(page)
    kinds = (
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json",
        "text/plain",
        "",
    )
    for kind in kinds:
        for body in (b"", b"\xff\xfe\x00", b"question=%ZZ&answer", b"--x\r\n\r\n", b"{" * 1000, b"&" * 60_000):
            reply = browser.post("/answer", content=body, headers={"content-type": kind})
            assert reply.status_code in (400, 422)
    assert len(deck.session.history) == 1
    assert browser.post("/answer", content=b"x" * 70_000).status_code == 413
    assert browser.get("/").status_code == 200
    browser.close()
