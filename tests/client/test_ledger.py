"""The device's own count: on disk before it permits anything, never begun anew, never past the limit."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ledger import Ledger
from common.errors import BudgetError, LedgerError, PlglError, ProtocolError, ReleaseError, StorageError

ROOT = Path(__file__).parents[2]
HOME, OTHER = "a" * 32, "b" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def make(path: Path) -> Ledger:
    return Ledger.open(path, create=True, clock=lambda: 1_000.0)


def filled(path: Path) -> Path:
    with make(path) as ledger:
        ledger.charge(federation=HOME, session="s", round=1, limit=4)
        ledger.pin_all(HOME, {1: b"1" * 32, 2: b"2" * 32})
        ledger.charge(federation=HOME, session="s", round=2, limit=4)
        ledger.saw_version(HOME, 1, "first")
    return path


def test_a_charge_is_there_when_the_ledger_is_opened_again(path: Path) -> None:
    with Ledger.open(filled(path)) as ledger:
        assert ledger.spent(HOME) == 2
        assert ledger.spent(OTHER) == 0
        assert [(row.session, row.round, row.time) for row in ledger.rows()] == [("s", 1, 1_000), ("s", 2, 1_000)]
        assert ledger.pins(HOME) == {1: b"1" * 32, 2: b"2" * 32}
        assert ledger.highest_version(HOME) == 1


def test_only_the_owner_may_read_it(path: Path) -> None:
    filled(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["ledger.db"]


def test_the_limit_holds_and_other_federations_have_their_own(path: Path) -> None:
    with make(path) as ledger:
        for number in (1, 2):
            ledger.charge(federation=HOME, session="s", round=number, limit=2)
        with pytest.raises(BudgetError, match="2 of 2 participations"):
            ledger.charge(federation=HOME, session="t", round=3, limit=2)
        ledger.charge(federation=OTHER, session="t", round=3, limit=2)
        assert (ledger.spent(HOME), ledger.spent(OTHER)) == (2, 1)


def test_a_round_is_charged_once(path: Path) -> None:
    with make(path) as ledger:
        ledger.charge(federation=HOME, session="s", round=1, limit=4)
        with pytest.raises(ProtocolError, match="charged before"):
            ledger.charge(federation=HOME, session="s", round=1, limit=4)
        ledger.charge(federation=HOME, session="t", round=1, limit=4)
        assert ledger.spent(HOME) == 2


def test_a_lost_ledger_is_not_begun_at_zero(path: Path) -> None:
    filled(path).unlink()
    with pytest.raises(LedgerError, match=r"missing.*leave the federation"):
        Ledger.open(path)
    assert not path.exists()


def test_creating_a_ledger_keeps_the_one_that_is_there(path: Path) -> None:
    with Ledger.open(filled(path), create=True) as ledger:
        assert ledger.spent(HOME) == 2


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("size", [0, 50, 4096, -1])
def test_a_file_cut_short_is_damaged_and_not_begun_anew(path: Path, size: int, create: bool) -> None:
    raw = filled(path).read_bytes()
    path.write_bytes(raw[:size])
    with pytest.raises(LedgerError):
        Ledger.open(path, create=create)
    assert path.read_bytes() == raw[:size]


def test_a_flipped_bit_is_noticed_wherever_it_matters(path: Path) -> None:
    """Every byte of the file in turn: opening fails, or says exactly what it said before."""
    raw = bytearray(filled(path).read_bytes())
    noticed = 0
    used = [i for i in range(100, len(raw)) if raw[i]]
    for i in used[:: max(1, len(used) // 150)]:
        path.write_bytes(raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :])
        try:
            with Ledger.open(path) as ledger:
                assert (ledger.spent(HOME), len(ledger.pins(HOME)), ledger.highest_version(HOME)) == (2, 2, 1)
        except LedgerError:
            noticed += 1
    assert noticed > 100


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE id = 2",
        "DELETE FROM entries WHERE id = 5",
        "DELETE FROM entries",
        "DELETE FROM head",
        "UPDATE entries SET body = replace(body, '\"round\":1', '\"round\":9')",
        "UPDATE entries SET id = id + 1 WHERE id = 5",
        "CREATE TRIGGER forget AFTER INSERT ON entries BEGIN DELETE FROM entries WHERE id = new.id; END",
        "DROP TABLE head",
        "PRAGMA user_version = 2",
        "PRAGMA application_id = 1",
    ],
)
def test_an_altered_ledger_is_refused(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(filled(path))) as database:
        database.execute(statement)
        database.commit()
    with pytest.raises(LedgerError):
        Ledger.open(path)


def test_a_ledger_moved_away_while_it_is_open_permits_nothing(path: Path) -> None:
    with make(path) as ledger:
        path.rename(path.with_name("elsewhere"))
        with pytest.raises(LedgerError, match="moved or replaced"):
            ledger.charge(federation=HOME, session="s", round=1, limit=4)
        shutil.copy(path.with_name("elsewhere"), path)
        with pytest.raises(LedgerError, match="moved or replaced"):
            ledger.charge(federation=HOME, session="s", round=1, limit=4)


def test_a_full_disk_permits_nothing_and_counts_nothing(path: Path) -> None:
    with make(path) as ledger:
        pages = ledger._chain._database.execute("PRAGMA page_count").fetchone()[0]
        ledger._chain._database.execute(f"PRAGMA max_page_count = {pages + 2}")
        granted = 0
        for number in range(1, 1_000):
            try:
                ledger.charge(federation=HOME, session="s" * 500, round=number, limit=1_000)
            except StorageError as error:
                assert "free some space" in str(error)  # noqa: PT017
                break
            granted += 1
        assert ledger.spent(HOME) == granted > 0
        ledger._chain._database.execute("PRAGMA max_page_count = 1000000")
        ledger.charge(federation=HOME, session="after", round=1, limit=1_000)
    with Ledger.open(path) as ledger:
        assert ledger.spent(HOME) == granted + 1


FULL = """
import resource, sys
from pathlib import Path
from client.ledger import Ledger
from common.errors import StorageError
ledger = Ledger.open(Path(sys.argv[1]), create=True)
size = Path(sys.argv[1]).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, size + 8192))
granted = 0
try:
    for number in range(1, 500):
        ledger.charge(federation="a" * 32, session="s" * 500, round=number, limit=1000)
        granted += 1
