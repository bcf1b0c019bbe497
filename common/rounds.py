"""What is said in a round of a deployed federation, stage by stage: requests from the server, answers of a member.

Secure rounds have four stages (keys, shares, masked, unmask), rounds with central or local trust two (keys, update).
No record holds a count, a loss or a weight: what a member's ratings decide is in the vector or nowhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from common import wire
from common.enrolment import MemberCertificate
from common.errors import EnrolmentError, UpdateError
from common.prior import PopulationPrior
from common.privacy.statement import PrivacyStatement
from common.secure_sum import RosterEntry, context
from common.signing import SIGNATURE_BYTES, canonical
from common.wire import Wire

KEYS, SHARES, MASKED, UNMASK, UPDATE = "round_keys", "round_shares", "round_masked", "round_unmask", "round_update"
"""Names of the stages, as Flower's message types ``train.<name>``."""

LARGEST_PARAMETERS = 1_024


@dataclass(frozen=True, kw_only=True)
class Record:
    """A flat record: made and read with all its checks."""

    def to_wire(self) -> Wire:
        """The flat form."""
        return wire.flatten(self)

    @classmethod
    def from_wire(cls, values: Mapping[str, object]) -> Self:
        """Read a record.

        Raises:
            UpdateError: a field is missing, unknown, of another type or over its size, or the version is not ours.
        """
        return cls(**wire.unflatten(cls, values))


@dataclass(frozen=True, kw_only=True)
class Opening(Record):
    """The first request of a round: what it is about. Its digest binds every key of the round.

    Attributes:
        federation: identifier.
        terms: digest of the terms the server goes by; a member compares it with its own.
        session: identifier of the server's run, unguessable.
        round: number of the round, never used twice by a federation.
        parameters: taste weights p.
        prior: the prior to start from: mean, covariance, thresholds, little-endian float64, ``8 (p + p p + 4)`` bytes.
    """

    federation: str
    terms: str
    session: str
    round: int
    parameters: int
    prior: bytes

    def __post_init__(self) -> None:
        p = self.parameters
        if not 1 < p <= LARGEST_PARAMETERS or len(self.prior) != 8 * (p + p * p + 4):
            raise UpdateError(
                f"a prior of {len(self.prior)} bytes does not have {p} weights (2 to {LARGEST_PARAMETERS})"
            )
        if self.round < 1 or not self.session:
            raise UpdateError(f"round {self.round} of session {self.session[:8]!r} cannot be")

    @classmethod
    def of(cls, prior: PopulationPrior, *, federation: str, terms: str, session: str, number: int) -> Opening:
        """Open a round from ``prior``."""
        tensors = (prior.mean, prior.covariance, prior.thresholds)
        raw = b"".join(tensor.double().cpu().numpy().astype("<f8").tobytes() for tensor in tensors)
        return cls(
            federation=federation,
            terms=terms,
            session=session,
            round=number,
            parameters=prior.parameters,
            prior=raw,
        )

    def starting_prior(self, pack: str) -> PopulationPrior:
        """The prior to start from. Its statement does not travel, so it claims nothing.

        Raises:
            PriorError: it is not finite, or not a valid prior.
        """
        p = self.parameters
        numbers = torch.from_numpy(np.frombuffer(self.prior, dtype="<f8").astype(np.float64))
        return PopulationPrior(
            mean=numbers[:p].clone(),
            covariance=numbers[p : p + p * p].reshape(p, p).clone(),
            thresholds=numbers[p + p * p :].clone(),
            pack=pack,
            privacy=PrivacyStatement.not_private(0),
        )

    def context(self) -> bytes:
        """``(32,)`` what every key of the round is bound to."""
        return context(
            federation=self.federation,
            terms=self.terms,
            session=self.session,
            round=self.round,
            parameters=self.parameters,
            prior=hashlib.sha256(self.prior).hexdigest(),
        )


