import io
import json
import math
import re
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from common.errors import SettingError
from common.privacy import accounting
from common.privacy.settings import PrivacySettings
from simulations.lab.figures import figure, styles
from simulations.lab.frames import Frame
from simulations.lab.lab_report import Cell, Line, Panel, Picture, Plot, Report, Section, Table
from simulations.run_folder import RunFolder

EPSILONS = (0.5, 1.0, math.inf)


def lines(count: int, hero: int = 0) -> list[Line]:
    return [
        Line(label=f"method {n} <b>", x=EPSILONS, y=(0.5, 0.6, math.nan), low=(0.4, 0.5, 0.6), high=(0.6, 0.7, 0.8),
             hero=n == hero)
        for n in range(count)
    ]  # fmt: skip


def plot(name: str = "utility", panels: int = 1, count: int = 3) -> Plot:
    return Plot(
        name=name, title="Percentile, a title", x_label="ε", percentile=True, chance=0.5,
        panels=[Panel(title=f"panel {n}", lines=lines(count)) for n in range(panels)],
    )  # fmt: skip


def report(**changed: object) -> Report:
    table = Table(
        title="Values", columns=["method", "value", "why"],
        rows=[["a", Cell("0.8", "0.7–0.9"), "x < y"], ["b", math.nan, "–"], ["c", math.inf, True]], hero_rows=(0,),
    )  # fmt: skip
    folded = Table(title="All values", columns=["method", "value"], rows=[["a", 1_000], ["b", -0.5]], folded=True)
    values: dict[str, object] = {
        "experiment": "test", "title": "A test", "headline": "It is 3 < 4 & true.", "about": "About <i>it</i>.",
        "sections": [Section(title="Part", lead="Lead", parts=[plot(), table, folded, "A paragraph."])],
        "settings": {"epsilons": EPSILONS, "people": 3},
        "frames": {"curves": Frame.of([{"n": 1, "value": math.inf}], ["n"])},
        "statements": {"a release": accounting.statement(PrivacySettings(), 10, 4)},
        "limits": ["A limit."], "seconds": {"cells": 1.5},
    }  # fmt: skip
    return Report(**{**values, **changed})  # type: ignore[arg-type]


def written(tmp_path: Path, **changed: object) -> Path:
    with RunFolder.open(tmp_path / "run", "simulate test", {}) as folder:
        return report(**changed).write(folder)


def test_the_page_holds_every_part_as_text_and_names_no_other_place(tmp_path: Path) -> None:
    page = written(tmp_path)
    text = page.read_text(encoding="utf-8")
    for said in ("It is 3 &lt; 4 &amp; true.", "About &lt;i&gt;it", "Lead", "A paragraph.", "x &lt; y", "A limit.",
                 "0.7–0.9", "a release", "discrete Gaussian", "method 0 &lt;b&gt;"):  # fmt: skip
        assert said in text, said
    assert "<b>\n" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"(https?:)?//[a-z]", text)
    there = {path.name for path in page.parent.iterdir() if not path.name.startswith(".")}
    assert {"results.json", "curves.csv", "utility.svg", "utility.png", "settings.json", "report.html"} <= there
    for name in there - {"report.html"}:
        assert f'href="{name}"' in text
    with Image.open(page.parent / "utility.png") as picture:
        picture.load()


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a"), written(tmp_path / "b")
    for name in ("report.html", "results.json", "utility.svg", "utility.png", "curves.csv"):
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes(), name


def test_a_picture_is_in_the_page_and_beside_it(tmp_path: Path) -> None:
    shown = Picture(name="sheet", image=Image.new("RGB", (40, 20), "#123456"), alt="a <sheet>")
    page = written(tmp_path, sections=[Section(title="Part", parts=[shown])])
    text = page.read_text()
    assert 'src="data:image/jpeg;base64,' in text
    assert 'alt="a &lt;sheet&gt;"' in text
    with Image.open(page.with_name("sheet.png")) as again:
        assert again.size == (40, 20)
        assert again.getpixel((0, 0)) == (0x12, 0x34, 0x56)


