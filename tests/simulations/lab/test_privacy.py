import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from common.errors import FolderError, SettingError
from simulations.cli import app
from simulations.lab import compare_runs, privacy
from simulations.lab.bands import Band
from simulations.lab.lab_run import LabRun
from simulations.lab.privacy import PrivacyGrid
from simulations.lab.privacy_findings import Found, Point, why
from simulations.lab.trial import carry_out, takes_budget
from simulations.protection import MECHANISMS
from simulations.world import World

SMALL: dict[str, Any] = {
    "generator": "abstract", "components": 4, "pool": 100, "unseen": 150, "ratings": 8, "new_people": 20,
    "answers": (0, 4), "look": 4, "strategies": ("dp-em", "fedavg-logistic", "local-only"),
    "epsilons": (1.0, math.inf), "people": (60, 120), "repeats": 2,
}  # fmt: skip


def grid(**changed: Any) -> PrivacyGrid:
    return PrivacyGrid(**{**SMALL, **changed})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LabRun:
    return privacy.run(grid(), tmp_path_factory.mktemp("privacy") / "run", quiet=True)


def test_the_tables_hold_every_point_of_the_grid_and_agree_with_each_other(run: LabRun) -> None:
    curves, cells = run.records("curves"), run.records("cells")
    points = 2 * 2 * 2  # people, epsilons or one, answers
    assert len(curves) == points + points + points // 2
    assert len(cells) == 2 * len(curves)
    for row in curves:
        same = [
            c["percentile"]
            for c in cells
            if all(c[key] == row[key] for key in ("strategy", "people", "epsilon", "answers"))
        ]
        assert row["percentile"] == pytest.approx(np.mean(same), abs=1e-9)
        assert 0 <= row["low"] <= row["percentile"] <= row["high"] <= 1
    assert isinstance(run.frame("curves")["percentile"], list)


def test_differences_and_losses_are_those_of_the_curves(run: LabRun) -> None:
    def percentile(strategy: str, people: int, epsilon: float, answers: int) -> float:
        found = [
            row["percentile"] for row in run.records("curves")
            if (row["strategy"], row["people"], row["epsilon"], row["answers"]) == (strategy, people, epsilon, answers)
        ]  # fmt: skip
        return float(found[0])

    for row in run.records("differences"):
        at = (row["people"], row["epsilon"], row["answers"])
        other = (row["people"], math.inf if row["other"] == "local-only" else row["epsilon"], row["answers"])
        assert row["difference"] == pytest.approx(percentile("dp-em", *at) - percentile(row["other"], *other), abs=1e-9)
        assert (row["verdict"] == "ahead") == (row["why"] == "")
    losses = run.records("loss")
    assert {row["strategy"] for row in losses} == {"dp-em", "fedavg-logistic"}
    for row in losses:
        free = percentile(row["strategy"], row["people"], math.inf, row["answers"])
        assert row["loss"] == pytest.approx(
            free - percentile(row["strategy"], row["people"], 1.0, row["answers"]), abs=1e-9
        )
        assert row["below_goal"] == (row["loss"] < 0.005)


def test_methods_are_compared_on_the_same_newcomers_with_the_same_questions() -> None:
    settings = grid(repeats=1)
    cells = [settings.trial(cell) for cell in settings.cells()]
    world = settings.world()
    crowds = [trial.crowd(world).newcomers(trial.new_people) for trial in cells]
    for other in crowds[1:]:
        assert torch.equal(other.answers.items, crowds[0].answers.items)
        assert torch.equal(other.answers.value, crowds[0].answers.value)
        assert torch.equal(other.utilities, crowds[0].utilities)
    another = grid(repeats=1, seed=1)
    there = another.trial(another.cells()[0]).crowd(world).newcomers(20)
    assert not torch.equal(there.answers.items, crowds[0].answers.items)


def test_local_only_does_not_depend_on_the_crowd_and_a_prior_without_noise_helps_newcomers() -> None:
    settings = grid(
        people=(400,), epsilons=(math.inf,), strategies=("dp-em", "local-only"), repeats=1, shared=(1.0,), new_people=60
    )
    world = settings.world()
    dp_em, alone = (
        np.mean(carry_out(settings.trial(cell), world, lambda _: None)["percentile"], axis=1)
        for cell in settings.cells()
    )
    assert dp_em[0] > alone[0] + 0.1  # before any answer of their own
    assert abs(alone[0] - 0.5) < 0.15


