"""Losses by their formulas, and the generators that come out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from client.generators.importers.sampling import Denoised, flow_steps
from client.generators.manifest import NETWORK, WEIGHTS
from client.generators.onnx import OnnxModel
from client.generators.torch_network import Recipe, build, stored
from client.generators.training.course import Course, TrainingSettings
from common.errors import DamagedPack, SettingError

TINY = {"side": 16, "width": 8, "dimension": 6, "batch": 4, "sampler": 2}


def course(**said: object) -> Course:
    return Course(TrainingSettings(**{**TINY, **said}))  # type: ignore[arg-type]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def test_the_loss_of_a_vae_is_its_evidence_bound() -> None:
    """As a plain formula: Gaussian log likelihood at its best spread, and the divergence from N(0, I)."""
    vae, pictures = course(), torch.rand(4, 3, 16, 16, generator=seeded(1)) * 2 - 1
    mean, log_variance = vae.encoder(pictures).unbind(1)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    noise = torch.randn(mean.shape, generator=seeded(2))
    answer = vae.decoder(mean + noise * posterior.scale)
    spread = (answer - pictures).square().mean().sqrt()
    likelihood = torch.distributions.Normal(answer, spread).log_prob(pictures).mean()  # type: ignore[no-untyped-call]
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    wanted = -float(likelihood) + float(divergence) / pictures[0].numel()
    assert abs(float(vae(pictures, seeded(2))) - wanted) < 1e-3
    assert abs(float(vae(pictures, seeded(3))) - wanted) > 1e-3  # other noise, another loss


class Known(nn.Module):
    """The exact velocity where all pictures are one picture ``c``: ``(x - c) / sigma``."""

    def __init__(self, picture: Tensor) -> None:
        super().__init__()
        self.picture = picture

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return (x - self.picture) / time[:, None, None, None]


@torch.no_grad()
def test_the_exact_velocity_has_no_loss_and_its_sampler_ends_at_the_picture() -> None:
    flow, picture = course(kind="flow"), torch.rand(3, 16, 16, generator=seeded(1)) * 2 - 1
    flow.velocity = Known(picture)
    assert float(flow(picture.expand(4, -1, -1, -1), seeded(2))) < 1e-6
    assert float(flow(-picture.expand(4, -1, -1, -1), seeded(2))) > 0.1
    drawn = flow.network()(torch.randn(5, 768, generator=seeded(3)))
    assert float((drawn - picture).abs().max()) < 1e-5


def test_a_straight_flow_needs_one_step() -> None:
    """``o = noise - picture`` for all times takes Euler's method to the picture whatever the steps are."""
    for sigmas in ([1.0, 0.0], [1.0, 0.7, 0.2, 0.0]):
        network = Denoised(nn.Identity(), flow_steps(sigmas, sigmas[:-1]), (3,))
        network.network = _Constant(torch.tensor([1.0, -2.0, 0.5]))
        latent = torch.randn(4, 3, generator=seeded(4))
        assert torch.allclose(network(latent), latent - torch.tensor([1.0, -2.0, 0.5]), atol=1e-6)


class _Constant(nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.value.expand_as(x)


@torch.no_grad()
def test_a_flow_on_pixels_is_written_as_onnx_and_draws_the_same() -> None:
    flow = course(kind="flow")
    for value in flow.parameters():
        value.add_(0.05 * torch.randn(value.shape, generator=seeded(5)))
    imported, latents = flow.imported("CC0-1.0", ""), torch.randn(7, 768, generator=seeded(6))
    assert imported.written is not None
    wanted = imported.network(latents)
    assert float((OnnxModel(imported.written(), "flow").run(latent=latents) - wanted).abs().max()) < 1e-3
    assert float(wanted.std(0).mean()) > 0.1
    assert (imported.latent_shape, imported.output.shape) == ((3, 16, 16), (3, 16, 16))


def test_the_same_seed_starts_from_the_same_weights() -> None:
    one, same, other = (next(course(seed=seed).parameters()) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"kind": "gan"}, "kind='gan'"),
        ({"space": "vae"}, "space='vae'"),
        ({"side": 48}, "side=48"),
        ({"side": 8}, "side=8"),
        ({"width": 12}, "width=12"),
        ({"batch": 1}, "batch=1"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"sampler": 0}, "sampler=0"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_settings_out_of_range_are_refused(said: dict[str, object], why: str) -> None:
    with pytest.raises(SettingError, match=why):
        course(**said)


@pytest.mark.parametrize("said", [{"kind": "vae"}, {"kind": "flow"}, {"kind": "flow", "space": "vae"}])
def test_a_generator_is_built_again_from_its_recipe_and_weights(said: dict[str, str]) -> None:
    made = course(**said).requires_grad_(False)
    imported, latents = made.imported("CC0-1.0", "", "torch"), torch.randn(3, made.dimension, generator=seeded(1))
    files = stored(made.recipe, imported.network)
    again = build(Recipe.decode(files[NETWORK]), files[WEIGHTS])
    torch.testing.assert_close(again(latents), imported.network(latents))
    for change in ({"kind": "gan"}, {"side": 1 << 40}, {"sampler": 0}, {"hook": "x"}, {"width": "8"}):
        hostile = Recipe(builder="trained", settings={**made.recipe.settings, **change})
        with pytest.raises(DamagedPack, match="makes no network"):
            build(hostile, files[WEIGHTS])
    wider = Recipe(builder="trained", settings={**made.recipe.settings, "width": 16})
    with pytest.raises(DamagedPack, match=r"generator\.safetensors"):
        build(wider, files[WEIGHTS])
