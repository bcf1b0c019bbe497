"""The judge knows true shapes, refuses everything else, and measures turns."""

import math

import pytest
import torch

from client.flows.judge import Limits, judge
from client.flows.script import trust
from client.flows.shapes import ROLL, S_CURVE, ShapeSettings, sample_shapes, shapes_of
from common.errors import SettingError

SHAPES = ShapeSettings(s_curves=0.5)


def true_shapes(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return sample_shapes(n, SHAPES, torch.Generator().manual_seed(seed))


def test_true_shapes_are_known_and_noise_is_not_taken_for_one() -> None:
    believed = trust(SHAPES, 200)
    assert believed.error <= 0.02
    assert believed.noise == 0


def test_a_little_jitter_is_forgiven_and_a_lot_is_not() -> None:
    clouds, kinds = true_shapes(150)
    push = torch.randn(clouds.shape, generator=torch.Generator().manual_seed(1))
    little, much = judge(clouds + 0.03 * push), judge(clouds + 0.2 * push)
    assert little.invalid <= 0.02
    assert torch.equal(little.kind[little.valid], kinds[little.valid])
    assert much.invalid == 1


def test_half_a_roll_and_half_an_s_is_neither() -> None:
    generator = torch.Generator().manual_seed(2)
    roll, s = (shapes_of(torch.full((100,), kind), SHAPES, generator) for kind in (ROLL, S_CURVE))
    assert judge(torch.cat([roll[:, :32], s[:, :32]], 1)).invalid >= 0.97


def test_squashed_collapsed_partial_and_flat_shapes_are_no_shapes() -> None:
    roll = shapes_of(torch.full((50,), ROLL), SHAPES, torch.Generator().manual_seed(3))
    assert judge(roll * torch.tensor([1.0, 0.6, 1.0])).invalid == 1
    assert judge(torch.zeros(2, 64, 3)).invalid == 1
    assert judge(roll * torch.tensor([1.0, 1.0, 0.1])).invalid == 1
    inner = judge(roll).place.argsort(-1)[:, :32, None].expand(-1, -1, 3)
    assert judge(roll.gather(1, inner).repeat(1, 2, 1)).invalid >= 0.9


def test_a_cloud_with_nan_is_no_shape_and_spoils_no_other() -> None:
    clouds, kinds = true_shapes(4)
    clouds[1, 0, 0] = torch.nan
    found = judge(clouds)
    assert found.valid.tolist() == [True, False, True, True]
    assert torch.equal(found.kind[found.valid], kinds[found.valid])
    assert found.label(1) == "neither"


@pytest.mark.parametrize("kind", [ROLL, S_CURVE])
def test_the_turn_is_measured(kind: int) -> None:
    still = ShapeSettings(turn=0.0)
    cloud = shapes_of(torch.full((20,), kind), still, torch.Generator().manual_seed(4))
    for angle in (-0.6, 0.0, 0.5):
        c, s = math.cos(angle), math.sin(angle)
        turned = cloud @ torch.tensor([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        assert float((judge(turned).turn - angle).abs().median()) < 0.1


def test_chunks_do_not_matter_and_none_is_fine() -> None:
    clouds, _ = true_shapes(10)
    whole, parts = judge(clouds), judge(clouds, chunk=3)
    assert torch.equal(whole.kind, parts.kind)
    assert torch.allclose(whole.distance, parts.distance, atol=1e-4)
    assert len(judge(clouds[:0]).kind) == 0


def test_wrong_shapes_and_limits_are_refused() -> None:
    with pytest.raises(SettingError, match="should be"):
        judge(torch.zeros(3, 64, 2))
    for wrong in ({"off": 0.0}, {"gap": 2.0}, {"narrowest": 1.0}):
        with pytest.raises(SettingError):
            Limits(**wrong)
