"""The page about sharing, without JavaScript: what it shows, what its forms do, what they refuse."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.responses import JSONResponse

from client.agent_status import Status
from client.joining import join
from client.journal import Journal, MemoryJournal
from client.membership import Membership, memberships, record_verdict
from client.ratings import Choice
from client.releases import Verdict
from client.session import Session
from client.store import Store
from client.vault import Cost
from client.web.app import create_app


class Visitor:
    """A browser without JavaScript, on the page of a session."""

    def __init__(self, session: Session, root: Path) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.app = create_app(session, token="t" * 43, hosts={host}, size=64, memberships=root)
        config = uvicorn.Config(self.app, log_level="error", ws="none", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],))
        self.thread.start()
        while self.thread.is_alive() and not self.server.started:
            time.sleep(0.01)
        self.browser = httpx.Client(base_url=f"http://{host}", follow_redirects=True, timeout=30)
        assert self.browser.get(f"/?token={'t' * 43}").status_code == 200

    def close(self) -> None:
        self.browser.close()
        self.server.should_exit = True
        self.app.state.deck.close()
        self.thread.join(10)
        self.listener.close()

    def see(self, path: str = "/sharing") -> str:
        reply = self.browser.get(path)
        assert reply.status_code == 200
        return re.sub(r"\s+", " ", reply.text)

    def send(self, path: str, status: int = 200, **form: str) -> str:
        headers = {"origin": "null", "sec-fetch-site": "same-origin"}
        reply = self.browser.post(path, data=form, headers=headers)
        assert reply.status_code == status
        return re.sub(r"\s+", " ", reply.text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "federations"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    cheap = Cost(passes=1, kib=64, lanes=1)
    with Store.open(tmp_path / "ratings.plgl", passphrase="a long one", cost=cheap) as opened:
        yield opened


@pytest.fixture
def visit(pack: Any, root: Path) -> Iterator[Any]:
    visitors: list[tuple[Visitor, Session]] = []

    def opened(journal: Journal) -> Visitor:
        session = Session(pack, journal, seed=0)
        visitors.append((Visitor(session, root), session))
        return visitors[-1][0]

    yield opened
    for visitor, session in visitors:
        visitor.close()
        session.close()


def rate(visitor: Visitor, answers: int) -> None:
    deck = visitor.app.state.deck
    with deck.lock:
        for _ in range(answers):
            a, b = deck.session.propose(2)
            deck.session.rate(Choice(a, b, "a"))


@pytest.fixture
def member(operator: Any, root: Path, store: Store) -> Membership:
    return join(operator.invite(), root=root, store=store.path)


def test_without_a_membership_the_page_says_that_nothing_is_shared(visit: Any) -> None:
    visitor = visit(MemoryJournal())
    assert "You share nothing." in visitor.see()
    assert "/sharing/leave" not in visitor.see()
    assert 'href="/sharing"' in visitor.see("/settings")
    assert "cannot be recalled" not in visitor.see("/history")


def test_the_page_shows_the_vector_its_noise_and_its_cost(visit: Any, member: Membership, store: Store) -> None:
    visitor = visit(store)
    assert "There are no answers yet" in visitor.see()
    rate(visitor, 3)
    assert "3; 2 more before anything is sent" in visitor.see()
    assert "It would not be sent: there are too few answers." in visitor.see()
    rate(visitor, 3)
    shown = visitor.see()
    for words in (
        *("Test people", "member 1", "Not running: take part with plgl sharing run", "6; enough"),
        *("0 of at most 4", "Epsilon after the next round", "Its length before clipping", "With your noise"),
        *("You took part in no round yet", "No release came of it yet", "Who has to be trusted"),
    ):
        assert words in shown, words
    numbers = re.findall(r"<td>([+-]\d+\.\d{3})</td>", shown)
    assert len(numbers) == 12
    again = re.findall(r"<td>([+-]\d+\.\d{3})</td>", visitor.see())
    assert numbers[1::2] != again[1::2]  # the noise is drawn anew


def test_looking_sends_nothing(visit: Any, member: Membership, store: Store, operator: Any) -> None:
    before = len(operator.asked)
    visitor = visit(store)
    rate(visitor, 6)
    visitor.see()
    assert len(operator.asked) == before


def test_a_page_with_other_answers_shows_no_example(visit: Any, member: Membership) -> None:
    visitor = visit(MemoryJournal())
    rate(visitor, 6)
    assert "This page shows other answers than those you share from" in visitor.see()
    assert "<td>" not in visitor.see()


def test_history_says_what_was_used_and_what_happened(visit: Any, member: Membership, store: Store) -> None:
    visitor = visit(store)
    rate(visitor, 2)
    with member.ledger() as ledger:
        ledger.charge(federation=member.terms.federation, session="s", round=7, limit=4)
    time.sleep(1.1)  # a charge has whole seconds
    rate(visitor, 1)
    record_verdict(member, Verdict(accepted=True, reason="within <bounds>", changes=("its mean moved",)), time.time())
    (member.folder / "agent.json").write_text(
        '{"refused": 1, "last_refusal": "a run with the app bundle 123", "last_refused": 5}'
    )
    assert Status.read(member.folder) is not None
    shown = visitor.see()
    for words in ("took part in round 7", "within &lt;bounds&gt;", "its mean moved", "a run with the app bundle 123"):
        assert words in shown, words
    assert visitor.see("/history").count("already contributed, cannot be recalled") == 2


def test_a_pause_is_a_form(visit: Any, member: Membership, store: Store, root: Path) -> None:
    visitor = visit(store)
    shown = visitor.send("/sharing/pause", federation=member.terms.federation, on="yes")
    assert "paused, nothing is sent" in shown
    assert "Paused: nothing is sent until you resume" in shown
    assert memberships(root)[0].paused
    assert "you take part again" in visitor.send("/sharing/pause", federation=member.terms.federation, on="no")
    assert not memberships(root)[0].paused


def test_leaving_needs_a_tick_and_keeps_the_answers(
    visit: Any, member: Membership, store: Store, root: Path, operator: Any
) -> None:
    visitor = visit(store)
    rate(visitor, 2)
    assert "tick the box to leave" in visitor.send("/sharing/leave", federation=member.terms.federation)
    assert operator.left == []
    shown = visitor.send("/sharing/leave", federation=member.terms.federation, sure="yes")
    assert "keys are destroyed, your answers are untouched" in shown
    assert "You share nothing." in shown
    assert operator.left == [1]
    assert memberships(root) == []
    assert "2 ratings" in visitor.see("/history")


def test_leaving_works_when_the_operator_cannot_be_told(
    visit: Any, member: Membership, store: Store, root: Path, operator: Any
) -> None:
    operator.leaving = JSONResponse({"error-message": "<b>no</b>"}, 403)
    shown = visit(store).send("/sharing/leave", federation=member.terms.federation, sure="yes")
    assert "the operator could not be told" in shown.lower()
    assert "<b>no</b>" not in shown
    assert memberships(root) == []


@pytest.mark.parametrize(
    "form", [{}, {"federation": "../../x", "on": "yes"}, {"federation": "0" * 32, "on": "perhaps"}]
)
def test_forms_that_make_no_sense_change_nothing(
    visit: Any, member: Membership, store: Store, root: Path, form: dict[str, str]
) -> None:
    visitor = visit(store)
    visitor.send("/sharing/pause", 422, **form)
    visitor.send("/sharing/leave", 422, **{**form, "federation": form.get("federation", "")[:8]})
    assert memberships(root) == [member]


def test_a_stranger_is_kept_out(visit: Any, member: Membership, store: Store, root: Path) -> None:
    visitor = visit(store)
    visitor.browser.cookies.clear()
    assert visitor.browser.get("/sharing").status_code == 401
    for path in ("/sharing/pause", "/sharing/leave"):
        form = {"federation": member.terms.federation, "on": "yes", "sure": "yes"}
        assert visitor.browser.post(path, data=form).status_code == 401
        foreign = visitor.browser.post(path, data=form, headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403
    assert memberships(root) == [member]


def test_what_is_damaged_is_said(visit: Any, member: Membership, store: Store) -> None:
    visitor = visit(store)
    (member.folder / "membership.json").write_text("{}")
    assert "is damaged" in visitor.see()
    assert "History" in visitor.see("/history")
