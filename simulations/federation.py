"""A federation of invented members in one process: the real stages of members and server, without a network.

For tests, attacks and measurements. Faults are a function between a member's answer and the server.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from client.device import Device
from client.ledger import Ledger
from client.likelihood import Evidence
from client.masking import RoundMember
from client.ratings import Kind
from common.enrolment import MemberCertificate
from common.errors import PlglError
from common.prior import PopulationPrior
from common.privacy.settings import PrivacySettings
from common.rounds import (
    KEYS,
    MASKED,
    SHARES,
    UNMASK,
    UPDATE,
    UPDATE_PURPOSE,
    MaskedRequest,
    Opening,
    Record,
    SharesRequest,
    UnmaskRequest,
    Update,
    UpdateRequest,
)
from common.signing import SigningKey
from common.terms import Terms, Trust
from common.wire import Wire
from server.intake import Answer
from server.secure_round import Integers, PlainSum, Sums, add_up, certified, gather_keys

PACK = "a" * 64
_READ: dict[str, type[Record]] = {
    KEYS: Opening,
    SHARES: SharesRequest,
    MASKED: MaskedRequest,
    UNMASK: UnmaskRequest,
    UPDATE: UpdateRequest,
}
_METHOD = {KEYS: "keys", SHARES: "shares", MASKED: "masked", UNMASK: "unmask", UPDATE: "update"}

Fault = Callable[[str, int, Mapping[str, object] | None], list[Mapping[str, object] | None]]
"""From stage, node and honest answer (None: refused) the answers that arrive: none, an altered one, several."""


def terms(members: int, *, components: int = 3, trust: Trust = Trust.DISTRIBUTED, **settings: float) -> Terms:
    """Terms for so many members: two thirds of them must answer."""
    minimum = int(settings.pop("minimum_people", max(2, 2 * members // 3)))
    honest = int(settings.pop("honest_people", minimum))
    ratings = int(settings.pop("minimum_ratings", 1))
    values: dict[str, float] = {"epsilon": 1.0, "participations": 4, "norm_bound": 6.0, **settings}
    return Terms(
        federation="f" * 32,
        name="invented",
        pack=PACK,
        components=components,
        settings=PrivacySettings(expected_people=members, minimum_people=minimum, **values),  # type: ignore[arg-type]
        trust=trust,
        honest_people=honest,
        minimum_ratings=ratings,
    )


def invented_evidence(member: int, parameters: int, answers: int = 4) -> Evidence:
    """What an invented member said: likes of random items."""
    draw = torch.Generator().manual_seed(member)
    shape = (1, answers)
    return Evidence(
        kind=torch.full(shape, int(Kind.LIKE)),
        value=torch.randint(0, 2, shape, generator=draw),
        weight=torch.ones(shape, dtype=torch.float64),
        features=torch.randn(1, answers, 1, parameters, generator=draw, dtype=torch.float64),
        shown=torch.ones(shape, dtype=torch.int64),
    )


class Watched(RoundMember):
    """A member whose vector is written down before it is masked, to compare with what a server finds out."""

    sent: dict[int, Integers] = {}  # noqa: RUF012 - one dictionary for all, cleared by ``Members``

    def _vector(self) -> Integers:
        vector = super()._vector()
        self.sent[self._own] = vector
        return vector


class Members:
    """Devices numbered from 1, node ``i`` being member ``i``, each with a ledger of its own.

    Args:
        agreed: the terms all of them agreed to.
        count: how many.
        folder: for their ledgers.
        make: a member's side of the rounds, e.g. one with a control switched off.
    """

    def __init__(
        self,
        agreed: Terms,
        count: int,
        folder: Path,
        make: Callable[[Device, dict[str, object]], RoundMember] = Watched,
    ) -> None:
        self.terms, self.authority, self._make = agreed, SigningKey.generate(), make
        Watched.sent.clear()
        self.devices = {number: self._device(number, folder) for number in range(1, count + 1)}
        self.states: dict[int, dict[str, object]] = {number: {} for number in self.devices}
        self.refusals: list[tuple[str, int, PlglError]] = []
        self.fault: Fault = lambda stage, node, content: [content]

    def certify(self, number: int, key: SigningKey) -> MemberCertificate:
        """The authority's certificate."""
        return MemberCertificate.issue(
            self.authority,
            federation=self.terms.federation,
            member=number,
            key=key.public,
            issued=0,
            expires=2**40,
        )

    def _device(self, number: int, folder: Path) -> Device:
        key = SigningKey.generate()
        return Device(
            terms=self.terms,
            certificate=self.certify(number, key),
            key=key,
            authority=self.authority.public,
            ledger=Ledger.open(folder / f"ledger-{number}.db", create=True),
            evidence=lambda: invented_evidence(number, self.terms.parameters),
            limit=self.terms.settings.participations,
        )

    def ask(self, stage: str, node: int, content: Wire) -> Mapping[str, object] | None:
        """One member's answer; None where it refused, and then its state is gone, as on a device."""
        member = self._make(self.devices[node], self.states[node])
        try:
            request = _READ[stage].from_wire(content)
            answer: Record = getattr(member, _METHOD[stage])(request)
        except PlglError as error:
            self.refusals.append((stage, node, error))
            self.states[node].clear()
            return None
        return answer.to_wire()

    @property
    def sent(self) -> dict[int, Integers]:
        """What each member really added, noise included, before masks."""
        return Watched.sent

    def added(self, who: Iterable[int]) -> Integers:
        """The sum of what these members really sent."""
        total: Integers = np.stack([self.sent[number] for number in who]).sum(0)
        return total

    def exchange(self, stage: str, contents: Mapping[int, Wire]) -> Iterator[Answer]:
        """A stage with all its nodes; see ``server.intake.Exchange``."""
        for node, content in contents.items():
            for arrived in self.fault(stage, node, self.ask(stage, node, content)):
                yield Answer(node, arrived)

    def opening(self, number: int = 1, session: str = "s" * 32) -> Opening:
        """A round from a flat prior."""
        prior = PopulationPrior.flat(self.terms.parameters, PACK)
        agreed = self.terms
        return Opening.of(prior, federation=agreed.federation, terms=agreed.digest(), session=session, number=number)

    def round(self, number: int = 1, session: str = "s" * 32, plain: type[PlainSum] = PlainSum) -> Sums:
        """The server's side of a whole round with these members."""
        opening = self.opening(number, session)
        admit = certified(self.authority.public, self.terms.federation, 1.0)
        entries, dropped = gather_keys(self.exchange, list(self.devices), opening, admit)
        sums = add_up(self.exchange, entries, opening, self.terms, plain=plain)
        return dataclasses.replace(sums, dropped=sums.dropped + dropped)


class Poisoner:
    """A fault: one member sends bytes of its own choice for its vector, properly signed."""

    def __init__(self, members: Members, member: int, total: bytes) -> None:
        self._members, self._member, self._total = members, member, total

    def __call__(
        self, stage: str, node: int, content: Mapping[str, object] | None
    ) -> list[Mapping[str, object] | None]:
        """The answers that arrive; see ``Fault``."""
        if stage != UPDATE or node != self._member or content is None:
            return [content]
        answer = Update.from_wire(content)
        opening = self._members.opening(answer.round, answer.session)
        signature = self._members.devices[node].key.sign(UPDATE_PURPOSE, opening.context() + self._total)
        return [{**content, "total": self._total, "signature": signature}]
