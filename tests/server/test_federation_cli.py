import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from common.cli import run
from common.invite import Invite
from common.signing import SigningKey
from common.terms import Trust
from server.audit import Audit, Event
from server.federation import Federation
from server.federation_cli import _TRUST, GROUP
from server.journal import Journal
from server.superlink import free_port
from tests.server.test_enrolment_book import node_key

ENTRY = EntryPoint("federation", "server.federation_cli:app", "plgl.commands")
SMALL = ("--expected-people", "3", "--minimum-people", "2", "--components", "4")
COMMANDS = ["init", "invite", "up", "run", "status", "members", "revoke", "units"]


def plgl(*arguments: object) -> int:
    return run(["federation", *map(str, arguments)], [ENTRY])


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert plgl("init", tmp_path / "fed", "--address", "localhost:8443", *SMALL) == 0
    capsys.readouterr()
    return tmp_path / "fed"


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_init_says_what_it_promises_and_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plgl("init", tmp_path / "fed", "--address", "localhost:8443", "--name", "Art club", *SMALL) == 0
    text = capsys.readouterr().out
    assert "Art club" in text
    assert "epsilon 1, delta 1e-06, 4 rounds for each person; distributed trust" in text
    assert f"plgl federation up {tmp_path / 'fed'}" in text
    terms = Federation.open(tmp_path / "fed").terms
    assert (terms.honest_people, terms.settings.norm_bound, terms.minimum_ratings) == (1, 6.0, 50)


def test_init_takes_every_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {
        "pack": "ab" * 32,
        "components": 7,
        "name": "x",
        "address": "gate.example.org:443",
        "epsilon": 2.0,
        "delta": 1e-5,
        "participations": 3,
        "norm-bound": 5.0,
        "expected-people": 30,
        "minimum-people": 20,
        "honest-people": 15,
        "trust": "distributed",
        "minimum-ratings": 9,
        "step": 1.1,
    }
    given = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    assert plgl("init", tmp_path / "fed", *given, "--json") == 0
    terms = said(capsys)["terms"]
    flat = {**terms, **terms["settings"]}
    for name, value in options.items():
        if name != "address":
            assert flat[name.replace("-", "_")] == value, name


@pytest.mark.parametrize("trust", ["central", "local"])
def test_without_distributed_trust_nobody_else_adds_noise(tmp_path: Path, trust: str) -> None:
    assert plgl("init", tmp_path / "fed", "--address", "localhost:8443", "--trust", trust, *SMALL) == 0
    assert Federation.open(tmp_path / "fed").terms.honest_people == 2


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--address", "nowhere"], 2, "host:port"),
        (["--address", "localhost:1", "--components", "65"], 2, "offers 64"),
        (["--address", "localhost:1", "--pack", "none"], 1, "manifest"),
        (["--address", "localhost:1", "--epsilon", "inf"], 2, "finite epsilon"),
        (["--address", "localhost:1", "--minimum-people", "9", "--expected-people", "3"], 2, "expected_people"),
        ([], 2, "address"),
    ],
)
def test_init_with_bad_settings_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    assert plgl("init", tmp_path / "fed", *options, "--json") == code
    assert message in said(capsys)["error-message"]
    assert list(tmp_path.iterdir()) == []