except StorageError:
    print(granted)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes")
def test_a_disk_that_really_refuses_leaves_what_was_granted(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, path], cwd=ROOT, capture_output=True, text=True, check=True)
    with Ledger.open(path) as ledger:
        assert ledger.spent(HOME) == int(done.stdout) > 0


def test_making_a_ledger_on_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Ledger.open(tmp_path / "missing folder" / "ledger.db", create=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_has_counted_all_it_was_permitted(path: Path) -> None:
    """Killed at any instant, 20 times: a charge that returned is on disk, and the file is whole."""
    make(path).close()
    permitted = 0
    for attempt in range(20):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            ledger = Ledger.open(path)
            for number in range(1_000_000):
                ledger.charge(federation=HOME, session=f"{attempt}", round=number, limit=10**9)
                os.write(write, b".")
        os.close(write)
        for _ in range(1 + attempt % 3):
            permitted += len(os.read(read, 1))
        threading.Event().wait(attempt * 0.0007)  # somewhere within the next charge
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while left := os.read(read, 4096):
            permitted += len(left)
        os.close(read)
        with Ledger.open(path) as ledger:
            assert ledger.spent(HOME) >= permitted
            permitted = ledger.spent(HOME)


def test_two_processes_share_one_limit(path: Path) -> None:
    """Eight threads with a ledger each, as eight processes would have."""
    make(path).close()
    granted: list[int] = []

    def spend(name: int) -> None:
        with Ledger.open(path) as ledger:
            for number in range(4):
                try:
                    ledger.charge(federation=HOME, session=str(name), round=number, limit=10)
                    granted.append(1)
                except BudgetError:
                    pass

    threads = [threading.Thread(target=spend, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Ledger.open(path) as ledger:
        assert len(granted) == ledger.spent(HOME) == 10


def test_a_member_keeps_its_key_and_a_key_its_member(path: Path) -> None:
    with make(path) as ledger:
        ledger.pin(HOME, 1, b"1" * 32)
        ledger.pin(HOME, 1, b"1" * 32)
        for member, key in ((1, b"x" * 32), (2, b"1" * 32)):
            with pytest.raises(ProtocolError, match=f"member {member}"):
                ledger.pin(HOME, member, key)
        with pytest.raises(ProtocolError):
            ledger.pin_all(HOME, {3: b"3" * 32, 4: b"1" * 32})
        with pytest.raises(ProtocolError):
            ledger.pin_all(HOME, {3: b"3" * 32, 4: b"3" * 32})
        assert ledger.pins(HOME) == {1: b"1" * 32}
        ledger.pin(OTHER, 1, b"x" * 32)


def test_known_pins_write_nothing(path: Path) -> None:
    with make(path) as ledger:
        ledger.pin(HOME, 1, b"1" * 32)
        before = path.read_bytes()
        ledger.pin_all(HOME, {1: b"1" * 32})
        assert path.read_bytes() == before


def test_a_release_never_goes_back(path: Path) -> None:
    with make(path) as ledger:
        assert ledger.highest_version(HOME) == 0
        ledger.saw_version(HOME, 3, "three")
        ledger.saw_version(HOME, 3, "three")
        with pytest.raises(ReleaseError, match="release 2 is older than release 3"):
            ledger.saw_version(HOME, 2, "two")
        with pytest.raises(ReleaseError, match="two different releases 3"):
            ledger.saw_version(HOME, 3, "another three")
        assert ledger.highest_version(HOME) == 3
        ledger.saw_version(OTHER, 1, "one")


STEP = st.tuples(st.sampled_from(["charge", "pin", "release", "reopen"]), st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(STEP, max_size=12))
def test_any_sequence_agrees_with_a_plain_count(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    ledger, charged, pinned, highest = make(path), set[tuple[int, int]](), dict[int, int](), 0
    for what, a, b in steps:
        try:
            if what == "charge":
                ledger.charge(federation=HOME, session=str(a), round=b, limit=3)
                assert (a, b) not in charged
                charged.add((a, b))
            elif what == "pin":
                ledger.pin(HOME, a, bytes([b]) * 32)
                pinned[a] = b
            elif what == "release":
                ledger.saw_version(HOME, a, str(a))
                assert a >= highest
                highest = a
            else:
                ledger.close()
                ledger = Ledger.open(path)
        except PlglError:
            pass
        assert ledger.spent(HOME) == len(charged) <= 3
        assert ledger.pins(HOME) == {member: bytes([key]) * 32 for member, key in pinned.items()}
        assert len(set(pinned.values())) == len(pinned)
        assert ledger.highest_version(HOME) == highest
    ledger.close()
