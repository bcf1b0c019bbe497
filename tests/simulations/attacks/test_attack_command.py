"""The command: all attacks in a small version, resumed, with settings by name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from common.errors import SettingError
from simulations.attacks import experiment
from simulations.attacks.cli import _chosen, attack

app = typer.Typer()
app.command()(attack)


def test_all_attacks_run_and_their_controls_work(tmp_path: Path) -> None:
    small = ["--set", "reconstruction.ratings=1", "--set", "poisoning.strategies=fedavg-logistic"]
    arguments = ["--quick", "--out", str(tmp_path / "run"), "--json", *small]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)
    assert set(results["frames"]) == {"reconstruction", "membership", "poisoning", "sybils"}
    assert results["headline"].startswith("Without protection: from one bare update after 1 rating,")
    for name in results["frames"]:
        assert (tmp_path / "run" / f"{name}.svg").exists()
    again = CliRunner().invoke(app, arguments)
    assert json.loads(again.stdout)["frames"] == results["frames"]
    assert not json.loads(again.stdout)["seconds"]


def test_a_control_that_fails_is_said_and_ends_with_one(tmp_path: Path) -> None:
    arguments = ["--kind", "reconstruction", "--quick", "--set", "ratings=40", "--set", "cohorts=1"]
    arguments += ["--set", "strategies=fedavg-logistic", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "failed without protection too" in done.stderr


def test_without_its_control_an_attack_says_that_it_has_none() -> None:
    rows = {"membership": [{"people": 20, "epsilon": 1.0, "auc": 0.5}]}
    assert experiment.judge(rows) == ({"membership": "no control: add inf to epsilons"}, [])


def test_settings_are_named_by_their_attack() -> None:
    chosen = _chosen(["poisoning,sybils"], ["poisoning.people=50,100", "sybils.honest=0.7", "ground.seed=3"], False)
    assert chosen.kinds == ("poisoning", "sybils")
    assert (chosen.poisoning.people, chosen.sybils.honest, chosen.ground.seed) == ((50, 100), 0.7, 3)
    alone = _chosen(["membership"], ["epsilons=inf,2"], False)
    assert alone.membership.epsilons == (math.inf, 2.0)


@pytest.mark.parametrize(
    ("kinds", "assignments", "message"),
    [
        (["bribery"], [], "kind='bribery' must be one of reconstruction"),
        (["all"], ["people=3"], "must name its attack"),
        (["all"], ["bribery.people=3"], "'bribery' must be ground or one of"),
        (["sybils"], ["sybil=3"], "sybil"),
    ],
)
def test_unknown_names_are_refused(kinds: list[str], assignments: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        _chosen(kinds, assignments, False)
