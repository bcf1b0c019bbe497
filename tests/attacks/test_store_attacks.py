"""What somebody with the disk, or another user of the machine, tries on a store; each attempt must fail or be noticed.

``PLGL_KILLS=200 pytest tests/attacks/test_store_attacks.py -k kill`` kills a writing process 200 times instead of 20.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch

from client.journal import Event
from client.store import Store
from client.store_files import beside
from client.store_layout import Layout
from client.vault import Cost, Vault
from common.errors import DamagedStore, PlglError, StoreError

ROOT = Path(__file__).parents[2]
CHEAP = Cost(passes=1, kib=32, lanes=1)
WORDS = "four words are enough"
CANARY = "canary-7f3a"


def open_store(path: Path, kind: type[Store] = Store) -> Store:
    return kind.open(path, passphrase=WORDS, cost=CHEAP)


def events(count: int) -> list[Event]:
    latents = torch.randn(count, 512)
    return [Event("item", {"item": i, "profile": CANARY}, latent) for i, latent in enumerate(latents)]


def make(path: Path, kind: type[Store] = Store, count: int = 12) -> Path:
    with open_store(path, kind) as store:
        store.append(events(count))
    return path


def read(path: Path, kind: type[Store] = Store) -> list[Event]:
    with open_store(path, kind) as store:
        return store.events()


def alter(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def notices(path: Path, kind: type[Store] = Store) -> bool:
    try:
        read(path, kind)
    except DamagedStore:
        return True
    return False


SWAP = "UPDATE events SET sealed = (SELECT sealed FROM events e WHERE e.id = 9 - events.id) WHERE id IN (4, 5)"


class Unbound(Vault):
    """Broken on purpose: a record is bound to nothing."""

    def associated(self, table: str, row: int) -> bytes:
        return b""


class UnboundAndUncounted(Unbound):
    """Broken on purpose: neither bound nor vouched for."""

    def digest(self, rows: Iterable[tuple[int, bytes]]) -> int:
        return 0


class Uncounted(Vault):
    """Broken on purpose: the state does not vouch for the rows."""

    def digest(self, rows: Iterable[tuple[int, bytes]]) -> int:
        return 0


def broken(sealing: type[Vault]) -> type[Store]:
    class Broken(Store):
        layout = Layout(sealing=sealing)

    return Broken


def test_two_rows_swapped_are_noticed_and_by_a_store_that_binds_nothing_they_are_not(tmp_path: Path) -> None:
    outcome = {}
    for sealing in (Vault, Unbound, Uncounted, UnboundAndUncounted):
        path, kind = tmp_path / f"{sealing.__name__}.plgl", broken(sealing)
        alter(make(path, kind), SWAP)
        outcome[sealing] = notices(path, kind)
    # two layers, each enough alone; without both, the attempt goes through, so the test can fail
    assert outcome == {Vault: True, Unbound: True, Uncounted: True, UnboundAndUncounted: False}


def test_an_erased_row_put_back_is_noticed_and_without_a_digest_it_is_not(tmp_path: Path) -> None:
    """The row is genuine and in its place, and another goes, so that the count fits: only the digest can tell."""
    for sealing, noticed in ((Vault, True), (Uncounted, False)):
        path, kind = tmp_path / f"{sealing.__name__}.plgl", broken(sealing)
        make(path, kind)
        old = shutil.copy(path, tmp_path / "old")
        with open_store(path, kind) as store:
            store.erase([3])
        alter(path, f"ATTACH '{old}' AS old", "INSERT INTO events SELECT * FROM old.events WHERE id = 3")
        assert notices(path, kind)  # one row too many
        alter(path, "DELETE FROM events WHERE id = 8")
        assert notices(path, kind) == noticed


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM events WHERE id = 7",
        "DELETE FROM events WHERE id = 12",
        "DELETE FROM events",
        "UPDATE events SET id = 99 WHERE id = 12",
        "UPDATE events SET id = -1 WHERE id = 12",
        "INSERT INTO events SELECT 13, sealed FROM events WHERE id = 1",
        "INSERT INTO events VALUES (13, randomblob(2304))",
        "UPDATE events SET sealed = zeroblob(length(sealed)) WHERE id = 2",
        "UPDATE events SET sealed = substr(sealed, 1, 100) WHERE id = 2",
        "UPDATE events SET sealed = '' WHERE id = 2",
        "UPDATE events SET sealed = 'text' WHERE id = 2",
        "UPDATE events SET sealed = 17 WHERE id = 2",
        "UPDATE events SET sealed = (SELECT sealed FROM state) WHERE id = 1",
        "UPDATE state SET sealed = (SELECT sealed FROM events WHERE id = 1)",
        "UPDATE state SET sealed = zeroblob(84)",
        "UPDATE state SET id = 2",
        "DELETE FROM state",
        "DELETE FROM header",
        "INSERT INTO header SELECT 2, content FROM header",
        "UPDATE header SET content = replace(cast(content AS text), '1', '2')",
        "UPDATE header SET content = zeroblob(length(content))",
        "CREATE TRIGGER spy AFTER INSERT ON events BEGIN DELETE FROM events; END",
        "CREATE VIEW spy AS SELECT * FROM events",
        "CREATE TABLE more(x)",
        "DROP TABLE events",
        "PRAGMA user_version = 0",
        "PRAGMA application_id = 7",
    ],
)
def test_what_sqlite_lets_a_thief_do_is_noticed(tmp_path: Path, statement: str) -> None:
    path = make(tmp_path / "s.plgl")
    assert not notices(path)
    alter(path, statement)
    with pytest.raises((DamagedStore, StoreError)):
        read(path)


def test_any_altered_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Bytes outside rows (unused space, counters of SQLite) may differ, if every event still comes back the same."""
    path = make(tmp_path / "s.plgl", count=6)
    before = [event.latent.tolist() for event in read(path) if event.latent is not None]
    content = path.read_bytes()
    generator, noticed = torch.Generator().manual_seed(0), 0
    places = torch.randperm(len(content), generator=generator)[:150].tolist()
    for place in places:
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        path.write_bytes(altered)
        try:
            assert [event.latent.tolist() for event in read(path) if event.latent is not None] == before
        except StoreError:
            noticed += 1
        beside(path, "-wal").unlink(missing_ok=True)
    assert noticed > 10


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 0.999])
def test_a_file_cut_short_is_noticed(tmp_path: Path, share: float) -> None:
    path = make(tmp_path / "s.plgl", count=30)
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(DamagedStore):
        read(path)


