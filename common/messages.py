"""What travels in a round, as records and as flat dictionaries of numbers, text and bytes.

A request carries the prior and what to compute; a reply carries one integer vector and nothing else: no counts, no
losses, no metrics. An array travels as raw little-endian bytes beside its dtype and shape, all three checked before a
byte is decoded, because self-describing formats let a sender declare one array and deliver another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from common import update, wire
from common.errors import UpdateError
from common.prior import PopulationPrior
from common.privacy.statement import PrivacyStatement
from common.wire import Wire

LARGEST_PARAMETERS = 1_024
"""Taste weights a request may have: a covariance of 8 MiB."""


class Reason(StrEnum):
    """Why a reply is left out of a sum."""

    MISSING = "missing"
    ERROR = "error"
    MALFORMED = "malformed"
    OVERSIZE = "oversize"
    STALE = "stale"
    DUPLICATE = "duplicate"
    OUT_OF_BOUND = "out of bound"
    REFUSED = "refused"
    NOT_CERTIFIED = "not certified"
    SPENT = "budget spent"


class RejectedReply(UpdateError):
    """A reply that must not enter a sum; ``reason`` is what the round counts."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundRequest:
    """What a server asks of one node in one round.

    Guarantee: sizes fit together, numbers are finite, ``norm_bound`` and ``scale`` are positive; anything else raises
    when it is made. Whether the covariance is positive definite is checked by ``prior``.

    Attributes:
        session: identifier of the federation run, unguessable.
        round: 1 for the first.
        mean: ``(p,)`` float64.
        covariance: ``(p, p)`` float64.
        thresholds: ``(4,)`` float64.
        pack: SHA-256 of the generator pack.
        norm_bound: L2 bound of one person's update.
        scale: integer steps per unit of an update, a power of two.
        first: the sum covers the people ``first .. last - 1`` of the node; a device of one person is ``0 .. 0``.
        last: see above.
    """

    session: str
    round: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    pack: str
    norm_bound: float
    scale: int
    first: int
    last: int

    def __post_init__(self) -> None:
        p = self.mean.shape[-1] if self.mean.ndim == 1 else 0
        if not 0 < p <= LARGEST_PARAMETERS or self.covariance.shape != (p, p) or self.thresholds.shape != (4,):
            raise UpdateError(
                f"prior of shapes {self.mean.shape}, {self.covariance.shape}, {self.thresholds.shape} in a request "
                f"should be (p,), (p, p), (4,) with p at most {LARGEST_PARAMETERS}"
            )
        if not all(bool(np.isfinite(x).all()) for x in (self.mean, self.covariance, self.thresholds)):
            raise UpdateError("the prior in a request holds NaN or infinite numbers")
        if not 0 < self.norm_bound < math.inf:
            raise UpdateError(f"norm_bound={self.norm_bound} in a request must be > 0 and finite")
        if self.scale < 1 or self.scale & (self.scale - 1):
            raise UpdateError(f"scale={self.scale} in a request must be a power of two")
        if self.round < 1 or not 0 <= self.first < self.last:
            raise UpdateError(f"round {self.round} asks for the people {self.first} to {self.last - 1}: nobody")

    @classmethod
    def of(
        cls, prior: PopulationPrior, *, session: str, number: int, norm_bound: float, scale: int, people: int
    ) -> RoundRequest:
        """Ask for the sum over all ``people`` of a node, starting from ``prior``."""
        mean, covariance, thresholds = (
            np.ascontiguousarray(tensor.double().cpu().numpy())
            for tensor in (prior.mean, prior.covariance, prior.thresholds)
        )
        return cls(
            session=session,
            round=number,
            mean=mean,
            covariance=covariance,
            thresholds=thresholds,
            pack=prior.pack,
            norm_bound=norm_bound,
            scale=scale,
            first=0,
            last=people,
        )

    @property
    def parameters(self) -> int:
        """Taste weights p."""
        return int(self.mean.shape[0])

    def prior(self) -> PopulationPrior:
        """The prior to start from. Its statement does not travel, so it claims nothing.

        Raises:
            PriorError: the covariance is not symmetric and positive definite, or the thresholds do not ascend.
        """
        mean, covariance, thresholds = (
            torch.from_numpy(array.copy()) for array in (self.mean, self.covariance, self.thresholds)
        )
        return PopulationPrior(
            mean=mean,
            covariance=covariance,
            thresholds=thresholds,
            pack=self.pack,
            privacy=PrivacyStatement.not_private(0),
            rounds=self.round - 1,
        )

    def to_wire(self) -> Wire:
        """The flat form."""
        return wire.flatten(self)

    @classmethod
    def from_wire(cls, values: Mapping[str, object]) -> RoundRequest:
        """Read a request.

        Raises:
            UpdateError: a field is missing, unknown, of another type, shape or size, or the version is not ours.
        """
        wire.check_fields(cls, values)
        mean = values["mean"]
        if not isinstance(mean, bytes) or len(mean) > 8 * LARGEST_PARAMETERS:
            raise UpdateError(f"the prior in a request has more than {LARGEST_PARAMETERS} weights")
        p = len(mean) // 8
        return cls(
            session=wire.text(values, "session"),
            round=wire.whole(values, "round"),
            mean=wire.array(values, "mean", "<f8", (p,)),
            covariance=wire.array(values, "covariance", "<f8", (p, p)),
            thresholds=wire.array(values, "thresholds", "<f8", (4,)),
            pack=wire.text(values, "pack"),
            norm_bound=wire.real(values, "norm_bound"),
            scale=wire.whole(values, "scale"),
            first=wire.whole(values, "first"),
            last=wire.whole(values, "last"),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundReply:
    """What a node answers: the sum of its people's clipped updates in integer steps. Nothing else.

    Attributes:
        session: as asked.
        round: as asked.
        total: ``(D,)`` int64 with ``D = p + p (p + 1) / 2``.
    """

    session: str
    round: int
    total: NDArray[np.int64]

    def to_wire(self) -> Wire:
        """The flat form."""
        return wire.flatten(self)

    @classmethod
    def from_wire(cls, values: Mapping[str, object], request: RoundRequest) -> RoundReply:
        """Read the reply to ``request``.

        Raises:
            RejectedReply: ``OVERSIZE`` if more than twice the expected bytes came (found before decoding), ``STALE``
                if it answers another round or session, ``MALFORMED`` for everything else that does not fit.
        """
        numbers = update.length(request.parameters)
        total = values.get("total")
        if isinstance(total, bytes) and len(total) > 2 * 8 * numbers:
            raise RejectedReply(Reason.OVERSIZE, f"a reply of {len(total)} bytes where {8 * numbers} were asked for")
        try:
            wire.check_fields(cls, values)
            session, number = wire.text(values, "session"), wire.whole(values, "round")
            if (session, number) != (request.session, request.round):
                raise RejectedReply(Reason.STALE, f"a reply to round {number} came in round {request.round}")
            return cls(session=session, round=number, total=wire.array(values, "total", "<i8", (numbers,)))
        except RejectedReply:
            raise
        except UpdateError as error:
            raise RejectedReply(Reason.MALFORMED, str(error)) from error


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """How many people a node holds. Asked only of nodes that hold several, which exist in simulations alone.

    Attributes:
        people: at least 1.
    """

    people: int

    def to_wire(self) -> Wire:
        """The flat form."""
        return wire.flatten(self)

    @classmethod
    def from_wire(cls, values: Mapping[str, object], most: int) -> Enrolment:
        """Read an enrolment of at most ``most`` people.

        Raises:
            UpdateError: malformed, nobody, or more people than a node may hold.
        """
        wire.check_fields(cls, values)
        people = wire.whole(values, "people")
        if not 1 <= people <= most:
            raise UpdateError(f"a node holds {people} people; between 1 and {most} may be enrolled on one")
        return cls(people=people)
