import csv
import json
from pathlib import Path

import pytest

from client.generators.pack import GeneratorPack
from common.population_policy import PopulationPolicy
from simulations.lab.policies import PolicyGrid, run

TINY = PolicyGrid(
    generators=("art", "toy"),
    methods=("base", "best-of-n", "federated-eps2"),
    people=1,
    kinds=("weighted",),
    answers=8,
    picks=2,
    items=20,
    of=8,
    rounds=1,
    law=100,
    own=30,
    crowd=100,
    ratings=8,
    newcomers=40,
    hacking=1,
    careless=3,
    sheets=1,
    repeats=1,
)
ON_ART, ON_TOY = ["base", "best-of-n", "federated-eps2"], ["base", "best-of-n"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("policies") / "run"
    run(TINY, out, quiet=True)
    return out


def test_one_table_has_a_row_for_each_generator_and_method_with_every_measure(finished: Path) -> None:
    with (finished / "evaluation.csv").open() as file:
        table = list(csv.DictReader(file))
    where = [(row["generator"], row["method"]) for row in table]
    assert where == [*(("art", method) for method in ON_ART), *(("toy", method) for method in ON_TOY)]
    for row in table:
        for measure in ("percentile", "loved", "precision", "recall", "extreme"):
            assert 0 <= float(row[measure]) <= 1, measure
        for measure in ("frechet", "diversity", "seconds_per_item", "seconds_to_draw"):
            assert float(row[measure]) >= 0, measure
        assert float(row["held_out"]) == pytest.approx(float(row["held_out"]))  # a number, not a NaN
    said = json.loads((finished / "results.json").read_text())
    assert said["frames"]["streams"]["keys"] == ["generator", "method", "repeat", "person"]
    base, best = (float(row["percentile"]) for row in table[3:])
    assert f"toy {base:.2f} → {best:.2f} (best-of-n)." in said["headline"]


def test_the_report_shows_each_generator_with_its_pictures(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    for generator in ("art", "toy"):
        assert f"Streams of {generator}" in page
        assert (finished / f"{generator}-streams.png").stat().st_size > 1000
        assert (finished / f"{generator}-sheet-1.png").stat().st_size > 1000
        assert f'<a href="{generator}-sheet-1.png">' in page
    assert page.count('<img src="data:image/jpeg;base64,') == 2
    assert "Faces are not in the table" in page
    assert "toy has no federated-eps2" in page
    assert "Not tried: search, policy, policy-ppo" in page


def test_everybodys_policy_is_published_with_the_budget_it_was_taught_under(finished: Path) -> None:
    (folder,) = (finished / "policies").iterdir()
    published = PopulationPolicy.load(folder, pack=GeneratorPack.open("art").hash)
    assert published.privacy.epsilon == 2.0
    assert published.privacy.delta == TINY.delta
    assert published.rounds == published.privacy.participations == 4
    assert json.loads((finished / "results.json").read_text())["privacy"]["art, epsilon 2"]["epsilon"] == 2.0


def test_newcomers_look_at_everybodys_policy_before_any_answer(finished: Path) -> None:
    (row,) = csv.DictReader((finished / "crowds.csv").read_text().splitlines())
    assert 0.3 < float(row["newcomers"]) < 1
    assert float(row["divergence"]) > 0
    aims = json.loads((finished / "results.json").read_text())["frames"]["aims"]["columns"]
    assert aims["reached"][0] == pytest.approx(float(row["newcomers"]) - 0.5)
    assert "40 newcomers of the same population" in (finished / "report.html").read_text()


def test_the_cheating_learner_is_watched_round_by_round_and_the_guard_stops_near_its_limit(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    cheating = results["frames"]["cheating"]["columns"]
    assert cheating["round"][0] == 0
    assert cheating["reward"][-1] > cheating["reward"][0] + 3
    aims = results["frames"]["aims"]["columns"]
    assert set(aims["generator"]) == {"art"}
    assert aims["aim"][0].startswith("everybody's policy, epsilon 2: percentile of newcomers")
    drift = aims["reached"][aims["aim"].index("cheating: drift when stopped, over the limit, at most")]
    assert 0 < drift <= 1.2


def test_the_same_command_finds_everything_computed(finished: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (finished / "cells").iterdir()}
    again = run(TINY, finished, quiet=True)
    assert {path.name: path.stat().st_mtime_ns for path in (finished / "cells").iterdir()} == before
    assert again.headline
