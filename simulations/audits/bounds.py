"""From what an attacker got right to a bound on mu of Gaussian differential privacy, and from there to epsilon.

The Gaussian mechanism is exactly mu-GDP (Dong, Roth & Su 2022, arXiv 1905.02383, Definition 2.6), so a test with
errors FPR and FNR between the worlds with and without a person shows ``mu >= Phi^-1(1 - FPR) - Phi^-1(FNR)``. At small
delta this is far tighter than ``epsilon >= log((1 - delta - FNR) / FPR)`` (Nasr et al. 2023, arXiv 2302.07956).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import brentq  # type: ignore[import-untyped]
from scipy.special import betaincinv, ndtr, ndtri  # type: ignore[import-untyped]
from scipy.stats import binom  # type: ignore[import-untyped]
from torch import Tensor

from common.errors import SettingError
from common.privacy import accounting

_THRESHOLDS = 61
_TAILS = 0.2  # in the tails few runs decide, and for normal scores the middle tells most
_LARGEST_MU = 60.0


@dataclass(frozen=True)
class Interval:
    """One-sided bounds, each at the confidence asked for; ``upper`` bounds the attack, not the mechanism.

    Attributes:
        lower: no less, or the claim is false.
        upper: no more with this attack; another one may reach more.
    """

    lower: float
    upper: float

    def epsilon(self, delta: float) -> Interval:
        """Bounds on mu as bounds on epsilon at ``delta``."""
        return Interval(epsilon_of(self.lower, delta), epsilon_of(self.upper, delta))


def epsilon_of(mu: float, delta: float) -> float:
    """Epsilon of a mu-GDP mechanism at ``delta``; 0 where mu is not positive, infinite where mu is."""
    if not mu > 0:
        return 0.0
    return math.inf if math.isinf(mu) else accounting.epsilon(1 / mu, 1, delta)


def from_scores(absent: Tensor, present: Tensor, confidence: float) -> Interval:
    """Bounds on mu from an attacker's scores in the two worlds.

    The first half of each chooses the threshold, the second half is counted, so the counts are binomial whatever the
    choice; Clopper-Pearson limits of both errors, at half the failure probability each, hold together.

    Args:
        absent: ``(n,)`` scores of runs without the person.
        present: ``(n,)`` scores of runs with the person; higher says "present".
        confidence: of each bound, in (0, 1).

    Raises:
        SettingError: so few runs that nothing can be shown.
    """
    _check_confidence(confidence)
    if min(absent.numel(), present.numel()) < 4:
        raise SettingError(f"{min(absent.numel(), present.numel())} runs are too few for two halves; take 1000 or more")
    half_absent, half_present = absent.numel() // 2, present.numel() // 2
    threshold = _best_threshold(absent[:half_absent], present[:half_present], confidence)
    absent, present = absent[half_absent:], present[half_present:]
    false_positives, false_negatives = int((absent > threshold).sum()), int((present <= threshold).sum())
    tail = (1 - confidence) / 2
    most = _upper(false_positives, absent.numel(), tail), _upper(false_negatives, present.numel(), tail)
    least = _lower(false_positives, absent.numel(), tail), _lower(false_negatives, present.numel(), tail)
    return Interval(_separation(*most), _separation(*least))


def most_from_scores(runs: int, confidence: float) -> float:
    """The largest mu that ``runs`` runs of each world can show: no error at all in the half that is counted."""
    error = float(_upper(0, runs - runs // 2, (1 - confidence) / 2))
    return _separation(error, error)


def runs_needed(mu: float, confidence: float) -> int:
    """Runs of each world from which on a mechanism beyond ``mu`` could be told from one within it."""
    error = float(ndtr(-mu / 2))
    return 2 * math.ceil(math.log((1 - confidence) / 2) / math.log1p(-error))


def from_guesses(canaries: int, guesses: int, right: int, confidence: float) -> float:
    """Lower bound on mu from one run with many canaries, each in with probability 1/2.

    The recursion of Mahloujifar, Melis & Chaudhuri 2025 ("Auditing f-differential privacy in one run", arXiv
    2410.22235, their algorithm for guesses with abstentions), with the trade-off curve of mu-GDP: the smallest mu
    under which ``right`` of ``guesses`` is not too unlikely.

    Args:
        canaries: m.
        guesses: fixed before looking, at most m.
        right: how many of them were.
        confidence: in (0, 1).
    """
    _check_guesses(canaries, guesses, right)
    _check_confidence(confidence)

    def plausible(mu: float) -> bool:
        return _one_run_mass(mu, canaries, guesses, right, 1 - confidence) <= guesses / canaries

    if plausible(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while not plausible(high):
        low, high = high, 2 * high
        if high > _LARGEST_MU:
            return low
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if plausible(middle) else (middle, high)
    return low


def _one_run_mass(mu: float, canaries: int, guesses: int, right: int, level: float) -> float:
    """Probability mass that ``right`` correct guesses of likelihood ``level`` imply under mu; above r/m: impossible."""
    share = level * guesses / canaries
    wrong, correct = share * (guesses - right) / guesses, share * right / guesses
    for i in range(right - 1, -1, -1):
        before = wrong
        wrong = max(wrong, float(ndtr(ndtri(min(correct, 1.0)) - mu)))
        correct += i / (guesses - i) * (wrong - before)
    return wrong + correct


def epsilon_from_guesses(canaries: int, guesses: int, right: int, delta: float, confidence: float) -> float:
    """Lower bound on epsilon at ``delta`` from one run (Steinke, Nasr & Jagielski 2023, arXiv 2305.08846, Theorem 5.2).

    The largest epsilon refused by ``Pr[B >= v] + 2 m delta max_i Pr[v - i <= B < v] / i <= 1 - confidence`` with
    ``B ~ Binomial(r, e^epsilon / (1 + e^epsilon))``, r guesses and v right ones.
    """
    _check_guesses(canaries, guesses, right)
    _check_confidence(confidence)

    def excess(epsilon: float) -> float:
        return _one_run_p_value(epsilon, canaries, guesses, right, delta) - (1 - confidence)

    if excess(0.0) > 0:
        return 0.0
    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-6))


def _one_run_p_value(epsilon: float, canaries: int, guesses: int, right: int, delta: float) -> float:
    law = binom(guesses, 1 / (1 + math.exp(-epsilon)))
    below = law.cdf(right - 1)
    step = torch.arange(1, right + 1)
    shares = (below - law.cdf((right - 1 - step).numpy())) / step.numpy()
    return min(float(1 - below + 2 * canaries * delta * (shares.max() if right else 0.0)), 1.0)


def _best_threshold(absent: Tensor, present: Tensor, confidence: float) -> float:
    """The threshold whose lower bound is highest on these scores."""
    quantiles = torch.linspace(_TAILS, 1 - _TAILS, _THRESHOLDS, dtype=torch.float64)
    pooled = torch.cat([absent, present]).double().sort().values
    thresholds = pooled[(quantiles * (pooled.numel() - 1)).long()]
    above = absent.numel() - torch.searchsorted(absent.double().sort().values, thresholds, right=True)
    below = torch.searchsorted(present.double().sort().values, thresholds, right=True)
    tail = (1 - confidence) / 2
    bounds = [
        _separation(_upper(a, absent.numel(), tail), _upper(b, present.numel(), tail))
        for a, b in zip(above.tolist(), below.tolist(), strict=True)
    ]
    return float(thresholds[max(range(len(bounds)), key=bounds.__getitem__)])


def _separation(false_positive: float, false_negative: float) -> float:
    """``Phi^-1(1 - FPR) - Phi^-1(FNR)``."""
    return float(-ndtri(false_positive) - ndtri(false_negative))


def _upper(count: int, total: int, tail: float) -> float:
    """Clopper & Pearson 1934: no larger rate is plausible."""
    return 1.0 if count == total else float(betaincinv(count + 1, total - count, 1 - tail))


def _lower(count: int, total: int, tail: float) -> float:
    return 0.0 if count == 0 else float(betaincinv(count, total - count + 1, tail))


def _check_confidence(confidence: float) -> None:
    if not 0.5 <= confidence < 1:
        raise SettingError(f"confidence={confidence} must be between 0.5 and 1; try 0.95")


def _check_guesses(canaries: int, guesses: int, right: int) -> None:
    if not 0 <= right <= guesses <= canaries or guesses < 1:
        raise SettingError(
            f"{right} right of {guesses} guesses about {canaries} canaries; give right <= guesses <= canaries"
        )
