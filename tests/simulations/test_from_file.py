import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from common.errors import FolderError, SettingError
from simulations.choice_example import example, write_example
from simulations.choice_file import ChoiceFile, read
from simulations.from_file import Experiment, FromFile, methods, standardised
from simulations.from_file_cli import from_file
from simulations.from_file_report import report
from simulations.run_folder import RunFolder

app = typer.Typer()
app.command()(from_file)
SETTINGS = FromFile(epsilons=(2.0,), repeats=1, points=(0, 1, 4), minimum_people=50)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    there = tmp_path_factory.mktemp("answers") / "plans.csv"
    write_example(there, example(people=300, questions=8))
    return there


@pytest.fixture(scope="module")
def answers(path: Path) -> ChoiceFile:
    return read(path)


def run(settings: FromFile, answers: ChoiceFile, folder: Path) -> tuple[Experiment, list[dict[str, Any]]]:
    with RunFolder.open(folder, "simulate from-file", {"seed": settings.seed}) as opened:
        experiment = Experiment(settings, answers, opened, quiet=True)
        return experiment, experiment.run()


def means(cells: list[dict[str, Any]], measure: str = "right") -> dict[str, list[float]]:
    return {cell["method"]: np.mean(cell[measure], axis=0).tolist() for cell in cells}


@pytest.fixture(scope="module")
def done(answers: ChoiceFile, tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, list[dict[str, Any]]]:
    return run(SETTINGS, answers, tmp_path_factory.mktemp("run") / "out")


def test_a_private_prior_foretells_new_people_better_than_their_own_answers(
    done: tuple[Experiment, list[dict[str, Any]]],
) -> None:
    experiment, cells = done
    right, likelihood = means(cells), means(cells, "log_likelihood")
    assert len(cells[0]["right"]) == 75  # a quarter of 300 people
    assert experiment.guessing == pytest.approx(1 / 3)
    assert abs(right["own-only"][0] - 1 / 3) < 0.1
    assert right["own-only"][2] > right["own-only"][0] + 0.1
    for point, gain in enumerate((0.1, 0.08, 0.03)):  # six standard deviations of the noise below what is usual
        assert right["eps-2"][point] > right["own-only"][point] + gain
        assert likelihood["eps-2"][point] > likelihood["own-only"][point]
        assert likelihood["not-private"][point] > likelihood["own-only"][point]
    assert likelihood["not-private"][2] > likelihood["mean-only"][2]  # second moments help once answers come in


def test_the_report_says_what_was_promised_and_what_was_found(
    done: tuple[Experiment, list[dict[str, Any]]],
) -> None:
    experiment, cells = done
    found = report(experiment, cells)
    curves = found.frames["curves"]
    assert curves.keys == ("method", "answers")
    assert len(curves) == 4 * 3
    row = next(row for row in curves.records() if (row["method"], row["answers"]) == ("eps-2", 1))
    assert row["right"] == pytest.approx(means(cells)["eps-2"][1])
    assert row["right_low"] < row["right"] < row["right_high"]
    private = found.statements["private, ε = 2"]
    assert (private.epsilon, private.participations) == (2.0, 4)
    assert math.isinf(found.statements["population mean, not private"].epsilon)
    assert "own answers only" not in found.statements
    assert f"{100 * row['right']:.0f} % of later answers are foretold by private, ε = 2" in found.headline
    assert found.settings["sha256"] == experiment.file.sha256


def test_the_client_code_and_the_batched_engine_learn_the_same(
    done: tuple[Experiment, list[dict[str, Any]]], answers: ChoiceFile, tmp_path: Path
) -> None:
    direct = dataclasses.replace(SETTINGS, engine="direct", epsilons=())
    _, cells = run(direct, answers, tmp_path / "out")
    batched = {cell["method"]: cell for cell in done[1]}
    assert [cell["method"] for cell in cells] == ["own-only", "mean-only", "not-private"]
    for cell in cells:
        there = np.array(batched[cell["method"]]["log_likelihood"])
        assert np.abs(np.array(cell["log_likelihood"]) - there).max() < 1e-3  # rounding to integers of either


