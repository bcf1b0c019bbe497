"""The guard: stops learning where the reward rises and held-out answers say otherwise, or the policy drifts too far.

A policy that is learned from a model finds its mistakes (reward hacking; Gao, Schulman & Hilton 2023). So part of the
answers is never learned from. A judge fitted to them alone scores what the policy makes; while the reward is honest,
both rise together. Two limits hold whatever the judge says: divergence from the latent law, and distance in what people
see. A policy may then learn again from all answers, tethered to the drift that was found honest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client.policy.flow import LatentPolicy, log_ratio
from client.policy.goal import Goal
from client.policy.reward import Scaled
from common.errors import SettingError

ALIKE = 0.1  # a held-out score that lacks a tenth of the best is as good; one that rises by a tenth does not rise
_LOST = "the policy is no longer finite; the last good one is kept: try a smaller rate"
_INFORMED = 0.1  # correlation with the reward below which a judge knows too little to accuse anybody


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """When to stop.

    Attributes:
        samples: items of each check, at the safest level, which is the one that drifts most.
        patience: checks over which the reward must not rise alone.
        rise: of the reward over those checks, in its standard deviations, that counts as rising.
        divergence: limit, nats.
        distance: limit in what is seen: Frechet distance of the policy's items from the generator's own, over the
            spread of the latter; 1 is as far apart as two random items.

    Raises:
        SettingError: a value is out of range.
    """

    samples: int = 512
    patience: int = 6
    rise: float = 0.2
    divergence: float = 16.0
    distance: float = 2.0

    def __post_init__(self) -> None:
        if self.samples < 16 or self.patience < 1:
            raise SettingError(f"samples={self.samples} must be >= 16 and patience={self.patience} >= 1")
        for name in ("rise", "divergence", "distance"):
            if not getattr(self, name) > 0:
                raise SettingError(f"{name}={getattr(self, name)} must be > 0")


@dataclass(frozen=True, kw_only=True)
class Check:
    """How a policy stood after a round.

    Attributes:
        round: number of it; 0 is before the first.
        reward: mean, in standard deviations over the generator's own items.
        held_out: the same by the judge; NaN without one.
        error: standard error of ``held_out``.
        divergence: from the latent law, nats.
        distance: in what is seen, see `GuardSettings`.
    """

    round: int
    reward: float
    held_out: float
    error: float
    divergence: float
    distance: float

    @property
    def finite(self) -> bool:
        """Whether the policy is still one."""
        return all(math.isfinite(x) for x in (self.reward, self.divergence, self.distance))


@dataclass(frozen=True)
class Verdict:
    """What the guard says.

    Attributes:
        stop: why to stop; None to go on.
        keep: whether this policy may be kept as the last good one.
    """

    stop: str | None
    keep: bool


class Guard:
    """Watches a policy.

    Attributes:
        settings: when to stop.
        informed: correlation of judge and reward over the generator's own items; NaN without a judge.
        checks: so far, oldest first.
    """

    def __init__(self, goal: Goal, judge: Scaled | None, settings: GuardSettings, generator: torch.Generator) -> None:
        """Watch for a goal.

        Args:
            goal: what is learned.
            judge: a reward that nothing was learned from; None to rely on the limits alone.
            settings: when to stop.
            generator: draws the noise of the checks, the same for all of them.
        """
        self.settings, self._goal, self._judge = settings, goal, judge
        self.checks: list[Check] = []
        self._noise = goal.space.sample(settings.samples, generator)
        with torch.no_grad():
            self._centre, self._factor, self._spread = _law(goal.see(goal.space.sample(2048, generator)))
            self.informed = math.nan if judge is None else _correlation(goal.reward(self._noise), judge(self._noise))

    @property
    def blind(self) -> bool:
        """Whether held-out answers say too little to judge by; the limits are then half as wide."""
        return not self.informed >= _INFORMED

    @torch.no_grad()
    def check(self, policy: LatentPolicy, round_: int) -> Check:
        """Look at a policy; `judge` says what to do, `note` takes it down.

        Raises:
            RewardError: reward or judge cannot be asked.
        """
        noise = self._noise.to(policy.device)
        moved = policy(noise, torch.zeros(len(noise), device=policy.device))
        if not bool(moved.places.isfinite().all()):
            lost = math.nan
            return Check(round=round_, reward=lost, held_out=lost, error=lost, divergence=math.inf, distance=math.inf)
        return self._measured(noise, moved.places, log_ratio(noise, moved), round_)

    def note(self, check: Check) -> None:
        """Take a check down; later ones are compared with it."""
        self.checks.append(check)

    @property
    def limits(self) -> tuple[float, float]:
        """Of divergence and of distance, as they hold for this guard."""
        share = 0.5 if self.blind else 1.0
        return share * self.settings.divergence, share * self.settings.distance

    def drift(self, check: Check) -> float:
        """How far a policy has drifted, as a share of the limits."""
        divergence, distance = self.limits
        return max(check.divergence / divergence, check.distance / distance)

    def _measured(self, noise: Tensor, places: Tensor, ratio: Tensor, round_: int) -> Check:
        held = places.new_full((2,), math.nan) if self._judge is None else self._judge(places)
        return Check(
            round=round_,
            reward=float(self._goal.reward(places).mean()),
            held_out=float(held.mean()),
            error=float(held.std()) / math.sqrt(len(held)),
            divergence=float(ratio.mean()),
            distance=self._distance(self._goal.see(places)),
        )

    def _distance(self, seen: Tensor) -> float:
        """Frechet distance of two Gaussians (Dowson & Landau 1982) over the spread of the generator's own items."""
        centre, factor, _ = _law(seen)
        # trace of (A B)^(1/2) is the sum of the singular values of A^(1/2) B^(1/2)
        shared = torch.linalg.svdvals(self._factor.T @ factor).sum()
        squared = (centre - self._centre).square().sum() + self._factor.square().sum() + factor.square().sum()
        return float((squared - 2 * shared).clamp(min=0).sqrt()) / self._spread

    def judge(self, check: Check) -> Verdict:
        """What to do with a policy that stands like this."""
        divergence, distance = self.limits
        limits = {
            "divergence": (check.divergence, divergence, "nats"),
            "distance": (check.distance, distance, "in what is seen"),
        }
        if not check.finite:
            return Verdict(_LOST, False)
        for name, (value, limit, unit) in limits.items():
            if value > limit:
                return Verdict(f"{name} {value:.2f} {unit} passed its limit of {limit:g}; it has drifted enough", False)
        if self._alone(check):
            return Verdict(
                f"the reward rose to {check.reward:+.2f} while held-out answers stayed at {check.held_out:+.2f}; "
                "more of it would please the model and not the person",
                False,
            )
        # a policy of a later round is the better one where the judge sees next to no difference
        return Verdict(None, self.blind or check.held_out >= self._best - max(2 * check.error, ALIKE * abs(self._best)))

    @property
    def _best(self) -> float:
        return max((each.held_out for each in self.checks), default=-math.inf)

    def _alone(self, check: Check) -> bool:
        """Whether the reward rose over the last checks, and the judge's score hardly rose with it.

        All checks are made with the same noise, so that their differences are those of the policies.
        """
        past = [*self.checks, check]
        if self.blind or len(past) <= self.settings.patience:
            return False
        before, recent = past[: -self.settings.patience], past[-self.settings.patience :]
        rose = max(each.reward for each in recent) - max(each.reward for each in before)
        along = max(each.held_out for each in recent) - max(each.held_out for each in before)
        return rose > self.settings.rise and along < ALIKE * rose


