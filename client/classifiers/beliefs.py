"""Beliefs of models whose uncertainty is a few directions, such as the members of an ensemble."""

from __future__ import annotations

import torch
from torch import Tensor

from client.classifiers.base import Beliefs


class FactorBeliefs(Beliefs):
    """Gaussian beliefs about n items with covariance ``D' D + doubt^2 I``, for a batch of one person.

    Attributes:
        mean: ``(1, n)``; deviation: ``(1, n)``.
        deviation: see above.
    """

    def __init__(self, mean: Tensor, directions: Tensor, doubt: float = 0.0) -> None:
        """Take what is expected and how it may vary.

        Args:
            mean: ``(n,)``.
            directions: ``(m, n)`` D: one standard deviation along each of m independent directions.
            doubt: standard deviation of what is not shared between items.
        """
        self.mean, self._directions, self._doubt = mean[None], directions, doubt
        self.deviation = (directions.square().sum(0) + doubt**2).sqrt()[None]

    def gap(self, against: Tensor) -> tuple[Tensor, Tensor]:
        """See `Beliefs`."""
        apart = self._directions - self._directions[:, against]
        variance = apart.square().sum(0) + 2 * self._doubt**2
        variance[against] = 0.0
        return self.mean - self.mean[:, against], variance.sqrt()[None]

    def draw(self, generator: torch.Generator, spread: float = 1.0) -> Tensor:
        """See `Beliefs`."""
        m, n = self._directions.shape
        noise = torch.randn(m + n, generator=generator, dtype=self.mean.dtype)
        return self.mean + spread * (noise[:m] @ self._directions + self._doubt * noise[m:])
