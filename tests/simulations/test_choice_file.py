import csv
from pathlib import Path

import pytest
import torch

from client.ratings import Best, Choice, Kind, Like, Rating, Stars, encode
from common.errors import FolderError, SettingError
from simulations.choice_example import example, write_example
from simulations.choice_file import read

HEAD = ["person", "question", "kind", "chosen", "value", "feature.price", "feature.green"]
GOOD = [
    ["ann", "1", "best", "1", "", "3.2", "0"],
    ["ann", "1", "best", "0", "", "2.9", "1"],
    ["bob", "1", "best", "0", "", "3.2", "0"],
    ["bob", "1", "best", "1", "", "2.9", "1"],
]


def written(path: Path, rows: list[list[str]], head: list[str] = HEAD) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def test_every_kind_is_read_as_the_client_stores_it(tmp_path: Path) -> None:
    a, b, c = ["1", "0"], ["2", "0"], ["3", "1"]
    rows = [
        ["ann", "q1", "best", "0", "", *a],
        ["ann", "q2", "choice", "0", "", *b],
        ["ann", "q1", "best", "0", "", *b],
        ["ann", "q1", "best", "1", "", *c],
        ["ann", "q2", "choice", "true", "", *c],
        ["ann", "", "like", "", "no", *b],
        ["ann", "", "stars", "", "4", *a],
        ["ann", "q3", "worst", "1", "", *c],
        ["ann", "q3", "worst", "0", "", *a],
        ["ann", "q4", "choice", "1", "", *c],
        ["ann", "q4", "choice", "1", "", *a],
        ["ann", "q5", "choice", "0", "", *c],
        ["ann", "q5", "choice", "0", "", *a],
        ["bob", "", "like", "", "1", *a],
    ]
    found = read(written(tmp_path / "a.csv", rows))
    assert found.features == ("price", "green")
    assert found.table.tolist() == [[1, 0], [2, 0], [3, 1]]
    assert found.people == ("ann", "bob")
    ratings: list[Rating] = [
        Best((0, 1, 2), 2),
        Choice(1, 2, "b"),
        Like(1, False),
        Stars(0, 4),
        Best((2, 0), 0, worst=True),
        Choice(2, 0, "both"),
        Choice(2, 0, "neither"),
    ]
    kinds, values, items = encode(ratings)
    assert found.answers.kind[0].tolist() == kinds
    assert found.answers.value[0].tolist() == values
    assert found.answers.items[0].tolist() == items
    assert found.given.tolist() == [7, 1]
    assert found.answers.weight[1].tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_answers_are_in_their_order_and_questions_need_not_be_together(tmp_path: Path) -> None:
    head = ["person", "question", "chosen", "order", "item"]
    rows = [
        ["ann", "1", "1", "9", "tea"],
        ["ann", "2", "0", "3", "milk"],
        ["ann", "1", "0", "9", "milk"],
        ["bob", "1", "1", "1", "tea"],
        ["ann", "2", "1", "3", "tea"],
        ["bob", "1", "0", "1", "rum"],
    ]
    found = read(written(tmp_path / "a.csv", rows, head))
    assert found.features == ("milk", "rum", "tea")
    assert torch.equal(torch.from_numpy(found.table), torch.eye(3).double())
    assert bool((found.answers.kind == Kind.BEST).all())
    assert found.answers.items[0].tolist() == [[0, 2], [2, 0]]
    assert found.answers.value[0].tolist() == [1, 0]


