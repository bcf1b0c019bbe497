from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from typer.testing import CliRunner

from client.generators import avatar_drawing as drawing
from client.generators.art import pixel_grid
from client.generators.avatars import AvatarGenerator, AvatarSettings, export_avatars, possible_slots, train_avatars
from client.generators.cli import app
from client.generators.pack import GeneratorPack
from common.errors import SettingError
from tests.client.generators.avatar_reading import read_parts


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(4000, drawing.DIMENSION, generator=torch.Generator().manual_seed(77))


@pytest.fixture(scope="module")
def pack() -> GeneratorPack:
    return GeneratorPack.open("avatars")


def test_every_part_is_drawn_about_as_often_as_it_should_be(latents: torch.Tensor) -> None:
    parts = drawing.read_latents(latents).parts
    for name, chosen in parts.items():
        names = drawing.PARTS[name].split()
        share = drawing.SHARES.get(name, 1.0)
        worn = len(names) - (names[0] == "none")
        expected = torch.full((len(names),), share / worn)
        if names[0] == "none":
            expected[0] = 1 - share
        found = chosen.bincount(minlength=len(names)) / len(latents)
        # cells on a sphere are alike only about; the others are exact, so four standard deviations of 4,000
        slack = 0.3 * expected if name in ("hair", "clothing") else 4 * (expected * (1 - expected) / 4000).sqrt()
        assert bool(((found - expected).abs() <= slack).all()), (name, found)


def test_a_drawing_is_a_mixture_of_colours_in_every_pixel(latents: torch.Tensor) -> None:
    avatars = drawing.read_latents(latents[:500])
    share = drawing.mixtures(avatars.parts)
    assert share.shape == (500, len(drawing.SLOTS), 256)
    assert bool((share >= -1e-6).all())
    assert torch.allclose(share.sum(1), torch.ones(500, 256), atol=1e-5)
    picture = drawing.paint(share, avatars.palette)
    assert float(picture.min()) >= -1e-6
    assert float(picture.max()) <= 1 + 1e-6


def test_attributes_lie_along_hidden_directions_that_keep_the_law() -> None:
    turn = drawing.turn()
    assert torch.allclose(turn @ turn.T, torch.eye(drawing.DIMENSION), atol=1e-5)
    assert float(turn.abs().max()) < 0.9  # no axis of the latent is an attribute by itself


def test_what_never_occurs_has_no_weights() -> None:
    network = AvatarGenerator(8)
    assert network.mixture.out_features == int(possible_slots().sum())
    shares = torch.softmax(network.logits(torch.zeros(1, drawing.DIMENSION)), 1)[0].detach()
    assert float(shares[~possible_slots()].max()) < 1e-6


def test_training_learns_to_draw_and_repeats_itself(latents: torch.Tensor) -> None:
    def error(steps: int) -> float:
        network = train_avatars(AvatarSettings(steps=steps, batch=64, width=32, seed=1))
        wanted = drawing.read_latents(latents[:200])
        exact = drawing.paint(drawing.mixtures(wanted.parts), wanted.palette)
        found = (network(latents[:200], pixel_grid(16)).flatten(2) + 1) / 2
        return float((found - exact).square().mean())

    short = error(3)
    assert error(80) < 0.6 * short
    assert error(3) == short


@pytest.mark.parametrize("field", [{"steps": 0}, {"batch": 0}, {"width": 1}, {"seed": -1}])
def test_settings_out_of_range_are_refused(field: dict[str, int]) -> None:
    with pytest.raises(SettingError, match="must lie between"):
        AvatarSettings(**field)


def test_onnx_draws_what_the_network_draws_at_any_size(latents: torch.Tensor) -> None:
    network = AvatarGenerator(16).eval()
    session = onnxruntime.InferenceSession(export_avatars(network), providers=["CPUExecutionProvider"])
    for n, height, width in ((1, 16, 16), (5, 48, 32)):
        grid = pixel_grid(height, width)
        with torch.no_grad():
            wanted = network(latents[:n], grid)
        (found,) = session.run(None, {"latent": latents[:n].numpy(), "grid": grid.numpy()})
        assert np.abs(found - wanted.numpy()).max() < 1e-5


def test_a_larger_avatar_is_the_small_one_in_larger_pixels(pack: GeneratorPack, latents: torch.Tensor) -> None:
    small, large = pack.generate(latents[:4], 16), pack.generate(latents[:4], 96)
    assert torch.equal(small.repeat_interleave(6, 2).repeat_interleave(6, 3), large)


def test_the_shipped_avatars_show_the_attributes_their_latents_stand_for(
    pack: GeneratorPack, latents: torch.Tensor
) -> None:
    """Read back from pixels alone; of exact drawings 0.87 (eyes) to 1 of them can be read, see `avatar_reading`."""
    wanted = drawing.read_latents(latents[:250]).parts
    found = read_parts(pack.generate(latents[:250], 16))
    shares = {name: float((found[name] == wanted[name]).float().mean()) for name in found}
    least = {"hair": 0.88, "mouth": 0.95, "eyes": 0.7, "clothing": 0.87, "glasses": 0.7, "beard": 0.9, "hat": 0.9}
    assert {name: share for name, share in least.items() if shares[name] < share} == {}, shares
    # the control: pictures of other latents do not show these attributes
    others = {name: float((found[name].roll(1) == wanted[name]).float().mean()) for name in found}
    assert others["hair"] < 0.15
    assert others["mouth"] < 0.3


def test_the_shipped_pack_is_small_and_has_its_map(pack: GeneratorPack) -> None:
    assert len(pack.files["generator.onnx"]) < 4_000_000
    assert pack.manifest.licence == "CC0-1.0"
    assert pack.components == 64
    assert float(pack.component_r2[:8].mean()) > 0.6


def test_the_command_writes_a_pack(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["build", "avatars", str(tmp_path / "a"), "--steps", "2"], catch_exceptions=False)
    assert "plgl generator map" in result.stdout
    built = GeneratorPack.open(tmp_path / "a", tmp_path / "home")
    assert built.generate(torch.zeros(1, 24), 32).shape == (1, 3, 32, 32)
    again = CliRunner().invoke(app, ["build", "avatars", str(tmp_path / "a"), "--steps", "0"])
    assert isinstance(again.exception, SettingError)
