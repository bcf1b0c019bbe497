"""The page about sharing as a person uses it: read, pause, leave; in light and dark, on a phone, without JavaScript."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from client.generators.pack import GeneratorPack
from client.ledger import Ledger
from client.membership import KEY, LEDGER, Membership, record_verdict
from client.ratings import Choice
from client.releases import Verdict
from client.session import Session
from client.store import Store
from client.vault import Cost
from client.web.app import create_app
from common.enrolment import MemberCertificate
from common.invite import Invite
from common.privacy.settings import PrivacySettings
from common.signing import SigningKey
from common.terms import Terms

SMALL = """() => [...document.querySelectorAll('button, summary, .soft, .tick')].filter(e => e.offsetParent
    && !e.closest('nav') && (r => r.width < 43.5 || r.height < 43.5)(e.getBoundingClientRect()))
    .map(e => e.outerHTML.slice(0, 80))"""
CONTRAST = """() => {
    const parse = c => c.match(/[\\d.]+/g).map(Number);
    const light = c => { const [r, g, b] = parse(c).map(v => v / 255)
        .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126*r + .7152*g + .0722*b };
    const ground = e => { for (; e; e = e.parentElement) {
        const c = getComputedStyle(e).backgroundColor; if ((parse(c)[3] ?? 1) > 0) return c } return 'rgb(0,0,0)' };
    return Math.min(...[...document.querySelectorAll('main h1,h2,p,small,dt,dd,th,td,summary,label,button,li')]
        .filter(e => e.offsetParent && e.textContent.trim()).map(e => {
        const l = light(getComputedStyle(e).color), g = light(ground(e));
        return (Math.max(l, g) + .05) / (Math.min(l, g) + .05) })) }"""


def membership(folder: Path, store: Path, port: int) -> Membership:
    """A membership that took part twice; nobody answers at its gate."""
    folder.mkdir(mode=0o700, parents=True)
    authority, key, now = SigningKey.generate(), SigningKey.generate(), int(time.time())
    terms = Terms(
        federation=folder.name,
        name="Garden friends",
        pack=GeneratorPack.open("art").hash,
        components=32,
        settings=PrivacySettings(minimum_people=20, expected_people=100),
        honest_people=10,
        minimum_ratings=10,
    )
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    signer = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")])
    moment = datetime.datetime.now(datetime.UTC)
    root = (
        x509.CertificateBuilder(name, name, signer.public_key(), 1, moment, moment + datetime.timedelta(days=1))
        .sign(signer, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    made = Membership(
        folder=folder,
        invite=Invite(
            terms=terms,
            address=f"127.0.0.1:{port}",
            tls_authority=root.decode(),
            authority=authority.public,
            release_key=authority.public,
            bundles=("ab" * 32,),
            token="",
            expires=now,
        ),
        certificate=MemberCertificate.issue(
            authority, federation=terms.federation, member=7, key=key.public, issued=now, expires=now + 86_400
        ),
        limit=4,
        store=store,
        profile="me",
        generator="art",
        paused=False,
        joined=now,
    )
    (folder / KEY).write_bytes(key.to_bytes())
    made.save()
    with Ledger.open(folder / LEDGER, create=True) as ledger:
        for number in (3, 8):
            ledger.charge(federation=terms.federation, session="s", round=number, limit=4)
    changes = ("release 2 of round 8", "its mean moved by 0.31 standard deviations of people a weight")
    reason = "it foretells your own answers no worse than knowing nothing"
    record_verdict(made, Verdict(accepted=True, reason=reason, changes=changes), now)
    return made


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens windows on the page of somebody who is a member and gave twelve answers; says what they ask for."""
    store = Store.open(tmp_path / "ratings.plgl", passphrase="a long one", cost=Cost(passes=1, kib=64, lanes=1))
    root, contexts, asked = tmp_path / "federations", [], []
    with Session(GeneratorPack.open("art"), store, seed=0) as session, socket.socket() as listener:
        for _ in range(12):
            a, b = session.propose(2)
            session.rate(Choice(a, b, "a" if float(a.features[0]) > float(b.features[0]) else "b"))
        listener.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            membership(root / ("c0ffee00" * 4), store.path, closed.getsockname()[1])
        app = create_app(session, token="t" * 43, hosts={host}, size=64, memberships=root)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while thread.is_alive() and not server.started:
            time.sleep(0.01)

        def opened(**options: Any) -> Any:
            contexts.append(browser.new_context(**options))
            window = contexts[-1].new_page()
            window.on("request", lambda request: asked.append(request.url))
            window.on("console", lambda message: asked.append(f"complaint: {message.text}"))
            window.goto(f"http://{host}/?token={'t' * 43}")
            window.goto(f"http://{host}/sharing")
            return window

        yield opened
        for context in contexts:
            context.close()
        server.should_exit = True
        app.state.deck.close()
        thread.join(10)
        assert [each for each in asked if not each.startswith(f"http://{host}/")] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_can_be_read_and_touched(page: Any, scheme: str, width: int) -> None:
    window = page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    for summary in window.locator("details.term summary").all():
        summary.click()
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    assert window.evaluate(CONTRAST) >= 4.5
    assert window.evaluate(SMALL) == []
    text = window.inner_text("main")
    for words in (
        "Garden friends",
        "member 7",
        "2 of at most 4",
        "With your noise",
        "took part in round 8",
        "no worse",
    ):
        assert words in text, words
    if folder := os.environ.get("PLGL_SCREENSHOTS"):
        window.screenshot(path=f"{folder}/sharing-{scheme}-{width}.png", full_page=True)


@pytest.mark.parametrize("script", [True, False])
def test_pausing_and_leaving_by_hand(page: Any, script: bool) -> None:
    window = page(java_script_enabled=script)
    window.click("button:has-text('Pause')")
    assert "Paused: nothing is sent until you resume" in window.inner_text("main")
    window.click("button:has-text('Resume')")
    assert "Paused" not in window.inner_text("main .under")
    window.click("button:has-text('Leave Garden friends')")
    assert "tick the box to leave" in window.inner_text("main")
    window.check("input[name=sure]")
    window.click("button:has-text('Leave Garden friends')")
    assert "You share nothing." in window.inner_text("main")
    assert "could not be told" in window.inner_text(".message")
