from dataclasses import replace
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from client.generators.interface import Output
from client.generators.manifest import MANIFEST
from client.generators.pack import GeneratorPack
from common.errors import SettingError
from simulations.lab.policies import TOY, PolicyGrid
from simulations.lab.policies.experiment import check_pictures
from simulations.lab.policies.grid import METHODS, budget_of, serves, usual_generators
from simulations.lab.policies_cli import policies

GRID = PolicyGrid(generators=("art", TOY), methods=METHODS, people=2, repeats=2, hacking=1)


def test_every_method_of_the_table_is_tried_on_some_generator() -> None:
    tried = {(cell.axes["generator"], cell.axes["method"]) for cell in GRID.cells() if "method" in cell.axes}
    assert {method for _, method in tried} == set(METHODS)
    assert {method for where, method in tried if where == TOY} == {
        "base", "best-of-n", "policy", "injection", "pairwise", "denoising",
    }  # fmt: skip
    assert not serves("denoising", "art")


def test_a_crowd_teaches_once_for_each_generator_repeat_and_budget() -> None:
    crowds = [cell.axes for cell in GRID.preparations() if cell.axes["part"] == "crowd"]
    assert [(axes["epsilon"], axes["repeat"]) for axes in crowds] == [(e, r) for r in range(2) for e in (1.0, 2.0, 8.0)]
    assert {axes["generator"] for axes in crowds} == {"art"}


def test_a_cell_has_the_same_seeds_in_any_grid_that_holds_it() -> None:
    fewer = replace(GRID, methods=("base", "policy"), generators=("art",))
    seeds = {cell.name: cell.seeds for cell in GRID.cells()}
    assert all(seeds[cell.name] == cell.seeds for cell in fewer.cells())


def test_the_budget_is_read_off_the_name_of_a_method() -> None:
    assert [budget_of(name) for name in ("federated-eps2", "federated-eps0.5", "federated-epsinf")] == [
        2.0, 0.5, float("inf"),
    ]  # fmt: skip
    assert budget_of("policy") is None
    assert budget_of("federated-eps-1") is None


def test_faces_are_in_the_table_where_they_were_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLGL_GENERATORS", str(tmp_path))
    assert usual_generators() == ("art", "avatars", TOY)
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / MANIFEST).write_text("{}")
    assert usual_generators() == ("art", "avatars", "faces", TOY)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("methods=magic", "methods='magic' is unknown; choose from base"),
        ("methods=base,federated-eps0", "epsilon=0"),
        (
            "methods=search",
            "add one of base, best-of-n, policy, injection, pairwise, denoising, or leave toy out",
        ),
        ("level=2", "level=2.0 must lie between"),
        ("answers=3", "answers=3 must be >= 8"),
        ("own=3000", "own=3000 must be at most law=2000"),
        ("ratings=600", "ratings=600 must be <= 500"),
        ("generators=art,art", "holds a value twice"),
    ],
    ids=["unknown", "budget", "none", "level", "answers", "own", "ratings", "twice"],
)
def test_settings_out_of_range_are_refused_by_the_command(assignment: str, message: str, tmp_path: Path) -> None:
    app = Typer()
    app.command()(policies)
    said = CliRunner().invoke(app, ["--out", str(tmp_path / "run"), "--set", assignment])
    assert isinstance(said.exception, SettingError)
    assert message in str(said.exception)
    assert not (tmp_path / "run").exists()


def test_a_generator_of_sounds_is_refused_before_anything_is_made() -> None:
    manifest = GeneratorPack.open("art").manifest
    check_pictures(manifest)
    sounds = replace(manifest, format="plgl-pack-2", output=Output(kind="audio", shape=(24_000,), sample_rate=24_000))
    with pytest.raises(SettingError, match=r"generators=art makes audio of shape \(24000,\); the people of"):
        check_pictures(sounds)