@dataclass(frozen=True, kw_only=True)
class Keys(Record):
    """A member's answer to an opening: who it is, and its keys for this round.

    Attributes:
        certificate: canonical JSON of the member's certificate.
        box_key: see ``RosterEntry``.
        mask_key: see ``RosterEntry``.
        signature: see ``RosterEntry``.
    """

    certificate: bytes
    box_key: bytes
    mask_key: bytes
    signature: bytes

    @classmethod
    def of(cls, entry: RosterEntry) -> Keys:
        """The record of an entry."""
        certificate = canonical(entry.certificate.to_json())
        return cls(certificate=certificate, box_key=entry.box_key, mask_key=entry.mask_key, signature=entry.signature)

    def entry(self) -> RosterEntry:
        """The entry; its signatures are not checked here.

        Raises:
            UpdateError: a key or the certificate is malformed.
        """
        if len(self.certificate) > 4_096 or len(self.signature) != SIGNATURE_BYTES:
            raise UpdateError("round keys with a certificate or signature of another size")
        if len(self.box_key) != 32 or len(self.mask_key) != 32:
            raise UpdateError("round keys must have 32 bytes")
        try:
            certificate = MemberCertificate.from_json(json.loads(self.certificate))
        except (ValueError, RecursionError, EnrolmentError) as error:
            raise UpdateError("round keys without a readable certificate") from error
        return RosterEntry(
            certificate=certificate, box_key=self.box_key, mask_key=self.mask_key, signature=self.signature
        )


@dataclass(frozen=True, kw_only=True)
class Stage(Record):
    """A later request or answer: which round it belongs to."""

    session: str
    round: int


@dataclass(frozen=True, kw_only=True)
class SharesRequest(Stage):
    """Asks a member to share its secrets.

    Attributes:
        roster: the members of the round, ``Roster.to_bytes``.
        threshold: shares that give a secret back.
    """

    roster: bytes
    threshold: int


@dataclass(frozen=True, kw_only=True)
class Shares(Stage):
    """A member's sealed shares.

    Attributes:
        recipients: all its neighbours, ascending.
        boxes: a box for each, ``SEALED_BYTES`` bytes, in their order.
        commitment: ``(32,)`` of its self-mask seed, so that a false share of it is noticed.
    """

    recipients: tuple[int, ...]
    boxes: bytes
    commitment: bytes


@dataclass(frozen=True, kw_only=True)
class MaskedRequest(Stage):
    """Brings a member its neighbours' boxes and asks for the masked vector.

    Attributes:
        senders: neighbours who shared, ascending.
        boxes: a box from each, in their order.
    """

    senders: tuple[int, ...]
    boxes: bytes


@dataclass(frozen=True, kw_only=True)
class Masked(Stage):
    """A member's masked vector.

    Attributes:
        total: packed integers mod 2^b, ``common.secure_sum.pack``.
    """

    total: bytes


@dataclass(frozen=True, kw_only=True)
class UnmaskRequest(Stage):
    """Says who answered, and asks for one share of each neighbour.

    Attributes:
        alive: members whose masked vector arrived, ascending.
        dead: members who shared secrets and whose vector did not arrive, ascending.
    """

    alive: tuple[int, ...]
    dead: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Unmasked(Stage):
    """A member's shares: of the self-mask seed of the living, of the mask key of the dead.

    Attributes:
        alive: itself and its living neighbours, ascending.
        seeds: ``SHARE_BYTES`` bytes for each of them, in their order: of the self-mask seed.
        dead: its neighbours who dropped out, ascending.
        masks: ``SHARE_BYTES`` bytes for each of them, in their order: of the mask key.
    """

    alive: tuple[int, ...]
    seeds: bytes
    dead: tuple[int, ...]
    masks: bytes


@dataclass(frozen=True, kw_only=True)
class UpdateRequest(Stage):
    """With central or local trust: asks for the vector itself."""


@dataclass(frozen=True, kw_only=True)
class Update(Stage):
    """A member's vector, signed so that nobody else can answer in its name.

    Attributes:
        total: ``(D,)`` int64, little-endian.
        signature: ``(64,)`` the member's, over the round's context and the vector.
    """

    total: bytes
    signature: bytes


UPDATE_PURPOSE = "round update"


def blobs(joined: bytes, count: int, size: int) -> list[bytes]:
    """``count`` byte strings of ``size`` bytes each.

    Raises:
        UpdateError: another number of bytes.
    """
    if len(joined) != count * size:
        raise UpdateError(f"{count} entries of {size} bytes expected, {len(joined)} bytes came")
    return [joined[start : start + size] for start in range(0, len(joined), size)]


def ascending(numbers: tuple[int, ...]) -> bool:
    """Whether member numbers are positive, ascending and without repetition."""
    return all(a < b for a, b in zip((0, *numbers), numbers, strict=False))
