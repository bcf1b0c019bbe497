"""What watches a flow that is taught: held-out answers, and how far its pictures went from the original's.

Teaching is stopped where the reward rises and what held-out answers say falls, or where the pictures are no longer the
original's kind. The measures are those of the guard of `client.policy.guard`, on what people see of the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from client.flows.answers import PickReward
from client.flows.model import FlowModel
from client.flows.pack_lesson import PackLesson
from client.generators.pictures import FeatureScale, picture_blocks
from client.generators.training.score import frechet_distance, moments
from common.errors import RewardError, SettingError

_TYPICAL, _COMPONENTS, _HEARD = 192, 16, 8
_ALIKE, _FALLEN = 0.1, 0.25  # a held-out score that lacks a tenth of the best is as good; one of a quarter has fallen
_DOUBT = 2.0  # by as many standard errors more, which know of the noises but not of how few the answers are


@dataclass(frozen=True, kw_only=True)
class DriftSettings:
    """How far a flow may go.

    Attributes:
        samples: pictures of each check, always of the same noise, >= 16.
        distance: limit: Frechet distance of its pictures from the original's, over the spread of the latter; 1 is as
            far apart as two random pictures.
        variety: least share of the original's spread that stays, 0 to 1.
        patience: checks that what held-out answers say may lie below its best while the reward rises, >= 1.

    Raises:
        SettingError: a value is out of range.
    """

    samples: int = 64
    distance: float = 1.0
    variety: float = 0.5
    patience: int = 3

    def __post_init__(self) -> None:
        if self.samples < 16 or self.patience < 1:
            raise SettingError(f"samples={self.samples} must be >= 16 and patience={self.patience} >= 1")
        if not 0 < self.distance < math.inf or not 0 <= self.variety < 1:
            raise SettingError(f"distance={self.distance} must be > 0, and variety={self.variety} from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Check:
    """How a flow stood after a round; rewards are in standard deviations over the original's pictures.

    Attributes:
        round: number of it; 0 is before the first.
        reward: by how much its pictures are better than the original's of the same noise, by what was taught.
        held_out: the same by a judge of held-out answers alone; NaN without one.
        error: standard error of ``held_out``.
        distance: see `DriftSettings`.
        variety: see `DriftSettings`.
    """

    round: int
    reward: float
    held_out: float
    error: float
    distance: float
    variety: float

    @staticmethod
    def rows(checks: Sequence[Check]) -> Tensor:
        """``(n, 6)`` float64."""
        return torch.tensor([astuple(check) for check in checks], dtype=torch.float64)

    @classmethod
    def of_rows(cls, rows: Tensor) -> list[Check]:
        """The checks of `rows`."""
        names = tuple(cls.__dataclass_fields__)
        made = [dict(zip(names, row, strict=True)) for row in rows.tolist()]
        return [cls(**{**each, "round": int(each["round"])}) for each in made]


@dataclass(frozen=True)
class Verdict:
    """What the guard says.

    Attributes:
        stop: why to stop; None to go on.
        keep: whether this is the best flow so far that may be kept.
        far: whether it is beyond a limit of drift, so that a smaller step might still do.
    """

    stop: str | None
    keep: bool
    far: bool = False


class Sight:
    """What people see of pictures, as few numbers: principal components of perceptual features of a flow's own."""

    def __init__(self, pictures: Tensor) -> None:
        """Measure on pictures ``(n, 3, h, w)`` of the flow."""
        blocks = picture_blocks(pictures.cpu())
        self._scale = FeatureScale.fit(blocks)
        features = self._scale.apply(blocks).double()
        self._mean = features.mean(0)
        _, _, axes = torch.linalg.svd(features - self._mean, full_matrices=False)
        self._axes = axes[:_COMPONENTS].T

    def __call__(self, pictures: Tensor) -> Tensor:
        """``(n, 16)`` float64, on the CPU."""
        seen: Tensor = (self._scale.apply(picture_blocks(pictures.cpu())).double() - self._mean) @ self._axes
        return seen


