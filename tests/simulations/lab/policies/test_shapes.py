from pathlib import Path

import pytest
import torch
from torch import Tensor

from client.flows.judge import judge
from client.flows.model import FlowModel
from client.flows.script import preferred
from client.flows.shapes import ROLL, S_CURVE, ShapeSettings, sample_shapes, shapes_of
from common.errors import PeopleError
from simulations.lab.policies.shapes import LOVED, ShapeYardstick, looks, worth
from simulations.lab.policies.tiles import tiles

LAW = ShapeSettings()


class True_(torch.nn.Module):
    """Draws true shapes, whatever the noise."""

    def __init__(self, s_curves: float = 0.25) -> None:
        super().__init__()
        self.law, self.seed = ShapeSettings(s_curves=s_curves), 0


class TrueFlow(FlowModel):
    def draw(self, noise: Tensor) -> Tensor:
        assert isinstance(self.velocity, True_)
        self.velocity.seed += 1
        return sample_shapes(len(noise), self.velocity.law, torch.Generator().manual_seed(self.velocity.seed))[0]


def shapes(kind: int, count: int, seed: int = 0) -> Tensor:
    return shapes_of(torch.full((count,), kind), LAW, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def yardstick() -> ShapeYardstick:
    flow = TrueFlow(velocity=True_(), shape=(64, 3))
    return ShapeYardstick.make(flow, law=400, own=200, generator=torch.Generator())


def test_what_is_worth_most_is_what_the_person_of_the_script_picks() -> None:
    clouds = torch.cat([shapes(ROLL, 5), shapes(S_CURVE, 5), torch.randn(3, 64, 3)])
    value = worth(judge(clouds))
    assert bool((value[:5] == 0).all())
    assert bool((value[5:10] > 0.5).all())
    assert bool((value[10:] == 0).all())
    assert int(value.argmax()) == preferred(clouds, LOVED)


def test_streams_are_told_apart_by_every_measure(yardstick: ShapeYardstick) -> None:
    own = yardstick.measured(judge(sample_shapes(200, LAW, torch.Generator().manual_seed(99))[0]))
    one_kind = yardstick.measured(judge(shapes(S_CURVE, 200, seed=5)))
    same = yardstick.measured(judge(shapes(S_CURVE, 1).expand(200, -1, -1)))
    noise = yardstick.measured(judge(torch.randn(200, 64, 3, generator=torch.Generator().manual_seed(0))))
    assert own["percentile"] == pytest.approx(0.5, abs=0.06)
    assert own["utility"] == pytest.approx(0, abs=0.3)
    assert own["diversity"] == pytest.approx(1, abs=0.1)
    assert one_kind["percentile"] > 0.8
    assert one_kind["loved"] > 0.9
    assert own["frechet"] < 0.5 < one_kind["frechet"] < noise["frechet"]
    assert own["recall"] > 0.7 > one_kind["recall"] > same["recall"]
    assert same["diversity"] < 0.01
    assert noise["precision"] < 0.1 < own["precision"]
    assert noise["extreme"] > 0.9
    assert noise["percentile"] < own["percentile"]


def test_a_yardstick_comes_back_from_its_file(yardstick: ShapeYardstick, tmp_path: Path) -> None:
    yardstick.save(tmp_path / "it.safetensors")
    again = ShapeYardstick.load(tmp_path / "it.safetensors")
    found = judge(shapes(S_CURVE, 20))
    assert again.measured(found) == yardstick.measured(found)


def test_a_flow_that_never_draws_what_is_loved_is_told() -> None:
    never = TrueFlow(velocity=True_(s_curves=1e-9), shape=(64, 3))
    with pytest.raises(PeopleError, match="worth the same"):
        ShapeYardstick.make(never, law=100, own=20, generator=torch.Generator())


def test_a_broken_cloud_is_seen_as_numbers() -> None:
    broken = torch.full((2, 64, 3), float("nan"))
    found = judge(broken)
    assert bool(looks(found).isfinite().all())
    assert worth(found).tolist() == [0.0, 0.0]


def test_clouds_are_drawn_where_their_points_are() -> None:
    drawn = tiles(shapes(S_CURVE, 2), 48)
    assert drawn.shape == (2, 48, 48, 3)
    ink = (drawn.astype(int).sum(-1) < 600).mean((1, 2))
    assert bool(((ink > 0.01) & (ink < 0.5)).all())
    high = tiles(shapes(S_CURVE, 1) * 0.2, 48)[0].astype(int).sum(-1) < 600
    assert not high[:12].any()  # a small shape leaves the border empty
    assert high[12:36, 12:36].any()
