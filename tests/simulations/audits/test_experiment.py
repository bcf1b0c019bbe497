"""The command: a table that a broken build cannot get past, resumed where it stopped, with an honest exit code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from common.errors import FolderError, SettingError
from simulations.audits import experiment, findings
from simulations.audits.cli import audit
from simulations.audits.experiment import AuditSettings, Found, problems

TINY = dataclasses.replace(
    experiment.quick(AuditSettings()),
    repeats=1,
    parameters=12,
    canaries=80,
    guesses=60,
    members=10,
    trials=40,
    noise_seed=1,
)
ARGUMENTS = [
    "--quick",
    *(
        part
        for name in (
            "repeats=1",
            "parameters=12",
            "canaries=80",
            "guesses=60",
            "members=10",
            "trials=40",
            "noise_seed=1",
        )
        for part in ("--set", name)
    ),
]

app = typer.Typer()
app.command()(audit)


def row(build: str, repeat: int, flagged: bool) -> dict[str, Any]:
    return {"epsilon": 2.0, "build": build, "repeat": repeat, "audit": "noise", "flagged": flagged}


def test_the_command_catches_every_broken_build_and_prints_the_table(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*ARGUMENTS, "--out", str(tmp_path / "run"), "--json"])
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)
    verdicts = results["frames"]["verdicts"]["columns"]
    flagged = {name for name, bad in zip(verdicts["build"], verdicts["flagged"], strict=True) if bad}
    assert flagged == {"no-clip", "quarter-noise", "round-twice", "noise-reused", "weights-trusted"}
    assert "each of 5 broken builds was caught" in results["headline"]
    assert (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "verdicts.csv").read_text().count("\n") == 1 + 6 * 4


def test_a_run_goes_on_where_it_stopped_and_refuses_other_settings(tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, builds=("honest",))
    first, folder = experiment.run(settings, tmp_path / "run", quiet=True)
    folder.close()
    again, folder = experiment.run(settings, tmp_path / "run", quiet=True)
    folder.close()
    assert again.verdicts == first.verdicts
    assert not again.seconds  # nothing was computed
    with pytest.raises(FolderError, match="other settings"):
        experiment.run(dataclasses.replace(settings, draws=20_000), tmp_path / "run", quiet=True)


def test_the_same_noise_seed_gives_the_same_verdicts(tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, builds=("quarter-noise",))
    found = []
    for name in ("a", "b"):
        verdicts, folder = experiment.run(settings, tmp_path / name, quiet=True)
        folder.close()
        found.append(verdicts.verdicts)
    assert found[0] == found[1]


def test_a_missed_broken_build_and_a_flagged_honest_one_are_problems() -> None:
    settings = AuditSettings(builds=("honest", "no-clip"))
    caught = [row("no-clip", at, True) for at in range(20)]
    honest = [row("honest", at, False) for at in range(20)]
    assert problems(settings, honest + caught) == []
    missed = [row("no-clip", at, at > 1) for at in range(20)]
    assert "no-clip was missed in 2 of 20 runs" in problems(settings, honest + missed)[0]
    nearly = [row("no-clip", at, at > 0) for at in range(20)]
    assert problems(settings, honest + nearly) == []  # 19 of 20
    accused = [row("honest", at, at < 3) for at in range(20)]
    assert "flagged in 3 of 20 runs" in problems(settings, accused + caught)[0]
    assert settings.allowed() == 2


def test_the_command_ends_with_one_where_a_broken_build_is_missed(tmp_path: Path) -> None:
    few = [*ARGUMENTS, "--set", "builds=round-twice", "--set", "runs=60", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, few)
    assert done.exit_code == 1
    assert "round-twice was missed in 1 of 1 runs" in done.stderr
    assert "The audit failed" in done.stdout


def test_the_power_table_says_from_what_size_on_a_fault_is_seen(tmp_path: Path) -> None:
    cell = next(cell for cell in experiment._cells(dataclasses.replace(TINY, power_repeats=1)) if "fault" in cell.axes)
    values = experiment.compute(dataclasses.replace(TINY, power_repeats=1), cell, lambda share: None)
    assert {entry["audit"] for entry in values["rows"]} == {"monte-carlo", "one-run", "noise", "membership"}
    power = [{"epsilon": 4.0, "fault": "noise-x0.5", **entry} for entry in values["rows"]]
    (table,) = findings._power(TINY, Found([], power, [], {}))
    assert len(table.rows) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epsilons": (float("inf"),)}, "epsilon=inf claims nothing"),
        ({"epsilons": ()}, "epsilons="),
        ({"builds": ("honest", "shiny")}, "build 'shiny' must be one of honest, no-clip"),
        ({"runs": 4}, "runs=4 cannot show more"),
        ({"epsilons": (30.0,)}, "guesses=150 about canaries=600 cannot show more"),
        ({"draws": 5}, "draws=5"),
        ({"repeats": 0}, "repeats=0"),
        ({"trials": 2}, "trials=2"),
    ],
)
def test_settings_that_could_show_nothing_are_refused_before_anything_runs(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        AuditSettings(**values)
