"""The score of a training: the Frechet distance in closed form, and the order of better and worse pictures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from client.generators.training.score import Judge, frechet_distance, moments


def drawn(n: int, seed: int) -> Tensor:
    """Blocks of random colour, ``(n, 3, 16, 16)``."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return functional.interpolate(coarse, scale_factor=4.0)


def test_the_distance_of_gaussians_along_the_axes_is_the_one_of_their_deviations() -> None:
    one, other = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([3.0, 0.5, 0.0]).double()
    mean = torch.tensor([1.0, 0.0, -1.0]).double()
    found = frechet_distance(mean, one.square().diag(), -mean, other.square().diag())
    assert abs(found - float((2 * mean).square().sum() + (one - other).square().sum())) < 1e-9


def test_a_rotation_of_the_axes_changes_no_distance_and_a_gaussian_has_none_from_itself() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 200, 5, generator=generator, dtype=torch.float64) @ torch.randn(
        5, 5, generator=generator, dtype=torch.float64
    )
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q
    straight = frechet_distance(*moments(features[0]), *moments(2 * features[1] + 1))
    turned = frechet_distance(*moments(features[0] @ turn), *moments((2 * features[1] + 1) @ turn))
    assert abs(straight - turned) < 1e-9 * straight
    assert frechet_distance(*moments(features[0]), *moments(features[0])) < 1e-9


def test_like_pictures_score_as_two_halves_do_and_worse_ones_worse() -> None:
    judge, like = Judge.of(drawn(400, 1)), drawn(200, 2)
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(3))
    good = judge.score(like)
    assert good < 3 * judge.halves
    blurred = [judge.score(functional.avg_pool2d(like, width, 1, width // 2)) for width in (3, 5, 9)]
    noisy = [judge.score((like + spread * noise).clamp(-1, 1)) for spread in (0.2, 0.5, 1.0)]
    for worse in (blurred, noisy):
        assert 1.5 * good < worse[0] < worse[1] < worse[2]
    assert judge.score(like[:1].expand(200, -1, -1, -1)) > 10 * good  # always the same picture