class Tether(Guard):
    """Holds a policy that hears every answer to the drift that held-out answers allowed.

    Guarantee: a policy it calls good has drifted no farther, in divergence and in distance each, than the stated share
    of the limits of the guard before. Nobody is left to judge it by: its ``held_out`` scores are NaN.
    """

    def __init__(self, goal: Goal, before: Guard, allowed: float, generator: torch.Generator) -> None:
        """Hold.

        Args:
            goal: what is learned from all answers.
            before: the guard that had a judge.
            allowed: drift of the policy it kept, a share of its limits, above 0.
            generator: draws the noise of the checks.

        Raises:
            SettingError: the share is not positive.
        """
        if not allowed > 0:
            raise SettingError(f"allowed={allowed} must be > 0; a policy that may not drift needs no learning")
        super().__init__(goal, None, before.settings, generator)
        self._limits = allowed * before.limits[0], allowed * before.limits[1]

    @property
    def limits(self) -> tuple[float, float]:
        """See `Guard`."""
        return self._limits

    def judge(self, check: Check) -> Verdict:
        """What to do: beyond the limits nothing is kept, and the price of divergence brings the policy back."""
        if not check.finite:
            return Verdict(_LOST, False)
        return Verdict(None, self.drift(check) <= 1)


def _law(seen: Tensor) -> tuple[Tensor, Tensor, float]:
    """Centre ``(f,)``, a factor ``(f, n)`` of the covariance, and root of its trace, of what is seen ``(n, f)``."""
    seen = seen.double()
    centre = seen.mean(0)
    away = seen - centre
    covariance = away.T @ away / (len(seen) - 1)
    value, vectors = torch.linalg.eigh(covariance)
    factor = vectors * value.clamp(min=0).sqrt()
    return centre, factor, max(1e-12, float(covariance.trace().sqrt()))


def _correlation(one: Tensor, other: Tensor) -> float:
    stacked = torch.stack([one.double(), other.double()])
    return float(torch.corrcoef(stacked)[0, 1].nan_to_num())


def best_check(checks: Sequence[Check]) -> Check:
    """The check with the highest held-out score; with the highest reward where there is no judge."""
    return max(checks, key=lambda each: each.reward if math.isnan(each.held_out) else each.held_out)
