import json
import multiprocessing
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.journal import Event, Journal, MemoryJournal
from client.ratings import Best, Choice, Glance, Like, Rating, Stars
from client.store import Store
from client.store_files import beside
from client.store_layout import Layout
from client.vault import Cost
from common.errors import (
    DamagedStore,
    KeyringError,
    NewerStore,
    SettingError,
    StorageError,
    StoreError,
    StoreInUse,
    WrongKey,
)

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "store-v1.plgl"
CHEAP = Cost(passes=1, kib=32, lanes=1)
WORDS = "four words are enough"


class Ring:
    """A keyring in memory."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


class Later(Store):
    """A version of the program that knows schema 2, in which every event says who."""

    layout = Layout(schema=2, migrations={1: lambda event: replace(event, body={"profile": "default"} | event.body)})


def open_store(path: Path, kind: type[Store] = Store, passphrase: str | None = WORDS, **more: Any) -> Store:
    return kind.open(path, passphrase=passphrase, cost=CHEAP, **more)


def some_events(count: int = 5) -> list[Event]:
    """Items with latents, each followed by a rating of it."""
    generator = torch.Generator().manual_seed(count)
    events = []
    for item in range(count):
        latent = torch.randn(16, generator=generator)
        events.append(Event("item", {"item": item, "pack": "ab" * 32, "profile": "ada"}, latent))
        kind, value, items = Like(item, item % 2 == 0).row
        body = {"kind": int(kind), "value": value, "items": items, "profile": "ada", "context": "evening"}
        events.append(Event("rating", body | {"items": list(items), "foretold": None}))
    return events


def alike(a: Event, b: Event) -> bool:
    if (a.latent is None) != (b.latent is None) or (a.kind, a.body, a.id, a.at) != (b.kind, b.body, b.id, b.at):
        return False
    return a.latent is None or b.latent is None or (a.latent.shape == b.latent.shape and a.latent.equal(b.latent))


def same(a: list[Event], b: list[Event]) -> bool:
    return len(a) == len(b) and all(map(alike, a, b))


def test_a_store_gives_back_what_it_took_after_it_was_closed(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.plgl") as store:
        first, second = store.append(some_events(3)), store.append(some_events(2))
        assert [event.id for event in first + second] == list(range(1, 11))
        assert min(event.at for event in first) > 1.7e9
        assert same(store.events(), first + second)
    with open_store(tmp_path / "s.plgl") as store:
        assert same(store.events(), first + second)
        assert all(event.latent is None or event.latent.dtype is torch.float32 for event in store.events())


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_latent = st.none() | st.lists(st.integers(0, 4), max_size=3).map(lambda shape: torch.randn(shape))
_event = st.builds(Event, st.text(max_size=20), st.dictionaries(st.text(), _json, max_size=4), _latent)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.lists(_event, max_size=5) | st.sets(st.integers(-1, 12)), max_size=4))
def test_a_store_is_a_journal_like_the_one_in_memory(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[Event] | set[int]]
) -> None:
    path, memory = tmp_path_factory.mktemp("any") / "s.plgl", MemoryJournal()
    for step in steps:
        with open_store(path) as store:  # closed and opened again between any two steps
            for journal in (memory, store):
                journal.erase(step) if isinstance(step, set) else journal.append([replace(e, at=1.5) for e in step])
            assert same(store.events(), memory.events())


def test_it_keeps_the_protocol(tmp_path: Path) -> None:
    journal: Journal = open_store(tmp_path / "s.plgl")
    assert journal.append([]) == []
    journal.close()
    journal.close()
    for use in (journal.events, lambda: journal.append(some_events(1)), lambda: journal.erase([1])):
        with pytest.raises(StoreError, match="closed"):
            use()


@pytest.mark.parametrize("body", [{"x": {1, 2}}, {"x": float("nan")}, {"x": torch.zeros(2)}])
def test_what_is_not_json_is_refused_and_nothing_is_kept(tmp_path: Path, body: dict[str, Any]) -> None:
    with open_store(tmp_path / "s.plgl") as store:
        with pytest.raises(SettingError, match="must be JSON"):
            store.append([*some_events(1), Event("rating", body)])
        with pytest.raises(SettingError, match="255 bytes"):
            store.append([Event("x" * 256)])
        assert store.events() == []


def test_latents_of_other_types_are_kept_as_float32(tmp_path: Path) -> None:
    double = torch.randn(6, dtype=torch.float64, requires_grad=True)
    with open_store(tmp_path / "s.plgl") as store:
        store.append([Event("item", {}, double), Event("item", {}, torch.randn(4, 6).t())])
        store.append([Event("item", {}, torch.arange(3)), Event("item", {}, torch.randn(2, 3, dtype=torch.float16))])
        kept = [event.latent for event in store.events()]
    assert kept[0] is not None
    assert kept[0].equal(double.detach().float())
    assert [tuple(latent.shape) for latent in kept if latent is not None] == [(6,), (6, 4), (3,), (2, 3)]


def test_numbers_are_never_used_twice(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.plgl") as store:
        last = store.append(some_events(2))[-1].id
        store.erase(range(1, last + 1))
    with open_store(tmp_path / "s.plgl") as store:
        assert store.events() == []
        assert store.append(some_events(1))[0].id == last + 1


def test_erased_rows_are_gone_from_the_file(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.plgl") as store:
        store.append(some_events(40))
        assert store._database is not None
        row = store._database.execute("SELECT sealed FROM events WHERE id = 7").fetchone()[0]
        store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert any(row in file.read_bytes() for file in tmp_path.iterdir())
        size = store.path.stat().st_size
        store.erase([7, 999])
        left = [file.read_bytes() for file in tmp_path.iterdir()]
        assert not any(part in content for content in left for part in (row[:40], row[-40:]))
        store.erase(range(1, 80))
        assert store.path.stat().st_size < size
        assert [event.id for event in store.events()] == [80]


def test_the_owner_alone_may_read_what_is_made(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = tmp_path / "one" / "two" / "s.plgl"
        with open_store(path) as store:
            store.append(some_events(1))
            store.export(tmp_path / "e.plgl", WORDS)
            store.dump(tmp_path / "d.json")
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(old)
    assert set(modes) == {"s.plgl", "s.plgl.lock", "s.plgl.seen", "s.plgl-wal"}
    assert set(modes.values()) == {0o600}
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (path.parent, path.parent.parent)} == {0o700}
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("e.plgl", "d.json")} == {0o600}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1).filter(lambda tried: tried != WORDS))
def test_a_wrong_passphrase_never_opens(tmp_path: Path, tried: str) -> None:
    if not (tmp_path / "s.plgl").exists():
        open_store(tmp_path / "s.plgl").close()
    with pytest.raises(WrongKey):
        open_store(tmp_path / "s.plgl", passphrase=tried)


def test_a_store_in_the_keyring_opens_without_a_passphrase(tmp_path: Path) -> None:
    ring = Ring()
    with open_store(tmp_path / "s.plgl", passphrase=None, keyring=ring) as store:
        kept = store.append(some_events())
    assert Store.locked_by(tmp_path / "s.plgl") == "keyring"
    with open_store(tmp_path / "s.plgl", passphrase=None, keyring=ring) as store:
        assert same(store.events(), kept)
        assert store.health()["kdf"] == "keyring"
        store.destroy()
    assert ring.kept == {}


def test_without_a_keyring_there_is_no_store_rather_than_a_plain_one(tmp_path: Path) -> None:
    from keyring.backends import fail

    with pytest.raises(KeyringError, match="PLGL_PASSPHRASE"):
        open_store(tmp_path / "s.plgl", passphrase=None, keyring=fail.Keyring())  # type: ignore[no-untyped-call]
    assert not (tmp_path / "s.plgl").exists()
    assert Store.locked_by(tmp_path / "s.plgl") is None


def test_a_changed_passphrase_is_the_only_one_that_opens(tmp_path: Path) -> None:
    path, ring = tmp_path / "s.plgl", Ring()
    with open_store(path, keyring=ring) as store:
        kept = store.append(some_events())
        store.change_passphrase("another one")
        assert same(store.events(), kept)
    with pytest.raises(WrongKey):
        open_store(path)
    with open_store(path, passphrase="another one", keyring=ring) as store:
        store.change_passphrase(None)
    with open_store(path, passphrase=None, keyring=ring) as store:
        store.change_passphrase(WORDS)
        assert ring.kept == {}
    with open_store(path) as store:
        assert same(store.events(), kept)


def test_nothing_of_the_old_header_stays_after_a_change(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.plgl") as store:
        store.append(some_events())
        old = store._header.wrapped.hex().encode()
        store.change_passphrase("another one")
        assert not any(old in file.read_bytes() for file in tmp_path.iterdir())


def test_destroy_leaves_no_file_and_can_be_followed_by_a_new_store(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.plgl")
    store.append(some_events())
    (tmp_path / "s.plgl.v1").write_bytes(b"before a migration")
    (tmp_path / "s.plgl.views").write_bytes(b"not ours")
    store.destroy()
    assert [file.name for file in tmp_path.iterdir()] == ["s.plgl.views"]
    with pytest.raises(StoreError, match="closed"):
        store.events()
    with open_store(tmp_path / "s.plgl") as store:
        assert store.events() == []


def test_destroy_overwrites_the_key_before_it_removes_anything(tmp_path: Path) -> None:
    """A second name of the file still sees its blocks, as somebody who reads the disk would."""
    store = open_store(tmp_path / "s.plgl")
    store.append(some_events())
    store._disconnect()
    os.link(tmp_path / "s.plgl", tmp_path / "blocks")
    store.destroy()
    content = (tmp_path / "blocks").read_bytes()
    assert content == bytes(len(content))


def test_forget_needs_no_passphrase_and_clears_the_keyring(tmp_path: Path) -> None:
    ring = Ring()
    open_store(tmp_path / "s.plgl", passphrase=None, keyring=ring).close()
    Store.forget(tmp_path / "s.plgl", ring)
    assert (list(tmp_path.iterdir()), ring.kept) == ([], {})
    with pytest.raises(StoreError, match="there is no store"):
        Store.forget(tmp_path / "s.plgl")
    (tmp_path / "s.plgl").write_bytes(b"damaged")
    Store.forget(tmp_path / "s.plgl")
    assert list(tmp_path.iterdir()) == []


def test_a_second_opening_is_refused_and_names_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "s.plgl"
    with open_store(path) as store:
        with pytest.raises(StoreInUse, match=r"s\.plgl\.lock"):
            open_store(path)
        script = (
            "from client.store import Store; from common.errors import StoreInUse\n"
            f"try: Store.open({str(path)!r}, passphrase='x')\n"
            "except StoreInUse as error: print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        assert f"process {os.getpid()} " in done.stdout
        assert "s.plgl.lock" in done.stdout
        assert store.events() == []
    open_store(path).close()


def test_another_program_on_the_file_is_noticed(tmp_path: Path) -> None:
    open_store(tmp_path / "s.plgl").close()
    other = sqlite3.connect(tmp_path / "s.plgl", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreInUse, match="another program"):
        open_store(tmp_path / "s.plgl")
    other.close()
    open_store(tmp_path / "s.plgl").close()


def test_several_threads_lose_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.plgl") as store:

        def work() -> None:
            for _ in range(10):
                store.append(some_events(1))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [event.id for event in store.events()] == list(range(1, 81))


def test_a_missing_store_is_made_only_when_asked(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        open_store(tmp_path / "deep" / "s.plgl", create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"notes\n" * 100, bytes(40000)])
def test_another_kind_of_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.plgl").write_bytes(content)
    with pytest.raises(DamagedStore, match="no plgl store"):
        open_store(tmp_path / "s.plgl")
    assert (tmp_path / "s.plgl").read_bytes() == content


def test_a_database_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "s.plgl")
    database.execute("CREATE TABLE header(id, content)")
    database.commit()
    database.close()
    before = (tmp_path / "s.plgl").read_bytes()
    with pytest.raises(DamagedStore, match="no plgl store"):
        open_store(tmp_path / "s.plgl")
    assert (tmp_path / "s.plgl").read_bytes() == before


def test_a_folder_or_a_path_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="choose another path"):
        open_store(tmp_path / "file" / "s.plgl")
    with pytest.raises(StorageError):
        open_store(tmp_path)


def test_a_full_disk_keeps_all_or_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.plgl") as store:
        kept = store.append(some_events(2))
        database = store._database
        assert database is not None
        database.execute("PRAGMA max_page_count = 6")
        with pytest.raises(StorageError, match=r"full; free some space"):
            store.append([Event("item", {}, torch.randn(512)) for _ in range(100)])
        assert same(store.events(), kept)
        database.execute("PRAGMA max_page_count = 1000000")
        kept += store.append(some_events(1))
        assert [event.id for event in kept] == [1, 2, 3, 4, 5, 6]
    with open_store(tmp_path / "s.plgl") as store:
        assert same(store.events(), kept)


_FULL = """
import json, resource, sys
import torch
from client.journal import Event
from client.store import Store
from client.vault import Cost
from common.errors import StorageError
store = Store.open(sys.argv[1], passphrase="x", cost=Cost(passes=1, kib=32, lanes=1))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
kept, refused = 0, []
for _ in range(100):
    try:
        kept += len(store.append([Event("item", {}, torch.randn(512))] * 3))
    except StorageError as error:
        refused.append(str(error))
