import json
from pathlib import Path

import pytest

from common.errors import SettingError
from simulations.lab.policies import PolicyGrid, run

TINY = PolicyGrid(
    methods=("base", "best-of-n", "policy"),
    people=1,
    kinds=("weighted",),
    answers=8,
    items=20,
    rounds=1,
    law=100,
    own=30,
    hacking=1,
    careless=3,
    sheets=1,
    repeats=1,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("policies") / "run"
    run(TINY, out, quiet=True)
    return out


def test_each_method_has_a_row_for_each_person_with_every_measure(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    streams = results["frames"]["streams"]["columns"]
    assert streams["method"] == ["base", "best-of-n", "policy"]
    for measure in ("percentile", "precision", "recall", "loved"):
        assert all(0 <= value <= 1 for value in streams[measure])
    assert all(value >= 0 for value in streams["frechet"])
    assert streams["parameters"][2] > 0
    assert (finished / "sheet-1.png").stat().st_size > 1000
    assert "policy: mean percentile" in results["headline"]


def test_the_cheating_learner_is_watched_round_by_round_and_the_guard_stops_near_its_limit(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    cheating = results["frames"]["cheating"]["columns"]
    assert cheating["round"][0] == 0
    assert cheating["reward"][-1] > cheating["reward"][0] + 3
    aims = dict(
        zip(results["frames"]["aims"]["columns"]["aim"], results["frames"]["aims"]["columns"]["reached"], strict=True)
    )
    assert 0 < aims["cheating: drift when stopped, over the limit, at most"] <= 1.2


def test_the_same_command_finds_everything_computed(finished: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (finished / "cells").iterdir()}
    again = run(TINY, finished, quiet=True)
    assert {path.name: path.stat().st_mtime_ns for path in (finished / "cells").iterdir()} == before
    assert again.headline


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"methods": ("magic",)}, "methods='magic' is unknown; choose from base"),
        ({"level": 2.0}, "level=2.0 must lie between"),
        ({"answers": 3}, "answers=3 must be >= 8"),
    ],
    ids=["methods", "level", "answers"],
)
def test_settings_out_of_range_are_refused(named: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        PolicyGrid(**named)  # type: ignore[arg-type]
