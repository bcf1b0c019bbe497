"""The journal: debits before releases, the same bytes for ever, and every change of the file noticed."""

import dataclasses
import hashlib
import math
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.chain import MEMORY
from common.errors import BudgetError, LedgerError, PlglError, SettingError, StorageError, StoreInUse
from common.privacy.settings import PrivacySettings
from common.signing import SigningKey
from common.terms import Terms, Trust
from server.journal import _BEFORE, Journal, JournalView, State

ROOT = Path(__file__).parents[2]
KEY = SigningKey.from_bytes(bytes(range(32)))
TERMS = Terms(
    federation="a" * 32,
    name="test",
    pack="c" * 64,
    components=3,
    settings=PrivacySettings(epsilon=2, participations=3),
    trust=Trust.CENTRAL,
    honest_people=50,
)
RECORD: dict[str, Any] = {"asked": 4, "answered": 3, "dropped": {"missing": 1}, "seconds": 0.5, "clip_fraction": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def make(path: Path) -> Journal:
    return Journal.create(path, KEY, TERMS, clock=lambda: 1_000.0)


def play(journal: Journal, members: tuple[int, ...] = (1, 2, 3), to: State = State.PUBLISHED) -> int:
    """One round up to a state; says its number."""
    number = journal.plan(session="s", start="start")
    if to is State.PLANNED:
        return number
    journal.debit(number, members)
    if to is State.DEBITED:
        return number
    if to is State.ABORTED:
        journal.abort(number, "too few answered", RECORD)
        return number
    journal.release(number, f"release of round {number}".encode(), RECORD)
    if to is State.PUBLISHED:
        journal.published(number)
    return number


def filled(path: Path) -> Path:
    """Two published rounds, one aborted after its debit, one released."""
    with make(path) as journal:
        for to in (State.PUBLISHED, State.ABORTED, State.PUBLISHED):
            play(journal, members=(1, 2) if to is State.ABORTED else (1, 3), to=to)
        play(journal, members=(4,), to=State.RELEASED)
    return path


def test_a_journal_says_after_opening_what_it_said_before(path: Path) -> None:
    with Journal.open(filled(path), KEY, TERMS) as journal:
        assert [entry.state for entry in journal.rounds()] == ["published", "aborted", "published", "released"]
        assert [journal.spent(member) for member in range(1, 6)] == [3, 1, 2, 1, 0]
        assert journal.members() == {1: 3, 2: 1, 3: 2, 4: 1}
        assert [entry.number for entry in journal.unfinished()] == [4]
        first, second = journal.rounds()[:2]
        assert (first.session, first.start, first.charged, first.record) == ("s", "start", 2, RECORD)
        assert (first.version, first.release) == (1, hashlib.sha256(b"release of round 1").hexdigest())
        assert (second.reason, second.version, second.charged) == ("too few answered", None, 2)
        assert set(first.times) == {"planned", "debited", "released", "published"}
        assert [version for version, _ in journal.releases()] == [1, 2, 3]
        assert journal.latest_release() == b"release of round 4"
        assert journal.release_content(2) == b"release of round 3"
        assert journal.release_content(4) is None


def test_a_new_journal_has_nothing(path: Path) -> None:
    with make(path) as journal:
        assert (journal.rounds(), journal.unfinished(), journal.releases()) == ([], [], [])
        assert journal.latest_release() is None
        assert journal.most_spent() == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_a_missing_journal_is_not_begun_anew_and_one_that_is_there_is_not_overwritten(path: Path) -> None:
    with pytest.raises(LedgerError, match="missing"):
        Journal.open(path, KEY, TERMS)
    with pytest.raises(LedgerError, match="missing"):
        Journal.read(path, KEY.public)
    assert not path.exists()
    before = filled(path).read_bytes()
    with pytest.raises(LedgerError, match="exists"):
        make(path)
    assert path.read_bytes() == before


def test_a_member_without_participations_is_not_charged_and_neither_is_anybody_else(path: Path) -> None:
    with make(path) as journal:
        for _ in range(3):
            play(journal, (1, 2))
        number = journal.plan(session="s", start="x")
        with pytest.raises(BudgetError, match=r"1 of 2 members \(the first is 2\)"):
            journal.debit(number, [9, 2])
        assert (journal.spent(9), journal.rounds()[-1].state) == (0, State.PLANNED)
        journal.debit(number, [9])


@pytest.mark.parametrize("members", [[], [1, 1], [0], [-1], [True], [1.0]])
def test_a_debit_names_members_once(path: Path, members: list[int]) -> None:
    with make(path) as journal, pytest.raises(SettingError):
        journal.debit(journal.plan(session="s", start="x"), members)


def test_every_step_but_the_right_one_is_refused(path: Path) -> None:
    allowed = {
        State.PLANNED: {"debit", "abort"},
        State.DEBITED: {"release", "abort"},
        State.RELEASED: {"published"},
        State.PUBLISHED: set(),
        State.ABORTED: set(),
    }
    for state, right in allowed.items():
        for step in ("debit", "release", "published", "abort"):
            journal = make(MEMORY)
            number = play(journal, to=state)
            calls = {
                "debit": lambda j, n: j.debit(n, [7]),
                "release": lambda j, n: j.release(n, b"x", {}),
                "published": lambda j, n: j.published(n),
                "abort": lambda j, n: j.abort(n, "why"),
            }
            if step in right:
                calls[step](journal, number)
            else:
                with pytest.raises(LedgerError, match=f"round 1 is {state}"):
                    calls[step](journal, number)
                assert journal.rounds()[0].state is state
    with pytest.raises(LedgerError, match="never planned"):
        make(MEMORY).debit(1, [1])


def test_a_round_begins_only_when_the_one_before_is_over() -> None:
    journal = make(MEMORY)
    play(journal, to=State.RELEASED)
    with pytest.raises(LedgerError, match="round 1 is released"):
        journal.plan(session="s", start="x")
    journal.published(1)
    assert journal.plan(session="s", start="x") == 2


def test_an_aborted_round_is_free_before_its_debit_and_charged_after() -> None:
    journal = make(MEMORY)
    journal.abort(play(journal, to=State.PLANNED), "nobody came")
    assert (journal.spent(1), journal.rounds()[0].record) == (0, None)
    play(journal, to=State.ABORTED)
    assert journal.spent(1) == 1


def test_a_record_that_cannot_be_written_down_leaves_the_round_as_it_was() -> None:
    journal = make(MEMORY)
    number = play(journal, to=State.DEBITED)
    for record in ({"x": math.nan}, {"x": object()}):
        with pytest.raises(SettingError, match="JSON"):
            journal.release(number, b"x", record)
    with pytest.raises(SettingError, match="without bytes"):
        journal.release(number, b"", {})
    assert journal.rounds()[0].state is State.DEBITED


def test_epsilon_is_what_the_terms_promise_when_all_is_spent_and_less_before() -> None:
    journal = make(MEMORY)
    costs = [journal.epsilon_after(k) for k in range(4)]
    assert costs[0] == 0.0
    assert costs == sorted(costs)
    assert costs[3] == pytest.approx(2.0, rel=1e-5)
    assert costs[3] <= 2.0 * (1 + 1e-9)
    assert journal.epsilons() == {"spent": 0.0, "next": costs[1], "budget": 2.0}
    for _ in range(3):
        play(journal, (1,))
    assert journal.epsilons() == {"spent": costs[3], "next": costs[3], "budget": 2.0}


def test_one_process_writes(path: Path) -> None:
    with make(path) as journal:
        with pytest.raises(StoreInUse, match="another process"):
            Journal.open(path, KEY, TERMS)
        play(journal)
    Journal.open(path, KEY, TERMS).close()


def test_others_read_while_one_writes(path: Path) -> None:
    with make(path) as journal, Journal.read(path, KEY.public) as view:
        assert isinstance(view, JournalView)
        assert not hasattr(view, "debit")
        for round in range(1, 4):
            play(journal)
            assert len(view.rounds()) == round - 1
            view.refresh()
            assert view.rounds() == journal.rounds()
            assert view.latest_release() == journal.latest_release()
        assert view.terms == TERMS
        assert view.epsilons() == journal.epsilons()


ALTERED = [
    "UPDATE entries SET body = replace(body, '\"members\":[1,3]', '\"members\":[9,3]') WHERE id = 3",
    "UPDATE entries SET content = x'00' WHERE content IS NOT NULL AND id < 6",
    "UPDATE entries SET content = NULL",
    "UPDATE entries SET signature = zeroblob(64) WHERE id = 4",
    "UPDATE entries SET hash = zeroblob(32) WHERE id = 4",
    "DELETE FROM entries WHERE id = 4",
    "DELETE FROM entries WHERE id = (SELECT max(id) FROM entries)",
    "DELETE FROM entries",
    "DELETE FROM head",
    "UPDATE head SET count = count + 1",
    "UPDATE entries SET id = CASE id WHEN 3 THEN -4 ELSE -3 END WHERE id IN (3, 4); UPDATE entries SET id = abs(id)",
    "INSERT INTO entries SELECT id + 1, body, content, hash, signature FROM entries ORDER BY id DESC LIMIT 1",
    "CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END",
    "CREATE VIEW v AS SELECT * FROM entries",
]


@pytest.mark.parametrize("statement", ALTERED)
def test_an_altered_journal_is_refused(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(filled(path))) as database:
        database.executescript(statement)
    with pytest.raises(LedgerError):
        Journal.open(path, KEY, TERMS)
    with pytest.raises(LedgerError):
        Journal.read(path, KEY.public)


def test_whoever_has_no_key_cannot_write_a_chain_anew(path: Path) -> None:
    """The same rounds, chained rightly, signed by somebody else."""
    other = SigningKey.generate()
    with Journal.create(path, other, TERMS) as journal:
        play(journal)
    with pytest.raises(LedgerError, match="not signed with its key"):
        Journal.open(path, KEY, TERMS)
    Journal.open(path, other, TERMS).close()


def test_a_tail_cut_off_with_its_head_mended_is_noticed_by_what_is_published(path: Path) -> None:
    older = filled(path).with_name("older.db")
    shutil.copy(path, older)
    with Journal.open(path, KEY, TERMS) as journal:
        journal.published(4)
        play(journal, (5,))
    shutil.copy(older, path)
    with pytest.raises(LedgerError, match="knows 3 releases, but release 4 is published"):
        Journal.open(path, KEY, TERMS, published=4)
    Journal.open(path, KEY, TERMS, published=3).close()


def test_another_federation_and_other_terms_are_refused(path: Path) -> None:
    filled(path)
    with pytest.raises(LedgerError, match="another federation"):
        Journal.open(path, KEY, dataclasses.replace(TERMS, federation="b" * 32))
    more = dataclasses.replace(TERMS, settings=PrivacySettings(epsilon=2.0, participations=9))
    with pytest.raises(LedgerError, match="other terms"):
        Journal.open(path, KEY, more)


def test_a_failed_opening_leaves_no_lock(path: Path) -> None:
    filled(path)
    for _ in range(2):
        with pytest.raises(LedgerError):
            Journal.open(path, SigningKey.generate(), TERMS)
    Journal.open(path, KEY, TERMS).close()


def test_a_full_disk_while_debiting_charges_nobody_and_breaks_nothing(path: Path) -> None:
    members = list(range(10_000, 14_000))
    with make(path) as journal:
        number = journal.plan(session="s", start="x")
        pages = journal._chain._database.execute("PRAGMA page_count").fetchone()[0]
        journal._chain._database.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(StorageError, match="full"):
            journal.debit(number, members)
        assert (journal.spent(10_000), journal.rounds()[0].state) == (0, State.PLANNED)
    with Journal.open(path, KEY, TERMS) as journal:
        assert (journal.spent(10_000), journal.rounds()[0].state) == (0, State.PLANNED)
        journal.debit(number, members)
        assert journal.spent(10_000) == 1


FULL = """
import resource, sys
from pathlib import Path
from common.errors import StorageError
from tests_journal import KEY, TERMS
from server.journal import Journal
path = Path(sys.argv[1])
journal = Journal.create(path, KEY, TERMS)
size = path.stat().st_size + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
for number in range(1, 200):
    try:
        journal.plan(session="s", start="x")
        journal.debit(number, range(100 * number, 100 * number + 100))
        print("debited", number, flush=True)
        journal.release(number, b"r" * 5000, {})
        print("shown", number, flush=True)
        journal.published(number)
    except StorageError:
        break
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes")
@pytest.mark.parametrize("room", [4_096, 12_288, 40_960])
def test_a_disk_that_really_refuses_leaves_a_whole_journal(path: Path, room: int) -> None:
    script = FULL.replace(
        "from tests_journal import KEY, TERMS",
        f"import importlib.util as u; s = u.spec_from_file_location('t', {__file__!r}); m = u.module_from_spec(s); "
        "s.loader.exec_module(m); KEY, TERMS = m.KEY, m.TERMS",
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path, str(room)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    with Journal.open(path, KEY, TERMS) as journal:
        for what, number in lines:
            assert journal.spent(100 * int(number)) == 1
            if what == "shown":
                assert journal.rounds()[int(number) - 1].version is not None
        assert len(journal.unfinished()) <= 1
        assert len(journal.rounds()) < 199


STEPS = ("plan", "debit", "release", "published", "abort", "reopen")


def drive(seed: int, steps: int) -> tuple[int, int]:
    """Random operations, most of them wrong, against a plain count; says how many rounds and releases there were."""
    chosen = random.Random(seed)
    journal, owed, shown = make(MEMORY), dict[int, int](), dict[int, bytes]()
    debited: dict[int, list[int]] = {}
    for step in range(steps):
        what, rounds = chosen.choice(STEPS), len(journal.rounds())
        round = rounds if chosen.random() < 0.8 else chosen.randint(0, rounds + 1)
        try:
            if what == "plan":
                journal.plan(session=f"s{step}", start="x")
            elif what == "debit":
                members = [chosen.randint(1, 200) for _ in range(chosen.randint(1, 4))]
                journal.debit(round, members)
                debited[round] = members
                for member in members:
                    owed[member] = owed.get(member, 0) + 1
            elif what == "release":
                content = chosen.randbytes(8)
                journal.release(round, content, {})
                # noise is drawn and shown only after this line: it must be paid for, and be the first of its round
                assert round in debited
                assert round not in shown
                shown[round] = content
            elif what == "published":
                journal.published(round)
                assert round in shown
            elif what == "abort":
                journal.abort(round, "why")
                assert round not in shown
        except PlglError:
            pass
    assert journal.members() == owed
    assert all(spent <= 3 for spent in owed.values())
    entries = journal.rounds()
    assert {e.number: journal.release_content(e.version) for e in entries if e.version} == shown
    assert all(entries[number - 1].charged == len(debited[number]) for number in shown)
    return len(entries), len(shown)


SCHEDULES = int(os.environ.get("PLGL_SCHEDULES", "400"))


def test_no_release_without_its_debit_in_any_random_schedule() -> None:
    """``PLGL_SCHEDULES=10000`` for the figure that is promised."""
    found = [drive(seed, 25 + seed % 26) for seed in range(SCHEDULES)]
    assert sum(rounds for rounds, _ in found) > 3 * SCHEDULES
    assert sum(releases for _, releases in found) > SCHEDULES / 2


@pytest.mark.parametrize(("state", "wrongly_after"), [(State.RELEASED, State.PLANNED), (State.ABORTED, State.RELEASED)])
def test_the_random_schedules_would_notice(monkeypatch: pytest.MonkeyPatch, state: State, wrongly_after: State) -> None:
    monkeypatch.setitem(_BEFORE, state, {*_BEFORE[state], wrongly_after})

    def drive_many() -> None:
        for seed in range(100):
            drive(seed, 50)

    with pytest.raises(AssertionError):
        drive_many()


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 40_000), to=st.sampled_from(list(State)))
def test_a_file_cut_anywhere_is_damaged(tmp_path_factory: pytest.TempPathFactory, cut: int, to: State) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    with make(path) as journal:
        play(journal)
        play(journal, to=to)
    raw = path.read_bytes()
    path.write_bytes(raw[: cut % len(raw)])
    with pytest.raises(LedgerError):
        Journal.open(path, KEY, TERMS)
