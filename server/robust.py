"""Robust aggregation rules with central trust: what each protects against, and what one person can do to its result.

Flower's ``FedMedian``, ``FedTrimmedAvg``, ``Krum`` and ``MultiKrum`` (``flwr.serverapp.strategy``; ``tests`` check that
the rules here give the same values) as functions of the clipped integer updates, each with its own sensitivity. None
of them has the sensitivity of a mean, and with masks nobody sees the rows they need.

A data set is ``(n, D)`` integers with every row's L2 norm at most B, and n is fixed before the round: missing rows are
zeros. So "add or remove one person" means that one row becomes zeros, or stops being zeros ("zero-out"); "replace"
means that one row becomes any other. Every rule is the integer sum of the values it keeps, so that noise is added to
integers; the divisor comes afterwards.

**Trimmed sum** (the n - 2t middle values of each coordinate; its mean is Yin et al. 2018, arXiv 1803.01498).
Let ``y(1) <= ... <= y(n-1)`` be one coordinate of the other n - 1 rows. Seen as a function of one person's value x, ::

    trimmed sum = y(t+1) + ... + y(n-1-t) + clamp(x, y(t), y(n-t)),        y(0) = -inf, y(n) = +inf

(Bun & Steinke 2019, arXiv 1906.02830, use the same view): between the two, x is kept; below y(t) it is cut off and y(t)
is kept in its place; above likewise. A clamp is 1-Lipschitz, so no coordinate moves further than x_j moves, and in L2
the sum moves by at most |x - x'|: **B for zero-out, 2B for replace**, whatever the dimension. Both are attained: t rows
at +B and t at -B on one axis, and x from +B to 0 or -B. This is the sensitivity of a plain sum; the price of the trim
is the smaller divisor, n - 2t for n. (From the range of the result, 2B in each coordinate, one would get
2 B sqrt(D) / (n - 2t) for the mean: true, and sqrt(D) times too much, since nobody can move all coordinates by 2B.)

**Median**: the trimmed sum with t = (n - 1) // 2. The divisor is 1 or 2, so the *mean* it stands for moves by up to 2B
or B, not by 2B / n: the noise does not become smaller with more people.

**Krum and Multi-Krum** (Blanchard et al. 2017, arXiv 1703.02757): the sum of q chosen rows. One changed row can change
the choice. Rows chosen both times cancel, except the changed one; at most min(q, n - q) rows are exchanged. Hence at
most 2B min(q, n - q) from exchanges, and B (zero-out) or 2B (replace) more where the changed row stays chosen; never
more than 2qB. For Krum, q = 1, 2B is attained by both: half of the people at +B, half at -B, one between them decides.

**Bulyan** (El Mhamdi et al. 2018, arXiv 1802.07927) chooses rows like Multi-Krum, then other rows for each coordinate,
so nothing cancels: by Jensen its result has norm at most B sqrt(theta / beta), and all that is known of a move is twice
that. It is refused: worse than Krum, and the trimmed sum withstands as many attackers.

What robustness is worth here: with at most t malicious people every coordinate of the trimmed mean lies between the
smallest and the largest honest value. Clipped updates bound the harm to a plain mean as well: m malicious people move
it by at most 2 m B / n. For concentrated honest updates a trim is much better than that, in the worst case it is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

import torch
from torch import Tensor

from common.errors import SettingError, UpdateError
from common.privacy.accounting import DISCRETE_MARGIN, SMALLEST_SIGMA, noise_multiplier
from common.privacy.fixed_point import SCALE, dequantise
from common.privacy.noise import Randomness, discrete_gaussian, system_randomness
from common.privacy.settings import PrivacySettings
from common.terms import Trust

ZERO_OUT: Final = "add or remove one person"
REPLACE: Final = "replace one person's update by any other"
_EXACT = 2.0**53  # integers up to here are exact in float64, in which distances are computed

Aggregate = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class RobustSettings:
    """What a rule may rely on, fixed before anybody answers.

    Attributes:
        people: n, rows of a data set; fewer answers are filled up with zeros.
        bound: L2 norm B of one row in integer steps, rounding included (``Promise.sensitivity``).
        malicious: people who may send anything within the bound.
        chosen: q, rows Multi-Krum keeps; ``people - malicious - 2`` where it is 0.
        adjacency: what the sensitivity compares.
        trust: only with central trust does the server have rows at all.
    """

    people: int
    bound: float
    malicious: int
    chosen: int = 0
    adjacency: Literal["add or remove one person", "replace one person's update by any other"] = ZERO_OUT
    trust: Trust = Trust.CENTRAL

    def __post_init__(self) -> None:
        if self.trust is not Trust.CENTRAL:
            raise SettingError(
                f"trust={self.trust} shows the server no single update, and a robust rule needs them; "
                "use central trust, or rely on the norm bound"
            )
        if self.people < 3:
            raise SettingError(f"people={self.people} must be >= 3 for a robust rule; use the plain sum")
        if not 0 < self.bound < math.inf:
            raise SettingError(f"bound={self.bound} must be > 0 and finite; it is a norm in integer steps")
        if not 0 <= 2 * self.malicious < self.people:
            raise SettingError(
                f"malicious={self.malicious} must be >= 0 and fewer than half of people={self.people}; no rule "
                "withstands a majority"
            )
        if not 0 <= self.chosen <= self.people:
            raise SettingError(f"chosen={self.chosen} must be between 0 and people={self.people}")
        if self.adjacency not in (ZERO_OUT, REPLACE):
            raise SettingError(f"adjacency={self.adjacency[:60]!r} must be {ZERO_OUT!r} or {REPLACE!r}")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule that can be released.

    Attributes:
        name: as asked for.
        aggregate: ``(m, D)`` int64, m <= people, to ``(D,)`` int64: the quantity to add noise to.
        sensitivity: L2 distance one person can move that quantity by, integer steps.
        divisor: what the quantity is divided by after the noise to stand for a mean of updates.
        adjacency: the two data sets that are compared, in the words of a privacy statement.
        numbers: entries D.
        note: what the person who chose the rule should know, for people; empty where there is nothing.
    """

    name: str
    aggregate: Aggregate
    sensitivity: float
    divisor: int
    adjacency: str
    numbers: int
    note: str

    def sigma_squared(self, settings: PrivacySettings) -> Fraction:
        """Variance of the noise that makes ``settings`` hold for the rule's quantity, squared integer steps.

        Raises:
            SettingError: nothing is promised, or the noise is too little to be accounted for.
        """
        if not settings.private:
            raise SettingError("epsilon=inf needs no noise; ask for a finite epsilon")
        z = noise_multiplier(settings.epsilon, settings.delta, settings.participations)
        sigma = z * (1 + DISCRETE_MARGIN) * self.sensitivity
        if sigma < SMALLEST_SIGMA:
            raise SettingError(f"noise of {sigma:.4g} integer steps is below {SMALLEST_SIGMA}; raise the norm bound")
        return Fraction(math.ceil(Fraction(sigma) ** 2))

    def release(
        self,
        rows: Tensor,
        settings: PrivacySettings,
        *,
        scale: int = SCALE,
        randomness: Randomness = system_randomness,
    ) -> Tensor:
        """The rule's mean update with noise; what is done with it afterwards costs nothing.

        Args:
            rows: ``(m, D)`` int64, one person each, norms within the bound.
            settings: the promise.
            scale: integer steps per unit.
            randomness: source of the noise.

        Returns:
            ``(D,)`` float64, update units.

        Raises:
            SettingError: the noise cannot be accounted for.
            UpdateError: the rows are not what the rule was made for.
        """
        variance = self.sigma_squared(settings)
        noised = self.aggregate(rows) + discrete_gaussian(self.numbers, variance, randomness)
        return dequantise(noised, scale) / self.divisor


