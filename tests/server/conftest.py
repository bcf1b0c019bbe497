"""A federation with members and invented rounds, in a real folder with a real journal."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.prior import PopulationPrior
from common.privacy.promise import statement_of
from common.privacy.settings import PrivacySettings
from common.release import Release, digest
from common.signing import SigningKey
from common.terms import Terms, Trust
from server.federation import Federation, new_identifier
from server.journal import Journal

NOW = 1_800_000_000
LEAST = 20


def _node_key() -> str:
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _enrol(federation: Federation, count: int) -> None:
    book = federation.book(clock=lambda: NOW)
    for _ in range(count):
        book.enrol(book.create_invite(3600), SigningKey.generate().public, _node_key())


class Invented:
    """Rounds as a coordinator writes them down."""

    def __init__(self, federation: Federation, journal: Journal) -> None:
        self._federation, self._journal, self._before, self._versions = federation, journal, "", 0

    def release(self, members: int = 24, **record: Any) -> int:
        """A round that ends well; its file is published."""
        terms, number = self._federation.terms, self._journal.plan(session="s" * 32, start=self._before or "start")
        self._journal.debit(number, range(1, members + 1))
        self._versions += 1
        flat = PopulationPrior.flat(terms.parameters, terms.pack)
        raw = Release(
            terms=terms,
            version=self._versions,
            round=number,
            prior=dataclasses.replace(flat, rounds=self._versions, privacy=statement_of(terms, self._versions)),
            created=NOW,
            expires=NOW + 86_400,
            previous=self._before,
        ).to_bytes(self._federation.key("release"))
        values: dict[str, Any] = {"asked": 24, "answered": members, "dropped": {}, "seconds": 12.5}
        values |= {"clip_fraction": 0.3125, "noise_std": 0.75, "update_norm": 0.42}
        self._journal.release(number, raw, {**values, **record})
        (self._federation.releases / f"release-{self._versions:06d}.json").write_bytes(raw)
        self._journal.published(number)
        self._before = digest(raw)
        return number

    def fail(self, answered: int, debited: int = 0, reason: str = "", **record: Any) -> int:
        """A round with too few answers; its record holds all that a careless writer might put there."""
        number = self._journal.plan(session="s" * 32, start=self._before or "start")
        if debited:
            self._journal.debit(number, range(1, debited + 1))
        values: dict[str, Any] = {"asked": 24, "answered": answered, "dropped": {"missing": 24 - answered}}
        values |= {"seconds": 60.0, "clip_fraction": 0.777, "noise_std": 0.888, "update_norm": 0.999}
        reason = reason or f"{answered} members take part, {LEAST} are needed"
        self._journal.abort(number, reason, {**values, **record})
        return number


MakeFederation = Callable[..., Federation]


@pytest.fixture(scope="session")
def make_federation(tmp_path_factory: pytest.TempPathFactory) -> MakeFederation:
    """Makes a federation; ``play`` is given the ``Invented`` rounds."""

    def make(
        members: int = 24, play: Callable[[Invented], object] = lambda rounds: None, participations: int = 4
    ) -> Federation:
        terms = Terms(
            federation=new_identifier(),
            name="A <test> federation",
            pack="c" * 64,
            components=3,
            settings=PrivacySettings(
                epsilon=2.0, participations=participations, minimum_people=LEAST, expected_people=24
            ),
            trust=Trust.DISTRIBUTED,
            honest_people=10,
        )
        folder: Path = tmp_path_factory.mktemp("operator") / "federation"
        federation = Federation.create(folder, terms=terms, address="localhost:8443", clock=lambda: NOW)
        _enrol(federation, members)
        with contextlib.closing(Journal.open(federation.journal, federation.key("journal"), terms)) as journal:
            play(Invented(federation, journal))
        return federation

    return make


@pytest.fixture
def now() -> float:
    return NOW + 60.0
