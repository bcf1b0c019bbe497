import json
import math
from pathlib import Path

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from client.generators.pack import GeneratorPack
from client.policy.population import policy_of
from common.errors import SettingError
from common.population_policy import PopulationPolicy
from simulations.lab.crowd_policy import taught
from simulations.lab.population_policies import PopulationPolicyGrid, run, shown_to
from simulations.lab.population_policies_cli import population_policies
from simulations.world import World, further, judge_of

TINY = PopulationPolicyGrid(
    epsilon=(20.0,),
    levels=(0.0,),
    items=100,
    people=150,
    ratings=8,
    new_people=40,
    shared=1.0,
    archetypes=1,
    delta=1e-4,
    rounds=1,
    components=4,
    pool=120,
    unseen=120,
    repeats=1,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("population-policies") / "run"
    run(TINY, out, quiet=True)
    return out


def test_newcomers_like_the_first_items_better_than_the_generators_own(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    streams = results["frames"]["streams"]["columns"]
    assert streams["way"] == ["generator", "policy-gradient", "dp-em"]
    own, *learned = streams["percentile"]
    assert 0.4 < own < 0.6
    assert min(learned) > own + 0.1
    assert "First items of newcomers" in results["headline"]


def test_each_policy_is_published_with_the_budget_it_was_taught_under(finished: Path) -> None:
    pack = GeneratorPack.open("art")
    names = [f"{way}-epsilon-20-crowd-0" for way in ("policy-gradient", "dp-em")]
    found = [PopulationPolicy.load(finished / "policies" / name, pack=pack.hash) for name in names]
    assert [each.privacy.epsilon for each in found] == [20.0, 20.0]
    assert [each.privacy.participations for each in found] == [4, 4]
    for each in found:
        assert policy_of(each, pack).draw(3, 0.5, torch.Generator().manual_seed(0)).shape == (3, 24)
    said = json.loads((finished / "results.json").read_text())["privacy"]
    assert said["policy-gradient, epsilon 20"]["epsilon"] == 20.0


def test_the_same_command_finds_everything_computed(finished: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (finished / "cells").iterdir()}
    assert run(TINY, finished, quiet=True).headline
    assert {path.name: path.stat().st_mtime_ns for path in (finished / "cells").iterdir()} == before


def test_further_items_are_judged_like_the_worlds_own(finished: Path) -> None:
    world, pack = World.load(finished / "items.safetensors"), GeneratorPack.open("art")
    judge = judge_of(pack, pool=TINY.pool, unseen=TINY.unseen, seed=TINY.sizes["seed"])
    again = further(pack, world.unseen.latents[:7], judge, TINY.components)
    assert torch.allclose(again.unseen_factors, world.unseen_factors[:7], rtol=0, atol=1e-5)
    assert torch.allclose(again.unseen.features, world.unseen.features[:7])


def test_both_ways_release_a_law_of_tastes_for_the_same_features(finished: Path) -> None:
    crowd = TINY.crowd(World.load(finished / "items.safetensors"), seed=3)
    gradient, prior = (
        taught(crowd, crowd.world.flat, TINY.promise(way, math.inf), way=way, ratings=TINY.ratings, seed=0).law
        for way in ("policy-gradient", "dp-em")
    )
    assert gradient[0].shape == prior[0].shape == (5,)
    assert gradient[1] is None
    assert prior[1] is not None
    assert prior[1].shape == (5, 5)
    alike = torch.nn.functional.cosine_similarity(gradient[0][:-1], prior[0][:-1], dim=0)
    assert float(alike) > 0.8  # the same people, two ways to sum them up


def test_without_a_policy_newcomers_see_the_generator(finished: Path) -> None:
    world, pack = World.load(finished / "items.safetensors"), GeneratorPack.open("art")
    seen = shown_to(TINY, TINY.crowd(world, seed=3), pack, None, 0.0, 1)
    assert 0.4 < sum(seen["percentile"]) / TINY.new_people < 0.6
    assert seen["diversity"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("ways=magic", "choose from policy-gradient, dp-em"),
        ("levels=2", "level=2.0 must lie between 0"),
        ("items=3", "items=3 must be at least the first=20"),
        ("epsilon=0", "epsilon=0"),
        ("feedback=song", "feedback='song'"),
        ("new_people=1", "new_people=1 must be >= 2"),
        ("components=65", "components=65 is more than the 64"),
    ],
    ids=["ways", "levels", "items", "epsilon", "feedback", "newcomers", "components"],
)
def test_settings_out_of_range_are_refused_by_the_command(assignment: str, message: str, tmp_path: Path) -> None:
    app = Typer()
    app.command()(population_policies)
    said = CliRunner().invoke(app, ["--out", str(tmp_path / "run"), "--set", assignment])
    assert isinstance(said.exception, SettingError)
    assert message in str(said.exception)
    assert not (tmp_path / "run").exists()
