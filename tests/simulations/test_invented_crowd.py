import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.ratings import Kind
from common.errors import FolderError, SettingError
from simulations.crowd import Answers, HeldCrowd
from simulations.interview import WIDTH
from simulations.invented_crowd import Habits, InventedCrowd, World
from simulations.people import Population

WORLD = World.abstract(components=6, pool=300, unseen=400)


def same(one: Answers, other: Answers) -> None:
    for mine, yours in zip(one.tensors(), other.tensors(), strict=True):
        assert torch.equal(mine, yours)


@pytest.mark.parametrize("kind", list(WIDTH))
def test_what_somebody_says_does_not_depend_on_the_range(kind: Kind) -> None:
    crowd = InventedCrowd(WORLD, 500, ratings=12, kind=kind, habits=Habits(unequal=2.0, drop_out=0.3, drift=0.2))
    whole = crowd.answers(0, 500, 3)
    for first, last in ((0, 1), (17, 300), (499, 500), (40, 40)):
        same(whole.select(slice(first, last)), crowd.answers(first, last, 3))
    same(whole, dataclasses.replace(crowd, people=10**9).answers(0, 500, 3))


def test_seeds_give_other_people() -> None:
    one, other = (InventedCrowd(WORLD, 50, seed=seed).answers(0, 50) for seed in (0, 1))
    assert not torch.equal(one.items, other.items)


@pytest.mark.parametrize("kind", list(WIDTH))
def test_no_question_shows_an_item_twice(kind: Kind) -> None:
    items = InventedCrowd(WORLD, 2_000, kind=kind).answers(0, 2_000).items
    assert items.shape == (2_000, 30, WIDTH[kind])
    assert int(items.min()) >= 0
    assert int(items.max()) < 300
    ordered = items.sort(dim=2).values
    assert bool((ordered.diff(dim=2) > 0).all())
    counts = torch.bincount(items.flatten(), minlength=300).double()
    assert float((counts - counts.mean()).abs().max()) < 6 * math.sqrt(float(counts.mean()))  # every item as often


def agreement(crowd: InventedCrowd) -> float:
    """How alike two newcomers' tastes are on average."""
    utilities = crowd.newcomers(150).utilities
    standard = (utilities - utilities.mean(1, keepdim=True)) / utilities.std(1, keepdim=True)
    alike = standard @ standard.T / utilities.shape[1]
    return float(alike[~torch.eye(150, dtype=torch.bool)].mean())


def test_the_dial_sets_how_much_people_share() -> None:
    found = [
        agreement(InventedCrowd(WORLD, 10, population=Population(shared=x, archetypes=1, ideal=0, two_peaked=0)))
        for x in (0.0, 0.5, 1.0)
    ]
    assert abs(found[0]) < 0.1
    assert 0.3 < found[1] < 0.8
    assert found[2] > 0.99


def test_a_crowd_follows_the_same_law_as_people_made_at_once() -> None:
    """Mean and spread of the share of likes, which depend on tastes, yardstick, levels and noise together."""
    liked = InventedCrowd(WORLD, 3_000, kind=Kind.LIKE, ratings=100).answers(0, 3_000).value.double().mean(1)
    assert 0.45 < float(liked.mean()) < 0.55
    assert 0.08 < float(liked.std()) < 0.2  # 0.05 from coin flips alone


def test_answers_tell_what_is_liked() -> None:
    new = InventedCrowd(WORLD, 1, ratings=40).newcomers(300)
    felt = new.utilities.gather(1, new.held_out.items.flatten(1)).reshape(new.held_out.items.shape)
    chose = new.held_out.value < 2
    right = (felt[..., 0] > felt[..., 1]) == (new.held_out.value == 0)
    assert 0.85 < float(right[chose].double().mean()) < 0.99


def test_newcomers_do_not_depend_on_how_many_people_there_are() -> None:
    few, many = (InventedCrowd(WORLD, people).newcomers(20) for people in (3, 10**7))
    same(few.answers, many.answers)
    assert torch.equal(few.utilities, InventedCrowd(WORLD, 3).newcomers(50).utilities[:20])


