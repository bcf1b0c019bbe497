import errno
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer

from common.cli import GROUP, run
from common.errors import BudgetError, SettingError
from common.version import version

ROOT = Path(__file__).parents[2]
app = typer.Typer(help="Things to try.")
not_an_app = "a string"


@app.command()
def work(json: bool = False, fail: str = "") -> None:
    """Do some work."""
    if fail == "setting":
        raise SettingError("rounds=0 [red] must be > 0; try 4")
    if fail == "budget":
        raise BudgetError("epsilon 1 is spent")
    if fail == "ctrl-c":
        raise KeyboardInterrupt
    if fail == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "out/results.json")
    if fail == "bug":
        raise ZeroDivisionError("a mistake of ours")
    if fail == "exit":
        raise typer.Exit(7)
    print("worked")


ENTRIES = [
    EntryPoint("try", f"{__name__}:app", GROUP),
    EntryPoint("missing", "no_such_package.cli:app", GROUP),
    EntryPoint("odd", f"{__name__}:not_an_app", GROUP),
]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules["test_cli"])


def test_a_command_runs_and_ends_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["try", "work"], ENTRIES) == 0
    assert capsys.readouterr().out == "worked\n"


@pytest.mark.parametrize(
    ("fail", "code", "words"),
    [
        ("setting", 2, "error: rounds=0 [red] must be > 0; try 4"),
        ("budget", 3, "error: epsilon 1 is spent"),
        ("ctrl-c", 3, "interrupted; "),
        ("full", 1, "the disk is full while writing out/results.json; free some space"),
        ("exit", 7, ""),
    ],
)
def test_what_goes_wrong_is_a_line_on_standard_error_and_an_exit_code(
    fail: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["try", "work", "--fail", fail], ENTRIES) == code
    said = capsys.readouterr()
    assert words in said.err
    assert not said.out


@pytest.mark.parametrize(("fail", "code"), [("setting", 2), ("budget", 3), ("ctrl-c", 3), ("full", 1)])
def test_with_json_an_error_is_one_object_on_standard_output(
    fail: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["try", "work", "--json", "--fail", fail], ENTRIES) == code
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert answer["success"] is False
    assert answer["error-message"]
    assert not said.err


def test_a_mistake_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(["try", "work", "--fail", "bug"], ENTRIES)


@pytest.mark.parametrize("arguments", [["nothing"], ["try", "work", "--nothing"], ["--nothing"], []])
def test_a_wrong_line_ends_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments, ENTRIES) == 2
    assert capsys.readouterr() != ("", "")


def test_a_wrong_line_with_json_is_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["nothing", "--json"], ENTRIES) == 2
    assert "nothing" in json.loads(capsys.readouterr().out)["error-message"]


def test_help_lists_every_command_and_why_one_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"], ENTRIES) == 0
    help = capsys.readouterr().out
    assert "Things to try." in help
    assert all(entry.name in help for entry in ENTRIES)
    assert "no_such_package" in help


@pytest.mark.parametrize(("name", "reason"), [("missing", "no_such_package"), ("odd", "not a typer.Typer")])
def test_a_broken_command_says_why_and_leaves_the_others_alone(
    name: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([name, "anything", "--at", "all"], ENTRIES) == 1
    assert reason in capsys.readouterr().err.replace("\n", " ")
    assert run(["try", "work"], ENTRIES) == 0


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], ENTRIES) == 0
    assert capsys.readouterr().out == f"plgl {version()}\n"


def test_starting_switches_reports_of_usage_off_and_imports_nothing_heavy() -> None:
    script = (
        "import sys, os\n"
        "from common.cli import main\n"
        "sys.argv = ['plgl', '--version']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "print([os.environ[n] for n in ('FLWR_TELEMETRY_ENABLED', 'FLWR_DISABLE_UPDATE_CHECK',"
        " 'RAY_USAGE_STATS_ENABLED')])\n"
        "print([n for n in ('torch', 'flwr', 'ray', 'matplotlib', 'onnxruntime', 'numpy') if n in sys.modules])\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FLWR", "RAY"))}
    clean["FLWR_DISABLE_UPDATE_CHECK"] = "0"  # what the person chose stays
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["['0', '0', '0']", "[]"]
