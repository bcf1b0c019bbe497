import hashlib

import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor

from simulations import counter

ALPHA = 1e-4


def rows(first: int, last: int) -> Tensor:
    return torch.arange(first, last)


def test_the_bits_are_those_of_splitmix64() -> None:
    """Against the algorithm in Python's unbounded integers, for the counters a row and column stand for."""
    key = int(counter.bits(0, "x", rows(0, 1), 1)[0, 0])
    digest = hashlib.sha256(b"plgl 0 x").digest()

    def mixed(number: int) -> int:
        z = (int.from_bytes(digest[:8], "little") + number * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        z ^= z >> 31
        return z - 2**64 if z >= 2**63 else z

    assert key == mixed(0)
    found = counter.bits(0, "x", rows(5, 8), 3)
    assert found.tolist() == [[mixed(row * 2**20 + column) for column in range(3)] for row in range(5, 8)]


def test_a_row_does_not_depend_on_the_others() -> None:
    whole = counter.normals(7, "taste", rows(0, 100), 5)
    assert torch.equal(whole[40:60], counter.normals(7, "taste", rows(40, 60), 5))
    assert torch.equal(whole[[3, 99]], counter.normals(7, "taste", torch.tensor([3, 99]), 5))


@pytest.mark.parametrize("change", [{"seed": 8}, {"purpose": "other"}])
def test_seeds_and_purposes_give_other_numbers(change: dict[str, object]) -> None:
    first = counter.bits(7, "taste", rows(0, 50), 4)
    other = counter.bits(**{"seed": 7, "purpose": "taste", "rows": rows(0, 50), "columns": 4, **change})  # type: ignore[arg-type]
    assert not bool((first == other).any())


def test_uniforms_and_normals_follow_their_laws_and_a_wrong_law_is_seen() -> None:
    uniform = counter.uniforms(1, "u", rows(0, 2_000), 10).flatten().numpy()
    normal = counter.normals(1, "n", rows(0, 2_000), 9).flatten().numpy()
    assert stats.kstest(uniform, "uniform").pvalue > ALPHA
    assert stats.kstest(normal, "norm").pvalue > ALPHA
    assert stats.kstest(1.1 * normal, "norm").pvalue < ALPHA
    assert stats.kstest(uniform**1.1, "uniform").pvalue < ALPHA


def test_neighbours_are_not_alike() -> None:
    normal = counter.normals(2, "n", rows(0, 20_000), 4)
    pairs = [(normal[:-1, 0], normal[1:, 0]), (normal[:, 0], normal[:, 1]), (normal[:, 0], normal[:, 2])]
    for one, other in pairs:
        assert stats.pearsonr(one.numpy(), other.numpy()).pvalue > ALPHA
    mixed = normal[:, 0] + 0.1 * normal[:, 1]
    assert stats.pearsonr(mixed.numpy(), normal[:, 1].numpy()).pvalue < ALPHA


def test_whole_numbers_below_a_limit_are_all_as_likely() -> None:
    drawn = counter.below(counter.bits(3, "b", rows(0, 5_000), 7), 35)
    assert int(drawn.min()) == 0
    assert int(drawn.max()) == 34
    assert stats.chisquare(torch.bincount(drawn.flatten(), minlength=35).numpy()).pvalue > ALPHA