def robust_rule(name: str, settings: RobustSettings, numbers: int) -> Rule:
    """A robust rule with its sensitivity; the proofs are at the top of this module.

    Args:
        name: ``trimmed-mean``, ``median``, ``krum`` or ``multi-krum``.
        settings: what it may rely on.
        numbers: entries D of an update.

    Raises:
        SettingError: the rule is unknown, refused, or does not fit the settings; the message says why.
    """
    if numbers < 1:
        raise SettingError(f"numbers={numbers} must be >= 1; it is the length of an update")
    name = name.lower()
    if name == "bulyan":
        raise SettingError(
            "bulyan is refused: it takes other people's values for each number, so one person can move all of it by "
            "more than twice the norm bound however many take part; use trimmed-mean against as many attackers"
        )
    if name not in _RULES:
        raise SettingError(f"rule={name[:40]!r} must be one of {', '.join(_RULES)}")
    return _RULES[name](name, settings, numbers)


def _trimmed_mean(name: str, settings: RobustSettings, numbers: int) -> Rule:
    return _trimmed(name, settings, numbers, settings.malicious, "")


def _median(name: str, settings: RobustSettings, numbers: int) -> Rule:
    return _trimmed(name, settings, numbers, (settings.people - 1) // 2, _WEAK)


def _trimmed(name: str, settings: RobustSettings, numbers: int, cut: int, note: str) -> Rule:
    def aggregate(rows: Tensor) -> Tensor:
        ordered = _data_set(rows, settings, numbers).sort(dim=0).values
        return ordered[cut : settings.people - cut].sum(dim=0)

    return Rule(
        name=name,
        aggregate=aggregate,
        sensitivity=_one_row(settings),
        divisor=settings.people - 2 * cut,
        adjacency=settings.adjacency,
        numbers=numbers,
        note=note,
    )


def _krum(name: str, settings: RobustSettings, numbers: int) -> Rule:
    return _choosing(name, settings, numbers, 1)


def _multi_krum(name: str, settings: RobustSettings, numbers: int) -> Rule:
    return _choosing(name, settings, numbers, settings.chosen or settings.people - settings.malicious - 2)


def _choosing(name: str, settings: RobustSettings, numbers: int, chosen: int) -> Rule:
    n, near = settings.people, settings.people - settings.malicious - 2
    if n < 2 * settings.malicious + 3:
        raise SettingError(
            f"{name} needs at least 2 malicious + 3 people, here {2 * settings.malicious + 3}, not {n}; "
            "expect fewer attackers"
        )
    if 4 * settings.bound**2 * n >= _EXACT:
        raise SettingError(f"bound={settings.bound} with people={n} is too large for exact distances; lower the bound")

    def aggregate(rows: Tensor) -> Tensor:
        data = _data_set(rows, settings, numbers)
        scores = krum_scores(data, near)
        return data[scores.argsort(stable=True)[:chosen]].sum(dim=0)

    exchanged = 2 * settings.bound * min(chosen, n - chosen) + _one_row(settings)
    return Rule(
        name=name,
        aggregate=aggregate,
        sensitivity=min(2 * settings.bound * chosen, exchanged),
        divisor=chosen,
        adjacency=settings.adjacency,
        numbers=numbers,
        note=_WEAK if 4 * chosen < 3 * n else "",
    )


def krum_scores(data: Tensor, near: int) -> Tensor:
    """``(n,)`` sum of squared distances of each row to its ``near`` nearest others; ``(n, D)`` integers, exact."""
    rows = data.double()
    lengths = rows.square().sum(dim=1)
    distances = lengths[:, None] + lengths[None, :] - 2 * rows @ rows.T
    distances.fill_diagonal_(math.inf)
    return distances.sort(dim=1).values[:, :near].sum(dim=1)


def _one_row(settings: RobustSettings) -> float:
    return settings.bound * (1 if settings.adjacency == ZERO_OUT else 2)


def _data_set(rows: Tensor, settings: RobustSettings, numbers: int) -> Tensor:
    """``(people, numbers)``: the rows, then zeros. What the proofs assume is checked here, not believed."""
    if rows.dtype != torch.int64 or rows.ndim != 2 or rows.shape[1] != numbers or rows.shape[0] > settings.people:
        raise UpdateError(
            f"rows of {rows.dtype} and shape {tuple(rows.shape)} must be int64, at most ({settings.people}, {numbers})"
        )
    longest = float(torch.linalg.vector_norm(rows.double(), dim=1).amax()) if rows.numel() else 0.0
    if longest > settings.bound * (1 + 1e-9):  # room for the rounding of the norm itself
        raise UpdateError(f"a row is longer than the bound of {settings.bound:.6g} steps; clip before aggregating")
    return torch.cat([rows, rows.new_zeros(settings.people - rows.shape[0], numbers)])


_WEAK = (
    "one person can move the result by about the norm bound however many take part, so the noise will usually be far "
    "larger than the result; trimmed-mean needs much less"
)
_RULES: dict[str, Callable[[str, RobustSettings, int], Rule]] = {
    "trimmed-mean": _trimmed_mean,
    "median": _median,
    "krum": _krum,
    "multi-krum": _multi_krum,
}
