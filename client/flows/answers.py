"""What somebody answered about samples of a flow, and the plainest model of taste that follows from it.

All ways of teaching a flow take the same answers: injection the picked samples, the pairwise loss picked beside not
picked, a policy the reward that is fitted here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import RewardError, SettingError

_USUAL = 0.99  # share of the flow's own samples that are no further out than usual
_FADING = 4.0  # a reward is 0 at 1 / _FADING beyond that
Describe = Callable[[Tensor], Tensor]
"""Media ``(n, ...)`` to features ``(n, f)``."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Sets of samples, of each of which one was picked.

    Attributes:
        shown: ``(m, k, *shape)``, k >= 2.
        picked: ``(m,)`` int64, the position of the picked one.
    """

    shown: Tensor
    picked: Tensor

    def __post_init__(self) -> None:
        if self.shown.ndim < 3 or self.shown.shape[1] < 2 or self.picked.shape != self.shown.shape[:1]:
            raise SettingError(
                f"sets of shape {tuple(self.shown.shape)} with {tuple(self.picked.shape)} picks should be "
                "(m, k, ...) with k >= 2 and one pick each"
            )
        if len(self.picked) and not 0 <= int(self.picked.min()) <= int(self.picked.max()) < self.shown.shape[1]:
            raise SettingError(f"picks must lie between 0 and {self.shown.shape[1] - 1}")

    def __len__(self) -> int:
        return len(self.picked)

    @property
    def winners(self) -> Tensor:
        """``(m, *shape)`` what was picked."""
        return self.shown[torch.arange(len(self)), self.picked]

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Picked and not picked, ``(m (k - 1), *shape)`` each."""
        m, k = self.shown.shape[:2]
        left = torch.ones(m, k, dtype=torch.bool, device=self.shown.device)
        left[torch.arange(m), self.picked] = False
        return self.winners.repeat_interleave(k - 1, 0), self.shown[left]


class PickReward:
    """How likely media are to be preferred to a typical sample of the flow, ``(n,)`` in 0 to 1.

    A linear utility of features: the best of k is picked by the softmax of utilities (Luce 1959), fitted by maximum a
    posteriori with a normal prior. Features are the principal components of the flow's own samples in units of the
    first, so that what hardly differs among them hardly counts. Two things keep a learner from cheating it: utilities
    count less ``caution`` posterior deviations (Laplace's approximation), so that a direction no answer told of is not
    worth going, and the reward fades for media unlike any of the flow's own: at a Mahalanobis distance a quarter beyond
    what is usual it is 0.
    """

    def __init__(self, describe: Describe, scale: _Scale, weight: Tensor, covariance: Tensor, caution: float) -> None:
        """See `fit`; of the weights ``(k,)`` and their posterior covariance ``(k, k)``."""
        self._describe, self._scale, self._weight, self._caution = describe, scale, weight, caution
        self._covariance = covariance
        self._typical = scale.typical @ weight

    @classmethod
    def fit(
        cls,
        describe: Describe,
        typical: Tensor,
        shown: Tensor,
        picked: Tensor,
        *,
        components: int = 6,
        spread: float = 4.0,
        caution: float = 1.0,
    ) -> PickReward:
        """Fit to answers.

        Args:
            describe: features of media.
            typical: ``(n, ...)`` media of the flow, n > ``components``.
            shown: ``(m, k, ...)`` media that were shown together, m >= 1.
            picked: ``(m,)`` positions.
            components: of the features that count, >= 1.
            spread: standard deviation of the prior of each weight, above 0.
            caution: posterior deviations that are taken off, >= 0.

        Raises:
            RewardError: nothing was picked, or the features of the flow's samples are all the same or not finite.
        """
        if not len(picked):
            raise RewardError("nothing was picked yet, so there is nothing to learn; pick at least one")
        scale = _Scale.measure(describe(typical).double(), components)
        m, k = shown.shape[:2]
        features = scale.along(describe(shown.flatten(0, 1)).double()).view(m, k, -1)
        return cls(describe, scale, *_most_likely(features, picked, spread), caution)

    def utility(self, media: Tensor) -> Tensor:
        """``(n,)`` float64, in log-odds; what is expected, without caution."""
        utility: Tensor = self._scale.along(self._describe(media).double()) @ self._weight
        return utility

    def __call__(self, media: Tensor) -> Tensor:
        """See the class."""
        features = self._describe(media).double()
        along = self._scale.along(features)
        deviation = ((along @ self._covariance) * along).sum(1).sqrt()
        utility = along @ self._weight - self._caution * deviation
        chance = torch.sigmoid(utility[:, None] - self._typical).mean(1)
        known = (1 - _FADING * (self._scale.extent(features) / self._scale.usual - 1)).clamp(0, 1)
        return (chance * known).float()


@dataclass(frozen=True, eq=False)
class _Scale:
    """What is usual among the flow's samples.

    Attributes:
        centre: ``(f,)``, axes: ``(f, k)`` principal components in units of the first.
        axes: see above.
        white: ``(f, f)``, makes features uncorrelated with variance 1.
        typical: ``(n, k)`` the samples along the axes.
        usual: Mahalanobis distance that nearly all samples stay within.
    """

    centre: Tensor
    axes: Tensor
    white: Tensor
    typical: Tensor
    usual: float

    @classmethod
    def measure(cls, features: Tensor, components: int) -> _Scale:
        centre = features.mean(0)
        _, size, axes = torch.linalg.svd(features - centre, full_matrices=False)
        if not bool(features.isfinite().all()) or float(size[0]) <= 1e-9:
            raise RewardError("the features of all samples are the same or not finite; give features that differ")
        axes = axes[:components].T / (size[0] / math.sqrt(len(features)))
        white = _whitener(features - centre)
        extent = torch.linalg.vector_norm((features - centre) @ white, dim=1)
        return cls(centre, axes, white, (features - centre) @ axes, float(torch.quantile(extent, _USUAL)))

    def along(self, features: Tensor) -> Tensor:
        """``(n, k)``."""
        along: Tensor = (features - self.centre) @ self.axes
        return along

    def extent(self, features: Tensor) -> Tensor:
        """``(n,)`` Mahalanobis distance from the samples."""
        extent: Tensor = torch.linalg.vector_norm((features - self.centre) @ self.white, dim=1)
        return extent


def _whitener(centred: Tensor) -> Tensor:
    """``(f, f)``; directions that hardly vary count as if they varied by a hundredth of the largest."""
    covariance = centred.mT @ centred / len(centred)
    size, axes = torch.linalg.eigh(covariance)
    white: Tensor = axes * (size + 1e-4 * size[-1]).rsqrt()
    return white


def _most_likely(features: Tensor, picked: Tensor, spread: float) -> tuple[Tensor, Tensor]:
    """Weights ``(k,)`` that maximise the posterior, by Newton's method as it is concave, and their covariance."""
    weight = features.new_zeros(features.shape[-1])
    prior = torch.eye(len(weight), dtype=features.dtype, device=features.device) / spread**2
    chosen = features[torch.arange(len(features)), picked].sum(0)
    for _ in range(50):
        chance = (features @ weight).softmax(1)
        mean = (chance[..., None] * features).sum(1)
        gradient = chosen - mean.sum(0) - prior @ weight
        second = (features.mT @ (chance[..., None] * features)).sum(0) - mean.T @ mean + prior
        if float(gradient.norm()) < 1e-9:
            break
        step = torch.linalg.solve(second, gradient)
        weight = weight + step / max(1.0, float(step.norm()))  # a long step may overshoot
    return weight, torch.linalg.inv(second)
