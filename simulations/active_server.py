"""A server that lies: drives the stages of a round by hand, and takes a vector apart if it can get at both secrets.

It has everything a dishonest operator has: all messages, the power to drop and alter them, and the keys of members it
made up. What it lacks is what the members' checks keep from it; ``tests/attacks`` switches those off one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from common import secure_sum
from common.enrolment import MemberCertificate
from common.privacy.promise import promise
from common.rounds import (
    KEYS,
    MASKED,
    SHARES,
    UNMASK,
    Keys,
    Masked,
    MaskedRequest,
    Opening,
    Shares,
    SharesRequest,
    Unmasked,
    UnmaskRequest,
    blobs,
)
from common.secure_sum import SEALED_BYTES, KeyPair, Roster, RosterEntry
from common.shamir import SHARE_BYTES, coefficients, combine
from common.signing import SigningKey
from server.secure_round import Integers
from simulations.federation import Members


class Puppet:
    """A member the server made up: it has every key of it.

    Args:
        number: the number it pretends to have.
        certificate: as it shows it.
        key: its enrolment key.
        context: of the round.
    """

    def __init__(self, certificate: MemberCertificate, key: SigningKey, context: bytes) -> None:
        self.box, self.mask = KeyPair.generate(), KeyPair.generate()
        self.entry = RosterEntry.sign(key, certificate, context, self.box.public, self.mask.public)


class ActiveServer:
    """One round, stage by stage, with one victim.

    Args:
        members: the devices it talks to.
        opening: what the victim is told the round is about.
        victim: its number.
    """

    def __init__(self, members: Members, opening: Opening | None = None, victim: int = 1) -> None:
        self.members, self.victim = members, victim
        self.opening = opening or members.opening()
        self.entries: dict[int, RosterEntry] = {}
        self.puppets: dict[int, Puppet] = {}
        self.boxes: dict[int, dict[int, bytes]] = {}
        self.words: dict[int, secure_sum.Words] = {}
        self.seeds: dict[int, bytes] = {}
        self.masks: dict[int, bytes] = {}
        self.threshold = 0

    def keys(self, who: Iterable[int] | None = None) -> dict[int, RosterEntry]:
        """Ask members for their keys; those who refuse are missing."""
        for member in who or self.members.devices:
            answer = self.members.ask(KEYS, member, self.opening.to_wire())
            if answer is not None:
                self.entries[member] = Keys.from_wire(answer).entry()
        return self.entries

    def puppet(self, certificate: MemberCertificate, key: SigningKey) -> None:
        """Add a member of the server's own making, in the place of a real one if it has its number."""
        made = Puppet(certificate, key, self.opening.context())
        self.puppets[certificate.member], self.entries[certificate.member] = made, made.entry

    def roster(self) -> Roster:
        """The members of the round as the server shows them."""
        return Roster(tuple(self.entries[member] for member in sorted(self.entries)))

    def shares(self, threshold: int | None = None) -> list[int]:
        """Ask the real members to share; gives those who did."""
        roster = self.roster()
        self.threshold = threshold or secure_sum.threshold(len(roster.entries))
        self.digest = roster.digest(self.opening.context())
        request = SharesRequest(
            session=self.opening.session,
            round=self.opening.round,
            roster=roster.to_bytes(),
            threshold=self.threshold,
        )
        for member in set(self.entries) - set(self.puppets):
            answer = self.members.ask(SHARES, member, request.to_wire())
            if answer is not None:
                shares = Shares.from_wire(answer)
                parts = blobs(shares.boxes, len(shares.recipients), SEALED_BYTES)
                self.boxes[member] = dict(zip(shares.recipients, parts, strict=True))
        for number, puppet in self.puppets.items():  # a puppet shares nothing of use, but properly sealed
            self.boxes[number] = {
                other: secure_sum.seal(
                    secure_sum.box_keys(puppet.box, number, self.entries[other], self.digest)[0],
                    number,
                    other,
                    bytes(2 * SHARE_BYTES),
                )
                for other in self.entries
                if other != number
            }
        return [member for member in self.boxes if member not in self.puppets]

    def masked(self) -> list[int]:
        """Ask the real members for their vectors; gives those who answered."""
        for member in set(self.boxes) - set(self.puppets):
            senders = tuple(sorted(other for other in self.boxes if other != member))
            joined = b"".join(self.boxes[sender][member] for sender in senders)
            request = MaskedRequest(
                session=self.opening.session, round=self.opening.round, senders=senders, boxes=joined
            )
            answer = self.members.ask(MASKED, member, request.to_wire())
            if answer is not None:
                self.words[member] = self.unpacked(Masked.from_wire(answer).total)
        return list(self.words)

    def unpacked(self, raw: bytes) -> secure_sum.Words:
        """A masked vector."""
        kept = promise(self.members.terms)
        bits = self.bits()
        return secure_sum.unpack(raw, kept.numbers, bits)

    def bits(self) -> int:
        """Bits of the modulus."""
        kept = promise(self.members.terms)
        return secure_sum.modulus_bits(len(self.entries), kept.sensitivity, int(kept.share_variance))

    def unmask(self, lists: Mapping[int, tuple[Iterable[int], Iterable[int]]]) -> int:
        """Ask each member with lists of its own; collects shares of the victim's secrets, gives how many answered."""
        answered = 0
        for member, (alive, dead) in lists.items():
            request = UnmaskRequest(
                session=self.opening.session,
                round=self.opening.round,
                alive=tuple(sorted(alive)),
                dead=tuple(sorted(dead)),
            )
            answer = self.members.ask(UNMASK, member, request.to_wire())
            if answer is None:
                continue
            answered += 1
            found = Unmasked.from_wire(answer)
            for names, joined, kept in (
                (found.alive, found.seeds, self.seeds),
                (found.dead, found.masks, self.masks),
            ):
                if self.victim in names:
                    kept[member] = blobs(joined, len(names), SHARE_BYTES)[names.index(self.victim)]
        return answered

    def open_boxes(self) -> None:
        """Read the victim's boxes to the server's own puppets."""
        for number, puppet in self.puppets.items():
            key = secure_sum.box_keys(puppet.box, number, self.entries[self.victim], self.digest)[1]
            shares = secure_sum.unseal(key, self.victim, number, self.boxes[self.victim][number])
            self.seeds[number], self.masks[number] = shares[:SHARE_BYTES], shares[SHARE_BYTES:]

    def vector(self) -> Integers | None:
        """The victim's vector without its masks, if enough shares of both its secrets were got."""
        if self.victim not in self.words or min(len(self.seeds), len(self.masks)) < self.threshold:
            return None
        seed, mask = (
            combine(shares, coefficients(sorted(shares)[: self.threshold])) for shares in (self.seeds, self.masks)
        )
        words = self.words[self.victim]
        others = [self.entries[other] for other in sorted(self.boxes) if other != self.victim]
        words = words - secure_sum.expand(seed, words.size)
        words = words - secure_sum.pair_masks(KeyPair(mask), self.victim, others, self.digest, words.size)
        return secure_sum.signed(words, self.bits())

    def reads(self, vectors: Mapping[int, Integers]) -> bool:
        """Whether the server has the very vector the victim sent."""
        found = self.vector()
        return found is not None and bool(np.array_equal(found, vectors[self.victim]))
