import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import BudgetError, LedgerError, StorageError
from common.prior import PopulationPrior
from common.privacy.accounting import epsilon
from common.privacy.fixed_point import random_sensitivity
from common.privacy.promise import promise, rule_factor
from common.release import Release
from common.rounds import KEYS, MASKED
from common.signing import SigningKey
from common.terms import Rule, Terms, Trust
from common.wire import Wire
from server.coordinator import Desk, combining, coordinate, recover, release_file
from server.intake import Answer
from server.journal import Journal, State
from simulations.federation import PACK, Members, terms


class Operator:
    """An operator's side and its members."""

    def __init__(self, folder: Path, agreed: Terms, count: int) -> None:
        self.folder, self.key = folder, SigningKey.generate()
        self.members = Members(agreed, count, folder)
        self.gone: set[int] = set()
        self.release_key = SigningKey.generate()
        self.journal = Journal.create(folder / "journal.db", self.key, agreed)

    def desk(self) -> Desk:
        agreed = self.members.terms
        return Desk(
            terms=agreed,
            start=PopulationPrior.flat(agreed.parameters, PACK),
            authority=self.members.authority.public,
            release_key=self.release_key,
            journal=self.journal,
            active=lambda: set(self.members.devices) - self.gone,
            releases=self.folder / "releases",
        )

    def restart(self) -> None:
        self.journal.close()
        self.journal = Journal.open(self.folder / "journal.db", self.key, self.members.terms)

    def run(self, rounds: int) -> tuple[int, list[dict[str, Any]]]:
        records: list[dict[str, Any]] = []
        nodes = list(self.members.devices)
        published = coordinate(
            self.members.exchange, lambda: nodes, self.desk(), rounds, on_round=lambda _, record: records.append(record)
        )
        return published, records

    def release(self, version: int) -> Release:
        return Release.from_bytes(release_file(self.folder / "releases", version).read_bytes(), self.release_key.public)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("trust", list(Trust))
def test_rounds_give_signed_releases_that_follow_each_other(folder: Path, trust: Trust) -> None:
    operator = Operator(folder, terms(6, minimum_people=4, trust=trust), 6)
    published, records = operator.run(2)
    assert published == 2
    first, second = operator.release(1), operator.release(2)
    assert (first.version, first.previous, second.version, second.round) == (1, "", 2, 2)
    assert second.prior.privacy.epsilon == 1.0
    assert str(trust) in second.prior.privacy.trust
    assert [record["answered"] for record in records] == [6, 6]
    assert [entry.state for entry in operator.journal.rounds()] == [State.PUBLISHED] * 2
    assert not torch.equal(first.prior.mean, second.prior.mean)


def test_the_budget_stops_closed(folder: Path) -> None:
    operator = Operator(folder, terms(6, minimum_people=4, participations=2), 6)
    assert operator.run(2)[0] == 2
    with pytest.raises(BudgetError, match="enrol new members"):
        operator.run(1)
    assert len(operator.journal.rounds()) == 2
    assert {operator.journal.spent(member) for member in range(1, 7)} == {2}


def test_a_round_with_too_few_answers_is_charged_and_says_why(folder: Path) -> None:
    operator = Operator(folder, terms(6, minimum_people=5), 6)
    operator.members.fault = lambda stage, node, content: [] if stage == MASKED and node < 3 else [content]
    published, (record,) = operator.run(1)
    assert published == 0
    assert record["answered"] == 4
    assert operator.journal.spent(1) == 1
    assert "4 members sent a masked vector" in str(operator.journal.rounds()[0].reason)
    assert not release_file(folder / "releases", 1).exists()


def test_nobody_is_charged_when_too_few_come(folder: Path) -> None:
    operator = Operator(folder, terms(6, minimum_people=5), 6)
    operator.members.fault = lambda stage, node, content: [] if stage == KEYS and node < 3 else [content]
    assert operator.run(1)[0] == 0
    assert operator.journal.members() == {}
    assert all(device.ledger.spent("f" * 32) == 0 for device in operator.members.devices.values())


def test_who_left_is_not_asked_for_anything_more(folder: Path) -> None:
    operator = Operator(folder, terms(6, minimum_people=4), 6)
    operator.gone = {3}
    _, (record,) = operator.run(1)
    assert record["answered"] == 5
    assert operator.journal.spent(3) == 0
    assert operator.members.devices[3].ledger.spent("f" * 32) == 0