def test_invitations_are_printed_or_written_for_their_owner_only(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plgl("invite", folder, "--count", 2) == 0
    printed = [Invite.from_text(line) for line in capsys.readouterr().out.splitlines()]
    for _ in range(2):  # a second time does not overwrite
        assert plgl("invite", folder, "--count", 2, "--out", tmp_path / "out", "--days", 1) == 0
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == [f"invitation-{n:04d}.txt" for n in range(1, 5)]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    tokens = {each.token for each in printed} | {Invite.read(str(path)).token for path in files}
    assert len(tokens) == 6
    assert Federation.open(folder).book().open_invites() == 6
    written = (folder / "audit.jsonl").read_text()
    assert not any(token in written for token in tokens)


def test_members_are_listed_and_revoked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = Federation.open(folder).book()
    for _ in range(2):
        book.enrol(book.create_invite(60), SigningKey.generate().public, node_key())
    assert plgl("revoke", folder, 1, "--reason", "lost its laptop") == 0
    assert "member 1 is revoked" in capsys.readouterr().out
    assert plgl("members", folder, "--json") == 0
    first, second = said(capsys)["members"]
    assert (first["reason"], second["revoked"]) == ("lost its laptop", None)
    assert plgl("members", folder) == 0
    assert "lost its laptop" in capsys.readouterr().out.splitlines()[0]
    line = Audit(folder / "audit.jsonl").tail(1)[0]
    assert (line.kind, line.body["member"]) == (Event.REVOKED, 1)
    assert plgl("revoke", folder, 3, "--reason", "x") == 1


def test_status_of_a_federation_that_is_down(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plgl("status", folder, "--json") == 0
    values = said(capsys)
    assert values["processes"] == {"gate": False, "SuperLink": False}
    assert values["rounds"] == []
    assert plgl("status", folder) == 0
    assert "does not answer" in capsys.readouterr().out


def test_commands_on_another_folder_say_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("invite", "up", "run", "status", "members"):
        assert plgl(command, tmp_path) == 2
        assert "plgl federation init" in capsys.readouterr().err.replace("\n", " ")


def test_run_needs_the_federation_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plgl("run", folder, "--json") == 1
    assert "plgl federation up" in said(capsys)["error-message"]


def test_units_name_the_folder_and_every_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plgl("units", folder, "--rounds", 2, "--every", "weekly", "--user", "operator") == 0
    text = capsys.readouterr().out
    for part in (f"federation up {folder}", f"federation run {folder} --rounds 2", "OnCalendar=weekly", "sharing run"):
        assert part in text
    assert text.count("User=operator") == 2
    assert plgl("units", folder, "--device") == 0
    assert "federation up" not in capsys.readouterr().out


def test_help_lists_every_command_and_those_of_higher_floors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = EntryPoint("extra", "client.rate_cli:app", GROUP)
    found = importlib.metadata.entry_points
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda **names: [extra] if names == {"group": GROUP} else found(**names)
    )
    assert plgl("--help") == 0
    text = capsys.readouterr().out
    assert all(command in text for command in [*COMMANDS, "extra"])


def test_help_imports_nothing_heavy() -> None:
    code = "import server.federation_cli, sys; print({'torch', 'flwr', 'cryptography', 'uvicorn'} & set(sys.modules))"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert asked.stdout.strip() == "set()"


def test_the_kinds_of_trust_are_those_of_the_terms() -> None:
    assert set(Trust) == set(_TRUST)


def test_up_run_and_a_stop_leave_a_usable_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real process, with members who are enrolled and not there, and later a budget that is spent."""
    port, folder = free_port(), tmp_path / "fed"
    options = ("--participations", "1")
    assert plgl("init", folder, "--address", f"localhost:{port}", *SMALL, *options) == 0
    code = "import sys; from tests.server.test_federation_cli import plgl; sys.exit(plgl(*sys.argv[1:]))"
    command = [sys.executable, "-c", code, "up", str(folder)]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 90
        while not (folder / "up.json").exists():
            assert up.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        capsys.readouterr()
        federation = Federation.open(folder)
        assert plgl("run", folder, "--json") == 1
        assert "members are enrolled" in said(capsys)["error-message"]
        book = federation.book()
        for _ in range(2):
            book.enrol(book.create_invite(60), SigningKey.generate().public, node_key())
        assert plgl("run", folder, "--rounds", 1, "--stage-seconds", 1, "--json") == 1
        assert "without a release" in said(capsys)["error-message"]
        with Journal.open(federation.journal, federation.key("journal"), federation.terms) as journal:
            number = journal.plan(session="a" * 32, start="start")
            journal.debit(number, [1, 2])
            journal.abort(number, "a test")
        assert plgl("run", folder, "--json") == 3
        assert "budget is spent" in said(capsys)["error-message"]
        assert plgl("status", folder, "--json") == 0
        assert said(capsys)["processes"] == {"gate": True, "SuperLink": True}
    finally:
        os.kill(up.pid, signal.SIGINT)
        out, _ = up.communicate(timeout=60)
    assert up.returncode == 0
    assert f"https://localhost:{port}" in out
    assert not (folder / "up.json").exists()
    kinds = [line.kind for line in Audit(folder / "audit.jsonl").lines()]
    assert kinds == [Event.UP, Event.RUN_STARTED, Event.RUN_ENDED, Event.DOWN]
