import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from common import population_policy
from common.errors import PriorError
from common.population_policy import PopulationPolicy
from common.privacy import accounting
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement

SETTINGS = PrivacySettings(epsilon=2.0, participations=4, expected_people=2_000, norm_bound=0.2)


def policy(**change: Any) -> PopulationPolicy:
    made = PopulationPolicy(
        weights={"enter.weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)},
        size={"dimension": 3, "width": 2},
        pack="a" * 64,
        privacy=accounting.statement(SETTINGS, 32, 4),
        rounds=4,
    )
    return dataclasses.replace(made, **change)


def test_what_is_saved_comes_back_with_its_statement(tmp_path: Path) -> None:
    made = policy()
    made.save(tmp_path / "published")
    found = PopulationPolicy.load(tmp_path / "published", pack="a" * 64)
    assert found.weights.keys() == made.weights.keys()
    assert all(torch.equal(found.weights[name], weight) for name, weight in made.weights.items())
    assert (found.size, found.pack, found.privacy, found.rounds) == (made.size, made.pack, made.privacy, made.rounds)
    assert found.privacy.epsilon == 2.0
    assert found.digest == made.digest
    assert found.digest != policy(weights={"bias": torch.zeros(2)}).digest


def test_the_statement_can_be_read_without_this_program(tmp_path: Path) -> None:
    policy().save(tmp_path)
    about = json.loads((tmp_path / "policy.json").read_text())
    assert about["privacy"]["epsilon"] == 2.0
    assert about["privacy"]["unit"] == "one enrolled person: all ratings, all rounds"
    assert {"adjacency", "mechanism", "sensitivity", "participations", "delta", "accountant"} <= about["privacy"].keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {}}, "float32 weights"),
        ({"weights": {"bias": torch.ones(2).double()}}, "float32 weights"),
        ({"weights": {"bias": torch.tensor([1.0, math.nan])}}, "'bias' of the population policy are NaN"),
        ({"rounds": -1}, "rounds=-1"),
        ({"size": {"width": 2.5}}, "whole numbers"),
    ],
    ids=["none", "double", "nan", "rounds", "size"],
)
def test_what_is_no_policy_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PriorError, match=message):
        policy(**change)


def altered(folder: Path) -> None:
    path = folder / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def rewritten(**change: Any) -> Any:
    def spoil(folder: Path) -> None:
        about = json.loads((folder / "policy.json").read_text())
        (folder / "policy.json").write_text(json.dumps({**about, **change}))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (altered, "was altered"),
        (rewritten(pack="b" * 64), "draws for pack bbbb"),
        (rewritten(format="plgl-prior-1"), "does not hold a population policy"),
        (rewritten(privacy={}), "cannot read a population policy"),
        (rewritten(size=3), "cannot read a population policy"),
        (lambda folder: (folder / "policy.safetensors").unlink(), "cannot read a population policy"),
        (lambda folder: (folder / "policy.json").write_text("[]"), "does not hold a population policy"),
    ],
    ids=["altered", "pack", "format", "statement", "size", "missing", "list"],
)
def test_a_folder_that_was_damaged_is_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    policy().save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(PriorError, match=message):
        PopulationPolicy.load(tmp_path, pack="a" * 64)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    policy(privacy=PrivacyStatement.public()).save(tmp_path)
    with (tmp_path / "policy.safetensors").open("r+b") as file:
        file.truncate(population_policy.LARGEST_BYTES + 1)  # a hole, not bytes
    with pytest.raises(PriorError, match="over the limit"):
        PopulationPolicy.load(tmp_path)
