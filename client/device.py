"""What a member's device brings to a round: its identity, its limits, its ratings. Everything secret stays here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from client.ledger import Ledger
from client.likelihood import Evidence
from common.enrolment import MemberCertificate
from common.signing import SigningKey
from common.terms import Terms


@dataclass(frozen=True, kw_only=True, eq=False)
class Device:
    """One member's device.

    Attributes:
        terms: what the person agreed to.
        certificate: that its key belongs to a member.
        key: its enrolment key.
        authority: ``(32,)`` bytes, pinned: the key that certifies members.
        ledger: what the person has spent, and the keys of others seen before.
        evidence: reads what the person said: one person, features ``(1, t, m, p)``. May raise ``ConsentError`` where
            sharing is paused, or ``StoreInUse``.
        limit: participations the person allows, never more than the terms.
        clock: seconds since 1970.
        checked: digests of certificates whose signature was checked, so that a long-lived device checks each once.
    """

    terms: Terms
    certificate: MemberCertificate
    key: SigningKey
    authority: bytes
    ledger: Ledger
    evidence: Callable[[], Evidence]
    limit: int
    clock: Callable[[], float] = time.time
    checked: set[bytes] = field(default_factory=set)