class Watch:
    """Looks at a flow on always the same noise.

    Attributes:
        anchors: ``(192, *shape)`` samples of the original.
        reward: fitted to the answers that are taught.
        judge: fitted to the held-out ones; None without pairs among them.
    """

    def __init__(self, base: FlowModel, lesson: PackLesson, settings: DriftSettings, seed: int) -> None:
        """Measure the original.

        Raises:
            RewardError: its pictures are all the same.
        """
        self._settings = settings
        generator = torch.Generator().manual_seed(seed)
        self.anchors = base.draw(base.noise(_TYPICAL, generator).to(base.device))
        typical = base.media(self.anchors)
        self._sight = Sight(typical)
        rest = torch.randint(_TYPICAL, (len(lesson.liked),), generator=generator)
        better, worse = lesson.better, lesson.worse
        if not len(better):  # likes alone say that these are better than others
            better, worse = lesson.liked, self.anchors[rest.to(self.anchors.device)]
        self.reward = self._fitted(base, typical, better, worse)
        self.judge = (
            self._fitted(base, typical, lesson.held_better, lesson.held_worse) if len(lesson.held_better) else None
        )
        self._noise = base.noise(settings.samples, generator).to(base.device)
        self._before = base.media(base.draw(self._noise))
        self._law = moments(self._sight(self._before))

    def check(self, flow: FlowModel, round: int) -> Check:
        """How a flow stands."""
        pictures = flow.media(flow.draw(self._noise))
        if not bool(pictures.isfinite().all()):
            raise SettingError("the flow is no longer finite; the last good one is kept: try a smaller learning_rate")
        mean, covariance = moments(self._sight(pictures))
        spread = float(self._law[1].trace())
        held, error = (math.nan, math.nan) if self.judge is None else self._better(self.judge, pictures)
        return Check(
            round=round,
            reward=self._better(self.reward, pictures)[0],
            held_out=held,
            error=error,
            distance=frechet_distance(mean, covariance, *self._law) / spread,
            variety=float(covariance.trace()) / spread,
        )

    def verdict(self, checks: Sequence[Check], kept: int) -> Verdict:
        """What to do after the last of these checks, of which ``kept`` is the best so far."""
        last, best = checks[-1], checks[kept]
        if last.distance > self._settings.distance:
            limit = f"{self._settings.distance:g}"
            away = f"its pictures are {last.distance:.2f} from the original's, over the limit of {limit}"
            return Verdict(away, keep=False, far=True)
        if last.variety < self._settings.variety:
            left = f"{last.variety:.0%} of the original's variety is left, less than {self._settings.variety:.0%}"
            return Verdict(left, keep=False, far=True)
        if self.judge is None:
            return Verdict(None, last.reward > best.reward)
        top = max(range(len(checks)), key=lambda at: checks[at].held_out)
        least, rose = (1 - _FALLEN) * checks[top].held_out, checks[top].reward
        falls = [c.held_out + _DOUBT * c.error < least and c.reward > rose for c in checks[top + 1 :]]
        if len(falls) >= self._settings.patience and all(falls[-self._settings.patience :]):
            return Verdict("the reward rises, and what held-out answers say of it falls", False)
        alike = last.held_out >= (1 - _ALIKE) * checks[top].held_out
        return Verdict(None, alike and last.held_out > 0 and last.reward > best.reward)

    def _fitted(self, base: FlowModel, typical: Tensor, better: Tensor, worse: Tensor) -> PickReward:
        shown = torch.stack([base.media(better), base.media(worse)], 1)
        return PickReward.fit(
            self._sight, typical, shown, torch.zeros(len(shown), dtype=torch.int64), components=_HEARD
        )

    def _better(self, reward: PickReward, pictures: Tensor) -> tuple[float, float]:
        """Mean gain over the original and its standard error."""
        before = reward.utility(self._before)
        scale = float(before.std(correction=0))
        if not scale > 0:
            raise RewardError("what was answered tells no pictures apart; rate more")
        gain = (reward.utility(pictures) - before) / scale
        return float(gain.mean()), float(gain.std(correction=0)) / math.sqrt(len(gain))
