"""Correlated noise: rounds whose noise cancels in the running sum, so that many rounds cost less.

With ``G`` the rounds' sums (one row a round) and ``Z`` independent Gaussian rows the releases are ``G + C^-1 Z``: the
Gaussian mechanism on ``C G``, post-processed. The model sees prefix sums, whose noise is ``A C^-1 Z`` with ``A`` the
lower triangle of ones. ``C`` is lower triangular Toeplitz with coefficients ``c_0, c_1, ...``; a person who takes part
in several rounds moves ``C G`` by a sum of its columns, so sensitivity is a matter of columns, never of rows.

Two shapes of ``C``:

* banded, ``c_k = 0`` from ``bands`` on (Choquette-Choo et al. 2023, "(Amplified) banded matrix factorization",
  arXiv 2306.08153; Toeplitz coefficients optimised as in McKenna 2024, arXiv 2405.15913). Columns ``bands`` apart do
  not overlap, so it also composes with secret Poisson sampling in every ``bands``-th round.
* buffered linear Toeplitz (BLT), ``c_k = sum_j omega_j theta_j^(k-1)``: a few buffers stand for unbounded memory
  (Dvijotham et al. 2024, arXiv 2404.16706; several participations: McMahan et al. 2024, arXiv 2408.08868). No sampling
  is assumed, only a minimum separation between a person's rounds.

Everything here is float64. The noise is therefore for research: floating-point Gaussians are not the real ones.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.errors import SettingError

_LARGEST = 10_000  # rounds; designing holds a matrix of their square


def inverse(coefficients: Tensor) -> Tensor:
    """``(rounds,)`` coefficients of the inverse of a lower triangular Toeplitz matrix, itself Toeplitz.

    Args:
        coefficients: ``(rounds,)`` first column, the first one not 0.
    """
    unit = torch.zeros_like(coefficients)
    unit[0] = 1
    found: Tensor = torch.linalg.solve_triangular(_matrix(coefficients), unit[:, None], upper=False)
    return found[:, 0]


def prefix_rms(coefficients: Tensor) -> Tensor:
    """Root mean square, over rounds, of the noise in the prefix sums where the rows of Z have variance 1.

    Args:
        coefficients: ``(rounds,)`` first column of C, zeros included.
    """
    noise = inverse(coefficients).cumsum(0)  # first column of A C^-1
    return noise.square().cumsum(0).mean().sqrt()


@dataclass(frozen=True, kw_only=True)
class Participation:
    """How often one person may take part.

    Attributes:
        rounds: T of the whole training.
        separation: least distance between two rounds of a person; 1 is no limit.
        most: rounds one person takes part in at most.
    """

    rounds: int
    separation: int = 1
    most: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= _LARGEST:
            raise SettingError(f"rounds={self.rounds} must be between 1 and {_LARGEST} for correlated noise")
        if not 1 <= self.separation <= self.rounds:
            raise SettingError(f"separation={self.separation} must be between 1 and rounds={self.rounds}")
        if self.most < 1:
            raise SettingError(f"most={self.most} must be >= 1; it is how often one person takes part")

    @property
    def times(self) -> int:
        """How often one person can really take part: ``most``, or fewer where the rounds end first."""
        return min(self.most, -(-self.rounds // self.separation))


def sensitivity(coefficients: Tensor, participation: Participation) -> Tensor:
    """Exact L2 sensitivity of ``C G`` to one person, each of whose vectors has norm at most 1.

    Guarantee: the maximum over all patterns of rounds that ``participation`` allows and all vectors, for the two cases
    in which it is known in closed form; never an approximation.

    * Columns that far apart do not overlap: the squares of the ``times`` first columns add up, and no later column is
      longer than an earlier one.
    * Coefficients not negative and not increasing: the worst are the same vector in the first round and in every
      ``separation``-th after it (Kalinin & Lampert 2024, arXiv 2405.13763, theorem 2).

    Args:
        coefficients: ``(rounds,)`` first column of C, zeros included.
        participation: which patterns are possible; as many rounds.

    Raises:
        SettingError: neither case applies, so nothing exact is known here.
    """
    if coefficients.shape != (participation.rounds,):
        raise SettingError(f"coefficients of shape {tuple(coefficients.shape)} must be ({participation.rounds},)")
    starts = [k * participation.separation for k in range(participation.times)]
    columns = [torch.nn.functional.pad(coefficients, (start, 0))[: participation.rounds] for start in starts]
    if not bool(coefficients[participation.separation :].any()) or participation.times == 1:
        return torch.stack([column.square().sum() for column in columns]).sum().sqrt()
    # Rounding of an optimiser must not decide which case this is.
    if bool((coefficients < -1e-12).any()) or bool((coefficients.diff() > 1e-12).any()):
        raise SettingError(
            f"sensitivity of overlapping columns (separation={participation.separation}) is known exactly only for "
            "coefficients that are not negative and do not increase; use fewer bands, or a BLT"
        )
    return torch.stack(columns).sum(0).square().sum().sqrt()


@functools.lru_cache(maxsize=64)
def optimise_banded(rounds: int, bands: int) -> tuple[float, ...]:
    """Banded Toeplitz coefficients of least prefix error at column norm 1, found by L-BFGS.

    Args:
        rounds: T.
        bands: coefficients that are not 0; 1 gives independent noise.

    Returns:
        ``bands`` numbers, sum of squares 1.

    Raises:
        SettingError: ``bands`` is not between 1 and ``rounds``.
    """
    Participation(rounds=rounds)
    if not 1 <= bands <= rounds:
        raise SettingError(f"bands={bands} must be between 1 and rounds={rounds}; try 10")

    def coefficients(free: Tensor) -> Tensor:
        # Relative to the square root of A, which is optimal without bands (Fichtenberger et al. 2023).
        band = _root(bands) * torch.cat([free.new_ones(1), 1 + free])
        return band / band.square().sum().sqrt()

    def error(free: Tensor) -> Tensor:
        return prefix_rms(torch.nn.functional.pad(coefficients(free), (0, rounds - bands)))

    best = _minimise(error, torch.zeros(bands - 1, dtype=torch.float64)) if bands > 1 else torch.zeros(0).double()
    return tuple(coefficients(best).tolist())


@dataclass(frozen=True, kw_only=True)
class Blt:
    """A buffered linear Toeplitz matrix: ``c_0 = 1``, ``c_k = sum_j omega_j theta_j^(k-1)``.

    Attributes:
        theta: decay of each buffer, in (0, 1).
        omega: weight of each buffer, > 0, of sum at most 1, so that coefficients do not increase.
    """

    theta: tuple[float, ...]
    omega: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.theta) != len(self.omega) or not self.theta:
            raise SettingError(f"{len(self.theta)} decays and {len(self.omega)} weights must be as many, at least one")
        if not all(0 < theta < 1 for theta in self.theta):
            raise SettingError(f"theta={self.theta} must be in (0, 1)")
        if not all(omega > 0 for omega in self.omega) or sum(self.omega) > 1 + 1e-12:
            raise SettingError(f"omega={self.omega} must be > 0 and add up to at most 1")

    def coefficients(self, rounds: int) -> Tensor:
        """``(rounds,)`` float64 first column of C."""
        return _blt(
            torch.tensor(self.theta, dtype=torch.float64), torch.tensor(self.omega, dtype=torch.float64), rounds
        )


@functools.lru_cache(maxsize=64)
def optimise_blt(participation: Participation, buffers: int = 2) -> Blt:
    """The BLT of least prefix error times sensitivity, found by L-BFGS from several starts.

    Args:
        participation: how often one person takes part; decides the sensitivity.
        buffers: d; two are enough for some hundred rounds.

    Raises:
        SettingError: ``buffers`` is not between 1 and 8.
    """
    if not 1 <= buffers <= 8:
        raise SettingError(f"buffers={buffers} must be between 1 and 8; try 2")

    def shape(free: Tensor) -> tuple[Tensor, Tensor]:
        gaps = torch.nn.functional.softplus(free[:buffers]).cumsum(0)  # ascending, so that buffers stay apart
        shares = torch.softmax(torch.cat([free[buffers:], free.new_zeros(1)]), 0)[:-1]
        return torch.exp(-gaps), shares

    def error(free: Tensor) -> Tensor:
        coefficients = _blt(*shape(free), participation.rounds)
        return prefix_rms(coefficients) * sensitivity(coefficients, participation)

    slowest = (1 / participation.rounds, 1 / math.sqrt(participation.rounds), 0.1)
    starts = [
        torch.tensor([math.log(math.expm1(slow)), *[0.0] * (buffers - 1), *[-1.0] * buffers], dtype=torch.float64)
        for slow in slowest
    ]
    best = min((_minimise(error, start) for start in starts), key=lambda free: float(error(free)))
    theta, omega = shape(best)
    return Blt(theta=tuple(theta.tolist()), omega=tuple(omega.tolist()))


class Stream(Protocol):
    """Turns independent noise into correlated noise, one round at a time."""

    def next(self, z: Tensor) -> Tensor:
        """Row t of ``C^-1 Z`` from row t of Z; call it once for each round, in order."""


class BandedStream:
    """``x_t = (z_t - sum_k c_k x_(t-k)) / c_0`` with a memory of ``bands - 1`` rounds.

    Args:
        coefficients: the bands, the first one not 0.
    """

    def __init__(self, coefficients: Sequence[float]) -> None:
        self._first, self._others = coefficients[0], coefficients[1:]
        self._past: list[Tensor] = []  # newest first

    def next(self, z: Tensor) -> Tensor:
        """Row t of ``C^-1 Z``."""
        x = z.double().clone()
        for weight, past in zip(self._others, self._past, strict=False):
            x.sub_(past, alpha=weight)
        x /= self._first
        self._past = [x, *self._past][: len(self._others)]
        return x.clone()


class BltStream:
    """``x_t = z_t - sum_j omega_j s_j``, then ``s_j = theta_j s_j + x_t``: one buffer for each decay.

    Args:
        blt: the matrix C.
    """

    def __init__(self, blt: Blt) -> None:
        self._theta, self._omega = (torch.tensor(values, dtype=torch.float64) for values in (blt.theta, blt.omega))
        self._buffers: Tensor | None = None

    def next(self, z: Tensor) -> Tensor:
        """Row t of ``C^-1 Z``."""
        if self._buffers is None:
            self._buffers = z.new_zeros(self._theta.shape[0], *z.shape, dtype=torch.float64)
        x: Tensor = z.double() - torch.tensordot(self._omega.to(z.device), self._buffers, dims=1)
        decay = self._theta.to(z.device).reshape(-1, *[1] * z.ndim)
        self._buffers = decay * self._buffers + x
        return x


def _blt(theta: Tensor, omega: Tensor, rounds: int) -> Tensor:
    powers: Tensor = theta[:, None] ** torch.arange(rounds - 1, dtype=torch.float64)
    return torch.cat([theta.new_ones(1), omega @ powers])


def _root(count: int) -> Tensor:
    """First coefficients of the square root of A: ``binom(2k, k) / 4^k``."""
    k = torch.arange(1, count, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), ((2 * k - 1) / (2 * k)).cumprod(0)])


def _matrix(coefficients: Tensor) -> Tensor:
    """``(n, n)`` the lower triangular Toeplitz matrix with this first column."""
    n = coefficients.shape[0]
    line = torch.cat([coefficients.new_zeros(n - 1), coefficients])
    matrix: Tensor = line.unfold(0, n, 1)
    return matrix.flip(1)


def _minimise(error: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """A local minimum by L-BFGS with a strong Wolfe line search; the logarithm of the error is what is minimised."""
    free = start.clone().requires_grad_()
    search = torch.optim.LBFGS([free], max_iter=300, tolerance_grad=1e-8, tolerance_change=1e-12, history_size=20,
                               line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> Tensor:
        search.zero_grad()
        loss = error(free).log()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    search.step(closure)  # type: ignore[no-untyped-call]
    return free.detach()