rows = len(store.events())
try:
    store.erase([1, 2, 3])
except StorageError:
    pass
store.close()
print(json.dumps([kept, len(refused), rows, refused[0]]))
"""


def test_a_disk_that_refuses_in_the_middle_of_a_write_loses_nothing(tmp_path: Path) -> None:
    """The real write fails: the operating system limits the size of a file, the WAL included."""
    path = tmp_path / "s.plgl"
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kept, refused, rows, message = json.loads(done.stdout)
    assert kept == rows
    assert kept > 0
    assert refused > 0
    assert "free some space" in message
    with Store.open(path, passphrase="x") as store:
        assert len(store.events()) in {kept, kept - 3}
        assert store.health()["integrity"]


def test_ctrl_c_in_the_middle_of_a_write_leaves_the_store_usable(tmp_path: Path) -> None:
    class Interrupting(Store):
        def _keep(self, state: Any) -> None:
            super()._keep(state)
            if state.sequence == 3:
                raise KeyboardInterrupt

    with open_store(tmp_path / "s.plgl", Interrupting) as store:
        kept = store.append(some_events(1))
        with pytest.raises(KeyboardInterrupt):
            store.append(some_events(3))
        assert same(store.events(), kept)
    with open_store(tmp_path / "s.plgl") as store:
        assert same(store.events() + store.append(some_events(1)), store.events())


def rated(item: int, profile: str, rating: Rating, context: str = "") -> Event:
    kind, value, items = rating.row
    body = {"kind": int(kind), "value": value, "items": list(items), "profile": profile, "context": context}
    return Event("rating", body)


def test_preferences_keep_the_familiar_shape(tmp_path: Path) -> None:
    latents = torch.randn(6, 4)
    with open_store(tmp_path / "s.plgl") as store:
        store.append([Event("item", {"item": i, "profile": "ada"}, latents[i]) for i in range(6)])
        store.append([Event("item", {"item": 0, "profile": "bob"}, -latents[0])])
        ada: list[Rating] = [
            Like(0, True),
            Stars(1, 2),
            Choice(2, 3, "b"),
            Choice(2, 3, "both"),
            Choice(2, 3, "neither"),
        ]
        said: list[Rating] = [*ada, Best((3, 4, 5), 1), Best((3, 4, 5), 1, worst=True), Glance(5, 3.0)]
        store.append([rated(0, "ada", rating) for rating in said])
        store.append([rated(0, "bob", Like(0, False), "evening")])
        found = [(line.item, line.rating) for line in store.preferences("ada")]
        assert found[:4] == [(0, 1.0), (1, 0.25), (2, 0.0), (3, 1.0)]
        assert found[4:8] == [(2, 1.0), (3, 1.0), (2, 0.0), (3, 0.0)]
        assert found[8:] == [(3, 0.0), (4, 1.0), (5, 0.0), (3, 1.0), (4, 0.0), (5, 1.0), (5, 0.5)]
        assert all(line.latent.equal(latents[line.item]) for line in store.preferences("ada"))
        [bob] = store.preferences("bob")
        assert (bob.rating, bob.context, bob.profile) == (0.0, "evening", "bob")
        assert bob.latent.equal(-latents[0])
        assert len(store.preferences()) == len(found) + 1


def test_preferences_honour_undo_redo_remove_and_erase(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.plgl") as store:
        store.append([Event("item", {"item": i, "profile": ""}, torch.randn(2)) for i in range(4)])
        ids = [event.id for event in store.append([rated(i, "", Like(i, True)) for i in range(4)])]
        store.append([Event("undo", {"event": ids[0]}), Event("undo", {"event": ids[1]})])
        store.append([Event("redo", {"event": ids[1]}), Event("remove", {"event": ids[2]})])
        assert [line.item for line in store.preferences()] == [1, 3]
        store.erase([ids[3]])
        assert [line.item for line in store.preferences()] == [1]
        store.append([Event("rating", {"kind": 99, "value": 1, "items": [0], "profile": ""})])
        assert [line.event for line in store.preferences()] == [ids[1]]


def test_health_says_how_the_store_is_and_nothing_private(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.plgl") as store:
        store.append(some_events(4))
        health = store.health()
    assert (health["rows"], health["schema"], health["integrity"], health["problem"]) == (8, 1, True, None)
    assert health["kdf"] == "argon2id t=1 m=32KiB p=1"
    assert health["wal_bytes"] > 0
    assert health["checkpointed"] > 1.7e9
    assert "ada" not in str({**health, "path": ""})


def test_health_sees_a_damaged_row(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.plgl") as store:
        store.append(some_events(4))
        assert store._database is not None
        store._database.execute("UPDATE events SET sealed = zeroblob(256) WHERE id = 3")
        assert not store.health()["integrity"]
        assert "row 3" in store.health()["problem"]


def test_an_old_store_is_still_read(tmp_path: Path) -> None:
    """Bytes that version 1 wrote; never made again, or the test would say nothing."""
    path = tmp_path / "s.plgl"
    shutil.copy(GOLDEN, path)
    with open_store(path, passphrase="a store of long ago") as store:
        events = store.events()
        assert [event.id for event in events] == [1, 2, 3, 5]
        assert [event.kind for event in events] == ["item", "item", "rating", "undo"]
        assert events[2].body["items"] == [0, 1]
        assert events[0].latent is not None
        assert events[0].latent.equal(torch.arange(8) / 8)
        assert events[3].at == 1700000005.25


def test_a_migration_keeps_everything_and_the_old_file_until_the_first_good_start(tmp_path: Path) -> None:
    path = tmp_path / "s.plgl"
    shutil.copy(GOLDEN, path)
    with open_store(path, passphrase="a store of long ago") as store:
        before = store.events()
    with open_store(path, Later, "a store of long ago") as later:
        after = later.events()
        assert [event.body.get("profile") for event in after] == ["ada", "ada", "ada", "default"]
        assert same([replace(event, body=old.body) for event, old in zip(after, before, strict=True)], before)
        assert later.health()["schema"] == 2
        assert later.append(some_events(1))[0].id == 6
        assert beside(path, ".v1").exists()
    with pytest.raises(NewerStore, match="version 2, this program knows 1"):
        open_store(path, passphrase="a store of long ago")
    with open_store(path, Later, "a store of long ago") as later:
        assert beside(path, ".v1").exists()
        assert len(later.events()) == 6
        assert not beside(path, ".v1").exists()


def test_a_migration_that_fails_leaves_the_old_store(tmp_path: Path) -> None:
    class Failing(Store):
        layout = Layout(
            schema=2, migrations={1: lambda event: Event(event.kind, {"profile": event.body["profile"]}, event.latent)}
        )

    path = tmp_path / "s.plgl"
    shutil.copy(GOLDEN, path)
    with pytest.raises(KeyError):
        open_store(path, Failing, "a store of long ago")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s.plgl", "s.plgl.lock"]
    with open_store(path, passphrase="a store of long ago") as store:
        assert len(store.events()) == 4


def test_a_damaged_store_is_not_migrated(tmp_path: Path) -> None:
    path = tmp_path / "s.plgl"
    shutil.copy(GOLDEN, path)
    database = sqlite3.connect(path)
    database.execute("DELETE FROM events WHERE id = 2")
    database.commit()
    database.close()
    content = path.read_bytes()
    with pytest.raises(DamagedStore):
        open_store(path, Later, "a store of long ago")
    assert path.read_bytes() == content


def test_a_fork_does_not_take_the_store_along(tmp_path: Path) -> None:
    """Workers of a data loader are forked; the parent goes on writing."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system does not fork")
    with open_store(tmp_path / "s.plgl") as store:
        child = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
        child.start()
        child.join()
        store.append(some_events(1))
        assert len(store.events()) == 2