def test_percentiles_go_from_chance_to_perfect() -> None:
    new = InventedCrowd(WORLD, 1).newcomers(200)
    best, worst = new.percentile(new.utilities), new.percentile(-new.utilities)
    assert float(best.min()) == pytest.approx(1 - 8 / 2 / 400)
    assert float(worst.max()) == pytest.approx(8 / 2 / 400)
    noise = torch.rand(200, 400, generator=torch.Generator().manual_seed(0))
    assert abs(float(new.percentile(noise).mean()) - 0.5) < 0.03


def given(**habits: float) -> Tensor:
    crowd = InventedCrowd(WORLD, 20_000, ratings=20, kind=Kind.LIKE, habits=Habits(**habits))
    return (crowd.answers(0, 20_000).weight > 0).sum(1)


def test_activity_follows_the_law_that_is_promised() -> None:
    assert bool((given() == 20).all())
    even, steep = given(unequal=1.0), given(unequal=3.0)
    assert int(even.min()) >= 1
    assert abs(float(even.double().mean()) - 10.5) < 0.2
    assert abs(float((steep == 1).double().mean()) - (1 / 20) ** (1 / 3)) < 0.015
    assert float((steep == 20).double().mean()) > 0.01


def test_whoever_drops_out_says_nothing_in_that_round_only() -> None:
    crowd = InventedCrowd(WORLD, 5_000, ratings=5, kind=Kind.LIKE, habits=Habits(drop_out=0.3))
    first, second = ((crowd.answers(0, 5_000, round).weight > 0).all(1) for round in (1, 2))
    for there in (first, second):
        assert abs(float(there.double().mean()) - 0.7) < 0.03
    assert abs(float((first & second).double().mean()) - 0.49) < 0.03


def test_tastes_drift_away_round_by_round() -> None:
    still = InventedCrowd(WORLD, 10)
    drifting = dataclasses.replace(still, habits=Habits(drift=0.3))

    def alike(crowd: InventedCrowd, round: int) -> float:
        now, then = crowd.newcomers(100, 1).utilities, crowd.newcomers(100, round).utilities
        return float(torch.nn.functional.cosine_similarity(now - now.mean(1, True), then - then.mean(1, True)).mean())

    assert alike(still, 5) > 0.999
    assert alike(drifting, 1) > 0.999 > 0.98 > alike(drifting, 2) > alike(drifting, 4) > alike(drifting, 6)


@pytest.mark.parametrize(
    "bad",
    [
        {"people": 0},
        {"ratings": 0},
        {"kind": Kind.GLANCE},
        {"habits": {"unequal": -1.0}},
        {"habits": {"drop_out": 1.0}},
        {"habits": {"drift": 3.0}},
    ],
    ids=str,
)
def test_impossible_crowds_are_refused(bad: dict[str, Any]) -> None:
    habits = bad.get("habits", {})
    with pytest.raises(SettingError):
        InventedCrowd(WORLD, **{"people": 5, **bad, "habits": Habits(**habits)})


def test_people_who_are_not_there_cannot_be_asked() -> None:
    with pytest.raises(SettingError, match="not among the 5"):
        InventedCrowd(WORLD, 5).answers(3, 6)


def test_a_crowd_in_memory_gives_back_what_it_was_given() -> None:
    crowd = InventedCrowd(WORLD, 30)
    held = HeldCrowd(crowd.items, crowd.answers(0, 30))
    assert held.people == 30
    same(held.answers(4, 9), crowd.answers(4, 9))
    same(held.answers(4, 9).first(3), crowd.answers(4, 9).first(3))


def test_a_world_is_drawn_once_and_kept(tmp_path: Path) -> None:
    made = []

    def make() -> World:
        made.append(1)
        pack = GeneratorPack.open("art")
        return World.make(pack, components=8, pool=100, unseen=100, seed=4)

    first, again = (World.cached(tmp_path / "world.safetensors", make) for _ in range(2))
    assert len(made) == 1
    assert first.pack == again.pack
    assert torch.equal(first.pool.features, again.pool.features)
    assert torch.equal(first.unseen_factors, again.unseen_factors)
    assert first.pool.features.shape == (100, 9)
    assert first.flat.parameters == 9
    assert not torch.equal(first.pool_factors, first.unseen_factors)


def test_a_world_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "world").write_bytes(b"not a world")
    with pytest.raises(FolderError, match="remove it to draw them again"):
        World.load(tmp_path / "world")


def test_a_world_of_too_few_items_is_refused() -> None:
    with pytest.raises(SettingError, match=">= 100 items"):
        World.abstract(pool=50)
