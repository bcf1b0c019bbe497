import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from common.errors import SettingError
from common.privacy import accounting, correlated, sampled
from common.privacy.correlated import BandedStream, Blt, BltStream, Participation, Stream
from common.privacy.sampled import SamplingSettings

ROUNDS = 500
FIVE_TIMES = Participation(rounds=ROUNDS, separation=100, most=5)


def banded(bands: int, rounds: int = ROUNDS) -> Tensor:
    return pad(torch.tensor(correlated.optimise_banded(rounds, bands), dtype=torch.float64), (0, rounds - bands))


def toeplitz(coefficients: Tensor) -> Tensor:
    """The whole matrix, entry by entry."""
    n = coefficients.shape[0]
    return torch.tensor(
        [[float(coefficients[i - j]) if i >= j else 0.0 for j in range(n)] for i in range(n)], dtype=torch.float64
    )


def patterns(participation: Participation) -> list[tuple[int, ...]]:
    """Every set of rounds one person may take part in."""
    return [
        chosen
        for times in range(1, participation.most + 1)
        for chosen in itertools.combinations(range(participation.rounds), times)
        if all(b - a >= participation.separation for a, b in itertools.pairwise(chosen))
    ]


def worst(coefficients: Tensor, participation: Participation) -> float:
    """Largest movement of C G by trying everything: all patterns, the best vectors found by their signs."""
    gram = toeplitz(coefficients).T @ toeplitz(coefficients)
    # A sum of |gram| bounds what any vectors can do, and equal vectors reach it where gram is not negative.
    return math.sqrt(max(float(gram[list(p)][:, list(p)].abs().sum()) for p in patterns(participation)))


@pytest.mark.parametrize(("bands", "expected"), [(4, 8.1900), (10, 5.5739), (20, 4.3713)])
def test_banded_prefix_error_is_the_known_one(bands: int, expected: float) -> None:
    coefficients = banded(bands)
    assert float(coefficients.square().sum()) == pytest.approx(1, abs=1e-12)
    assert float(correlated.prefix_rms(coefficients)) == pytest.approx(expected, abs=5e-5)


def test_one_band_is_independent_noise_and_all_bands_beat_the_square_root() -> None:
    assert correlated.optimise_banded(50, 1) == (1.0,)
    assert float(correlated.prefix_rms(banded(1, 50))) == pytest.approx(math.sqrt(51 / 2), rel=1e-12)
    k = torch.arange(1, 50, dtype=torch.float64)
    root = torch.cat([torch.ones(1).double(), ((2 * k - 1) / (2 * k)).cumprod(0)])
    root /= root.square().sum().sqrt()
    assert float(correlated.prefix_rms(banded(50, 50))) < float(correlated.prefix_rms(root)) * (1 - 1e-3)


def test_banded_noise_with_sampling_beats_independent_noise_by_a_quarter() -> None:
    # 10 groups of 10,000 people, 1,000 expected of the group whose turn it is; 50 turns.
    group = SamplingSettings(people=10_000, cohort=1_000, rounds=50)
    z = sampled.noise_multiplier(group)
    assert z == pytest.approx(1.938, abs=1e-3)
    error = float(correlated.prefix_rms(banded(10))) * z
    assert error == pytest.approx(10.80, abs=0.01)
    independent = float(correlated.prefix_rms(banded(1))) * 0.9133
    assert independent == pytest.approx(14.46, abs=0.02)
    assert error / independent == pytest.approx(0.75, abs=0.01)


def test_blt_without_sampling_reaches_the_known_error() -> None:
    z = accounting.noise_multiplier(2.0, 1e-6)
    coefficients = correlated.optimise_blt(FIVE_TIMES, 2).coefficients(ROUNDS)
    error = correlated.prefix_rms(coefficients) * correlated.sensitivity(coefficients, FIVE_TIMES) * z
    assert float(error) == pytest.approx(15.97, abs=0.01)


def test_blt_of_a_single_participation_reaches_the_known_error() -> None:
    once = Participation(rounds=ROUNDS)
    coefficients = correlated.optimise_blt(once, 2).coefficients(ROUNDS)
    z = accounting.noise_multiplier(2.0, 1e-6)
    error = correlated.prefix_rms(coefficients) * correlated.sensitivity(coefficients, once) * z
    assert float(error) == pytest.approx(6.34, abs=0.01)