@pytest.mark.parametrize("change", ["append", "erase", "passphrase"])
def test_an_older_copy_of_the_file_is_noticed(tmp_path: Path, change: str) -> None:
    path = make(tmp_path / "s.plgl")
    old = path.read_bytes()
    with open_store(path) as store:
        if change == "append":
            store.append(events(1))
        elif change == "erase":
            store.erase([1])
        else:
            store.change_passphrase(WORDS)
    path.write_bytes(old)
    with pytest.raises(DamagedStore, match="an older copy"):
        read(path)
    beside(path, ".seen").unlink()  # what the message says to do with a backup of one's own
    assert len(read(path)) == 12


def test_a_wal_that_is_cut_after_a_crash_is_noticed(tmp_path: Path) -> None:
    """Frames at the end of a WAL are the last answers; without them the store is older than its mark."""
    path = make(tmp_path / "s.plgl")
    with open_store(path) as store:
        store.append(events(1))
        store.append(events(1))
        stolen = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for name, content in stolen.items():
        (tmp_path / name).write_bytes(content)
    assert len(read(path)) == 14
    for name, content in stolen.items():
        (tmp_path / name).write_bytes(content[:-20_000] if name.endswith("-wal") else content)
    with pytest.raises(DamagedStore, match="an older copy"):
        read(path)


def test_a_store_of_somebody_else_in_its_place_is_noticed(tmp_path: Path) -> None:
    path, other = make(tmp_path / "s.plgl"), make(tmp_path / "other.plgl")
    shutil.copy(other, path)
    with pytest.raises(DamagedStore, match="belongs to another store"):
        read(path)


