import pytest
import torch

from client.policy.flow import FlowSettings, LatentPolicy, log_ratio
from common.errors import SettingError


def moved_policy(dimension: int = 5) -> LatentPolicy:
    """A policy whose couplings do something."""
    policy = LatentPolicy(FlowSettings(dimension=dimension, couplings=4, width=8)).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weights in policy.parameters():
            weights.add_(0.3 * torch.randn(weights.shape, generator=generator, dtype=torch.float64))
    return policy


def noise_and_level(count: int = 7, dimension: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return (
        torch.randn(count, dimension, generator=generator, dtype=torch.float64),
        torch.rand(count, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("dimension", [2, 3, 24])
def test_a_fresh_policy_is_the_generator_itself(dimension: int) -> None:
    policy = LatentPolicy(FlowSettings(dimension=dimension)).requires_grad_(False)
    noise = torch.randn(9, dimension, generator=torch.Generator().manual_seed(0))
    moved = policy(noise, torch.linspace(0, 1, 9))
    assert torch.equal(moved.places, noise)
    assert float(moved.log_stretch.abs().max()) == 0


def test_the_inverse_gives_the_noise_back() -> None:
    policy, (noise, level) = moved_policy(), noise_and_level()
    moved = policy(noise, level)
    back = policy.noise_of(moved.places, level)
    assert float((moved.places - noise).abs().max()) > 0.1
    torch.testing.assert_close(back.places, noise, atol=1e-9, rtol=0)
    torch.testing.assert_close(back.log_stretch, moved.log_stretch, atol=1e-9, rtol=0)


def test_the_log_stretch_is_the_determinant_of_the_jacobian() -> None:
    policy, (noise, level) = moved_policy(), noise_and_level()
    moved = policy(noise, level)
    for row in range(len(noise)):
        jacobian = torch.autograd.functional.jacobian(  # type: ignore[no-untyped-call]
            lambda one, at=row: policy(one[None], level[at : at + 1]).places[0], noise[row]
        )
        assert float(moved.log_stretch[row]) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-9)


def test_every_number_of_a_latent_can_be_moved() -> None:
    policy, (noise, level) = moved_policy(), noise_and_level()
    assert bool(((policy(noise, level).places - noise).abs() > 1e-3).any(0).all())


def test_the_density_is_normalised_and_the_log_ratio_its_logarithm() -> None:
    """The mean of p/q over samples of q is one; the log ratio of one policy to itself is zero."""
    policy = LatentPolicy(FlowSettings(dimension=2, couplings=4, width=8)).requires_grad_(False)
    with torch.no_grad():
        for coupling in policy.couplings:
            coupling.leave.bias += torch.tensor([0.3, 0.4])  # type: ignore[operator,union-attr]
    noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    moved = policy(noise, torch.full((len(noise),), 0.5))
    ratio = log_ratio(noise, moved)
    assert float((-ratio).exp().mean()) == pytest.approx(1, abs=0.02)
    assert float(ratio.mean()) > 0.1
    again = policy.log_ratio_of(moved.places, torch.full((len(noise),), 0.5))
    torch.testing.assert_close(again, ratio, atol=1e-3, rtol=0)


def test_the_same_generator_draws_the_same_latents_and_a_level_outside_its_range_is_refused() -> None:
    policy = LatentPolicy(FlowSettings(dimension=4)).requires_grad_(False)
    one, other = (policy.draw(5, 0.2, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, other)
    assert policy.draw(0, 1.0, torch.Generator()).shape == (0, 4)
    with pytest.raises(SettingError, match=r"level=1\.5 must lie between 0"):
        policy.draw(1, 1.5, torch.Generator())
    with pytest.raises(SettingError, match="count=-1"):
        policy.draw(-1, 0.5, torch.Generator())
    with pytest.raises(SettingError, match="couplings=1 of a policy"):
        FlowSettings(dimension=4, couplings=1)


def test_log_ratios_of_the_identity_are_zero() -> None:
    policy = LatentPolicy(FlowSettings(dimension=4)).requires_grad_(False)
    latents = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    assert float(policy.log_ratio_of(latents, torch.zeros(6)).abs().max()) < 1e-6
