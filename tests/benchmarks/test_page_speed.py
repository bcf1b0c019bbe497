"""From an answer to the next pictures on the screen, measured in the page, and the server's part of it.

Run ``pytest tests/benchmarks/test_page_speed.py -s`` to see the table. The time starts with the key and ends with the
first frame after every new picture is decoded. The person in it answers after 0.7 seconds, or without a pause at all.
Nothing here asserts a wall time beyond what cannot be missed on a busy machine.
"""

from __future__ import annotations

import shutil
import socket
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from client.session import Session
from client.web.app import create_app
from client.web.guard import new_token

PAIRS = 40
MEASURE = """() => {
    window.times = [];
    let start = 0;
    document.addEventListener('keydown', () => { start = performance.now(); }, true);
    document.addEventListener('htmx:afterSwap', async event => {
        if (event.detail.target.id !== 'deck') return;
        const from = start, images = [...document.querySelectorAll('.stage .pick img')];
        await Promise.all(images.map(image => image.decode()));
        requestAnimationFrame(() => {
            const channel = new MessageChannel();  // a message after the frame callback comes when it was drawn
            channel.port1.onmessage = () => window.times.push(performance.now() - from);
            channel.port2.postMessage(0);
        });
    });
}"""


class Stopwatch:
    """Times what the application does with each answer, from the request to the end of the reply."""

    def __init__(self, app: Any) -> None:
        self.app, self.times = app, list[float]()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        start = time.perf_counter()
        await self.app(scope, receive, send)
        if scope["type"] == "http" and scope["path"] == "/answer":
            self.times.append(1000 * (time.perf_counter() - start))


def quantiles(times: list[float]) -> str:
    ordered = sorted(times)
    return f"{statistics.median(ordered):8.1f} {ordered[int(0.95 * (len(ordered) - 1))]:8.1f} {ordered[-1]:8.1f}"


@pytest.mark.parametrize("store", ["memory", "disk"])
def test_answer_to_next_picture(store: str, tmp_path: Path) -> None:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on the path")
    sync_api = pytest.importorskip("playwright.sync_api")
    kept: dict[str, Any] = {"store": tmp_path / "ratings.plgl", "passphrase": "only a benchmark"}
    with Session.open("art", seed=0, **(kept if store == "disk" else {})) as session, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        host, token = f"127.0.0.1:{listener.getsockname()[1]}", new_token()
        app = create_app(session, token=token, hosts={host})
        watch = Stopwatch(app)
        server = uvicorn.Server(uvicorn.Config(watch, log_level="error", ws="none", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        print(f"\n{store:22} {'median':>8} {'p95':>8} {'worst':>8}  ms, {PAIRS} answers")
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(f"http://{host}/?token={token}")
            page.evaluate(MEASURE)
            for name, pause in (("every 0.7 s", 700), ("without a pause", 0)):
                watch.times.clear()
                page.evaluate("times.length = 0")
                page.wait_for_timeout(2000)
                for number in range(PAIRS):
                    page.keyboard.press("ArrowLeft" if number % 3 else "ArrowRight")
                    page.wait_for_function("n => times.length > n", arg=number)
                    page.wait_for_timeout(pause)
                times = page.evaluate("times")
                print(f"{name:22} {quantiles(times)}  key to picture\n{'':22} {quantiles(watch.times)}  server")
                assert len(times) == len(watch.times) == PAIRS
                assert statistics.median(watch.times) < statistics.median(times)
            browser.close()
        server.should_exit = True
        app.state.deck.close()
        thread.join(10)
        assert len(session.history) == 2 * PAIRS
