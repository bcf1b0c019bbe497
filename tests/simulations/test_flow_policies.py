import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.flows.comparison import METHODS as ALL
from common.errors import SettingError, StorageError
from simulations.cli import app
from simulations.flow_policies import METHODS

SMALL = ("flows", "--methods", "base", "--picks", "1", "--samples", "16", "--seeds", "1")


def call(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_rows_are_printed_and_written(tmp_path: Path) -> None:
    found = json.loads(call(*SMALL, "--out", tmp_path / "rows.csv", "--json"))["rows"]
    assert [row["seed"] for row in found] == [0]
    with (tmp_path / "rows.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [float(row["loved"]) for row in written] == [row["loved"] for row in found]
    said = call(*SMALL)
    assert "angles" in said
    assert f"{100 * found[0]['loved']:.0f} %" in said


def test_every_method_runs_without_being_named() -> None:
    assert tuple(METHODS.split(",")) == tuple(ALL)


def test_what_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="magic"):
        call("flows", "--methods", "magic")
    with pytest.raises(SettingError, match="like="):
        call("flows", "--like", "cats")
    with pytest.raises(StorageError, match="no folder"):
        call(*SMALL, "--out", tmp_path / "none" / "rows.csv")