def test_a_mark_that_was_altered_is_noticed(tmp_path: Path) -> None:
    path = make(tmp_path / "s.plgl")
    mark = beside(path, ".seen").read_bytes()
    for place in (0, 16, 23, 30, 55):
        altered = bytearray(mark)
        altered[place] ^= 1
        beside(path, ".seen").write_bytes(altered)
        assert notices(path)
    beside(path, ".seen").write_bytes(mark)
    assert not notices(path)


def test_a_wal_of_another_store_is_not_read_into_a_new_one(tmp_path: Path) -> None:
    with open_store(tmp_path / "other.plgl") as other:
        other.append(events(3))
        shutil.copy(beside(other.path, "-wal"), tmp_path / "s.plgl-wal")
    with open_store(tmp_path / "s.plgl") as store:
        assert store.events() == []
        assert len(store.append(events(2))) == 2


def test_sizes_of_rows_say_little(tmp_path: Path) -> None:
    """An answer takes the same room whatever it is, whose it is and how long the names are, up to the unit."""
    bodies = [{"kind": k, "value": v, "items": [v], "profile": "x" * v} for k in range(6) for v in range(1, 60)]
    with open_store(tmp_path / "s.plgl") as store:
        store.append([Event("rating", body) for body in bodies])
    with closing(sqlite3.connect(tmp_path / "s.plgl")) as database:
        assert database.execute("SELECT DISTINCT length(sealed) FROM events").fetchall() == [(256,)]


def export_at(path: Path, count: int) -> Path:
    with open_store(path.with_name("s.plgl")) as store:
        store.append(events(count))
        store.export(path, "travel")
    return path


def opens(path: Path) -> bool:
    into = path.with_name("into.plgl")
    try:
        Store.import_(path, "travel", into, WORDS, cost=CHEAP).close()
    except StoreError:
        assert not into.exists()
        return False
    return True


def test_an_export_that_was_cut_joined_or_reordered_is_refused(tmp_path: Path) -> None:
    exported = export_at(tmp_path / "e.plgl", 100)
    content = exported.read_bytes()
    head = len(content.split(b"\n--- ")[0]) + 5 + 64 + 1
    chunk = (1 << 16) + 16
    chunks = [content[i : i + chunk] for i in range(head, len(content), chunk)]
    assert len(chunks) == 4
    attempts = [[0, 1, 2], [0, 1], [0], [], [1, 0, 2, 3], [0, 0, 1, 2, 3], [0, 1, 3], [3], [0, 1, 2, 3, 3]]
    for order in attempts:
        exported.write_bytes(content[:head] + b"".join(chunks[i] for i in order))
        assert not opens(exported), order
    for length in (0, 10, head - 1, head, head + 10, head + chunk, len(content) - 1):
        exported.write_bytes(content[:length])
        assert not opens(exported), length
    exported.write_bytes(content + b"x")
    assert not opens(exported)
    exported.write_bytes(content)
    assert opens(exported)


def test_any_altered_bit_of_an_export_is_noticed(tmp_path: Path) -> None:
    exported = export_at(tmp_path / "e.plgl", 2)
    content = exported.read_bytes()
    for place in [*range(0, 400, 7), *range(400, len(content), 331), len(content) - 1]:
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        exported.write_bytes(altered)
        assert not opens(exported), place


