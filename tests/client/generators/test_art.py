import pytest
import torch

from client.generators.art import DIMENSION, ArtGenerator, export_art, pixel_grid
from client.generators.onnx import OnnxModel
from client.generators.pack import GENERATOR, PACKS


@pytest.fixture(scope="module")
def rebuilt() -> bytes:
    return export_art()


def draws(n: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(n, DIMENSION, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "height", "width"), [(1, 16, 16), (5, 48, 48), (3, 40, 64), (2, 200, 200)])
def test_the_onnx_file_draws_what_torch_draws_at_any_size(rebuilt: bytes, n: int, height: int, width: int) -> None:
    latents, grid = draws(n), pixel_grid(height, width)
    by_torch = ArtGenerator()(latents, grid)
    by_onnx = OnnxModel(rebuilt, "art").run(latent=latents, grid=grid)
    assert by_onnx.shape == (n, 3, height, width)
    assert float((by_torch - by_onnx).abs().max()) < 5e-4  # a fifteenth of one step of an 8-bit picture
    assert float((by_torch - by_onnx).abs().mean()) < 1e-5


def test_the_shipped_generator_is_the_one_the_code_builds(rebuilt: bytes) -> None:
    shipped = OnnxModel((PACKS / "art" / GENERATOR).read_bytes(), "shipped")
    latents, grid = draws(16), pixel_grid(64)
    found = OnnxModel(rebuilt, "rebuilt").run(latent=latents, grid=grid)
    assert float((found - shipped.run(latent=latents, grid=grid)).abs().max()) < 5e-4


def test_the_file_holds_nothing_of_the_machine_that_wrote_it(rebuilt: bytes) -> None:
    assert b"site-packages" not in rebuilt
    assert b".py" not in rebuilt
    assert export_art() == rebuilt


def test_pictures_are_varied_and_inside_their_range() -> None:
    pictures = ArtGenerator()(draws(64), pixel_grid(32))
    assert float(pictures.min()) >= -1
    assert float(pictures.max()) <= 1
    assert float(pictures.mean((2, 3)).std(0).min()) > 0.15  # palettes differ between pictures
    assert float(pictures.std((2, 3)).mean(1).min()) > 0.02  # no picture is plain


def test_every_latent_direction_changes_the_picture() -> None:
    art, grid = ArtGenerator(), pixel_grid(24)
    latents = draws(8)
    base = art(latents, grid)
    axes = torch.cat([art.get_buffer("controls"), art.get_buffer("forms")], 1).T
    change = [float((art(latents + axis, grid) - base).abs().mean()) for axis in axes]
    assert min(change) > 0.01


def test_pictures_change_smoothly_with_the_latent() -> None:
    latents = draws(4).double().requires_grad_()
    art = ArtGenerator().double()
    pictures = art(latents, pixel_grid(16).double())
    (gradient,) = torch.autograd.grad(pictures.mean(), latents)
    assert bool(gradient.isfinite().all())
    near = art(latents + 1e-6, pixel_grid(16).double())
    assert float((near - pictures).detach().abs().max()) < 1e-3


def test_the_grid_is_centred_and_keeps_pixels_square() -> None:
    grid = pixel_grid(4, 8)
    assert grid.shape == (2, 4, 8)
    assert torch.allclose(grid.mean((1, 2)), torch.zeros(2))
    assert torch.allclose(grid[0, 1, 0] - grid[0, 0, 0], grid[1, 0, 1] - grid[1, 0, 0])
