"""Whatever a server sends in whatever order, a member answers each stage once and keeps its neighbours' secrets."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from client.device import Device
from client.ledger import Ledger
from client.masking import RoundMember
from common import secure_sum
from common.enrolment import MemberCertificate
from common.errors import PlglError
from common.prior import PopulationPrior
from common.rounds import (
    SHARES,
    Keys,
    Masked,
    MaskedRequest,
    Opening,
    Record,
    Shares,
    SharesRequest,
    Unmasked,
    UnmaskRequest,
    UpdateRequest,
    blobs,
)
from common.secure_sum import Roster, RosterEntry
from common.shamir import SHARE_BYTES
from common.signing import SigningKey
from simulations.active_server import Puppet
from simulations.federation import PACK, invented_evidence, terms

COUNT, LEAST, OWN, LIMIT = 6, 4, 1, 3
OTHERS = tuple(range(2, COUNT + 1))
AUTHORITY = SigningKey.generate()
KEYS = {number: SigningKey.generate() for number in range(1, COUNT + 1)}
ROUNDS = [("s", 1), ("s", 2), ("t", 1), ("t", 2), ("t", 3)]
late = st.sampled_from([*[None] * 8, *ROUNDS])
numbers = st.lists(st.integers(0, COUNT + 2), max_size=COUNT + 2).map(tuple)


class Repeating(RoundMember):
    """Twin: shares its secrets as often as it is asked."""

    def _advance(self, stage: str, request: Any) -> None:
        super()._advance(stage, request)
        if stage == SHARES:
            self._state["next"] = SHARES


class Generous(RoundMember):
    """Twin: takes vectors out without a charge."""

    def _charge(self) -> None:
        pass


class Careless(RoundMember):
    """Twin: does not mind a member in both lists."""

    def _check_disjoint(self, alive: Any, dead: Any) -> None:
        pass


class AnyServer(RuleBasedStateMachine):
    """A server that has the keys of all other members, and sends what it likes.

    It knows each share it sealed for the member, so it sees when the member gives both of one neighbour away.
    """

    make: type[RoundMember]
    ledger: Ledger

    @initialize()
    def begin(self) -> None:
        """One device with a ledger, and five members the server plays, with proper certificates."""
        agreed = terms(COUNT, components=1, minimum_people=LEAST, participations=LIMIT)
        self.terms = dataclasses.replace(agreed, federation=os.urandom(16).hex())  # one ledger for all examples
        self.certificates = {
            number: MemberCertificate.issue(
                AUTHORITY, federation=self.terms.federation, member=number, key=key.public, issued=0, expires=2**40
            )
            for number, key in KEYS.items()
        }
        self.device = Device(
            terms=self.terms,
            certificate=self.certificates[OWN],
            key=KEYS[OWN],
            authority=AUTHORITY.public,
            ledger=self.ledger,
            evidence=lambda: invented_evidence(OWN, self.terms.parameters),
            limit=LIMIT,
        )
        self.state: dict[str, Any] = {}
        self.opening = self.made_opening("s", 1)
        self.own: RosterEntry | None = None
        self.puppets: dict[int, Puppet] = {}
        self.boxes: dict[int, bytes] = {}
        self.sealed: dict[int, tuple[bytes, bytes]] = {}
        self.over = True  # the honest server has to open another round
        self.answered: list[str] = []  # stages under the keys of now
        self.vectors: list[tuple[str, int]] = []
        self.given: list[bytes] = []  # shares that came out, of neighbours

    def made_opening(self, session: str, number: int) -> Opening:
        """A round from a flat prior."""
        prior, agreed = PopulationPrior.flat(self.terms.parameters, PACK), self.terms
        return Opening.of(prior, federation=agreed.federation, terms=agreed.digest(), session=session, number=number)

    def ask(self, stage: str, request: Record) -> Any:
        """The member's answer, or None; its state is then gone as on a device."""
        try:
            answer = getattr(self.make(self.device, self.state), stage)(type(request).from_wire(request.to_wire()))
        except PlglError:
            finished = self.state.get("finished")
            self.state = {} if finished is None else {"finished": finished}
            self.over = True
            return None
        self.answered.append(stage)
        return answer

    def stage(self, place: tuple[str, int] | None) -> dict[str, Any]:
        """Session and round, of the opening or others."""
        session, number = place or (self.opening.session, self.opening.round)
        return {"session": session, "round": number}

    @rule(
        place=st.sampled_from(ROUNDS),
        dead=st.lists(st.sampled_from(OTHERS), max_size=2, unique=True),
        both=st.sampled_from([0, 1]),
    )
    def go_on(self, place: tuple[str, int], dead: list[int], both: int) -> None:
        """What an honest server would ask for next, so that there are late stages to attack; but for the last."""
        stages: list[Callable[[], None]] = [
            lambda: self.open(place, "right"),
            lambda: self.shares(None, 0, ""),
            lambda: self.masked(None, None, ""),
            lambda: self.unmask(None, dead, None, both),
        ]
        stages[0 if self.over else len(self.answered) % 4]()

    @rule(place=st.sampled_from(ROUNDS), terms=st.sampled_from(["right"] * 5 + ["others"]))
    def open(self, place: tuple[str, int], terms: str) -> None:
        """Open a round; the others' keys are made for it."""
        opening = self.made_opening(*place)
        if terms == "others":
            opening = Opening(**{**vars(opening), "terms": "b" * 64})
        before, self.answered = self.answered, []
        keys = self.ask("keys", opening)
        if keys is None:
            self.answered = before
            return
        assert terms == "right"
        self.over = False
        self.opening, self.own = opening, Keys.entry(keys)
        self.puppets = {number: Puppet(self.certificates[number], KEYS[number], opening.context()) for number in OTHERS}
        self.boxes, self.sealed = {}, {}

    @precondition(lambda self: self.own is not None)
    @rule(
        place=late,
        gone=st.sampled_from([0, 0, 1, 2, 3]),
        fault=st.sampled_from(["", "", "", "stranger", "swapped", "unsigned", "without", "low", "high"]),
    )
    def shares(self, place: tuple[str, int] | None, gone: int, fault: str) -> None:
        """Show a roster, right or not, and ask for shares."""
        assert self.own is not None
        entries = {OWN: self.own} | {number: self.puppets[number].entry for number in OTHERS[: len(OTHERS) - gone]}
        if fault == "stranger":  # certified by nobody
            made = SigningKey.generate()
            certificate = self.certificates[2]
            entries[2] = RosterEntry.sign(made, certificate, self.opening.context(), os.urandom(32), os.urandom(32))
        elif fault == "swapped":
            entries[OWN] = RosterEntry(**{**vars(self.own), "mask_key": os.urandom(32)})
        elif fault == "unsigned":
            entries[2] = RosterEntry(**{**vars(entries[2]), "box_key": os.urandom(32)})
        elif fault == "without":
            del entries[OWN]
        roster = Roster(tuple(entries[number] for number in sorted(entries)))
        threshold = secure_sum.threshold(len(entries)) + {"low": -1, "high": COUNT}.get(fault, 0)
        request = SharesRequest(**self.stage(place), roster=roster.to_bytes(), threshold=threshold)
        answer = self.ask("shares", request)
        if answer is None:
            return
        assert not fault
        assert len(entries) >= LEAST
        assert isinstance(answer, Shares)
        digest = roster.digest(self.opening.context())
        self.boxes, self.sealed = {}, {}
        for number in set(entries) - {OWN}:
            shares = os.urandom(SHARE_BYTES), os.urandom(SHARE_BYTES)
            key, _ = secure_sum.box_keys(self.puppets[number].box, number, self.own, digest)
            self.sealed[number] = shares
            self.boxes[number] = secure_sum.seal(key, number, OWN, b"".join(shares))
        self.every = {*getattr(self, "every", set()), *self.sealed.values()}

    @precondition(lambda self: self.boxes)
    @rule(
        place=late,
        senders=st.one_of(st.none(), st.none(), numbers),
        fault=st.sampled_from(["", "altered", "moved", "short"]),
    )
    def masked(self, place: tuple[str, int] | None, senders: tuple[int, ...] | None, fault: str) -> None:
        """Bring boxes, right or not, and ask for the vector."""
        who = tuple(sorted(self.boxes)) if senders is None else senders
        boxes = [self.boxes.get(number, bytes(secure_sum.SEALED_BYTES)) for number in who]
        if fault == "altered" and boxes:
            boxes[0] = bytes([boxes[0][0] ^ 1]) + boxes[0][1:]
        elif fault == "moved":
            boxes = boxes[1:] + boxes[:1]
        elif fault == "short":
            boxes = boxes[1:]
        before = self.ledger.spent(self.terms.federation)
        answer = self.ask("masked", MaskedRequest(**self.stage(place), senders=who, boxes=b"".join(boxes)))
        if answer is None:
            return
        assert isinstance(answer, Masked)
        assert set(who) <= set(self.sealed)
        assert self.ledger.spent(self.terms.federation) == before + 1, "a vector without a charge"
        self.vectors.append((answer.session, answer.round))

    @precondition(lambda self: self.own is not None)
    @rule(
        place=late,
        dead=st.lists(st.sampled_from(OTHERS), min_size=1, max_size=2, unique=True),
        alive=st.one_of(st.none(), st.none(), numbers),
        both=st.sampled_from([1, 0]),
    )
    def unmask(self, place: tuple[str, int] | None, dead: list[int], alive: tuple[int, ...] | None, both: int) -> None:
        """Ask for one share of each neighbour, or for more."""
        living = tuple(sorted({OWN, *self.sealed} - set(dead[both:]))) if alive is None else alive
        request = UnmaskRequest(**self.stage(place), alive=living, dead=tuple(sorted(set(dead) & set(self.sealed))))
        answer = self.ask("unmask", request)
        if answer is None:
            return
        assert isinstance(answer, Unmasked)
        assert len(living) >= LEAST
        self.given += blobs(answer.seeds, len(answer.alive), SHARE_BYTES)
        self.given += blobs(answer.masks, len(answer.dead), SHARE_BYTES)

    @rule(place=st.sampled_from([None, *ROUNDS]))
    def update(self, place: tuple[str, int] | None) -> None:
        """Ask for the vector without masks."""
        assert self.ask("update", UpdateRequest(**self.stage(place))) is None

    @invariant()
    def no_stage_is_answered_twice(self) -> None:
        """Under one set of round keys the stages come in order, once each."""
        found = self.answered
        assert found == ["keys", "shares", "masked", "unmask"][: len(found)], f"answered {found}"

    @invariant()
    def no_round_has_two_vectors(self) -> None:
        """However often it is opened; and no more than the person allows."""
        assert len(set(self.vectors)) == len(self.vectors) <= LIMIT

    @invariant()
    def nobody_is_laid_open(self) -> None:
        """Of each neighbour at most one of the two shares ever comes out."""
        given = set(self.given)
        assert not any(seed in given and mask in given for seed, mask in getattr(self, "every", ())), "both shares"


def run(make: type[RoundMember], folder: Path, examples: int) -> None:
    with Ledger.open(folder / "ledger.db", create=True) as ledger:
        machine = type("Machine", (AnyServer,), {"make": make, "ledger": ledger})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=20,
                deadline=None,
                database=None,
                derandomize=True,
                report_multiple_bugs=False,
                phases=[Phase.generate],
            ),
        )


def test_no_server_gets_more_than_a_round_allows(tmp_path: Path) -> None:
    run(RoundMember, tmp_path, 60)


@pytest.mark.parametrize(
    ("twin", "found"), [(Repeating, "answered"), (Generous, "without a charge"), (Careless, "both shares")]
)
def test_the_same_requests_lay_a_twin_without_the_control_open(
    twin: type[RoundMember], found: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=found):
        run(twin, tmp_path, 300)
