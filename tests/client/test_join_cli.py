"""``plgl join`` as somebody types it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from client.membership import memberships

ROOT = Path(__file__).parents[2]


def test_joining_shows_terms_and_a_vector_and_asks_before_anything_is_sent(
    operator: Any, plgl: Any, home: Path
) -> None:
    code, out, err = plgl("join", operator.invite().to_text(), "--no-start", answer="n\n")
    assert code == 1
    assert "not joined; nothing was sent" in err
    assert operator.asked == []
    assert not home.exists()
    for words in (
        *("Test people: what joining means", "What never leaves", "Who has to be trusted", "What it can reveal"),
        *("Epsilon is at most 1 in all, with delta 1e-06", "At most 4 times, never with fewer than 3 people"),
        *("Answers you gave", "6; enough", "Its length before clipping", "the vector begins", "with its noise"),
    ):
        assert words in re.sub(r"\s+", " ", out), words
    code, out, _ = plgl("join", operator.invite().to_text(), "--no-start", answer="y\n")
    assert code == 0
    assert "joined: this device is member 1 of Test people" in out
    assert [path for path, _ in operator.asked] == ["/healthz", "/plgl/enrol"]


def test_an_invitation_may_be_a_file(operator: Any, plgl: Any, home: Path, tmp_path: Path) -> None:
    (tmp_path / "invite.txt").write_text(operator.invite().to_text())
    code, out, _ = plgl("join", str(tmp_path / "invite.txt"), "--no-start", "--yes", "--participations", "2", "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["success"], told["member"], told["federation"]) == (True, 1, operator.terms.federation)
    assert told["preview"]["participations-allowed"] == 2
    assert told["preview"]["epsilon-limit"] < 1
    assert memberships(home)[0].limit == 2


@pytest.mark.parametrize(
    ("words", "passphrase", "code", "message"),
    [
        (["plgl1:abc"], "a long one", 1, "cut short or altered"),
        (["nowhere.txt"], "a long one", 1, "neither an invitation nor a file"),
        (["INVITE", "--json"], "a long one", 2, "--json asks nobody; add --yes"),
        (["INVITE", "--yes", "--participations", "9"], "a long one", 2, "between 1 and the 4 of the terms"),
        (["INVITE", "--yes", "--generator", "nothing"], "a long one", 2, "no generator 'nothing'"),
        (["INVITE", "--yes"], None, 1, "is locked by a passphrase; set PLGL_PASSPHRASE"),
        (["INVITE", "--yes"], "another one", 1, "passphrase"),
    ],
)
def test_what_cannot_be_used_is_named_before_anything_is_sent(
    operator: Any, plgl: Any, home: Path, words: list[str], passphrase: str | None, code: int, message: str
) -> None:
    words = [operator.invite().to_text() if word == "INVITE" else word for word in words]
    found, out, err = plgl("join", *words, "--no-start", passphrase=passphrase)
    assert found == code
    assert message in re.sub(r"\s+", " ", out + err)
    assert operator.asked == []
    assert not home.exists()


def test_the_edge_process_runs_in_the_foreground_until_it_is_asked_to_stop(
    operator: Any, home: Path, store: Path
) -> None:
    script = "import sys; from common.cli import run; from importlib.metadata import EntryPoint as E; " + (
        "sys.exit(run(sys.argv[1:], [E('join', 'client.join_cli:app', 'plgl.commands')]))"
    )
    words = ["join", operator.invite().to_text(), "--yes", "--store", str(store), "--home", str(home)]
    environment = {**os.environ, "PLGL_PASSPHRASE": "a long one", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines: list[str] = []
        assert process.stdout is not None
        until = time.monotonic() + 60
        while time.monotonic() < until and not any("trying again" in line for line in lines):
            lines.append(process.stdout.readline())
        assert any("taking part in Test people" in line for line in lines), lines
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=30)[0]
        assert process.returncode == 0, rest
        assert "stopped; nothing is sent any more" in rest
        assert "Traceback" not in rest
    finally:
        process.kill()
        process.communicate()


def test_help_needs_neither_torch_nor_flower() -> None:
    script = (
        "import sys, client.join_cli, client.sharing_cli; "
        "print([m for m in ('torch', 'flwr', 'cryptography', 'httpx') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
