import pytest
import torch

from client.generators.pack import GeneratorPack
from client.lens import Lens
from common.errors import SettingError

ART = GeneratorPack.open("art")


@pytest.mark.parametrize("components", [None, 1, 33])
def test_a_lens_sees_what_the_map_of_the_pack_says(components: int | None) -> None:
    latents = ART.latents.sample(40, torch.Generator().manual_seed(0))
    seen = Lens(ART, components)(latents)
    expected = ART.features(latents, components)
    torch.testing.assert_close(seen.features.double(), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(seen.latents, latents)


def test_a_lens_can_be_differentiated() -> None:
    """Against finite differences, in the direction of the gradient."""
    lens = Lens(ART, 8)
    latent = ART.latents.sample(1, torch.Generator().manual_seed(1)).requires_grad_()
    slope = torch.autograd.grad(lens(latent).features[0, 2], latent)[0]
    step = 1e-2 * slope / slope.norm()
    with torch.no_grad():
        rise = lens(latent + step).features[0, 2] - lens(latent - step).features[0, 2]
    assert float(rise) == pytest.approx(2e-2 * float(slope.norm()), rel=0.02)


def test_without_components_latents_speak_for_themselves() -> None:
    latents = torch.randn(5, 24, generator=torch.Generator().manual_seed(2))
    lens = Lens(ART, 0)
    assert lens.components == 24
    assert torch.equal(lens(latents).features, torch.cat([latents, torch.ones(5, 1)], dim=1))


def test_more_components_than_there_are_are_refused() -> None:
    with pytest.raises(SettingError, match="components=65"):
        Lens(ART, 65)
