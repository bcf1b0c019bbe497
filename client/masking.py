"""A member's side of a round: four stages of a secure sum, or one update where the terms trust the server or nobody.

Each check here is a promise to the person, made where breaking it would have to happen: before anything is sent. A
check that fails raises, and the member takes no further part in the round.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import MutableMapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from client.contribution import summand_of
from client.device import Device
from client.likelihood import Evidence
from common import secure_sum
from common.errors import BudgetError, ConsentError, EnrolmentError, ProtocolError
from common.prior import PopulationPrior
from common.privacy.fixed_point import quantise_at_random, random_sensitivity
from common.privacy.noise import discrete_gaussian
from common.privacy.promise import promise
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
    ascending,
    blobs,
)
from common.secure_sum import SEALED_BYTES, KeyPair, Roster, RosterEntry
from common.shamir import SHARE_BYTES, split
from common.terms import Trust

_NEXT = {KEYS: SHARES, SHARES: MASKED, MASKED: UNMASK}


class RoundMember:
    """One device in the rounds of one server run.

    Guarantee: answers a stage only after the one before, once, and with the same round; what it keeps between stages
    is forgotten when the round is over, fails, or a new one opens.

    Args:
        device: whose.
        state: kept by the caller between stages, empty at first: numbers, texts, bytes. It holds this round's secrets,
            never a rating.
    """

    def __init__(self, device: Device, state: MutableMapping[str, Any]) -> None:
        self._device, self._state = device, state

    def keys(self, opening: Opening) -> Keys:
        """First stage: agree to take part, with fresh keys signed for exactly this round.

        Raises:
            ConsentError: the terms are not those the person agreed to, sharing is paused, or too few answers.
            BudgetError: the person's participations are used up.
            ProtocolError: the round was opened before.
        """
        self._check_terms(opening)
        self._check_fresh(opening)
        self._check_budget()
        self._check_ratings()
        opening.starting_prior(self._device.terms.pack)  # an unusable prior is refused before anything is promised
        box, mask = KeyPair.generate(), KeyPair.generate()
        self._state.clear()
        self._state.update(
            {
                "next": SHARES if self._device.terms.trust is Trust.DISTRIBUTED else UPDATE,
                "session": opening.session,
                "round": opening.round,
                "context": self._context(opening),
                "prior": opening.prior,
                "parameters": opening.parameters,
                "box": box.private,
                "mask": mask.private,
            }
        )
        entry = RosterEntry.sign(
            self._device.key, self._device.certificate, self._context(opening), box.public, mask.public
        )
        return Keys.of(entry)

    def shares(self, request: SharesRequest) -> Shares:
        """Second stage: check who takes part, and share this member's two secrets among its neighbours.

        Raises:
            ProtocolError: wrong stage or round, or a roster, threshold or key that would expose this member.
        """
        self._advance(SHARES, request)
        roster = self._checked_roster(request.roster)
        self._check_threshold(request.threshold, roster)
        own, digest, pair = self._own, roster.digest(self._state["context"]), KeyPair(self._state["box"])
        graph = secure_sum.neighbours_of(own, roster.members, digest)
        seed = os.urandom(32)
        holders = (own, *graph)
        seeds = split(seed, request.threshold, holders)
        masks = split(self._state["mask"], request.threshold, holders)
        keys = {other: secure_sum.box_keys(pair, own, roster.by_member[other], digest) for other in graph}
        boxes = [secure_sum.seal(keys[other][0], own, other, seeds[other] + masks[other]) for other in graph]
        self._state.update(
            {
                "members": list(roster.members),
                "digest": digest,
                "threshold": request.threshold,
                "graph": list(graph),
                "mask keys": b"".join(roster.by_member[other].mask_key for other in graph),
                "seed": seed,
                "own share": seeds[own],
                "open": b"".join(keys[other][1] for other in graph),
            }
        )
        return Shares(
            session=request.session,
            round=request.round,
            recipients=graph,
            boxes=b"".join(boxes),
            commitment=secure_sum.commit(seed, digest),
        )

    def masked(self, request: MaskedRequest) -> Masked:
        """Third stage: the vector, with this member's noise in it and under its masks. Charged before it leaves.

        Raises:
            ProtocolError: wrong stage or round, boxes from strangers, too few, or altered.
            BudgetError: the person's participations are used up.
        """
        self._advance(MASKED, request)
        self._check_senders(request.senders)
        boxes = blobs(request.boxes, len(request.senders), SEALED_BYTES)
        keys, mask_keys = self._of_neighbours("open"), self._of_neighbours("mask keys")
        opened = [
            secure_sum.unseal(keys[sender], sender, self._own, box)
            for sender, box in zip(request.senders, boxes, strict=True)
        ]
        others = {sender: mask_keys[sender] for sender in request.senders}
        vector = self._vector()
        self._charge()  # before anything leaves; after what may fail for want of the store
        kept, members = promise(self._device.terms), len(self._state["members"])
        bound = random_sensitivity(kept.norm_bound, kept.numbers)
        bits = secure_sum.modulus_bits(members, bound, int(kept.share_variance))
        words = vector.astype(np.int64).view(np.uint64) + secure_sum.expand(self._state["seed"], vector.size)
        pair, digest = KeyPair(self._state["mask"]), self._state["digest"]
        words = words + secure_sum.masks_with(pair, self._own, others, digest, vector.size)
        # The vector is sealed now; only the shares of the others are needed for the last stage.
        for name in ("prior", "box", "mask", "seed", "open", "mask keys"):
            del self._state[name]
        self._state.update({"senders": list(request.senders), "opened": b"".join(opened)})
        return Masked(session=request.session, round=request.round, total=secure_sum.pack(words, bits))

    def unmask(self, request: UnmaskRequest) -> Unmasked:
        """Last stage: one share of each neighbour, of one of its two secrets. Everything is forgotten after it.

        Raises:
            ProtocolError: wrong stage or round, or lists that overlap, leave somebody out, or are too short.
        """
        self._advance(UNMASK, request)
        self._check_disjoint(request.alive, request.dead)
        self._check_complete(request.alive, request.dead)
        self._check_survivors(request.alive)
        senders, size = self._state["senders"], 2 * SHARE_BYTES
        both = dict(zip(senders, blobs(self._state["opened"], len(senders), size), strict=True))
        seeds = {who: both[who][:SHARE_BYTES] for who in request.alive if who in both}
        seeds[self._own] = self._state["own share"]
        masks = {who: both[who][SHARE_BYTES:] for who in request.dead if who in both}
        self._forget()
        alive, dead = tuple(sorted(seeds)), tuple(sorted(masks))
        return Unmasked(
            session=request.session,
            round=request.round,
            alive=alive,
            seeds=b"".join(seeds[who] for who in alive),
            dead=dead,
            masks=b"".join(masks[who] for who in dead),
        )

    def update(self, request: UpdateRequest) -> Update:
        """With central or local trust, second and last stage: the vector itself. Charged before it leaves.

        Raises:
            ProtocolError: wrong stage or round.
            BudgetError: the person's participations are used up.
        """
        self._advance(UPDATE, request)
        total = self._vector().astype("<i8").tobytes()
        self._charge()
        signature = self._device.key.sign(UPDATE_PURPOSE, self._state["context"] + total)
        self._forget()
        return Update(session=request.session, round=request.round, total=total, signature=signature)

    def _context(self, opening: Opening) -> bytes:
        """What all keys of the round are bound to."""
        return opening.context()

    def _of_neighbours(self, name: str) -> dict[int, bytes]:
        """The 32 bytes that were kept for each neighbour."""
        graph = self._state["graph"]
        return dict(zip(graph, blobs(self._state[name], len(graph), secure_sum.KEY_BYTES), strict=True))

    @property
    def _own(self) -> int:
        return self._device.certificate.member

    def _vector(self) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """``(D,)`` clipped, rounded at random, with this member's own noise."""
        terms = self._device.terms
        kept = promise(terms)
        values = summand_of(self._evidence(), self._prior(), terms.settings.norm_bound)
        steps = quantise_at_random(values, kept.norm_bound)[0]
        if kept.share_variance:
            steps = steps + self._noise(kept.numbers, kept.share_variance)
        return steps.numpy()

    def _evidence(self) -> Evidence:
        return self._device.evidence()

    def _prior(self) -> PopulationPrior:
        """What the round starts from, as its opening said."""
        terms = self._device.terms
        opening = Opening(
            federation=terms.federation,
            terms=terms.digest(),
            session=self._state["session"],
            round=self._state["round"],
            parameters=self._state["parameters"],
            prior=self._state["prior"],
        )
        return opening.starting_prior(terms.pack)

    def _noise(self, count: int, variance: Fraction) -> torch.Tensor:
        return discrete_gaussian(count, variance)

    def _check_terms(self, opening: Opening) -> None:
        """The server goes by the terms the person agreed to, all of them."""
        terms = self._device.terms
        if (opening.federation, opening.terms) != (terms.federation, terms.digest()):
            raise ConsentError("the server asks under other terms than those agreed to; join again to read them")
        if opening.parameters != terms.parameters:
            raise ConsentError(f"a prior of {opening.parameters} weights; the terms say {terms.parameters}")

    def _check_fresh(self, opening: Opening) -> None:
        """No round is opened twice: fresh keys under an old context would be a second answer."""
        last = self._state.get("finished")
        open_now = (self._state.get("session"), self._state.get("round"))
        if (opening.session, opening.round) == open_now or last == _name(opening.session, opening.round):
            raise ProtocolError(f"round {opening.round} was opened before")

    def _check_budget(self) -> None:
        spent = self._device.ledger.spent(self._device.terms.federation)
        if spent >= self._limit:
            raise BudgetError(f"{spent} of {self._limit} participations are used; none is left")

    def _check_ratings(self) -> None:
        """Few answers can be read from an update; below the agreed number nothing is sent."""
        evidence, least = self._evidence(), self._device.terms.minimum_ratings
        if evidence.people != 1:
            raise ConsentError(f"a device answers for one person, not for {evidence.people}")
        given = evidence.answers
        if given < least:
            raise ConsentError(f"{given} answers of at least {least} were given; nothing is sent before")

    @property
    def _limit(self) -> int:
        return min(self._device.limit, self._device.terms.settings.participations)

    def _charge(self) -> None:
        """Debit before anything leaves; the ledger refuses a second charge of the same round."""
        self._device.ledger.charge(
            federation=self._device.terms.federation,
            session=self._state["session"],
            round=self._state["round"],
            limit=self._limit,
        )

    def _advance(self, stage: str, request: Stage) -> None:
        """Stages come in order, once each; whatever goes wrong from here on, the same stage is not answered again."""
        expected = self._state.get("next")
        if expected != stage or (request.session, request.round) != (self._state["session"], self._state["round"]):
            raise ProtocolError(f"stage {stage} of round {request.round} was not expected; waiting for {expected}")
        self._state["next"] = _NEXT.get(stage, "")

    def _checked_roster(self, raw: bytes) -> Roster:
        roster = Roster.from_bytes(raw)
        self._check_size(roster)
        self._check_own_entry(roster)
        self._check_certificates(roster)
        self._check_signatures(roster)
        self._check_pins(roster)
        return roster

    def _check_size(self, roster: Roster) -> None:
        least = self._device.terms.settings.minimum_people
        if len(roster.entries) < least:
            raise ProtocolError(f"a roster of {len(roster.entries)} members; the terms ask for at least {least}")

    def _check_own_entry(self, roster: Roster) -> None:
        own = roster.by_member.get(self._own)
        box, mask = (KeyPair(self._state[name]).public for name in ("box", "mask"))
        if own is None or (own.box_key, own.mask_key, own.certificate) != (box, mask, self._device.certificate):
            raise ProtocolError("the roster does not hold this member as it is")

    def _check_certificates(self, roster: Roster) -> None:
        device, federation, now = self._device, self._device.terms.federation, self._device.clock()
        for entry in roster.entries:
            digest = entry.certificate.digest()
            try:
                entry.certificate.check(device.authority, federation, now, known=digest in device.checked)
            except EnrolmentError as error:
                raise ProtocolError(f"the roster holds somebody who is no member: {error}") from error
            device.checked.add(digest)

    def _check_signatures(self, roster: Roster) -> None:
        for entry in roster.entries:
            entry.check_signature(self._state["context"])

    def _check_pins(self, roster: Roster) -> None:
        """A number once seen with a key stays with it, whatever the authority signs later."""
        found = {entry.member: entry.certificate.key for entry in roster.entries}
        self._device.ledger.pin_all(self._device.terms.federation, found)

    def _check_threshold(self, threshold: int, roster: Roster) -> None:
        members = len(roster.entries)
        least, most = secure_sum.threshold(members), secure_sum.degree(members) + 1
        if not least <= threshold <= most:
            raise ProtocolError(f"threshold {threshold} must be between {least} and {most} for {members} members")

    def _check_senders(self, senders: Sequence[int]) -> None:
        if not ascending(tuple(senders)) or not set(senders) <= set(self._state["graph"]):
            raise ProtocolError("boxes from members who are no neighbours, or not in order")
        # with fewer, this member's own secrets could not be given back, and its mask would stay on the sum
        if len(senders) + 1 < self._state["threshold"]:
            raise ProtocolError(f"boxes of {len(senders)} neighbours; {self._state['threshold']} holders are needed")

    def _check_disjoint(self, alive: Sequence[int], dead: Sequence[int]) -> None:
        """Both secrets of one member, and its vector is open."""
        if set(alive) & set(dead):
            raise ProtocolError(f"{len(set(alive) & set(dead))} members are named as answering and as dropped out")

    def _check_complete(self, alive: Sequence[int], dead: Sequence[int]) -> None:
        if not ascending(tuple(alive)) or not ascending(tuple(dead)):
            raise ProtocolError("the lists of members must be ascending, each member once")
        named = set(alive) | set(dead)
        members = set(self._state["members"])
        if not {*self._state["senders"], self._own} <= named or not named <= members:
            raise ProtocolError("the lists of members leave somebody out, or name a stranger")
        if self._own not in set(alive):
            raise ProtocolError("this member answered and is not named among those who did")
        silent = set(self._state["graph"]) - set(self._state["senders"])
        if silent & named:
            raise ProtocolError("a neighbour who shared nothing is named")

    def _check_survivors(self, alive: Sequence[int]) -> None:
        """Fewer members than the noise is sized for would leave too little of it in the sum."""
        least = self._device.terms.settings.minimum_people
        if len(alive) < least:
            raise ProtocolError(f"{len(alive)} members answered; the noise is sized for at least {least}")

    def _forget(self) -> None:
        finished = _name(self._state["session"], self._state["round"])
        self._state.clear()
        self._state["finished"] = finished


def _name(session: str, number: int) -> str:
    return hashlib.sha256(f"{session}/{number}".encode()).hexdigest()