def test_what_is_finished_is_used_again(answers: ChoiceFile, tmp_path: Path) -> None:
    quick = dataclasses.replace(SETTINGS, epsilons=(), points=(0, 1))
    _, cells = run(quick, answers, tmp_path / "out")
    kept = tmp_path / "out" / "cells" / "not-private-seed-0.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "mark": 1}))
    _, again = run(quick, answers, tmp_path / "out")
    assert again[2].pop("mark") == 1
    assert again == cells


def test_features_are_standardised_over_the_items_and_constant_ones_left_out(answers: ChoiceFile) -> None:
    features = standardised(answers)
    assert features.shape == (len(answers.table), 6)
    assert torch.allclose(features[:, :-1].mean(0), torch.zeros(5).double(), atol=1e-12)
    assert torch.allclose(features[:, :-1].square().mean(0), torch.ones(5).double())
    assert features[:, -1].tolist() == [1.0] * len(features)
    table = np.concatenate([answers.table, np.full((len(answers.table), 1), 7.0)], axis=1)
    wider = ChoiceFile(answers.path, "", (*answers.features, "same"), table, answers.people, answers.answers)
    assert torch.allclose(standardised(wider), features)


def test_points_fit_the_file_where_nobody_asks_for_any(answers: ChoiceFile) -> None:
    assert Experiment(FromFile(repeats=1), answers, None).points == (0, 1, 2, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": (0, 8)}, r"gave more than 8 answers.*use fewer points"),
        ({"minimum_people": 226}, r"225 people to learn from are fewer than minimum_people=226"),
        ({"points": (1, 0)}, "must be rising"),
        ({"epsilons": (1.0, 1.0)}, "must differ"),
        ({"epsilons": (math.inf,)}, "always trained"),
        ({"epsilons": (0.0,)}, "epsilon=0.0 must be > 0"),
        ({"new_share": 1.0}, "new_share=1.0"),
        ({"engine": "warp"}, "engine='warp' must be one of"),
        ({"spread": 0.0}, "spread=0.0"),
        ({"step": 0.0}, "step=0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_computed(
    answers: ChoiceFile, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        Experiment(FromFile(**changes), answers, None)


def test_noise_that_drowns_everything_leaves_a_valid_prior(tmp_path: Path) -> None:
    write_example(tmp_path / "few.csv", example(people=12, questions=1))
    drowned = FromFile(
        epsilons=(0.01,), norm_bound=1e5, participations=12, repeats=1, points=(0,), minimum_people=5, most_new=3
    )
    _, cells = run(drowned, read(tmp_path / "few.csv"), tmp_path / "out")
    private = cells[-1]
    assert private["method"] == "eps-0.01"
    assert private["privacy"]["epsilon"] <= 0.01
    assert np.isfinite(private["log_likelihood"]).all()


def test_names_of_methods_follow_the_budgets() -> None:
    assert [method.name for method in methods(FromFile(epsilons=(0.5, 4.0)))][3:] == ["eps-0.5", "eps-4"]


def test_the_command_writes_a_folder_with_everything(path: Path, tmp_path: Path) -> None:
    arguments = [str(path), "--out", str(tmp_path / "out"), "--repeats", "1", "--points", "0,1", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed == json.loads((tmp_path / "out" / "results.json").read_text())
    assert printed["command"] == "plgl simulate from-file"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "one enrolled person: all ratings, all rounds" in page
    assert (tmp_path / "out" / "curves.csv").read_text().startswith("method,answers,epsilon,right")
    other = CliRunner().invoke(app, [*arguments, "--delta", "1e-5"])
    assert isinstance(other.exception, FolderError)
    assert "delta is 1e-06 there, 1e-05 here" in str(other.exception)


def test_a_refused_file_leaves_nothing_behind(path: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(path.read_text().replace("person-3,", ",", 1))
    for arguments in ([str(bad)], [str(path), "--points", "0,99"], [str(path), "--points", "0,x"], []):
        result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
        assert isinstance(result.exception, SettingError)
    assert not (tmp_path / "out").exists()


def test_the_command_writes_an_example_that_it_can_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--example", str(tmp_path / "plans.csv")])
    assert result.exit_code == 0
    assert "plgl simulate from-file" in result.stdout
    assert len(read(tmp_path / "plans.csv").people) == 600
