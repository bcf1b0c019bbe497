"""The report in a real browser, with every request it makes on record."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulations.report import ContactSheet, Row, headline, write_report
from simulations.run_folder import RunFolder

GOLDEN = Path(__file__).parents[1] / "golden" / "cold-start-results.json"


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return values


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, results: dict[str, Any]) -> Path:
    pictures = np.random.default_rng(0).integers(0, 255, (12, 24, 24, 3), dtype=np.uint8)
    sheet = ContactSheet(title="likes", person="Person 1", rows=[Row("shown", pictures, ["liked", "not"] * 6)])
    with RunFolder.open(tmp_path_factory.mktemp("report") / "run", "simulate cold-start", {}) as folder:
        return write_report(folder, results, [sheet])


class Visit:
    """A page that was opened, with the requests and complaints it made."""

    def __init__(self, browser: Any, file: Path, width: int, scheme: str = "light") -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(file.as_uri())
        self.page.wait_for_load_state("networkidle")

    def ask(self, expression: str) -> Any:
        return self.page.evaluate(expression)


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_whole_without_asking_the_network_for_anything(
    browser: Any, page_file: Path, width: int, scheme: str
) -> None:
    visit = Visit(browser, page_file, width, scheme)
    asked = [url for url in visit.requests if not url.startswith("data:")]
    assert asked == [page_file.as_uri()]
    assert visit.complaints == []
    assert visit.ask("document.documentElement.scrollWidth") <= width
    sizes = visit.ask("Promise.all([...document.images].map(async i => {await i.decode(); return i.naturalWidth}))")
    assert len(sizes) == 1
    assert all(size > 0 for size in sizes)
    assert visit.ask("[...document.querySelectorAll('figure svg')].filter(s => s.clientWidth > 200).length") == 2
    visit.page.close()


def test_it_says_the_finding_and_shows_every_table(browser: Any, page_file: Path, results: dict[str, Any]) -> None:
    visit = Visit(browser, page_file, 1280)
    assert "plgl" in visit.page.title()
    assert visit.page.inner_text("h1") == headline(results)
    curves = results["curves"]
    assert visit.page.locator("#curves tbody tr").count() == len(curves)
    assert visit.page.locator("#curves tbody td").count() == sum(len(curve["ratings"]) for curve in curves)
    assert visit.page.locator("#privacy article").count() == len(results["privacy"])
    assert visit.page.locator("#federation tbody tr").count() == len(results["federation"]["rounds"])
    assert visit.page.locator("details[open]").count() == 0
    visit.page.click("summary:has-text('Settings')")
    assert visit.page.get_by_text("ratings_per_person").is_visible()
    visit.page.close()


def test_it_can_be_read_without_seeing(browser: Any, page_file: Path) -> None:
    visit = Visit(browser, page_file, 1280)
    assert visit.ask("[...document.images].every(i => i.alt.length > 20)")
    assert visit.ask("[...document.querySelectorAll('th')].every(h => h.scope)")
    assert visit.ask(
        "[...document.querySelectorAll('figure svg:not(.swatch)')].every(s => s.getAttribute('aria-label'))"
    )
    assert visit.ask("document.documentElement.lang") == "en"
    visit.page.close()


def test_light_and_dark_differ_and_both_can_be_read(browser: Any, page_file: Path) -> None:
    contrast = """() => {
        const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255)
            .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126*r + .7152*g + .0722*b };
        const ground = light(getComputedStyle(document.querySelector('.card')).backgroundColor);
        return [...document.querySelectorAll('h1, .under, .numbers small, .card .wide svg text')].map(e => {
            const s = getComputedStyle(e); const l = light(e.tagName === 'text' ? s.fill : s.color);
            return (Math.max(l, ground) + .05) / (Math.min(l, ground) + .05) }) }"""
    grounds = []
    for scheme in ("light", "dark"):
        visit = Visit(browser, page_file, 1280, scheme)
        grounds.append(visit.ask("getComputedStyle(document.body).backgroundColor"))
        assert min(visit.ask(contrast)) >= 4.5
        visit.page.close()
    assert grounds[0] != grounds[1]
