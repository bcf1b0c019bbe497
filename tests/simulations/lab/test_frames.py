import csv
import io
import json
import math
from pathlib import Path

import pytest

from common.errors import SettingError
from simulations.lab.frames import Frame, parquet_installed, strict_json, write_frames
from simulations.run_folder import RunFolder

ROWS = [
    {"strategy": "dp-em", "epsilon": 0.5, "percentile": 0.8, "why": ""},
    {"strategy": "dp-em", "epsilon": math.inf, "percentile": math.nan, "why": None},
    {"strategy": "a, b", "epsilon": 0.5, "percentile": 1},
]


def frame() -> Frame:
    return Frame.of(ROWS, ("strategy", "epsilon"))


def test_a_frame_is_columns_of_equal_length_and_records() -> None:
    found = frame()
    assert len(found) == 3
    assert found.columns["epsilon"] == [0.5, math.inf, 0.5]
    assert found.measures == ("percentile", "why")
    assert found.records()[2] == {"strategy": "a, b", "epsilon": 0.5, "percentile": 1, "why": None}
    assert found.where(epsilon=0.5).columns["strategy"] == ["dp-em", "a, b"]


def test_csv_keeps_every_value_and_leaves_gaps_empty() -> None:
    rows = list(csv.DictReader(io.StringIO(frame().to_csv())))
    assert [row["strategy"] for row in rows] == ["dp-em", "dp-em", "a, b"]
    assert [float(row["epsilon"]) for row in rows] == [0.5, math.inf, 0.5]
    assert [row["percentile"] for row in rows] == ["0.8", "", "1"]


def test_json_comes_back_as_the_same_table_and_is_strict() -> None:
    text = strict_json(frame().to_json())
    assert "Infinity" not in text
    assert "NaN" not in text
    found = Frame.from_json(json.loads(text))
    assert found.columns["epsilon"] == [0.5, math.inf, 0.5]
    assert found.columns["percentile"] == [0.8, None, 1]
    assert found.keys == ("strategy", "epsilon")


def test_two_rows_of_one_name_columns_of_different_length_and_unknown_keys_are_refused() -> None:
    with pytest.raises(SettingError, match="two rows are named"):
        Frame.of(ROWS, ("strategy",))
    with pytest.raises(SettingError, match="different lengths"):
        Frame({"a": [1], "b": [1, 2]})
    with pytest.raises(SettingError, match="'c' is no column"):
        Frame({"a": [1]}, ("c",))
    with pytest.raises(SettingError, match="cannot be read"):
        Frame.from_json({"columns": {"a": [1]}})


def test_an_empty_frame_still_has_its_columns(tmp_path: Path) -> None:
    assert Frame.of([], ("strategy",)).to_csv() == "strategy\n"


def test_csv_is_always_written_and_parquet_where_it_can_be(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", "test", {}) as folder:
        names = write_frames(folder, {"curves": frame()})
        assert names[0] == "curves.csv"
        assert folder.path("curves.csv").read_text() == frame().to_csv()
        assert (names[1:] == ["curves.parquet"]) == parquet_installed()


def test_parquet_without_pyarrow_says_what_to_install() -> None:
    if parquet_installed():
        pytest.skip("pyarrow is installed")
    with pytest.raises(SettingError, match=r"plgl\[parquet\]"):
        frame().to_parquet()


def test_parquet_is_read_back_with_the_same_columns() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    found = parquet.read_table(pyarrow.BufferReader(frame().to_parquet())).to_pydict()
    assert found["strategy"] == ["dp-em", "dp-em", "a, b"]
    assert found["epsilon"] == [0.5, math.inf, 0.5]
    assert found["percentile"][0] == 0.8
    assert math.isnan(found["percentile"][1])
