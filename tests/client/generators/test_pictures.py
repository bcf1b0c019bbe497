import pytest
import torch

from client.generators.pictures import FeatureScale, picture_blocks

SIZES = {"layout": 192, "colour": 43, "edges": 50, "symmetry": 8, "texture": 288}


def noise(n: int, size: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("size", [16, 33, 48])
def test_each_kind_has_its_documented_number_of_finite_features(size: int) -> None:
    for pictures in (noise(3, size), torch.zeros(3, 3, size, size), torch.ones(3, 3, size, size)):
        blocks = picture_blocks(pictures)
        assert {kind: block.shape for kind, block in blocks.items()} == {k: (3, f) for k, f in SIZES.items()}
        assert all(bool(block.isfinite().all()) for block in blocks.values())


def test_features_of_a_picture_do_not_depend_on_its_neighbours() -> None:
    pictures = noise(6)
    alone, together = picture_blocks(pictures[2:3]), picture_blocks(pictures)
    for kind in SIZES:
        assert torch.allclose(alone[kind][0], together[kind][2], atol=1e-5)


def test_symmetry_tells_a_mirrored_picture() -> None:
    half = noise(1)[..., :16]
    mirrored = torch.cat([half, half.flip(3)], 3)
    assert float(picture_blocks(mirrored)["symmetry"][0, 0]) > 0.95
    assert float(picture_blocks(noise(1))["symmetry"][0, 0]) < 0.5


def test_edges_tell_directions_apart() -> None:
    stripes = torch.sin(torch.arange(32) * 0.8).expand(1, 3, 32, 32)
    upright, lying = picture_blocks(stripes)["edges"][0, :8], picture_blocks(stripes.transpose(2, 3))["edges"][0, :8]
    assert int(upright.argmax()) == 0
    assert int(lying.argmax()) == 4
    assert float(upright[0]) > 5 * float(upright[4])


def test_colour_tells_hues_apart() -> None:
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(1, 3, 32, 32)
    blue = torch.tensor([-1.0, -1.0, 1.0])[:, None, None].expand(1, 3, 32, 32)
    assert float((picture_blocks(red)["colour"] - picture_blocks(blue)["colour"]).abs().max()) > 0.5


def test_every_kind_has_the_same_total_variance_after_scaling() -> None:
    blocks = picture_blocks(noise(64) * torch.rand(64, 3, 1, 1, generator=torch.Generator().manual_seed(1)))
    scaled = FeatureScale.fit(blocks).apply(blocks)
    assert float(scaled.mean(0).abs().max()) < 1e-5
    for block in torch.split(scaled, list(SIZES.values()), 1):
        assert float(block.var(0).sum()) == pytest.approx(1, abs=1e-3)
