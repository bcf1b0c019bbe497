"""The one record that leaves a client: its formula, its norm, and the way back."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.errors import UpdateError
from common.prior import PopulationPrior
from common.update import VERSION, decode, encode, length, svec, unsvec


def some_prior(p: int, seed: int = 0) -> PopulationPrior:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(p, p, generator=generator, dtype=torch.float64)
    flat = PopulationPrior.flat(p, "pack")
    covariance = factor @ factor.T / p + 0.1 * torch.eye(p, dtype=torch.float64)
    return PopulationPrior(
        mean=torch.randn(p, generator=generator, dtype=torch.float64),
        covariance=(covariance + covariance.T) / 2,
        thresholds=flat.thresholds,
        pack=flat.pack,
        privacy=flat.privacy,
    )


def some_posteriors(people: int, p: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(people, p, p, generator=generator, dtype=torch.float64)
    mean = torch.randn(people, p, generator=generator, dtype=torch.float64)
    return mean, factor @ factor.transpose(-1, -2) / p


def test_an_update_is_the_formula_written_as_plain_loops() -> None:
    p, people = 4, 3
    prior = some_prior(p)
    means, covariances = some_posteriors(people, p)
    inverse_root = torch.linalg.inv(prior.root())
    for person, update in enumerate(encode(means, covariances, prior)):
        t = [sum(inverse_root[i, j] * (means[person, j] - prior.mean[j]) for j in range(p)) for i in range(p)]
        expected = [float(value) for value in t]
        for i in range(p):
            for j in range(i, p):
                u = t[i] * t[j] - (1.0 if i == j else 0.0)
                for a in range(p):
                    for b in range(p):
                        u = u + inverse_root[i, a] * covariances[person, a, b] * inverse_root[b, j]
                expected.append(float(u) * (1.0 if i == j else math.sqrt(2)))
        assert torch.allclose(update, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_a_person_who_knows_nothing_beyond_the_prior_sends_zeros() -> None:
    prior = some_prior(6)
    update = encode(prior.mean[None], prior.covariance[None], prior)
    assert torch.allclose(update, torch.zeros_like(update), atol=1e-12)


def test_an_update_does_not_depend_on_who_else_is_in_the_batch() -> None:
    prior = some_prior(5)
    means, covariances = some_posteriors(7, 5)
    whole = encode(means, covariances, prior)
    for person in range(7):
        alone = encode(means[person : person + 1], covariances[person : person + 1], prior)[0]
        assert torch.allclose(whole[person], alone, rtol=1e-12, atol=1e-12)
    assert encode(means[:0], covariances[:0], prior).shape == (0, length(5))


def test_the_mean_of_updates_decodes_to_the_statistics_of_the_people() -> None:
    p = 5
    prior = some_prior(p)
    means, covariances = some_posteriors(11, p)
    t, u = decode(encode(means, covariances, prior).mean(0), p)
    root = prior.root()
    # Undo the whitening: the mean taste, and the second moment about the prior's mean.
    assert torch.allclose(prior.mean + root @ t, means.mean(0), rtol=1e-9)
    away = means - prior.mean
    moment = (covariances + away[:, :, None] * away[:, None, :]).mean(0)
    assert torch.allclose(root @ (u + torch.eye(p, dtype=torch.float64)) @ root, moment, rtol=1e-9, atol=1e-9)


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, 12), st.integers(0, 2**31))
def test_the_norm_of_a_stacked_matrix_is_its_frobenius_norm_and_unstacking_undoes_it(p: int, seed: int) -> None:
    matrix = torch.randn(3, p, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    matrix = (matrix + matrix.transpose(-1, -2)) / 2
    vector = svec(matrix)
    assert vector.shape == (3, p * (p + 1) // 2)
    assert torch.allclose(vector.norm(dim=-1), torch.linalg.matrix_norm(matrix), rtol=1e-12)
    assert torch.allclose(unsvec(vector, p), matrix, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    means, covariances = (x.to(dtype) for x in some_posteriors(2, 3))
    update = encode(means, covariances, some_prior(3))
    assert update.dtype == dtype
    assert all(part.dtype == dtype for part in decode(update, 3))


def test_the_length_of_a_taste_of_33_weights_is_594() -> None:
    assert length(33) == 594
    assert VERSION == 1


@pytest.mark.parametrize("numbers", [0, 593, 595])
def test_a_wrong_length_is_an_update_error(numbers: int) -> None:
    with pytest.raises(UpdateError, match=rf"update has {numbers} numbers, a taste of 33 weights needs 594"):
        decode(torch.zeros(numbers), 33)
