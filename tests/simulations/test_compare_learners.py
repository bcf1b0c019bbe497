import csv
import importlib.metadata
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import scipy.stats  # type: ignore[import-untyped]
import torch

from client.generators.pack import GeneratorPack
from common.cli import run
from common.errors import SettingError
from simulations.compare_learners import CompareLearners, answers_to, band, differences, runnable
from simulations.players import LEARNERS, learner

SMALL = ["--people", "4", "--answers", "2,6", "--law", "1000", "--train-prior", "--train-people", "120"]
QUICK = ["--learners", "random,session-prior", "--learners", "cma-es"]


def plgl(*arguments: str) -> int:
    return run(["simulate", "compare-learners", *arguments], importlib.metadata.entry_points(group="plgl.commands"))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from common.cli import main; main()", "simulate", "compare-learners", *arguments]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed with -9 after its first cell, and finished by the same command."""
    folder = tmp_path_factory.mktemp("run") / "out"
    process = subprocess.Popen(command("--out", str(folder), *SMALL, *QUICK), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(folder.glob("cells/random-*.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was still working"
    assert not (folder / "results.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    done = subprocess.run(
        command("--out", str(folder), "--json", *SMALL, *QUICK), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}.items()
    (folder.parent / "stdout.json").write_text(done.stdout)
    return folder


def loaded(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))


def test_the_folder_holds_everything_people_and_scripts_want(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"report.html", "results.json", "results.csv", "settings.json"} <= names
    assert {"utility.png", "utility.svg", "percentile.png", "percentile.svg"} <= names
    assert not [name for name in names if name.startswith(".nodes")], "no rating of anybody stays behind"
    page = (finished / "report.html").read_text()
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_json_prints_the_results_and_nothing_else(finished: Path) -> None:
    assert json.loads((finished.parent / "stdout.json").read_text()) == loaded(finished)


def test_results_are_complete_and_agree_with_their_cells(finished: Path) -> None:
    results = loaded(finished)
    assert [curve["method"] for curve in results["curves"]] == ["random", "session-prior", "cma-es"]
    for curve in results["curves"]:
        (cell,) = [json.loads(path.read_text()) for path in finished.glob(f"cells/{curve['method']}-art-*.json")]
        assert cell["kinds"] == ["weighted", "ideal", "two-peaked", "target"]
        assert curve["ratings"] == [2, 6]
        for at in range(2):
            everybody = cell["verdicts"][at]["utility"]
            assert curve["utility"][at] == pytest.approx(sum(everybody) / 4, abs=1e-5)
            by_kind = [part["utility"][at] for part in curve["by_kind"]]
            assert by_kind == pytest.approx(everybody, abs=1e-5)
            assert curve["utility_low"][at] < curve["utility"][at] < curve["utility_high"][at]
            assert 0 <= curve["percentile"][at] <= 1
    assert {row["learner"] for row in results["differences"]} == {"session-prior"}


def test_the_table_has_one_line_for_each_learner_group_and_number_of_answers(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "results.csv").read_text().splitlines()))
    assert len(rows) == 3 * 2 * (1 + 4 + 1)
    assert {row["group"] for row in rows} >= {"everybody", "kind target", "generator art"}


def test_a_finished_run_takes_another_learner_and_repeats_nothing(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "cells").iterdir()}
    yardsticks = {path: path.stat().st_mtime_ns for path in finished.glob("yardstick-*")}
    assert plgl("--out", str(finished), "--json", *SMALL, "--learners", "random,seed-logistic") == 0
    after = {path: path.stat().st_mtime_ns for path in (finished / "cells").iterdir()}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
    assert yardsticks == {path: path.stat().st_mtime_ns for path in finished.glob("yardstick-*")}