def test_each_release_carries_the_claim_of_its_budget(run: LabRun) -> None:
    results = json.loads((run.folder / "results.json").read_text())
    claims = results["privacy"]
    assert claims["DP-EM, 120 people, 4 rounds, ε = 1"]["epsilon"] == 1.0
    assert claims["DP-EM, 120 people, 4 rounds, ε = 1"]["participations"] == 4
    assert claims["DP-EM, 120 people, 4 rounds, ε = ∞"]["epsilon"] is None
    assert next(value for name, value in claims.items() if name.startswith("Local only"))["epsilon"] == 0.0
    assert results["settings"]["epsilons"] == [1.0, "inf"]


def test_the_folder_holds_page_plots_and_tables_and_the_page_names_no_other_place(run: LabRun) -> None:
    there = {path.name for path in run.folder.iterdir()}
    assert {"report.html", "results.json", "settings.json", "privacy-utility.svg", "privacy-utility.png"} <= there
    assert {"curves.csv", "differences.csv", "loss.csv", "cells.csv"} <= there
    text = run.page.read_text(encoding="utf-8")
    assert run.headline in text
    assert not re.search(r"(https?:)?//[a-z]", text)
    assert "<script" not in text
    found = re.findall(r'\bid="([^"]+)"', text)
    assert len(found) == len(set(found))
    with (run.folder / "curves.csv").open() as file:
        assert [float(row["epsilon"]) for row in csv.DictReader(file)] == run.frame("curves")["epsilon"]


def test_the_same_grid_goes_on_and_another_is_refused(run: LabRun) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run.folder / "cells").iterdir()}
    again = privacy.run(grid(), run.folder, quiet=True)
    assert again.frame("curves") == run.frame("curves")
    assert {path: path.stat().st_mtime_ns for path in (run.folder / "cells").iterdir()} == before
    with pytest.raises(FolderError, match=r"epsilons is \[1.0, \"inf\"\] there, \[2.0\] here"):
        privacy.run(grid(epsilons=(2.0,)), run.folder, quiet=True)


