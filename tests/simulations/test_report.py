import copy
import csv
import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from common.errors import SettingError
from simulations.contact_sheet import draw_sheet
from simulations.curves_plot import ordinal, spread
from simulations.report import ContactSheet, Row, headline, results_text, terminal_table, write_report
from simulations.run_folder import RunFolder

GOLDEN = Path(__file__).parents[1] / "golden" / "cold-start-results.json"


@pytest.fixture
def results() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return values


def a_sheet(n: int = 12, height: int = 24, width: int = 24) -> ContactSheet:
    pictures = np.random.default_rng(0).integers(0, 255, (n, height, width, 3), dtype=np.uint8)
    said = ["liked", "not"] * (n // 2)
    rows = [Row("shown", pictures, said), Row("recommended after 5 ratings", pictures[:3])]
    return ContactSheet(title="likes", person="Person 1 <b>", rows=rows)


def written(path: Path, results: dict[str, Any], sheets: list[ContactSheet] | None = None) -> Path:
    with RunFolder.open(path / "run", "simulate cold-start", {}) as folder:
        return write_report(folder, results, sheets or [])


def test_the_folder_holds_page_plots_sheets_and_numbers(tmp_path: Path, results: dict[str, Any]) -> None:
    page = written(tmp_path, results, [a_sheet()])
    files = {path.name for path in page.parent.iterdir() if not path.name.startswith(".")}
    plots = {f"curves-{name}.{kind}" for name in ("percentile", "likelihood") for kind in ("png", "svg")}
    assert files == {"report.html", "results.json", "results.csv", "settings.json", "sheet-1.png"} | plots
    assert json.loads((page.parent / "results.json").read_text(encoding="utf-8")) == results
    for name in [*(file for file in files if file.endswith(".png"))]:
        with Image.open(page.parent / name) as picture:
            picture.load()
    rows = list(csv.DictReader(io.StringIO((page.parent / "results.csv").read_text(encoding="utf-8"))))
    assert len(rows) == sum(len(curve["ratings"]) for curve in results["curves"])
    assert rows[0] == {
        "method": "linear-none",
        "epsilon": "",
        "ratings": "0",
        "percentile": "0.502",
        "low": "0.4852",
        "high": "0.5174",
        "log_likelihood": "-0.693",
        "ll_low": "-0.705",
        "ll_high": "-0.681",
    }


def test_the_page_holds_every_part_and_names_no_other_place(tmp_path: Path, results: dict[str, Any]) -> None:
    text = written(tmp_path, results, [a_sheet()]).read_text(encoding="utf-8")
    for part in ("curves", "worth", "privacy", "pictures", "likelihood", "federation", "read", "settings"):
        assert f'id="{part}"' in text
    for entry in [*results["worth"], *results["privacy"]]:
        assert entry["text"] in text
    assert headline(results) in text
    assert results["generator"]["hash"] in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"data:[a-z/]+;base64,[A-Za-z0-9+/=]+", "", text))
    assert "<script" not in text


def test_text_from_the_run_is_shown_as_text(tmp_path: Path, results: dict[str, Any]) -> None:
    results["curves"][0]["label"] = "<img src=x> $x^2$ & Co"
    results["generator"]["name"] = "<i>art</i>"
    text = written(tmp_path, results, [a_sheet()]).read_text(encoding="utf-8")
    assert "<img src=x>" not in text
    assert "<i>art" not in text
    assert "Person 1 &lt;b&gt;" in text


def test_the_same_results_give_the_same_bytes(tmp_path: Path, results: dict[str, Any]) -> None:
    first, second = (written(tmp_path / name, results, [a_sheet()]) for name in ("a", "b"))
    for name in ("report.html", "results.json", "curves-percentile.svg", "curves-percentile.png", "sheet-1.png"):
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes(), name


def test_ids_in_the_page_are_unique(tmp_path: Path, results: dict[str, Any]) -> None:
    found = re.findall(r'\bid="([^"]+)"', written(tmp_path, results).read_text(encoding="utf-8"))
    assert len(found) == len(set(found))


def test_values_that_are_missing_leave_a_gap(tmp_path: Path, results: dict[str, Any]) -> None:
    for key in ("percentile", "low", "high", "log_likelihood", "log_likelihood_low", "log_likelihood_high"):
        results["curves"][0][key][-1] = float("nan")
        results["curves"][4][key][3] = None
    page = written(tmp_path, results)
    assert json.loads((page.parent / "results.json").read_text())["curves"][0]["percentile"][-1] is None


def test_few_methods_one_number_of_ratings_and_nothing_else_still_make_a_page(
    tmp_path: Path, results: dict[str, Any]
) -> None:
    curve = {key: value[:1] if isinstance(value, list) else value for key, value in results["curves"][1].items()}
    small = {**results, "curves": [curve], "worth": [], "privacy": [], "seconds": {}, "federation": {}}
    assert "at the 50th percentile" in written(tmp_path, small).read_text(encoding="utf-8")