def test_other_settings_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plgl("--out", str(finished), *SMALL, *QUICK, "--seed", "9") == 2
    assert "seed" in capsys.readouterr().err
    assert plgl("--out", str(finished), *SMALL, *QUICK, "--surprise", "0.3") == 2
    assert "surprise is 0.0 there, 0.3 here" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--people", "0"], "people=0"),
        (["--answers", "10,5"], "answers=(10, 5)"),
        (["--answers", "ten"], "answers='ten'"),
        (["--answers", "0"], "above 0"),
        (["--law", "10"], "law=10"),
        (["--surprise", "2"], "surprise=2"),
        (["--learners", "nobody"], "learner 'nobody' is unknown"),
        (["--kinds", "martians"], "martians"),
        (["--generator", "nothing"], "nothing"),
        (["--generator", "art,art"], "different packs"),
        (["--learners", "session-prior"], "needs a prior"),
        (["--train-prior", "--epsilon", "0"], "epsilon=0"),
        (["--repeats", "0"], "repeats=0"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plgl("--out", str(tmp_path / "out"), *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_learner_whose_library_is_missing_is_left_out_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botorch", None)  # as if it were not installed
    entries, skipped = runnable(["session", "pairwise-gp"], with_prior=False)
    assert [entry.name for entry in entries] == ["session"]
    assert skipped == ['pairwise-gp is left out: it needs botorch; run: pip install "plgl[bayesopt]"']
    with pytest.raises(SettingError, match="no learner is left"):
        runnable(["noisy-ei"], with_prior=False)


def test_all_names_every_learner() -> None:
    entries, skipped = runnable(["all"], with_prior=True)
    assert {entry.name for entry in entries} | {line.split()[0] for line in skipped} == set(LEARNERS)
    quick, _ = runnable([], with_prior=False)
    assert "session" in [entry.name for entry in quick]
    assert "session-prior" not in [entry.name for entry in quick]


def cell(utility: list[float], percentile: list[float]) -> dict[str, Any]:
    return {"kinds": ["weighted"] * len(utility), "verdicts": [{"utility": utility, "percentile": percentile}]}


def test_differences_are_taken_person_by_person_from_the_best_other() -> None:
    ours, good, bad = learner("session"), learner("cma-es"), learner("random")
    cells = {
        ours.name: [cell([2.0, 1.0, 3.0], [0.9, 0.8, 0.9])],
        good.name: [cell([1.0, 0.5, 2.0], [0.8, 0.7, 0.6])],
        bad.name: [cell([0.0, 0.0, 0.0], [0.5, 0.5, 0.5])],
    }
    (row,) = differences([bad, ours, good], cells, [10])
    assert (row["learner"], row["best"], row["answers"]) == ("session", "cma-es", 10)
    gaps = [1.0, 0.5, 1.0]
    mean = sum(gaps) / 3
    half = 1.96 * math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / 2 / 3)
    assert row["utility"]["mean"] == pytest.approx(mean, abs=1e-6)
    assert row["utility"]["low"] == pytest.approx(mean - half, abs=1e-6)
    assert row["percentile"]["mean"] == pytest.approx(0.5 / 3, abs=1e-6)
    assert row["equals_text"] == "> 10", "the others never get there"


def test_a_band_covers_the_mean_as_often_as_it_says() -> None:
    drawn = torch.randn(2_000, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    held = sum(low <= 0 <= high for _, low, high in (band(row) for row in drawn))
    assert scipy.stats.binomtest(held, 2_000, 0.943).pvalue > 1e-4  # normal quantiles with 39 degrees of freedom


def test_answers_to_a_level_are_read_off_the_curve() -> None:
    assert answers_to([10, 20], [0.8, 1.0], 0.9) == (15.0, "15")
    assert answers_to([10, 20], [0.95, 1.0], 0.9) == (10.0, "<= 10")
    assert answers_to([10, 20], [0.5, 0.6], 0.9) == (None, "> 20")


def test_the_default_command_is_documented_to_be_short() -> None:
    assert CompareLearners().people <= 8
    assert GeneratorPack.open("art").latents.dimension < 64
