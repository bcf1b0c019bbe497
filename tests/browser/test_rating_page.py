"""The rating page as a person uses it: keys, mouse, fingers, without JavaScript, light and dark, large and small."""

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from PIL import Image

from client.generators.pack import GeneratorPack
from client.journal import MemoryJournal
from client.policy.flow import FlowSettings, LatentPolicy
from client.policy.population import publish
from client.ratings import ANSWERS, Glance, Kind
from client.session import Session
from client.web.app import create_app
from client.web.deck import Deck
from client.web.guard import new_token
from client.web.serve import _opener
from common.population_policy import PopulationPolicy
from common.privacy.statement import PrivacyStatement

PAGES = ("/", "/wall", "/favourites", "/history", "/map", "/settings", "/help")


class Desk:
    """A session that is served, with the windows that are open on it."""

    def __init__(
        self,
        browser: Any,
        session: Session,
        listener: socket.socket,
        size: int,
        population: PopulationPolicy | None = None,
    ) -> None:
        self.browser, self.session, self.token = browser, session, new_token()
        self.host = f"127.0.0.1:{listener.getsockname()[1]}"
        self.app = create_app(session, token=self.token, hosts={self.host}, size=size, population=population)
        self.deck: Deck = self.app.state.deck
        self.server = uvicorn.Server(
            uvicorn.Config(self.app, log_level="error", ws="none", timeout_graceful_shutdown=1)
        )
        self.thread = threading.Thread(target=self.server.run, args=([listener],))
        self.windows: list[Window] = []
        self.thread.start()
        while self.thread.is_alive() and not self.server.started:
            time.sleep(0.01)

    @property
    def address(self) -> str:
        return f"http://{self.host}"

    def open(self, *, enter: bool = True, **options: Any) -> "Window":
        options.setdefault("viewport", {"width": 1280, "height": 800})
        window = Window(self, self.browser.new_context(**options))
        self.windows.append(window)
        if enter:
            window.page.goto(f"{self.address}/?token={self.token}")
        return window

    def stop(self) -> None:
        self.server.should_exit = True
        self.deck.close()
        self.thread.join(10)
        assert not self.thread.is_alive(), "the server did not stop"

    def close(self) -> None:
        for window in self.windows:
            window.context.close()
        self.stop()