@pytest.mark.parametrize("separation", [1, 2, 3, 5])
@pytest.mark.parametrize("most", [1, 2, 3, 9])
def test_sensitivity_is_that_of_the_worst_of_all_patterns(separation: int, most: int) -> None:
    participation = Participation(rounds=9, separation=separation, most=most)
    generator = torch.Generator().manual_seed(10 * separation + most)
    for _ in range(3):
        falling = torch.rand(9, generator=generator, dtype=torch.float64).sort(descending=True).values
        assert float(correlated.sensitivity(falling, participation)) == pytest.approx(worst(falling, participation))
        # Bands of any sign where columns of one person cannot overlap
        any_sign = torch.randn(9, generator=generator, dtype=torch.float64)
        any_sign[separation:] = 0
        assert float(correlated.sensitivity(any_sign, participation)) == pytest.approx(worst(any_sign, participation))


def test_sensitivity_is_counted_in_columns_not_in_rows() -> None:
    # The square root of X = C C' by rows of norm 1 has longer columns: booked by rows it would claim too much.
    gram = toeplitz(banded(3, 12)) @ toeplitz(banded(3, 12)).T
    rows = gram / gram.diag().sqrt().outer(gram.diag().sqrt())
    by_rows = torch.linalg.cholesky(rows)
    assert torch.allclose(by_rows.square().sum(1), torch.ones(12).double())
    assert float(by_rows.square().sum(0).max().sqrt()) > 1.1
    assert float(toeplitz(banded(3, 12)).square().sum(0).max().sqrt()) == pytest.approx(1)


def test_a_sensitivity_that_is_not_known_exactly_is_refused() -> None:
    participation = Participation(rounds=6, separation=2, most=2)
    for coefficients in ([1, 0.5, 0.7, 0, 0, 0], [1, 0.5, -0.1, 0, 0, 0]):
        with pytest.raises(SettingError, match="use fewer bands, or a BLT"):
            correlated.sensitivity(torch.tensor(coefficients, dtype=torch.float64), participation)
    with pytest.raises(SettingError, match=r"must be \(6,\)"):
        correlated.sensitivity(torch.ones(5).double(), participation)


BLT = Blt(theta=(0.9, 0.4), omega=(0.3, 0.25))


@pytest.mark.parametrize(
    ("stream", "coefficients"),
    [
        pytest.param(BandedStream(correlated.optimise_banded(40, 5)), banded(5, 40), id="banded"),
        pytest.param(BltStream(BLT), BLT.coefficients(40), id="blt"),
    ],
)
def test_a_stream_gives_the_rows_of_the_inverse_times_the_noise(stream: Stream, coefficients: Tensor) -> None:
    z = torch.randn(40, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = torch.stack([stream.next(row) for row in z])
    assert torch.allclose(rows, torch.linalg.solve(toeplitz(coefficients), z), atol=1e-12)
    assert torch.allclose(correlated.inverse(coefficients), torch.linalg.inv(toeplitz(coefficients))[:, 0], atol=1e-12)


def test_noise_in_the_running_sum_is_what_the_design_says() -> None:
    stream, coefficients = BandedStream(correlated.optimise_banded(100, 10)), banded(10, 100)
    generator = torch.Generator().manual_seed(3)
    rows = torch.stack([stream.next(torch.randn(2_000, generator=generator, dtype=torch.float64)) for _ in range(100)])
    seen, expected = rows.cumsum(0).square().mean().sqrt(), correlated.prefix_rms(coefficients)
    assert float(seen) == pytest.approx(float(expected), rel=0.02)
    assert float(rows.square().mean().sqrt().log()) != pytest.approx(0, abs=0.1)  # it is not the independent noise


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: Participation(rounds=0), "rounds=0 must be between 1 and 10000", id="no rounds"),
        pytest.param(lambda: Participation(rounds=5, separation=6), "separation=6", id="too far apart"),
        pytest.param(lambda: Participation(rounds=5, most=0), "most=0", id="never"),
        pytest.param(lambda: correlated.optimise_banded(5, 6), "bands=6 must be between 1 and rounds=5", id="bands"),
        pytest.param(lambda: correlated.optimise_blt(FIVE_TIMES, 9), "buffers=9", id="buffers"),
        pytest.param(lambda: Blt(theta=(1.0,), omega=(0.1,)), r"theta=\(1.0,\)", id="no decay"),
        pytest.param(lambda: Blt(theta=(0.5, 0.4), omega=(0.9, 0.2)), "at most 1", id="heavy"),
        pytest.param(lambda: Blt(theta=(0.5,), omega=()), "must be as many", id="unequal"),
    ],
)
def test_impossible_shapes_are_refused_with_the_limit(make: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()  # type: ignore[operator]