def test_a_run_is_read_back_as_it_was(run: LabRun) -> None:
    found = LabRun.load(run.folder)
    assert found.frame("loss") == run.frame("loss")
    assert found.headline == run.headline
    with pytest.raises(SettingError, match="no table 'curve'; it has curves"):
        found.frame("curve")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"epsilons": (0.0,)}, "epsilon=0.0 must be > 0"),
        ({"epsilons": ()}, "epsilons is empty"),
        ({"epsilons": (1.0, 1.0)}, "holds a value twice"),
        ({"people": (0,)}, "people=0 must be >= 1"),
        ({"participations": (-1,)}, "participations=-1"),
        ({"delta": 0.0}, "delta=0.0"),
        ({"shared": (1.5,)}, "shared=1.5"),
        ({"strategies": ("fed-avg",)}, "strategies='fed-avg' is unknown"),
        ({"look": 3}, "look=3 must be one of"),
        ({"answers": (0, 9), "look": 9}, "more than the ratings=8"),
        ({"answers": (4, 0)}, "must be rising"),
        ({"feedback": "wink"}, "feedback='wink'"),
        ({"unseen": 5}, "must be >= 100"),
        ({"new_people": 1}, "new_people=1"),
        ({"mechanism": ("fixed",)}, "cannot be accounted for as Poisson sampling"),
        ({"mechanism": ()}, "mechanism is empty"),
        ({"mechanism": ("poisson",), "cohort": 61}, "cohort=61 must be between 1 and people=60"),
        ({"mechanism": ("banded",), "bands": 5, "rounds": 4}, "bands=5 must be between 1 and rounds=4"),
        ({"rounds": 4, "participations": (1, 4)}, "two names of the same thing"),
        ({"rounds": -1}, "rounds=-1"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_before_anything_is_computed(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=re.escape(said)):
        grid(**changed)


def test_only_methods_that_spend_a_budget_have_a_cell_for_each() -> None:
    assert takes_budget("dp-em")
    assert not takes_budget("local-only")
    assert not takes_budget("centralised")
    cells = [cell.axes for cell in grid().cells()]
    assert sum(axes["strategy"] == "local-only" for axes in cells) == 4
    assert sum(axes["strategy"] == "dp-em" for axes in cells) == 8


def test_why_a_method_is_not_ahead_is_read_from_the_numbers() -> None:
    def found(ours: float, ours_free: float, other: float, other_free: float, alone: float) -> Found:
        def people(mean: float) -> list[Any]:
            return [np.full(4, mean) + shift for shift in (-1e-4, 0.0, 1e-4)]

        point = Point(0.9, 60, 0)
        values = {
            ("dp-em", point, 1.0, 4): people(ours),
            ("dp-em", point, math.inf, 4): people(ours_free),
            ("fedavg-logistic", point, 1.0, 4): people(other),
            ("fedavg-logistic", point, math.inf, 4): people(other_free),
            ("local-only", point, math.inf, 4): people(alone),
        }
        return Found(grid(), values, {})

    def told(table: Found) -> str:
        gap = table.difference(("dp-em", 1.0), ("fedavg-logistic", 1.0), Point(0.9, 60, 0), 4)
        assert gap is not None
        return why(table, "fedavg-logistic", Point(0.9, 60, 0), 1.0, 4, gap)

    assert "noise costs it 20.00" in told(found(0.6, 0.8, 0.7, 0.7, 0.6))
    assert "ahead without noise too, by 5.00" in told(found(0.7, 0.7, 0.75, 0.75, 0.6))
    assert "nothing to share" in told(found(0.6, 0.6, 0.6, 0.6, 0.6))
    table = found(0.6, 0.0, 0.7, 0.0, 0.65)
    kept = {key: values for key, values in table.percentiles.items() if key[0] == "local-only" or key[2] == 1.0}
    assert "worth nothing here: −5.00" in told(Found(grid(), kept, {}))
    assert why(found(0.7, 0.7, 0.7, 0.7, 0.5), "centralised", Point(0.9, 60, 0), 1.0, 4, Band(0, 0, 0)).endswith(
        "protects nobody"
    )


def test_a_dry_run_says_what_it_would_do_and_does_nothing(tmp_path: Path) -> None:
    sets = [f"--set={key}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for key, v in SMALL.items()]
    out = tmp_path / "run"
    found = CliRunner().invoke(
        app, ["privacy", "--dry-run", "--out", str(out), *sets, "--repeats", "1", "--set=repeats=2"]
    )
    assert found.exit_code == 0, found.output
    assert "20 cells" in found.output
    assert "noise" in found.output
    assert not out.exists()
    as_json = CliRunner().invoke(app, ["privacy", "--dry-run", "--json", "--out", str(out), *sets])
    plan = json.loads(as_json.stdout)
    assert len(plan["cells"]) == 20
    assert plan["seconds"] > 0
    assert {row["epsilon"] for row in plan["releases"]} == {1.0, "inf", 0.0}
    assert all({"crowd", "public"} == set(cell["seeds"]) for cell in plan["cells"])


ASKED = tuple(name for name in MECHANISMS if name != "truncated")  # which is poisson with a slower accountant


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> LabRun:
    settings = grid(
        mechanism=ASKED, rounds=6, cohort=20, bands=2, separation=2, people=(60,), epsilons=(2.0, math.inf),
        strategies=("fedavg-logistic", "local-only"), new_people=10,
    )  # fmt: skip
    return privacy.run(settings, tmp_path_factory.mktemp("mechanisms") / "run", quiet=True)


def test_every_mechanism_has_its_curves_and_methods_that_take_none_are_computed_once(asked: LabRun) -> None:
    curves = asked.records("curves")
    for name in ASKED:
        rows = [row for row in curves if (row["strategy"], row["mechanism"]) == ("fedavg-logistic", name)]
        assert [(row["epsilon"], row["answers"]) for row in rows] == [(2, 0), (2, 4), (math.inf, 0), (math.inf, 4)]
        assert {row["participations"] for row in rows} == {6}
    assert [row["mechanism"] for row in curves if row["strategy"] == "local-only"] == ["everyone"] * 2
    found = {(row["strategy"], row["mechanism"], row["epsilon"], row["answers"]): row["percentile"] for row in curves}
    gaps = asked.records("mechanisms")
    assert len(gaps) == 3 * 4  # three against everyone
    for row in gaps:
        one, other = (
            found[row["strategy"], name, row["epsilon"], row["answers"]] for name in (row["mechanism"], "everyone")
        )
        assert row["difference"] == pytest.approx(one - other, abs=1e-9)
    assert any(abs(row["difference"]) > 1e-4 for row in gaps if row["epsilon"] == math.inf)  # other people were asked


def test_every_release_says_who_was_asked_and_which_accountant_vouches_for_the_budget(asked: LabRun) -> None:
    rows = [row for row in asked.records("releases") if row["strategy"] == "fedavg-logistic"]
    private = {row["mechanism"]: row for row in rows if row["epsilon"] == 2}
    assert set(private) == set(ASKED)
    said = {name: (row["sampling"], row["accountant"].split()[-2]) for name, row in private.items()}
    assert said["everyone"] == ("no amplification claimed", "Gaussian")
    assert "q = 20/60" in said["poisson"][0]
    assert "q = 20/30 of one of 2 groups" in said["banded"][0]
    assert "2 rounds between two of a person" in said["blt"][0]
    assert all(row["rounds"] == 6 and row["noise"] > 0 for row in private.values())
    claims = json.loads((asked.folder / "results.json").read_text())["privacy"]
    for name, words in (("poisson", "Poisson cohorts"), ("banded", "banded noise"), ("blt", "BLT noise")):
        claim = claims[f"FedAvg, logistic, 60 people, 6 rounds, {words}, ε = 2"]
        assert (claim["epsilon"], claim["sampling"]) == (2.0, private[name]["sampling"])
        assert claims[f"FedAvg, logistic, 60 people, 6 rounds, {words}, ε = ∞"]["epsilon"] is None
    page = asked.page.read_text(encoding="utf-8")
    assert all(row["accountant"] in page and row["sampling"] in page for row in private.values())
    assert (asked.folder / "mechanisms.svg").exists()


def test_a_grid_in_which_everyone_is_asked_is_the_one_it_was_before_there_was_a_choice() -> None:
    cells = grid().cells()
    named = ("strategy", "shared", "people", "participations", "epsilon", "repeat")
    assert {tuple(cell.axes) for cell in cells} == {named}
    assert not {"mechanism", "rounds", "cohort", "bands", "separation"} & set(grid().settings())
    other = grid(mechanism=("everyone", "poisson"))
    assert [cell.seeds for cell in other.cells()[:5]] == [cell.seeds for cell in cells[:5]]
    assert {"mechanism", "rounds", "cohort", "bands", "separation"} <= set(other.settings())


def test_two_runs_are_compared_row_by_row(run: LabRun, tmp_path: Path) -> None:
    privacy.run(
        grid(shared=(0.9,), ratings=6, people=(60,), strategies=("dp-em", "local-only")), tmp_path / "b", quiet=True
    )
    found = compare_runs.compare(run.folder, tmp_path / "b")
    assert [name for name, _, _ in found.settings] == ["people", "ratings", "strategies"]
    assert found.table == "curves"
    assert found.measure == "percentile"
    assert (len(found.rows), found.only_first, found.only_second) == (6, 14, 0)
    alone = [row for row in found.rows.records() if row["strategy"] == "local-only"]
    assert all(row["difference"] == 0 for row in alone)  # newcomers are the same, and nobody else matters
    written = compare_runs.run(run.folder, tmp_path / "b", tmp_path / "diff")
    assert "rows differ in percentile" in written.headline or "hold the same" in written.headline
    assert (tmp_path / "diff" / "paired.png").exists()


def test_runs_that_cannot_be_compared_are_refused(run: LabRun, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"no finished run \(results.json is missing\)"):
        compare_runs.compare(run.folder, tmp_path)
    with pytest.raises(SettingError, match="no table 'curve'"):
        compare_runs.compare(run.folder, run.folder, table="curve")
    with pytest.raises(SettingError, match="no measure 'x'"):
        compare_runs.compare(run.folder, run.folder, measure="x")
    same = compare_runs.compare(run.folder, run.folder)
    assert same.settings == []
    assert "same percentile" in compare_runs.headline(same)


def test_a_world_without_pictures_is_the_same_each_time() -> None:
    first, second = grid().world(), grid().world()
    assert isinstance(first, World)
    assert torch.equal(first.pool.features, second.pool.features)
