import importlib.metadata
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client.generators.pack import GeneratorPack
from common.cli import run
from common.errors import SettingError
from common.prior import PopulationPrior
from simulations.cold_start import ColdStart, ratings_to_reach, worth

SMALL = [
    "--train-people", "150", "--new-people", "12", "--ratings", "12", "--pool", "700", "--unseen", "400",
    "--minimum-people", "50", "--components", "8", "--nodes", "5",
]  # fmt: skip


def plgl(*arguments: str) -> int:
    return run(["simulate", "cold-start", *arguments], importlib.metadata.entry_points(group="plgl.commands"))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from common.cli import main; main()", "simulate", "cold-start", *arguments]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    done = subprocess.run(command("--out", str(folder), "--json", *SMALL), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder.parent / "stdout.json").write_text(done.stdout)
    (folder.parent / "stderr.txt").write_text(done.stderr)
    return folder


def test_the_folder_holds_everything_people_and_scripts_want(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"report.html", "results.json", "results.csv", "settings.json", "curves-percentile.png"} <= names
    assert {"curves-percentile.svg", "sheet-1.png", "prior-eps-1-seed-0"} <= names
    assert not [name for name in names if name.startswith(".nodes")], "no rating of anybody stays behind"


def test_json_prints_the_results_and_nothing_else(finished: Path) -> None:
    printed = json.loads((finished.parent / "stdout.json").read_text())
    assert printed == json.loads((finished / "results.json").read_text())


def test_progress_says_how_long_it_will_take(finished: Path) -> None:
    assert "s left" in (finished.parent / "stderr.txt").read_text()


def test_curves_and_statements_are_complete(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert [curve["epsilon"] for curve in results["curves"]] == [None, None, None, None, 1.0]
    for curve in results["curves"]:
        assert curve["ratings"] == [0, 1, 2, 5, 10, 20, 40, 80]
        for low, middle, high in zip(curve["low"], curve["percentile"], curve["high"], strict=True):
            assert low <= middle <= high
        assert all(value < 0 for value in curve["log_likelihood"])
    claims = {row["method"]: row["statement"] for row in results["privacy"]}
    assert claims["map-prior-eps-1"]["epsilon"] == 1.0
    assert claims["map-prior-eps-1"]["participations"] == 4
    assert claims["map-prior-not-private"]["epsilon"] is None
    assert results["federation"]["rounds"][0]["answered"] == 150


def test_the_prior_in_the_folder_can_be_loaded_for_its_pack_only(finished: Path) -> None:
    pack = GeneratorPack.open("art")
    prior = PopulationPrior.load(finished / "prior-eps-1-seed-0", pack=pack.hash, parameters=9)
    assert prior.privacy.epsilon == 1.0


def test_a_finished_run_is_shown_again_without_working(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "cells").iterdir()}
    assert plgl("--out", str(finished), "--json", *SMALL) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (finished / "cells").iterdir()}


def test_other_settings_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plgl("--out", str(finished), *SMALL, "--seed", "9") == 2
    assert "seed" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = subprocess.Popen(command("--out", str(folder), *SMALL), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "meeting new people" in line:
            break
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 3
    process.stderr.close()
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert any(name.startswith("federation") for name in kept)
    assert not (folder / "results.json").exists()
    assert plgl("--out", str(folder), "--json", *SMALL) == 0
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert kept.items() <= after.items()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--epsilon", "0"], 2, "epsilon=0"),
        (["--epsilon", "-1"], 2, "epsilon=-1"),
        (["--epsilon", "lots"], 2, "lots"),
        (["--train-people", "60"], 2, "minimum_people=100"),
        (["--generator", "nobody"], 2, "nobody"),
        (["--feedback", "smell"], 2, "smell"),
        (["--propose", "guess"], 2, "guess"),
        (["--engine", "steam"], 2, "steam"),
        (["--components", "999"], 2, "components=999"),
        (["--pool", "10"], 2, "pool=10"),
        (["--people", "nowhere:nobody"], 1, "nowhere"),
        (["--shared", "2"], 2, "shared=2"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plgl("--out", str(tmp_path / "out"), *arguments) == code
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_a_broken_plug_in_stops_the_run_cleanly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_people.py").write_text(PLUG_IN)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"
    assert plgl("--out", str(out), "--people", "broken_people:make", *SMALL) == 1
    assert "NaN" in capsys.readouterr().err
    assert not list(out.glob("items-*"))


PLUG_IN = """
import torch
class P:
    def utilities(self, media):
        return torch.full((162, media.shape[0]), float("nan"))
def make(*, count, seed, reference):
    return P()
"""


def curve(method: str, values: list[float]) -> dict[str, Any]:
    return {"method": method, "label": method, "ratings": [0, 5, 10, 20], "percentile": values}


def test_worth_is_read_off_the_curves() -> None:
    without = curve("map-no-prior", [0.5, 0.6, 0.7, 0.8])
    linear = curve("linear-z-no-prior", [0.5, 0.51, 0.52, 0.53])
    rows = worth([linear, without, curve("map-prior-eps-1", [0.65, 0.75, 0.78, 0.8])])
    found = {(row["without"], row["ratings"]): row["equals"] for row in rows}
    assert found[("map-no-prior", 10)] == pytest.approx(18)
    assert found[("map-no-prior", 5)] == pytest.approx(15)
    assert found[("linear-z-no-prior", 5)] is None
    assert ratings_to_reach(without, 0.4) == 0


def test_settings_name_what_is_wrong() -> None:
    with pytest.raises(SettingError, match="nodes=50 must be at most people=40"):
        ColdStart(people=40, nodes=50, minimum_people=10)
    with pytest.raises(SettingError, match="must differ"):
        ColdStart(epsilons=(1.0, 1.0))
    with pytest.raises(SettingError, match="inf needs no asking"):
        ColdStart(epsilons=(math.inf,))