def test_more_methods_than_colours_still_make_a_page(tmp_path: Path, results: dict[str, Any]) -> None:
    more = [{**results["curves"][0], "method": f"m{n}", "label": f"Method number {n}"} for n in range(9)]
    results["curves"] += more
    assert "Method number 8" in written(tmp_path, results).read_text(encoding="utf-8")


def test_results_that_cannot_be_drawn_are_refused_before_anything_is_written(
    tmp_path: Path, results: dict[str, Any]
) -> None:
    uneven = copy.deepcopy(results)
    uneven["curves"][2]["low"].pop()
    for wrong, words in (
        ({**results, "format": "x"}, "format"),
        ({**results, "curves": []}, "no curve"),
        (uneven, "l"),
    ):
        with pytest.raises(SettingError, match=words):
            written(tmp_path, wrong)
    assert not (tmp_path / "run" / "results.json").exists()


def test_the_headline_says_what_the_numbers_say(results: dict[str, Any]) -> None:
    said = headline(results).replace("\N{NO-BREAK SPACE}", " ")
    assert said == (
        "After 5 ratings, people with the private prior (ε = 1) see pictures at the 86th percentile of their own "
        "taste; without it, that takes 16 ratings."
    )
    results["worth"][1]["equals"] = None
    assert headline(results).endswith("; without it, 80 ratings do not get them there.")
    results["worth"] = []
    assert headline(results).endswith("percentile of their own taste.")
    results["curves"] = results["curves"][:4]
    assert "“Latent map, full prior, not private”" in headline(results)


def test_the_headline_is_about_the_smallest_epsilon(results: dict[str, Any]) -> None:
    results["curves"].append({**results["curves"][4], "method": "eps-half", "epsilon": 0.5})
    assert "0.5" in headline(results)


def test_results_text_is_strict_json() -> None:
    assert json.loads(results_text({"a": float("nan"), "b": np.float64(1.5)})) == {"a": None, "b": 1.5}


def test_the_table_fits_a_terminal_and_holds_every_number(results: dict[str, Any]) -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(terminal_table(results))
    file = console.file
    assert isinstance(file, io.StringIO)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "85–87" in file.getvalue()
    assert "…" not in file.getvalue()


def test_a_sheet_wraps_its_rows_and_keeps_the_shape_of_pictures() -> None:
    sheet = a_sheet(height=20, width=40)
    wide, narrow = (draw_sheet(sheet, columns=columns, cell=64, text=20) for columns in (6, 3))
    assert wide.width == 2 * 28 + 6 * 64 + 5 * 10
    assert narrow.width == 2 * 28 + 3 * 64 + 2 * 10
    assert narrow.height > wide.height
    assert "shown, 12 pictures (6 liked, 6 not)" in sheet.description


@pytest.mark.parametrize(
    "pictures", [np.zeros((2, 4, 4, 3), np.float32), np.zeros((2, 3, 4, 4), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)]
)
def test_pictures_of_another_form_are_refused(pictures: Any) -> None:
    with pytest.raises(SettingError, match="uint8"):
        Row("shown", pictures)


def test_rows_may_be_tuples() -> None:
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    sheet = ContactSheet(
        title="t", person="p", rows=[("a", pictures), ("b", pictures, None), ("c", pictures, ["x", "y"])]
    )
    assert [(row.label, list(row.captions)) for row in sheet.lines] == [("a", []), ("b", []), ("c", ["x", "y"])]
    with pytest.raises(SettingError, match="no rows"):
        ContactSheet(title="t", person="p", rows=[])


def test_captions_must_match_their_pictures() -> None:
    with pytest.raises(SettingError, match="2 pictures and 1 captions"):
        Row("shown", np.zeros((2, 4, 4, 3), np.uint8), ["liked"])


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1st"), (2, "2nd"), (83, "83rd"), (11, "11th"), (12, "12th"), (0, "0th")]
)
def test_ordinals(number: int, text: str) -> None:
    assert ordinal(number) == text


@given(st.lists(st.floats(-10, 10), max_size=8), st.floats(0.01, 3))
def test_labels_keep_their_distance_and_their_order(wanted: list[float], gap: float) -> None:
    places = spread(wanted, gap)
    for low, high in pairwise(sorted(range(len(wanted)), key=lambda index: places[index])):
        assert places[high] - places[low] >= gap - 1e-6
        assert wanted[low] <= wanted[high]
    if all(high - low >= gap for low, high in pairwise(sorted(wanted))):
        np.testing.assert_allclose(places, wanted)
