import csv
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import client.store
from client.journal import Event
from client.store import Store
from client.store_cli import app
from client.vault import Cost
from common.cli import run
from common.errors import KeyringError, SettingError, StorageError, StoreError, WrongKey

ROOT = Path(__file__).parents[2]
CHEAP = Cost(passes=1, kib=32, lanes=1)
WORDS = "four words are enough"
ENTRY = EntryPoint("store", "client.store_cli:app", "plgl.commands")


def call(*arguments: str | Path, typed: str | None = None) -> str:
    said = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, said, input=typed, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of three events, two of them with a latent, and its passphrase in the environment."""
    monkeypatch.setenv("PLGL_PASSPHRASE", WORDS)
    monkeypatch.setenv("PLGL_EXPORT_PASSPHRASE", "travel light")
    path = tmp_path / "home" / "ratings.plgl"
    with Store.open(path, passphrase=WORDS, cost=CHEAP) as opened:
        opened.append([Event("item", {"item": i, "profile": "[ada]"}, torch.arange(3) / 3 + i) for i in range(2)])
        opened.append([Event("rating", {"kind": 1, "value": 0, "items": [0, 1], "profile": "[ada]"})])
    return path


def test_show_counts_and_verifies(store: Path) -> None:
    about = json.loads(call("show", "--store", store, "--json"))
    assert (about["rows"], about["integrity"], about["kinds"]) == (3, True, {"item": 2, "rating": 1})
    assert "events" not in about
    text = call("show", "--store", store, "--events")
    assert "3 events" in text
    assert "rating" in text
    assert "[ada]" in text
    events = json.loads(call("show", "--store", store, "--events", "--json"))["events"]
    assert [event["id"] for event in events] == [1, 2, 3]


def test_an_export_is_imported_with_another_passphrase(store: Path, tmp_path: Path) -> None:
    exported, moved = tmp_path / "e.plgl", tmp_path / "elsewhere" / "moved.plgl"
    assert json.loads(call("export", exported, "--store", store, "--json"))["rows"] == 3
    (tmp_path / "new").write_text("another one\nsecond line\n")
    call("import", exported, "--store", moved, "--passphrase-file", tmp_path / "new")
    with Store.open(store, passphrase=WORDS) as old, Store.open(moved, passphrase="another one") as new:
        before, after = old.events(), new.events()
        assert [(e.id, e.at, e.kind, e.body) for e in before] == [(e.id, e.at, e.kind, e.body) for e in after]
        assert all(a.latent is b.latent or a.latent.equal(b.latent) for a, b in zip(before, after, strict=True))  # type: ignore[union-attr, arg-type]
        assert new.append([Event("undo", {"event": 3})])[0].id == 4
    with pytest.raises(SettingError, match="exists"):
        call("import", exported, "--store", moved)


def test_an_import_with_the_wrong_passphrase_makes_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("export", tmp_path / "e.plgl", "--store", store)
    monkeypatch.setenv("PLGL_EXPORT_PASSPHRASE", "not that")
    with pytest.raises(WrongKey):
        call("import", tmp_path / "e.plgl", "--store", tmp_path / "new" / "s.plgl")
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("PLGL_EXPORT_PASSPHRASE", "travel light")
    with pytest.raises(KeyringError, match="PLGL_PASSPHRASE"):  # this machine has none, so nothing is written
        call("import", tmp_path / "e.plgl", "--store", tmp_path / "new" / "s.plgl", "--keyring")
    assert not (tmp_path / "new" / "s.plgl").exists()


def test_a_plain_dump_holds_everything(store: Path, tmp_path: Path) -> None:
    assert "not encrypted" in call("dump", tmp_path / "d.json", "--store", store)
    call("dump", tmp_path / "d.csv", "--store", store, "--format", "csv")
    events = json.loads((tmp_path / "d.json").read_text())["events"]
    with (tmp_path / "d.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [event["id"] for event in events] == [int(row["id"]) for row in rows] == [1, 2, 3]
    assert [event["body"] for event in events] == [json.loads(row["body"]) for row in rows]
    assert torch.tensor(events[1]["latent"]).equal(torch.arange(3) / 3 + 1)
    assert json.loads(rows[1]["latent"]) == events[1]["latent"]
    assert (events[2]["latent"], rows[2]["latent"]) == (None, "")


def test_a_file_of_the_store_is_not_overwritten_by_a_dump(store: Path) -> None:
    for name in ("ratings.plgl", "ratings.plgl.seen"):
        with pytest.raises(SettingError, match="store itself"):
            call("dump", store.parent / name, "--store", store)
        with pytest.raises(SettingError, match="store itself"):
            call("export", store.parent / name, "--store", store)
    assert json.loads(call("show", "--store", store, "--json"))["rows"] == 3


def test_single_events_are_erased_after_a_question(store: Path) -> None:
    with pytest.raises(SettingError, match="no event 4, 9"):
        call("erase", "9", "2", "4", "--store", store, "--yes")
    result = CliRunner().invoke(app, ["erase", "2", "--store", str(store)], input="n\n")
    assert result.exit_code == 1
    assert json.loads(call("show", "--store", store, "--json"))["rows"] == 3
    assert "removed 1" in call("erase", "2", "--store", store, typed="y\n")
    assert json.loads(call("erase", "1", "--store", store, "--yes", "--json")) == {"erased": [1]}
    assert json.loads(call("show", "--store", store, "--json"))["rows"] == 1


def test_forget_asks_and_leaves_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLGL_PASSPHRASE")  # it needs none
    with pytest.raises(SettingError, match="--yes"):
        call("forget", "--store", store, "--json")
    assert CliRunner().invoke(app, ["forget", "--store", str(store)], input="n\n").exit_code == 1
    assert store.exists()
    assert "are gone" in call("forget", "--store", store, typed="y\n")
    assert list(store.parent.iterdir()) == []
    with pytest.raises(StoreError, match="there is no store"):
        call("forget", "--store", store, "--yes")


def test_a_passphrase_is_asked_for_and_not_shown(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLGL_PASSPHRASE")
    result = CliRunner().invoke(app, ["show", "--store", str(store)], input=f"{WORDS}\n")
    assert result.exit_code == 0
    assert "Passphrase of the store" in result.output
    assert WORDS not in result.output
    with pytest.raises(WrongKey, match="wrong"):
        call("show", "--store", store, typed="not that\n")


def test_no_command_takes_a_passphrase_on_the_command_line(store: Path) -> None:
    for name in ("show", "export", "import", "dump", "erase", "forget"):
        assert "--passphrase " not in call(name, "--help")
        assert CliRunner().invoke(app, [name, "x", "--passphrase", WORDS]).exit_code == 2


def test_a_passphrase_file_that_is_missing_or_empty_says_so(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read the passphrase"):
        call("show", "--store", store, "--passphrase-file", tmp_path / "none")
    (tmp_path / "empty").write_text("\nwords\n")
    with pytest.raises(SettingError, match="is empty"):
        call("show", "--store", store, "--passphrase-file", tmp_path / "empty")
    (tmp_path / "dos").write_bytes(WORDS.encode() + b"\r\n")
    assert "3 events" in call("show", "--store", store, "--passphrase-file", tmp_path / "dos")


def test_what_goes_wrong_is_one_line_and_a_code(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(*arguments: str) -> str:
        assert run(["store", *arguments, "--store", str(store), "--json"], [ENTRY]) == 1
        answer = json.loads(capsys.readouterr().out)
        assert answer["success"] is False
        return str(answer["error-message"])

    with Store.open(store, passphrase=WORDS):
        assert "ratings.plgl.lock" in error("show")
    monkeypatch.setenv("PLGL_PASSPHRASE", "not that")
    assert "the passphrase is wrong" in error("show")
    monkeypatch.setenv("PLGL_PASSPHRASE", WORDS)
    with closing(sqlite3.connect(store)) as database:
        database.execute("DELETE FROM events WHERE id = 2")
        database.commit()
    assert "rows were lost" in error("dump", str(store.with_name("d.json")))
    assert not store.with_name("d.json").exists()


def test_the_default_store_is_private_and_belongs_to_the_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    if client.store.default_path() != tmp_path / "plgl" / "ratings.plgl":
        pytest.skip("this system keeps a person's data elsewhere")
    with pytest.raises(StoreError, match="there is no store"):
        call("show")
    monkeypatch.setenv("PLGL_PASSPHRASE", WORDS)
    Store.open(client.store.default_path(), passphrase=WORDS, cost=CHEAP).close()
    assert (tmp_path / "plgl").stat().st_mode & 0o777 == 0o700
    assert "0 events" in call("show")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, client.store_cli\n"
        "print([n for n in ('torch', 'cryptography', 'keyring', 'sqlite3', 'numpy') if n in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