_KILLS = """
import json, os, random, signal, struct, sys, tempfile
from pathlib import Path
import torch
from client.journal import Event
from client.store import Store
from client.vault import Cost

folder, kills, canary = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
random.seed(0)
path, cost = folder / "s.plgl", Cost(passes=1, kib=32, lanes=1)
latent = torch.full((64,), 1.2345678)
needles = [canary.encode(), canary.encode("utf-16-le"), latent[:4].numpy().tobytes(), b'"profile"', b"rating",
           canary.encode().hex().encode()]

def write(pipe):
    store = Store.open(path, passphrase=canary, cost=cost)
    while True:
        some = [Event("item", {"profile": canary}, latent), Event("rating", {"profile": canary, "value": 1})]
        kept = store.append(some * random.randint(1, 6))
        if random.random() < 0.05:
            gone = store.append(some)
            store.erase([event.id for event in gone])
        os.write(pipe, struct.pack("<QQ", kept[0].id, kept[-1].id))

acknowledged, canaries = set(), 0
for kill in range(kills):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        random.seed(kill)
        os.close(reader)
        try:
            write(writer)
        finally:
            os._exit(1)
    os.close(writer)
    got = b""
    for _ in range(random.randint(0, 12)):
        got += os.read(reader, 16)
    signal.sigtimedwait([], random.random() * 0.004)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while part := os.read(reader, 1 << 16):
        got += part
    os.close(reader)
    for first, last in struct.iter_unpack("<QQ", got):
        acknowledged.update(range(first, last + 1))
    for file in (*folder.rglob("*"), *Path(tempfile.gettempdir()).rglob("*")):
        if file.is_file():
            canaries += sum(needle in file.read_bytes() for needle in needles)
with Store.open(path, passphrase=canary, cost=cost) as store:
    found = store.events()
    sound = store.health()["integrity"]
whole = all(event.body["profile"] == canary for event in found)
print(json.dumps({"acknowledged": len(acknowledged), "lost": len(acknowledged - {event.id for event in found}),
                  "kept": len(found), "canaries": canaries, "sound": sound and whole}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_kill_9_in_the_middle_of_writes_loses_nothing_and_leaves_nothing_readable(tmp_path: Path) -> None:
    kills = int(os.environ.get("PLGL_KILLS", "20"))
    (tmp_path / "store").mkdir()
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _KILLS, str(tmp_path / "store"), str(kills), CANARY],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(f"\n{kills} kills: {found}")
    assert found["acknowledged"] > kills
    assert (found["lost"], found["canaries"], found["sound"]) == (0, 0, True)


def test_the_search_for_canaries_finds_them_in_a_plain_file(tmp_path: Path) -> None:
    """What the test above looks for is there when nothing is sealed."""
    with open_store(tmp_path / "s.plgl") as store:
        store.append([Event("rating", {"profile": CANARY}, torch.full((64,), 1.2345678))])
        store.dump(tmp_path / "d.json")
    assert CANARY.encode() in (tmp_path / "d.json").read_bytes()
    assert b'"profile"' in (tmp_path / "d.json").read_bytes()


def as_nobody(work: Callable[[], object]) -> bool:
    """Whether another user of the machine gets something done."""
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            work()
        except (OSError, PlglError):
            os._exit(1)
        except BaseException:
            os._exit(2)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, 1}
    return code == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_of_the_machine_reads_writes_and_removes_nothing() -> None:
    with tempfile.TemporaryDirectory() as home:  # the folders of pytest are closed to others as it is
        Path(home).chmod(0o755)
        path = Path(home) / "folder" / "s.plgl"
        with open_store(path) as store:
            store.append(events(2))
            names = {file.name for file in path.parent.iterdir()}
            assert names == {"s.plgl", "s.plgl-wal", "s.plgl.lock", "s.plgl.seen"}
            for attempt in attempts_on(path, names):
                assert not as_nobody(attempt)
            assert not as_nobody(partial(os.listdir, path.parent))
            path.parent.chmod(0o755)  # even in a folder that somebody opened, the files are the owner's
            assert as_nobody(partial(os.listdir, path.parent))
            for attempt in attempts_on(path, names):
                assert not as_nobody(attempt)
            assert len(store.events()) == 2


def attempts_on(path: Path, names: Iterable[str]) -> Iterator[Callable[[], object]]:
    """What another user may try: open the store, and read, empty, replace or remove each of its files."""
    yield partial(open_store, path)
    for file in (path.parent / name for name in names):
        yield file.read_bytes
        yield partial(file.write_bytes, b"")
        yield file.unlink
        yield partial(os.replace, file, beside(file, ".taken"))