def test_results_are_strict_json_with_everything_in_them() -> None:
    found = json.loads(report().to_json())
    assert found["format"] == "plgl-lab-1"
    assert found["settings"]["epsilons"] == [0.5, 1.0, "inf"]
    assert found["frames"]["curves"]["columns"] == {"n": [1], "value": ["inf"]}
    assert found["privacy"]["a release"]["epsilon"] == 1.0


def test_a_terminal_shows_the_headline_and_the_tables_that_are_not_folded() -> None:
    console = Console(file=io.StringIO(), width=120)
    report().print(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "It is 3 < 4 & true." in text
    assert "0.7–0.9" in text
    assert "All values" not in text


def test_names_that_clash_or_cannot_be_files_are_refused() -> None:
    with pytest.raises(SettingError, match="share a name"):
        report(sections=[Section(title="Part", parts=[plot(), plot()])])
    with pytest.raises(SettingError, match="must be small letters"):
        report(frames={"My Table": Frame({})})
    with pytest.raises(SettingError, match="2 columns and a row of 1"):
        Table(title="t", columns=["a", "b"], rows=[["x"]])
    with pytest.raises(SettingError, match="different length"):
        Line(label="a", x=[1, 2], y=[1])
    with pytest.raises(SettingError, match="holds no point"):
        Plot(name="a", title="", x_label="", panels=[Panel(lines=[])])
    with pytest.raises(SettingError, match="log axis cannot show"):
        Plot(name="a", title="", x_label="", x_scale="log", panels=[Panel(lines=[Line(label="a", x=[0], y=[1])])])


@pytest.mark.parametrize("panels", [1, 4, 5])
def test_names_stand_beside_the_last_panel_and_nothing_leaves_the_figure(panels: int) -> None:
    drawn = plot(panels=panels, count=9)
    made = figure(drawn, styles([drawn]))
    made.canvas.draw()
    across = {1: 1, 4: 4, 5: 3}[panels]
    texts = {text.get_text().replace("\n", " ") for text in made.axes[across - 1].texts}
    assert texts == {f"method {n} <b>" for n in range(9) if n != 99}
    width, height = made.canvas.get_width_height()
    for text in made.axes[across - 1].texts:
        box = text.get_window_extent()
        assert box.x1 <= width
        assert box.y1 <= height + 1


def test_single_points_are_named_beside_them_without_touching() -> None:
    points = [Line(label=f"method {n}", x=[0.5 if n < 6 else 1.0], y=[0.5 + 0.001 * n], joined=False) for n in range(8)]
    scatter = Plot(name="a", title="A", x_label="x", x_scale="linear", named=True, panels=[Panel(lines=points)])
    drawn = figure(scatter, styles([scatter]))
    drawn.canvas.draw()
    boxes = [text.get_window_extent() for text in drawn.axes[0].texts]
    assert sorted(text.get_text() for text in drawn.axes[0].texts) == [f"method {n}" for n in range(8)]
    assert not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[at + 1 :])
    inside = drawn.bbox
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)
    assert not drawn.legends


def test_a_panel_without_some_lines_brings_a_legend_for_all() -> None:
    drawn = Plot(name="a", title="", x_label="", panels=[Panel(lines=lines(3)), Panel(lines=lines(1))])
    made = figure(drawn, styles([drawn]))
    assert [text.get_text() for text in made.legends[0].get_texts()] == [f"method {n} <b>" for n in range(3)]


def test_twenty_methods_all_look_different_and_the_hero_comes_first() -> None:
    drawn = Plot(name="a", title="", x_label="", panels=[Panel(lines=lines(20, hero=7))])
    looks = styles([drawn])
    assert len({(look.colour, look.dashes) for look in looks.values()}) == 20
    assert looks["method 7 <b>"].slot == 0
    assert looks["method 7 <b>"].hero
