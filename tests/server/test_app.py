import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, RecordDict

from client.app import client_app, ratings_file
from client.likelihood import Evidence
from common.errors import CohortError, SettingError
from common.prior import PopulationPrior
from server.app import Plan, app
from simulations.engines.inline import InlineGrid

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
DEFAULTS = PYPROJECT["tool"]["flwr"]["app"]["config"]
CONFIG = {**DEFAULTS, "pack": "a" * 64, "components": 3, "expected-people": 6, "minimum-people": 4, "timeout": 0.5}


@pytest.fixture
def grid(tmp_path: Path) -> InlineGrid:
    """Six devices of one person each; the last one is broken."""
    for node in range(5):
        ones = torch.ones(1, 3, dtype=torch.int64)
        features = torch.randn(1, 3, 1, 4, generator=torch.Generator().manual_seed(node), dtype=torch.float64)
        Evidence(ones * 0, ones, ones.double(), features, ones.clone()).save(ratings_file(tmp_path, node))
    return InlineGrid(client_app(tmp_path), 6)


def serve(grid: InlineGrid, **config: Any) -> None:
    app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={**CONFIG, **config}))


def test_the_app_writes_a_prior_and_what_happened(grid: InlineGrid, tmp_path: Path) -> None:
    serve(grid, output=str(tmp_path / "out"))
    prior = PopulationPrior.load(tmp_path / "out", pack="a" * 64, parameters=4)
    assert (prior.privacy.epsilon, prior.rounds) == (1.0, 4)
    rounds = json.loads((tmp_path / "out" / "rounds.json").read_text())
    expected = {"asked": 6, "answered": 5, "dropped": {"error": 1}, "released": True}
    assert rounds == [{"round": number, **expected} for number in (1, 2, 3, 4)]


def test_charged_rounds_are_on_record_even_if_nothing_was_released(grid: InlineGrid, tmp_path: Path) -> None:
    with pytest.raises(CohortError):
        serve(grid, **{"minimum-people": 6, "output": str(tmp_path / "out")})
    assert [each["released"] for each in json.loads((tmp_path / "out" / "rounds.json").read_text())] == [False] * 4
    assert not (tmp_path / "out" / "prior.json").exists()


def test_a_server_without_enough_nodes_gives_up_at_its_deadline(grid: InlineGrid, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="nothing is charged"):
        serve(grid, **{"expected-people": 9, "minimum-people": 7, "output": str(tmp_path / "out")})
    assert not (tmp_path / "out").exists()


def test_the_defaults_lack_only_the_pack() -> None:
    with pytest.raises(SettingError, match="pack=''"):
        Plan.from_run_config(DEFAULTS)
    plan = Plan.from_run_config({**DEFAULTS, "pack": "a" * 64})
    assert (plan.nodes, plan.prior.parameters, plan.settings.participations) == (2_000, 33, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 0.0},
        {"epsilon": "one"},
        {"participations": 2.0},
        {"participations": True},
        {"people-per-node": 0},
        {"components": 0},
        {"timeout": 0},
        {"step": None},
        {"expected-people": 3},
    ],
    ids=lambda change: str(change),
)
def test_a_bad_setting_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        Plan.from_run_config({**CONFIG, **change})


def test_whole_numbers_are_numbers() -> None:
    assert Plan.from_run_config({**CONFIG, "epsilon": 2}).settings.epsilon == 2.0
