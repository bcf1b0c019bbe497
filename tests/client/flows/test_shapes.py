"""True shapes: even curves, the wanted share, sizes and turns."""

import math

import pytest
import torch

from client.flows.shapes import ROLL, S_CURVE, ShapeSettings, curve, sample_shapes, shapes_of
from common.errors import SettingError


@pytest.mark.parametrize("kind", [ROLL, S_CURVE])
def test_points_of_a_curve_are_equally_far_apart_and_of_size_one(kind: int) -> None:
    line = curve(kind, 200)
    steps = (line[1:] - line[:-1]).abs()
    assert float(steps.max() / steps.min()) < 1.06
    assert float(line.mean().abs()) < 1e-12
    assert float(line.abs().square().mean()) == pytest.approx(1)


def test_an_s_curve_is_symmetric_and_a_roll_is_not() -> None:
    for kind, same in ((S_CURVE, True), (ROLL, False)):
        line = curve(kind, 301)
        assert bool((line + line.flip(0)).abs().max() < 1e-2) is same


def test_the_share_of_s_curves_is_the_wanted_one() -> None:
    """Two-sided binomial at 1e-4; a share a quarter larger is refused by the same bounds."""
    settings, n = ShapeSettings(points=16, s_curves=0.25), 4000
    _, kinds = sample_shapes(n, settings, torch.Generator().manual_seed(0))
    bound = 3.9 * math.sqrt(0.25 * 0.75 / n)
    assert abs(float(kinds.double().mean()) - 0.25) < bound < 0.25 / 4


def test_shapes_keep_to_their_bounds() -> None:
    settings = ShapeSettings(points=64, turn=0.2, smallest=0.9, largest=1.1, narrowest=1.0, widest=1.5)
    clouds = shapes_of(torch.full((500,), S_CURVE), settings, torch.Generator().manual_seed(1))
    assert clouds.shape == (500, 64, 3)
    assert clouds.dtype == torch.float32
    reach = float(curve(S_CURVE, 4096).abs().max()) * 1.1
    assert float(clouds[..., :2].norm(dim=-1).max()) <= reach + 1e-5
    assert float(clouds[..., 2].abs().max()) <= 1.1 * 1.5 / 2


def test_the_same_seed_draws_the_same_shapes() -> None:
    a, b = (sample_shapes(8, ShapeSettings(), torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    "wrong",
    [{"points": 8}, {"s_curves": 0.0}, {"s_curves": 1.0}, {"turn": -1.0}, {"smallest": 2.0}, {"widest": math.inf}],
)
def test_wrong_laws_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        ShapeSettings(**wrong)  # type: ignore[arg-type]