def test_the_example_is_the_same_from_csv_and_from_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = example(people=20, questions=4)
    for name in ("a.csv", "a.parquet"):
        write_example(tmp_path / name, frame)
    text, binary = read(tmp_path / "a.csv"), read(tmp_path / "a.parquet")
    assert text.features == binary.features == ("price", "gigabytes", "months", "fast", "network")
    assert text.people == binary.people
    assert (text.table == binary.table).all()
    for one, other in zip(
        (text.answers.kind, text.answers.value, text.answers.items),
        (binary.answers.kind, binary.answers.value, binary.answers.items),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert text.given.tolist() == [4] * 20
    assert text.sha256 != binary.sha256
    with pytest.raises(FolderError, match="there already"):
        write_example(tmp_path / "a.csv", frame)
    with pytest.raises(SettingError, match=r"must end in .csv or .parquet"):
        write_example(tmp_path / "a.xlsx", frame)


def changed(row: int, column: str, value: str) -> list[list[str]]:
    rows = [list(fields) for fields in GOOD]
    rows[row][HEAD.index(column)] = value
    return rows


def without(column: str) -> tuple[list[list[str]], list[str]]:
    at = HEAD.index(column)
    return [fields[:at] + fields[at + 1 :] for fields in GOOD], HEAD[:at] + HEAD[at + 1 :]


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        pytest.param(*without("person"), "column person is missing; the columns are question", id="no person"),
        pytest.param(*without("chosen"), "column chosen is missing; best, worst and choice need it", id="no chosen"),
        pytest.param(*without("question"), "column question is missing", id="no question"),
        pytest.param([["ann"], ["bob"]], ["person"], "neither an item column nor feature. columns", id="no items"),
        pytest.param(GOOD, [*HEAD[:-1], "green"], "unknown column 'green'; features are named feature.NAME", id="name"),
        pytest.param(GOOD, [*HEAD[:-1], "person"], "two columns named 'person'", id="same name"),
        pytest.param([], HEAD, "no rows below the header", id="no rows"),
        pytest.param([*GOOD, ["bob", "2"]], HEAD, "line 6 has 2 fields, the header 7", id="short line"),
        pytest.param(changed(1, "kind", "superlike"), HEAD, "unknown kind 'superlike' in line 3; use one", id="kind"),
        pytest.param(changed(1, "feature.green", "nan"), HEAD, "feature.green is NaN or infinite in line 3", id="nan"),
        pytest.param(changed(1, "feature.green", "inf"), HEAD, "feature.green is NaN or infinite in line 3", id="inf"),
        pytest.param(changed(1, "feature.green", "red"), HEAD, "holds 'red' in line 3.*columns of 0 and 1", id="text"),
        pytest.param(changed(0, "person", " "), HEAD, "column person is empty in line 2", id="nobody"),
        pytest.param(changed(0, "question", ""), HEAD, "column question is empty in line 2", id="nothing asked"),
        pytest.param(
            changed(0, "chosen", "0"), HEAD, r"question 1 of person ann \(line 2\) has nothing chosen", id="no"
        ),
        pytest.param(changed(1, "chosen", "1"), HEAD, "has more than one row chosen", id="two chosen"),
        pytest.param(changed(1, "chosen", "2"), HEAD, "column chosen holds '2' in line 3; write 1 or 0", id="chosen 2"),
        pytest.param(changed(1, "question", "2"), HEAD, "has one row; best and worst need at least two", id="alone"),
        pytest.param(changed(1, "kind", "worst"), HEAD, "mixes kinds; a question has one", id="mixed"),
        pytest.param(GOOD[:2], HEAD, "only one person answered", id="one person"),
        pytest.param([[*r[:5], "1", "1"] for r in GOOD], HEAD, "all items have the same features", id="same items"),
        pytest.param(
            [["ann", "", "stars", "", "5", "1", "0"], ["bob", "", "stars", "", "5", "2", "0"]],
            HEAD,
            "all 2 answers are 5; nothing tells one item from another",
            id="all equal",
        ),
        pytest.param(
            [["ann", "", "stars", "", "5.5", "1", "0"], ["bob", "", "stars", "", "5", "2", "0"]],
            HEAD,
            "holds '5.5' stars in line 2; write 1, 2, 3, 4 or 5",
            id="half a star",
        ),
        pytest.param(
            [["ann", "1", "choice", "1", "", str(x), "0"] for x in range(3)],
            HEAD,
            "must have two rows, A and B; use best for more",
            id="three-way choice",
        ),
        pytest.param(
            [[*fields, "4"] for fields in GOOD],
            [*HEAD, "alternatives"],
            "says 4 alternatives and has 2 rows; add the missing rows",
            id="more alternatives than rows",
        ),
        pytest.param(
            [["ann", "", "like", "", "1", "1", "x"], ["bob", "", "like", "", "0", "2", "x"]],
            [*HEAD[:-1], "item"],
            "item x has other features in line 3 than in line 2",
            id="item differs",
        ),
        pytest.param(
            [[str(x), "like", "1", str(x)] for x in range(129)],
            ["person", "kind", "value", "item"],
            "129 items without features are more than 128",
            id="too many items",
        ),
    ],
)
def test_a_bad_file_is_refused_with_the_place_and_the_next_step(
    tmp_path: Path, rows: list[list[str]], head: list[str], message: str
) -> None:
    with pytest.raises(SettingError, match=message) as refused:
        read(written(tmp_path / "answers.csv", rows, head))
    assert "answers.csv" in str(refused.value)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="No such file"):
        read(tmp_path / "none.csv")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(SettingError, match=r"ends in '.txt'; give a .csv or .parquet file"):
        read(tmp_path / "a.txt")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(SettingError, match=r"empty.csv is empty"):
        read(tmp_path / "empty.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00person")
    with pytest.raises(SettingError, match="cannot read"):
        read(tmp_path / "bytes.csv")


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(SettingError, match="cannot read"):
        read(tmp_path / "a.parquet")
