"""The server's side of one round: who takes part, and the sum of what they sent, which is all it can read.

With distributed trust the sum comes out of masks with the members' noise in it; with central trust the server adds the
vectors, each within its bound; with local trust each vector was noised before it left. No function here keeps a vector.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from common import secure_sum
from common.errors import CohortError, EnrolmentError, ProtocolError, SignatureError
from common.messages import Reason, RejectedReply
from common.privacy.fixed_point import random_sensitivity
from common.privacy.promise import Promise, promise
from common.rounds import (
    KEYS,
    MASKED,
    SHARES,
    UNMASK,
    UPDATE,
    UPDATE_PURPOSE,
    Keys,
    Masked,
    MaskedRequest,
    Opening,
    Shares,
    SharesRequest,
    Stage,
    Unmasked,
    UnmaskRequest,
    Update,
    UpdateRequest,
    blobs,
)
from common.secure_sum import SEALED_BYTES, KeyPair, Roster, RosterEntry, Words
from common.shamir import SHARE_BYTES, coefficients, combine
from common.signing import verify
from common.terms import Terms, Trust
from server.intake import Exchange, intake

Integers = NDArray[np.int64]

_S = TypeVar("_S", bound=Stage)

_ATTEMPTS = 200  # to find enough true shares where somebody sends false ones


@dataclass
class Sums:
    """What a round gave.

    Attributes:
        total: ``(D,)`` int64 sum, or None where nothing can be released.
        vectors: with central trust ``(n, D)``, for robust rules only; never stored, never logged.
        answered: members in the sum.
        dropped: answers left out, by reason, over all stages.
        reason: why there is no sum.
    """

    total: Integers | None = None
    vectors: Integers | None = None
    answered: int = 0
    dropped: Counter[Reason] = field(default_factory=Counter)
    reason: str = ""

    def released(self) -> Integers:
        """The sum.

        Raises:
            CohortError: there is none.
        """
        if self.total is None:
            raise CohortError(self.reason)
        return self.total


def gather_keys(
    exchange: Exchange, nodes: list[int], opening: Opening, admit: Callable[[RosterEntry], None]
) -> tuple[dict[int, RosterEntry], Counter[Reason]]:
    """First stage: who is there, with keys for this round.

    Args:
        exchange: brings requests and answers.
        nodes: everybody who is online.
        opening: what the round is about.
        admit: raises ``RejectedReply`` for who may not take part (not certified, revoked, nothing left to spend).

    Returns:
        An entry for each node that takes part; no member twice, whatever the nodes say.
    """
    context = opening.context()

    def read(node: int, content: Mapping[str, object]) -> RosterEntry:
        entry = Keys.from_wire(content).entry()
        try:
            entry.check_signature(context)
        except ProtocolError as error:
            raise RejectedReply(Reason.NOT_CERTIFIED, str(error)) from error
        admit(entry)
        return entry

    entries, dropped = intake(exchange(KEYS, {node: opening.to_wire() for node in nodes}), nodes, read, 16_384)
    several = Counter(entry.member for entry in entries.values())
    kept = {node: entry for node, entry in entries.items() if several[entry.member] == 1}
    dropped[Reason.DUPLICATE] += len(entries) - len(kept)  # one member on two nodes: one of them is a copy
    return kept, +dropped


def certified(authority: bytes, federation: str, now: float) -> Callable[[RosterEntry], None]:
    """An ``admit`` that checks certificates."""

    def admit(entry: RosterEntry) -> None:
        try:
            entry.certificate.check(authority, federation, now)
        except EnrolmentError as error:
            raise RejectedReply(Reason.NOT_CERTIFIED, str(error)) from error

    return admit


def add_up(
    exchange: Exchange,
    entries: Mapping[int, RosterEntry],
    opening: Opening,
    terms: Terms,
    *,
    plain: type[PlainSum] | None = None,
) -> Sums:
    """The remaining stages.

    Guarantee: no answer can stop the round or move the sum by more than the bound of one member, except that with
    distributed trust a member's vector cannot be looked at: there a sum that honest members could not have made is
    refused as a whole. A round that ends without a sum says why.

    Args:
        exchange: brings requests and answers.
        entries: who takes part, by node.
        opening: what the round is about.
        terms: what the members agreed to.
        plain: reads vectors where there are no masks; tests give one with a control switched off.
    """
    kept = promise(terms)
    if len(entries) < terms.settings.minimum_people:
        return Sums(reason=f"{len(entries)} members take part, {terms.settings.minimum_people} are needed")
    if terms.trust is not Trust.DISTRIBUTED:
        return (plain or PlainSum)(exchange, entries, opening, terms, kept).run()
    work = _SecureSum(exchange, entries, opening, terms, kept)
    try:
        total = work.run()
    except (ProtocolError, CohortError) as error:
        return Sums(answered=len(work.words), dropped=+work.dropped, reason=str(error))
    return Sums(total=total, answered=len(work.words), dropped=+work.dropped)


class PlainSum:
    """Vectors as they are: each signed, of the right size, and within the bound of one member."""

    def __init__(
        self, exchange: Exchange, entries: Mapping[int, RosterEntry], opening: Opening, terms: Terms, kept: Promise
    ) -> None:
        self._exchange, self._entries, self._opening, self._terms, self._kept = exchange, entries, opening, terms, kept

    def run(self) -> Sums:
        """Ask all for their vectors."""
        request = UpdateRequest(session=self._opening.session, round=self._opening.round).to_wire()
        answers = self._exchange(UPDATE, dict.fromkeys(self._entries, request))
        vectors, dropped = intake(answers, self._entries, self._read, self._most_bytes())
        minimum = self._terms.settings.minimum_people
        if len(vectors) < minimum:
            reason = f"{len(vectors)} members answered, {minimum} are needed"
            return Sums(answered=len(vectors), dropped=dropped, reason=reason)
        table = np.stack(list(vectors.values()))
        return Sums(total=table.sum(0), vectors=table, answered=len(vectors), dropped=dropped)

    def _most_bytes(self) -> int:
        return 16 * self._kept.numbers + 4_096

    def _read(self, node: int, content: Mapping[str, object]) -> Integers:
        answer = self._answer(content)
        self._check_signature(self._entries[node], answer)
        self._check_size(answer.total)
        vector = np.frombuffer(answer.total, dtype="<i8").astype(np.int64)
        self._check_bound(vector)
        return vector

    def _answer(self, content: Mapping[str, object]) -> Update:
        return _of_this_round(Update.from_wire(content), self._opening)

    def _check_signature(self, entry: RosterEntry, answer: Update) -> None:
        try:
            content = self._opening.context() + answer.total
            verify(entry.certificate.key, UPDATE_PURPOSE, content, answer.signature)
        except SignatureError as error:
            raise RejectedReply(Reason.NOT_CERTIFIED, str(error)) from error

    def _check_size(self, total: bytes) -> None:
        if len(total) != 8 * self._kept.numbers:
            raise RejectedReply(Reason.MALFORMED, f"a vector of {len(total)} bytes")

    def _check_bound(self, vector: Integers) -> None:
        """The control that bounds poison: whatever m of n members send, the mean moves by at most m C / n."""
        bound = random_sensitivity(self._kept.norm_bound, self._kept.numbers)
        if self._terms.trust is Trust.LOCAL:  # room for noise that members exceed once in e^50 rounds
            bound += float(self._kept.share_variance) ** 0.5 * (self._kept.numbers**0.5 + 10)
        if float(np.linalg.norm(vector.astype(np.float64))) > bound * (1 + 1e-9):
            raise RejectedReply(Reason.OUT_OF_BOUND, "a vector longer than one member could make it")


class _SecureSum:
    def __init__(
        self, exchange: Exchange, entries: Mapping[int, RosterEntry], opening: Opening, terms: Terms, kept: Promise
    ) -> None:
        self.exchange, self.opening, self.terms, self.kept = exchange, opening, terms, kept
        self.node_of = {entry.member: node for node, entry in entries.items()}
        self.member_of = {node: member for member, node in self.node_of.items()}
        self.roster = Roster(tuple(sorted(entries.values(), key=lambda entry: entry.member)))
        self.digest = self.roster.digest(opening.context())
        self.graph = secure_sum.neighbours(self.roster.members, self.digest)
        self.threshold = secure_sum.threshold(len(self.roster.entries))
        bound = random_sensitivity(kept.norm_bound, kept.numbers)
        self.bound = bound
        self.bits = secure_sum.modulus_bits(len(self.roster.entries), bound, int(kept.share_variance))
        self.dropped: Counter[Reason] = Counter()
        self.words: dict[int, Words] = {}
        self.commitments: dict[int, bytes] = {}

    def run(self) -> Integers:
        boxes = self._shares()
        self._enough(len(boxes), "shared their secrets")
        senders = self._masked(boxes)
        self._enough(len(self.words), "sent a masked vector")
        dead = sorted(set(senders) - set(self.words))
        held = self._unmask(dead)
        seeds, keys = self._secrets(held, dead)
        total: Words = np.stack(list(self.words.values())).sum(0, dtype=np.uint64)
        plain = secure_sum.unmask(total, self.roster, self.digest, self.graph, seeds, keys)
        return self._plausible(secure_sum.signed(plain, self.bits))

    def _enough(self, count: int, what: str) -> None:
        if count < self.terms.settings.minimum_people:
            raise CohortError(f"{count} members {what}, {self.terms.settings.minimum_people} are needed")

    def _shares(self) -> dict[int, dict[int, bytes]]:
        """Boxes by sender and recipient, of members with enough neighbours who shared as well."""
        request = SharesRequest(
            session=self.opening.session,
            round=self.opening.round,
            roster=self.roster.to_bytes(),
            threshold=self.threshold,
        ).to_wire()

        def read(node: int, content: Mapping[str, object]) -> dict[int, bytes]:
            answer = _of_this_round(Shares.from_wire(content), self.opening)
            if answer.recipients != self.graph[self.member_of[node]]:
                raise RejectedReply(Reason.MALFORMED, "shares for others than the neighbours")
            parts = blobs(answer.boxes, len(answer.recipients), SEALED_BYTES)
            self.commitments[self.member_of[node]] = answer.commitment
            return dict(zip(answer.recipients, parts, strict=True))

        nodes = list(self.member_of)
        most = 2 * (SEALED_BYTES + 8) * len(nodes) + 4_096
        answers, dropped = intake(self.exchange(SHARES, dict.fromkeys(nodes, request)), nodes, read, most)
        self.dropped += dropped
        return {self.member_of[node]: boxes for node, boxes in answers.items()}

    def _masked(self, boxes: Mapping[int, Mapping[int, bytes]]) -> list[int]:
        """Ask all who shared; gives those who were asked."""
        requests = {}
        for member in boxes:
            senders = tuple(other for other in self.graph[member] if other in boxes)
            if len(senders) + 1 >= self.threshold:
                joined = b"".join(boxes[sender][member] for sender in senders)
                request = MaskedRequest(
                    session=self.opening.session, round=self.opening.round, senders=senders, boxes=joined
                )
                requests[self.node_of[member]] = request.to_wire()

        def read(node: int, content: Mapping[str, object]) -> Words:
            answer = _of_this_round(Masked.from_wire(content), self.opening)
            return secure_sum.unpack(answer.total, self.kept.numbers, self.bits)

        most = 2 * secure_sum.packed_bytes(self.kept.numbers, self.bits) + 4_096
        answers, dropped = intake(self.exchange(MASKED, requests), requests, read, most)
        self.dropped += dropped
        self.words = {self.member_of[node]: words for node, words in sorted(answers.items())}
        return list(boxes)

    def _unmask(self, dead: list[int]) -> dict[int, dict[int, bytes]]:
        """Shares by the member they are of and their holder."""
        request = UnmaskRequest(
            session=self.opening.session, round=self.opening.round, alive=tuple(sorted(self.words)), dead=tuple(dead)
        ).to_wire()

        def read(node: int, content: Mapping[str, object]) -> dict[int, bytes]:
            answer = _of_this_round(Unmasked.from_wire(content), self.opening)
            seeds = zip(answer.alive, blobs(answer.seeds, len(answer.alive), SHARE_BYTES), strict=True)
            masks = zip(answer.dead, blobs(answer.masks, len(answer.dead), SHARE_BYTES), strict=True)
            own = self.member_of[node]
            wanted = {own, *self.graph[own]}
            found = {who: share for who, share in seeds if who in self.words}
            found.update((who, share) for who, share in masks if who not in self.words)
            return {who: share for who, share in found.items() if who in wanted}

        nodes = [self.node_of[member] for member in self.words]
        most = 2 * (SHARE_BYTES + 8) * len(self.roster.entries) + 4_096
        answers, dropped = intake(self.exchange(UNMASK, dict.fromkeys(nodes, request)), nodes, read, most)
        self.dropped += dropped
        held: dict[int, dict[int, bytes]] = {}
        for node, shares in answers.items():
            for member, share in shares.items():
                held.setdefault(member, {})[self.member_of[node]] = share
        return held

    def _secrets(
        self, held: Mapping[int, Mapping[int, bytes]], dead: list[int]
    ) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Self-mask seeds of the living, mask keys of the dead who masks were shared with."""
        finder = _Reconstruction(held, self.threshold)
        keys = {
            member: finder.secret(member, lambda found, who=member: self._is_key(who, found))  # type: ignore[misc]
            for member in dead
            if any(other in self.words for other in self.graph[member])
        }
        seeds = {
            member: finder.secret(member, lambda found, who=member: self._is_seed(who, found))  # type: ignore[misc]
            for member in self.words
        }
        return seeds, keys

    def _is_seed(self, member: int, seed: bytes) -> bool:
        return secure_sum.commit(seed, self.digest) == self.commitments[member]

    def _is_key(self, member: int, private: bytes) -> bool:
        return KeyPair(private).public == self.roster.by_member[member].mask_key

    def _plausible(self, total: Integers) -> Integers:
        """Refuse what honest members could not have made: the only look at poison that masks allow.

        The sum is noised already, so looking at its length is post-processing.
        """
        answered = len(self.words)
        noise = (answered * float(self.kept.share_variance)) ** 0.5
        longest = answered * self.bound + noise * (self.kept.numbers**0.5 + 10)
        if float(np.linalg.norm(total.astype(np.float64))) > longest:
            raise ProtocolError("the sum is longer than its members could make it: a false vector or a false mask")
        return total