class Window:
    """A browser window that writes down what it asks for and what it complains about, and reaches nothing else."""

    def __init__(self, desk: Desk, context: Any) -> None:
        self.desk, self.context = desk, context
        self.requests: list[tuple[str, str]] = []
        self.complaints: list[str] = []
        self.page = context.new_page()
        self.page.on("request", lambda request: self.requests.append((request.method, request.url)))
        self.page.on("console", self.listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def listen(self, message: Any) -> None:
        if message.type in ("warning", "error"):
            self.complaints.append(message.text)

    def ask(self, expression: str) -> Any:
        return self.page.evaluate(expression)

    @property
    def question(self) -> str:
        return str(self.page.get_attribute("#deck", "data-question"))

    def do(self, act: Callable[[], object]) -> None:
        """Do something that brings another question, and wait for it and for the one after."""
        before = self.question
        act()
        self.page.wait_for_function("q => document.getElementById('deck')?.dataset.question !== q", arg=before)
        self.settle()

    def press(self, key: str) -> None:
        self.page.wait_for_load_state("load")  # nobody listens to keys before the script has run
        self.do(lambda: self.page.keyboard.press(key))

    def settle(self) -> None:
        self.desk.deck.wait_ahead(20)
        self.page.wait_for_function(
            """() => { const ahead = document.getElementById('ahead');
                return ahead && !ahead.hasAttribute('hx-get') && [...document.images].every(i => i.complete) }"""
        )

    def go(self, path: str) -> None:
        self.page.goto(self.desk.address + path)

    def well_behaved(self) -> None:
        """No complaint, and not one request to another host."""
        assert self.complaints == []
        assert [url for _, url in self.requests if not url.startswith(self.desk.address)] == []


@pytest.fixture(scope="module")
def pack() -> GeneratorPack:
    return GeneratorPack.open("art")


@pytest.fixture
def desk(browser: Any, pack: GeneratorPack) -> Iterator[Desk]:
    with Session(pack, MemoryJournal(), seed=0) as session, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        desk = Desk(browser, session, listener, size=96)
        yield desk
        desk.close()


@pytest.fixture
def crowded(browser: Any, pack: GeneratorPack) -> Iterator[Desk]:
    """A newcomer's page with a policy of everybody, who all draw what the generator draws."""
    policy = LatentPolicy(FlowSettings(dimension=pack.latents.dimension, couplings=2, width=4))
    everybody = publish(policy, pack, PrivacyStatement.public(), 0)
    with Session(pack, MemoryJournal(), seed=0) as session, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        desk = Desk(browser, session, listener, size=96, population=everybody)
        yield desk
        desk.close()


def test_a_newcomer_sees_what_everybody_likes_and_more_of_it_before_any_answer(crowded: Desk) -> None:
    window = crowded.open()
    window.page.click("nav >> text=For you")
    assert "Suggestions from the crowd" in window.page.inner_text("h1")
    assert window.page.locator(".tile").count() == 12
    window.page.click("text=More, without end")
    window.page.wait_for_function("document.querySelectorAll('.tile').length === 24")
    assert crowded.session.history == []
    window.well_behaved()


def answers(desk: Desk) -> list[str]:
    found = []
    for rated in desk.session.history:
        kind, value, _ = rated.rating.row
        found.append(ANSWERS[value] if kind == Kind.CHOICE else f"{kind.name.lower()} {value}")
    return found


def test_twenty_pairs_with_two_keys_and_a_wall_that_matches(desk: Desk) -> None:
    window = desk.open()
    assert window.page.url == f"{desk.address}/"  # the token does not stay in the address
    expected = []
    for _ in range(20):
        warm = [float(desk.session.item(i).media[0].mean()) for i in desk.deck.current().items]
        window.press("ArrowLeft" if warm[0] > warm[1] else "ArrowRight")
        expected.append("a" if warm[0] > warm[1] else "b")
    assert answers(desk) == expected
    assert "20 of about 40" in window.page.inner_text("#progress")
    assert "I now guess" in window.page.inner_text("#progress")
    assert [url for method, url in window.requests if method == "POST"] == [f"{desk.address}/answer"] * 20
    window.page.click("nav >> text=For you")
    window.page.wait_for_load_state("load")
    assert window.page.locator(".tile img").count() == 12
    shown = [int(src.split("/")[-1].split("-")[0]) for src in images(window, ".tile img")]
    random = desk.session.items_at(desk.session.pack.latents.sample(100, torch.Generator().manual_seed(5)))
    assert desk.session.predict(shown)[0].mean() > desk.session.predict(random)[0].quantile(0.95)
    red = [float(desk.session.item(item).media[0].mean()) for item in shown]
    assert sum(red) / len(red) > sum(float(item.media[0].mean()) for item in random) / len(random) + 0.2
    window.well_behaved()


def images(window: Window, selector: str) -> list[str]:
    """Addresses of pictures that are on the page and whole."""
    found = window.page.evaluate(
        """s => Promise.all([...document.querySelectorAll(s)].map(async i => {
            await i.decode(); return i.naturalWidth > 0 ? i.src : 'broken' }))""",
        selector,
    )
    assert "broken" not in found
    return [str(address) for address in found]


def test_the_next_pictures_are_in_the_browser_before_the_answer(desk: Desk) -> None:
    window = desk.open()
    window.settle()
    for key in ("ArrowLeft", "ArrowDown", "2"):
        coming = images(window, "#ahead img")[:2]
        window.requests.clear()
        window.press(key)
        assert images(window, ".stage .pick img") == coming
        assert not {url for _, url in window.requests} & set(coming)
    window.well_behaved()


def test_answers_are_taken_back_and_given_again_with_their_pictures(desk: Desk) -> None:
    window = desk.open()
    window.settle()
    seen = []
    for key in ("1", "2", "ArrowUp", "ArrowDown", "a", "d"):
        seen.append(images(window, ".stage .pick img"))
        window.press(key)
    assert answers(desk) == ["a", "b", "both", "neither", "a", "b"]
    for key, pictures in zip(("Backspace", "Control+z", "Backspace"), reversed(seen), strict=False):
        window.press(key)
        assert images(window, ".stage .pick img") == pictures
    assert answers(desk) == ["a", "b", "both"]
    window.press("Control+y")
    window.press("Control+y")
    assert answers(desk) == ["a", "b", "both", "neither", "a"]
    window.press("s")
    assert len(answers(desk)) == 5
    assert "Skipped" in window.page.inner_text("[data-last]")
    window.well_behaved()


def test_every_mode_has_its_keys(desk: Desk) -> None:
    window = desk.open()
    for mode, key in [("swipe", "l"), ("swipe", "ArrowLeft"), ("stars", "4"), ("best", "2"), ("worst", "3")]:
        window.page.click(f"button[name=mode][value={mode}]")
        window.settle()
        assert window.page.get_attribute(f"button[value={mode}]", "aria-pressed") == "true"
        window.press(key)
    assert answers(desk) == ["like 1", "like 0", "stars 4", "best 1", "worst 2"]
    window.well_behaved()


def test_the_mouse_answers_and_leaves_the_keys_alone(desk: Desk) -> None:
    window = desk.open()
    window.do(lambda: window.page.click(".picture >> nth=1 >> .pick"))
    window.do(lambda: window.page.click("button[data-action=both]"))
    window.do(lambda: window.page.click("button[data-action=undo]"))
    window.press(" ")  # a skip, not the button that was pressed last
    assert answers(desk) == ["b"]
    window.page.click(".picture >> nth=0 >> button[data-action=favourite]")
    window.page.wait_for_selector(".picture .heart.on")
    window.do(lambda: window.page.click(".picture >> nth=0 >> button[data-action=more]"))
    window.do(lambda: window.page.click(".picture >> nth=3 >> .pick"))
    assert answers(desk) == ["b", "best 3"]
    window.well_behaved()


def test_favourites_and_neighbours_by_key(desk: Desk) -> None:
    window = desk.open()
    window.page.keyboard.press("f")
    window.page.wait_for_function("() => document.getElementById('trouble').textContent.includes('Point at a picture')")
    window.press("ArrowRight")
    chosen = desk.session.history[0].rating.row[2][1]
    window.page.keyboard.press("f")
    window.page.wait_for_selector("[data-last] .heart.on")
    assert [item.id for item in desk.session.favourites] == [chosen]
    left = desk.deck.current().items[0]
    window.page.hover(".picture >> nth=0")
    window.page.mouse.move(400, 400)
    window.page.mouse.move(405, 402)
    window.page.keyboard.press("f")
    window.page.wait_for_selector(".picture .heart.on")
    assert [item.id for item in desk.session.favourites] == [chosen, left]
    window.page.mouse.move(5, 5)
    window.press("Enter")
    assert desk.deck.current().origin == chosen
    assert window.page.locator(".stage .pick").count() == 4
    window.go("/favourites")
    assert window.page.locator(".tile").count() == 2
    window.well_behaved()


def test_keys_alone_are_enough(desk: Desk) -> None:
    window = desk.open()
    page = window.page
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    assert "More like this" in page.inner_text("#help")
    page.keyboard.press("1")  # not an answer while the help is open
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    assert answers(desk) == []
    for _ in range(40):
        page.keyboard.press("Tab")
        if window.ask("document.activeElement.dataset.action") == "neither":
            break
    ring = window.ask("(s => [s.outlineStyle, parseFloat(s.outlineWidth)])(getComputedStyle(document.activeElement))")
    assert ring[0] == "solid"
    assert ring[1] >= 2
    window.press("Enter")  # of the button with the focus, not "more like this"
    assert answers(desk) == ["neither"]
    window.go("/settings")
    page.focus("input[name=profile]")
    page.keyboard.press("End")
    page.keyboard.type("1?s")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert desk.session.profile == "me1?s"
    window.well_behaved()


def test_everything_works_without_javascript(desk: Desk) -> None:
    window = desk.open(java_script_enabled=False)
    page = window.page
    page.click("button[data-action=b]")
    page.click("button[data-action=neither]")
    assert answers(desk) == ["b", "neither"]
    assert "2 of about 40" in page.inner_text("#progress")
    page.click("button[data-action=undo]")
    page.click("button[data-action=redo]")
    page.click("button[data-action=skip]")
    assert answers(desk) == ["b", "neither"]
    page.click(".picture >> nth=0 >> button[data-action=favourite]")
    page.click(".picture >> nth=1 >> button[data-action=more]")
    assert page.locator(".stage .pick").count() == 4
    page.click("button[data-action='3']")
    page.click("button[value=stars]")
    page.click("button[data-action='5']")
    assert answers(desk) == ["b", "neither", "best 2", "stars 5"]
    page.click("nav >> text=For you")
    page.click("text=Make it again")
    assert page.locator(".tile").count() == 12
    page.click("nav >> text=History")
    page.click("summary >> nth=0")
    page.click("text=Delete for good")
    assert answers(desk) == ["b", "neither", "best 2"]
    page.click("a[aria-label=Keys]")
    assert "Takes the last answer back" in page.inner_text("main")
    assert [url for _, url in window.requests if not url.startswith(desk.address)] == []


def test_a_finger_swipes_to_answer_and_a_short_move_does_not(desk: Desk) -> None:
    window = desk.open(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    window.page.click("button[value=swipe]")
    window.settle()
    fingers = window.context.new_cdp_session(window.page)

    def swipe(distance: int) -> None:
        box = window.page.locator(".stage .pick").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        fingers.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for step in range(1, 7):
            point = {"x": x + distance * step / 6, "y": y}
            fingers.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
        fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    swipe(30)
    assert answers(desk) == []
    window.do(lambda: swipe(120))
    window.do(lambda: swipe(-120))
    assert answers(desk) == ["like 1", "like 0"]
    window.page.click("button[value=pair]")
    window.settle()
    window.do(lambda: window.page.tap(".picture >> nth=1 >> .pick"))
    assert answers(desk)[-1] == "b"
    window.well_behaved()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_a_phone_and_can_be_read_and_touched(desk: Desk, scheme: str) -> None:
    window = desk.open(viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True, is_mobile=True)
    for key in ("1", "2", "1"):
        window.press(key)
    contrast = """() => {
        const parse = c => c.match(/[\\d.]+/g).map(Number);
        const light = c => { const [r, g, b] = parse(c).map(v => v / 255)
            .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126*r + .7152*g + .0722*b };
        const ground = e => { for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor; if ((parse(c)[3] ?? 1) > 0) return c } return 'rgb(0,0,0)' };
        return Math.min(...[...document.querySelectorAll('h1,h2,p,small,dt,dd,label,a,button:not(:disabled),kbd,b')]
            .filter(e => e.offsetParent && e.textContent.trim() && !e.closest('.jump, #ahead')).map(e => {
            const l = light(getComputedStyle(e).color), g = light(ground(e));
            return (Math.max(l, g) + .05) / (Math.min(l, g) + .05) })) }"""
    small = """() => [...document.querySelectorAll('button, nav a, summary, input:not([type=hidden]), .strong, .soft')]
        .filter(e => e.offsetParent && (r => r.width < 43.5 || r.height < 43.5)(e.getBoundingClientRect()))
        .map(e => e.outerHTML.slice(0, 80))"""
    for path in PAGES:
        window.go(path)
        assert window.ask("document.documentElement.scrollWidth") <= 390, path
        assert window.ask(contrast) >= 4.5, path
        assert window.ask(small) == [], path
    window.go("/")
    for mode in ("swipe", "stars", "best", "pair"):
        window.page.click(f"button[value={mode}]")
        window.settle()
        assert window.ask("document.documentElement.scrollWidth") <= 390, mode
        bottom = window.ask(
            "Math.max(...[...document.querySelectorAll('.pick, .answer')].map(e => e.getBoundingClientRect().bottom))"
        )
        assert bottom <= window.ask("document.querySelector('.pages').getBoundingClientRect().top"), mode
    window.well_behaved()


def test_no_width_needs_scrolling_to_the_side(desk: Desk) -> None:
    window = desk.open()
    window.press("1")
    for path in PAGES:
        window.go(path)
        for width in (320, 761, 820, 1024):
            window.page.set_viewport_size({"width": width, "height": 700})
            assert window.ask("document.documentElement.scrollWidth") <= width, path


def test_light_and_dark_differ_and_stillness_is_respected(desk: Desk) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        window = desk.open(color_scheme=scheme, reduced_motion="reduce")
        grounds.add(window.ask("getComputedStyle(document.body).backgroundColor"))
        assert window.ask("getComputedStyle(document.querySelector('button.pick')).transitionDuration") == "0s"
    assert len(grounds) == 2
    moving = desk.open()
    assert moving.ask("getComputedStyle(document.querySelector('button.pick')).transitionDuration") != "0s"


def test_the_counter_is_read_aloud_and_every_control_has_a_name(desk: Desk) -> None:
    window = desk.open()
    window.press("1")
    assert window.page.get_attribute("#progress", "aria-live") == "polite"
    for path in PAGES:
        window.go(path)
        assert window.ask("document.documentElement.lang") == "en"
        assert window.ask("document.querySelectorAll('h1').length") == 1
        assert window.ask("[...document.images].every(i => /item \\d+/i.test(i.alt))"), path
        nameless = """[...document.querySelectorAll('button, a, input:not([type=hidden])')]
            .filter(e => e.offsetParent && !e.ariaLabel && !e.textContent.trim())
            .filter(e => !e.querySelector('img') && !e.labels?.length).length"""
        assert window.ask(nameless) == 0, path


def test_two_windows_show_one_question_and_an_answer_counts_once(desk: Desk) -> None:
    first, second = desk.open(), desk.open()
    assert first.question == second.question
    first.press("1")
    second.press("2")  # to the question that is answered already
    assert answers(desk) == ["a"]
    assert "answered already" in second.page.inner_text("#deck .message")
    assert second.question == desk.deck.current().key
    second.press("2")
    assert answers(desk) == ["a", "b"]


def test_a_hidden_window_does_not_count_as_looking(desk: Desk) -> None:
    window = desk.open()
    window.go("/settings")
    window.page.click("text=Start noticing")
    window.page.click("nav >> text=Rate")
    assert window.page.locator(".mark").is_visible()
    window.page.click("button[value=swipe]")
    window.settle()
    hide = """seen => { Object.defineProperty(document, 'visibilityState', {get: () => seen, configurable: true});
        document.dispatchEvent(new Event('visibilitychange')) }"""
    window.press("l")
    window.page.wait_for_timeout(200)
    window.page.evaluate(hide, "hidden")
    window.page.wait_for_timeout(1500)
    window.page.evaluate(hide, "visible")
    window.press("l")
    looks = [rated.rating for rated in desk.session.history if isinstance(rated.rating, Glance)]
    assert len(looks) == 2
    assert 0.2 <= looks[1].seconds < 1.4
    window.well_behaved()


def test_exports_and_pictures_are_downloaded(desk: Desk) -> None:
    window = desk.open()
    window.press("1")
    window.go("/settings")

    def saved(selector: str) -> bytes:
        with window.page.expect_download() as waiting:
            window.page.click(selector)
        return Path(waiting.value.path()).read_bytes()

    assert len(json.loads(saved("a[href='/export.json']"))["ratings"]) == 1
    assert saved("a[href='/export.csv']").count(b"\n") == 2
    window.go("/history")
    window.page.click(".thumbs a")
    assert getattr(Image.open(io.BytesIO(saved("text=Picture only"))), "text", None) == {}
    recipe = Image.open(io.BytesIO(saved("text=Picture and recipe")))
    item = desk.session.item(int(recipe.text["plgl:item"]))  # type: ignore[attr-defined]
    assert json.loads(recipe.text["plgl:latent"]) == item.latent.tolist()  # type: ignore[attr-defined]
    again = desk.session.pack.generate(item.latent[None], 1024)[0]
    pixels = torch.frombuffer(bytearray(recipe.tobytes()), dtype=torch.uint8).reshape(1024, 1024, 3).permute(2, 0, 1)
    assert (pixels.float() / 127.5 - 1 - again).abs().max() < 0.01


def test_everything_is_deleted_after_the_word(desk: Desk) -> None:
    window = desk.open()
    window.press("1")
    window.go("/settings")
    window.page.click("button:has-text('Delete everything')")
    assert "Nothing was deleted" in window.page.inner_text("main")
    assert len(answers(desk)) == 1
    window.page.fill("input[name=word]", "delete")
    window.page.click("button:has-text('Delete everything')")
    assert window.page.inner_text("h1") == "Everything is deleted"
    assert answers(desk) == []
    window.well_behaved()


def test_the_map_shows_what_was_rated(desk: Desk) -> None:
    window = desk.open()
    for key in ("1", "2", "1"):
        window.press(key)
    window.go("/map")
    assert window.page.locator(".map image").count() == 6
    window.page.locator(".map a").first.focus()
    window.page.keyboard.press("Enter")
    window.page.wait_for_selector("h1:has-text('Item')")
    window.well_behaved()


def test_a_browser_started_with_a_local_file_gets_in_and_a_stranger_does_not(desk: Desk) -> None:
    stranger = desk.open(enter=False)
    reply = stranger.page.goto(desk.address)
    assert reply.status == 401
    guest = desk.open(enter=False)
    with _opener(f"{desk.address}/?token={desk.token}") as file:
        guest.page.goto(file.as_uri())
        guest.page.wait_for_selector(".pick")
    assert guest.page.url == f"{desk.address}/"
    guest.press("1")
    assert answers(desk) == ["a"]


def test_another_page_cannot_use_the_cookie(desk: Desk) -> None:
    window = desk.open()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        foreign = f"http://127.0.0.1:{listener.getsockname()[1]}"
    body = f"""<form method=post action="{desk.address}/answer"><input name=question value="{window.question}">
        <input name=answer value=a><button>go</button></form><img src="{desk.address}/static/icon.svg">"""
    window.page.route(f"{foreign}/**", lambda route: route.fulfill(body=body, content_type="text/html"))
    window.page.goto(foreign)
    assert not window.ask("document.images[0].naturalWidth")
    read = f"fetch('{desk.address}/export.json', {{credentials: 'include'}}).then(r => r.text()).catch(() => 'refused')"
    assert window.ask(read) == "refused"
    window.page.click("button")
    window.page.wait_for_load_state()
    assert "comes from another page" in window.page.inner_text("body")
    assert answers(desk) == []


def test_when_the_program_is_gone_the_page_says_so(desk: Desk) -> None:
    window = desk.open()
    window.press("1")
    desk.stop()
    window.page.keyboard.press("1")
    window.page.wait_for_function("() => document.getElementById('trouble').textContent.includes('does not answer')")
