import math
import re
from pathlib import Path
from typing import Any

import pytest

from common.errors import SettingError
from simulations.lab import population
from simulations.lab.lab_run import LabRun
from simulations.lab.population import PopulationGrid
from simulations.lab.trial import carry_out

SMALL: dict[str, Any] = {
    "generator": "abstract", "components": 4, "pool": 100, "unseen": 150, "ratings": 8, "new_people": 20,
    "answers": (0, 4), "look": 4, "strategies": ("dp-em", "local-only"), "people": 60, "repeats": 2,
    "shared": (0.9, 0.0), "archetypes": (5,), "drift": (0.0, 0.3), "drop_out": (0.0,), "unequal": (0.0, 3.0),
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LabRun:
    return population.run(PopulationGrid(**SMALL), tmp_path_factory.mktemp("population") / "run", quiet=True)


def test_one_thing_is_varied_at_a_time() -> None:
    places = PopulationGrid().places()
    base = places[0]
    assert base == {"shared": 0.9, "archetypes": 5, "drift": 0.0, "drop_out": 0.0, "unequal": 0.0}
    assert all(sum(place[name] != base[name] for name in base) == 1 for place in places[1:])
    assert len(places) == 1 + 4 + 3 + 2 + 2 + 2


def test_tables_hold_every_place_and_differences_are_those_of_the_curves(run: LabRun) -> None:
    curves = {(row["strategy"], row["shared"], row["drift"], row["unequal"], row["answers"]): row["percentile"]
              for row in run.records("curves")}  # fmt: skip
    assert len(curves) == 2 * 4 * 2
    for row in run.records("differences"):
        at = (row["shared"], row["drift"], row["unequal"], row["answers"])
        assert row["difference"] == pytest.approx(curves["dp-em", *at] - curves["local-only", *at], abs=1e-9)


def test_the_page_tells_what_each_change_costs(run: LabRun) -> None:
    text = run.page.read_text(encoding="utf-8")
    for told in ("Taste in common: 0 instead of 0.9", "Drift, radians a round: 0.3", "Inequality of activity: 3"):
        assert told in text
    assert "Number of archetypes:" not in text  # it was not varied
    assert run.headline.startswith("DP-EM loses most, ")
    assert not re.search(r"(https?:)?//[a-z]", text)


def test_a_prior_is_worth_less_where_people_share_less() -> None:
    one = {"people": 400, "new_people": 80, "repeats": 1, "strategies": ("dp-em",), "epsilon": math.inf}
    grid = PopulationGrid(**{**SMALL, **one, "shared": (1.0, 0.0), "drift": (0.0,), "unequal": (0.0,)})
    world = grid.world()
    structured, unstructured = (carry_out(grid.trial(cell), world, lambda _: None) for cell in grid.cells())
    first, last = (sum(outcome["percentile"][0]) / 80 for outcome in (structured, unstructured))
    assert first > last + 0.1


def test_a_sweep_where_nothing_is_varied_still_makes_a_page(tmp_path: Path) -> None:
    still = {name: SMALL[name][:1] for name in PopulationGrid.AXES}
    grid = PopulationGrid(**{**SMALL, **still, "strategies": ("dp-em",), "repeats": 1})
    assert "nothing was varied" in population.run(grid, tmp_path / "run", quiet=True).headline


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"drift": (9.0,)}, "drift=9.0"),
        ({"drop_out": (1.0,)}, "drop_out=1.0"),
        ({"unequal": ()}, "unequal is empty"),
        ({"archetypes": (0,)}, "archetypes=0"),
        ({"epsilon": -1.0}, "epsilon=-1.0"),
        ({"people": 0}, "people=0"),
    ],
)
def test_people_who_cannot_be_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        PopulationGrid(**{**SMALL, **changed})