class _Reconstruction:
    """Gives secrets back from shares, some of which may be false.

    A secret that comes out is compared with what its owner committed to, so a false share is noticed, and other holders
    are tried.
    """

    def __init__(self, held: Mapping[int, Mapping[int, bytes]], threshold: int) -> None:
        self._held, self._threshold = held, threshold
        self._weights: dict[tuple[int, ...], dict[int, int]] = {}
        self._suspects: set[int] = set()  # asked last: a set without them fitted, one with them did not

    def secret(self, member: int, right: Callable[[bytes], bool]) -> bytes:
        """The secret of ``member`` that passes ``right``.

        Raises:
            CohortError: too few shares came. ProtocolError: too many of them are false.
        """
        shares = self._held.get(member, {})
        holders = sorted(shares, key=lambda holder: (holder in self._suspects, holder))
        if len(holders) < self._threshold:
            raise CohortError(
                f"{len(holders)} shares of a member's secret came, {self._threshold} are needed; the sum stays masked"
            )
        for chosen in self._choices(holders):
            try:
                found = combine(shares, self._coefficients(chosen))
            except ProtocolError:
                continue
            if right(found):
                self._suspects |= set(holders[: self._threshold]) - set(chosen)
                return found
        raise ProtocolError("the shares of a member's secret do not fit together; too many of them are false")

    def _choices(self, holders: list[int]) -> Iterator[tuple[int, ...]]:
        first = tuple(holders[: self._threshold])
        yield first
        if len(holders) > self._threshold:
            spare = holders[self._threshold]
            yield from (tuple(sorted({*first, spare} - {gone})) for gone in first)
            draw = random.Random(len(holders))  # which holders are tried is no secret
            yield from (tuple(sorted(draw.sample(holders, self._threshold))) for _ in range(_ATTEMPTS))

    def _coefficients(self, holders: tuple[int, ...]) -> dict[int, int]:
        if holders not in self._weights:
            self._weights[holders] = coefficients(holders)
        return self._weights[holders]


def _of_this_round(answer: _S, opening: Opening) -> _S:
    if (answer.session, answer.round) != (opening.session, opening.round):
        raise RejectedReply(Reason.STALE, f"an answer to round {answer.round} came in round {opening.round}")
    return answer