def test_the_clipped_fraction_is_told_where_the_noise_lets_it_be_read(folder: Path) -> None:
    (folder / "loud").mkdir()
    loud = Operator(folder / "loud", terms(6, minimum_people=4), 6)
    assert loud.run(1)[1][0]["clip_fraction"] is None
    agreed = terms(60, minimum_people=4, epsilon=20.0, norm_bound=0.5, trust=Trust.CENTRAL)
    told = Operator(folder, agreed, 6).run(1)[1][0]
    assert told["noise_std"] / 60 < 0.03
    assert told["clip_fraction"] == pytest.approx(0.1, abs=0.15)  # six of the sixty expected, all longer than a half


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("stage", ["keys", "masked", "release", "publish"])
def test_a_crash_anywhere_loses_work_and_no_charge(folder: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was released before it is published after it, byte for byte."""
    operator = Operator(folder, terms(6, minimum_people=4), 6)

    def crash(*_: object, **__: object) -> None:
        raise Crash

    exchange = operator.members.exchange

    def failing(name: str, contents: Mapping[int, Wire]) -> Iterator[Answer]:
        if name == {"keys": KEYS, "masked": MASKED}.get(stage):
            raise Crash
        yield from exchange(name, contents)

    monkeypatch.setattr(operator.members, "exchange", failing)
    if stage == "release":
        monkeypatch.setattr(operator.journal, "release", crash)
    if stage == "publish":
        monkeypatch.setattr(operator.journal, "published", crash)
    with pytest.raises(Crash):
        operator.run(1)
    released = operator.journal.latest_release()
    operator.restart()
    said = recover(operator.desk())
    (entry,) = operator.journal.rounds()
    true_spend = max(device.ledger.spent("f" * 32) for device in operator.members.devices.values())
    assert operator.journal.most_spent() >= true_spend
    assert len(said) == 1
    if stage == "publish":
        assert entry.state is State.PUBLISHED
        assert release_file(folder / "releases", 1).read_bytes() == released
    else:
        assert entry.state is State.ABORTED
        assert released is None
    monkeypatch.undo()
    assert operator.run(1)[0] == 1


def test_a_full_disk_while_debiting_asks_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Operator(folder, terms(6, minimum_people=4), 6)

    def full(*_: object) -> None:
        raise StorageError("no space")

    monkeypatch.setattr(operator.journal, "debit", full)
    with pytest.raises(StorageError):
        operator.run(1)
    assert all(device.ledger.spent("f" * 32) == 0 for device in operator.members.devices.values())


def test_the_statement_covers_what_was_really_added(folder: Path) -> None:
    for trust in Trust:
        agreed = terms(6, minimum_people=4, honest_people=3, trust=trust)
        kept = promise(agreed)
        z = math.sqrt(kept.total_variance) / kept.sensitivity
        assert epsilon(z, agreed.settings.participations, agreed.settings.delta) <= agreed.settings.epsilon
        if trust is Trust.DISTRIBUTED:
            assert kept.share_variance * agreed.honest_people >= kept.total_variance


@pytest.mark.parametrize("rule", [Rule.TRIMMED_MEAN, Rule.MEDIAN, Rule.KRUM, Rule.MULTI_KRUM])
def test_a_robust_rule_is_accounted_with_its_own_sensitivity(folder: Path, rule: Rule) -> None:
    agreed = dataclasses.replace(terms(9, minimum_people=5, trust=Trust.CENTRAL), rule=rule, malicious=2)
    made, kept = combining(agreed), promise(agreed)
    one = random_sensitivity(kept.norm_bound, kept.numbers)
    assert made.sensitivity == pytest.approx(one * rule_factor(agreed), rel=1e-12)
    assert made.sensitivity <= kept.sensitivity * (1 + 1e-12)
    operator = Operator(folder, agreed, 9)
    assert operator.run(1)[0] == 1
    assert str(rule) in operator.release(1).prior.privacy.mechanism


def test_no_release_without_a_key_for_the_journal(folder: Path) -> None:
    operator = Operator(folder, terms(6, minimum_people=4), 6)
    operator.run(1)
    operator.journal.close()
    with pytest.raises(LedgerError):
        Journal.open(folder / "journal.db", SigningKey.generate(), operator.members.terms)
