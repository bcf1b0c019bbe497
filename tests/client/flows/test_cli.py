"""``plgl toy`` as a person types it."""

import json
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from safetensors.torch import load_file

from common.cli import GROUP, run

ENTRY = [EntryPoint("toy", "client.flows.cli:app", GROUP)]
QUICK = ("--steps", "3", "--samples", "16")
SMALL = ("--train-steps", "4", "--batch", "2", "--points", "16", "--width", "4")


def plgl(*arguments: object) -> int:
    return run(["toy", *map(str, arguments)], ENTRY)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow that draws nothing good, quickly."""
    out = tmp_path_factory.mktemp("tiny") / "flow"
    assert plgl("--train", *SMALL, "--out", out, "--json") == 0
    return out / "flow.safetensors"


def answers(path: Path, words: str) -> Path:
    path.write_text(words)
    return path


def state(folder: Path) -> bytes:
    return (folder / "state.safetensors").read_bytes()


def test_picks_of_a_script_teach_b_and_the_same_command_goes_on(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plots = tmp_path / "toy", tmp_path / "plots"
    command = (*QUICK, "--flow", tiny, "--injections", "2", "--out", out)
    assert plgl(*command, "--answers", answers(tmp_path / "one", "none 2 quit"), "--plots", plots) == 0
    said = capsys.readouterr().out
    assert "B has learned 1 picks" in said
    assert "the same command goes on from here" in said
    assert {path.name for path in plots.iterdir()} >= {"a.png", "pick-1.png", "taught-1.png", "b.png"}
    assert plgl(*command, "--answers", answers(tmp_path / "two", "3"), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["injections"] == 2
    assert found["finished"]
    assert sum(after for _, after in found["shares"].values()) == pytest.approx(1)
    whole = tmp_path / "whole"
    assert plgl(*command[:-1], whole, "--answers", answers(tmp_path / "three", "none 2 3"), "--json") == 0
    assert state(whole) == state(out)


def test_a_pick_can_be_taken_back_also_after_a_restart(tiny: Path, tmp_path: Path) -> None:
    common = (*QUICK, "--flow", tiny, "--injections", "3", "--json")
    assert plgl(*common, "--out", tmp_path / "a", "--answers", answers(tmp_path / "w", "1 undo quit")) == 0
    assert load_file(tmp_path / "a" / "state.safetensors")["picks"].shape == (0, 16, 3)
    assert plgl(*common, "--out", tmp_path / "b", "--answers", answers(tmp_path / "w", "1 quit")) == 0
    once = state(tmp_path / "b")
    assert plgl(*common, "--out", tmp_path / "b", "--answers", answers(tmp_path / "w", "2 quit")) == 0
    assert state(tmp_path / "b") != once
    assert plgl(*common, "--out", tmp_path / "b", "--answers", answers(tmp_path / "w", "undo quit")) == 0
    assert state(tmp_path / "b") == once


def test_without_colours_and_a_terminal_shapes_are_braille(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plgl(*QUICK, "--injections", "1", "--no-ask", "--out", tmp_path / "toy") == 0
    said = capsys.readouterr().out
    assert "Six shapes of A" in said
    assert any("\u2800" < letter <= "\u28ff" for letter in said)
    assert "\x1b[38" not in said


def test_the_script_prints_and_writes_its_numbers(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plots = tmp_path / "plots"
    command = ("--script", "--flow", tiny, "--steps", "1", "--samples", "16", "--seeds", "1", "--injections", "1")
    assert plgl(*command, "--plots", plots) == 0
    assert "the judge errs on" in capsys.readouterr().out
    assert (plots / "share.png").read_bytes().startswith(b"\x89PNG")
    assert len((plots / "script.csv").read_text().splitlines()) == 5
    assert plgl(*command, "--no-control", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["arm"], row["injections"]) for row in found["rows"]] == [("picked", 0), ("picked", 1)]
    assert 0 <= found["judge"]["error"] < 1


def test_a_flow_is_trained_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plgl("--train", *SMALL, "--out", tmp_path / "flow", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 4
    assert "--points 16" in found["command"]
    flow = Path(found["flow"])
    before = flow.read_bytes()
    assert plgl("--train", *SMALL, "--out", tmp_path / "flow") == 0  # done already
    assert flow.read_bytes() == before
    assert plgl("--train", *SMALL, "--out", tmp_path / "flow", "--seed", "1") == 2
    assert "seed is 0 there, 1 here" in capsys.readouterr().err
    assert plgl("--flow", flow, *QUICK, "--injections", "1", "--out", tmp_path / "toy", "--no-ask", "--json") == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_keeps_the_last_steps_of_a_training(tmp_path: Path) -> None:
    """A real process, a real signal; the same command goes on from there."""
    import signal

    small = ("--train-steps", "240", "--batch", "2", "--points", "16", "--width", "4")
    script = (
        "import sys; from importlib.metadata import EntryPoint; from common.cli import run\n"
        f"sys.exit(run(sys.argv[1:], [EntryPoint('toy', 'client.flows.cli:app', {GROUP!r})]))"
    )
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "toy", "--train", *small, "--out", str(out)], stderr=subprocess.PIPE, text=True
    )
    for _ in range(2400):
        if (out / "flow.safetensors").exists() or process.poll() is not None:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert "give the same command again to go on" in said
    assert len(load_file(out / "state.safetensors")["losses"]) in (100, 200)
    assert plgl("--train", *small, "--out", out, "--json") == 0
    assert len(load_file(out / "state.safetensors")["losses"]) == 240


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--script", "--train"], "--script and --train exclude each other"),
        (["--window", "--no-ask"], "--window does not go with --no-ask"),
        (["--like", "circle"], "like='circle' must be one of s-curve, swiss-roll"),
        (["--train", "--flow", "x"], "leave --flow and --plots out"),
        (["--script", "--out", "x"], "--script keeps no B"),
        (["--script", "--samples", "3"], "samples=3"),
        (["--no-ask", "--injections", "0"], "injections=0"),
        (["--steps", "0", "--no-ask"], "steps=0"),
        (["--answers", "missing"], "cannot read missing"),
        (["--json"], "add --answers FILE or --no-ask"),
        (["--seed", "-1", "--no-ask"], "seed=-1"),
        (["--train", "--s-curves", "1"], "s_curves=1.0"),
    ],
)
def test_wrong_use_ends_with_one_line_and_no_folder(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plgl(*arguments) == 2
    said = capsys.readouterr()
    assert message in (said.err + said.out).replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_damaged_things_are_named(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "flow").write_bytes(b"nothing")
    assert plgl("--flow", tmp_path / "flow", "--no-ask", "--out", tmp_path / "toy") == 1
    assert "is damaged" in capsys.readouterr().err
    common = (*QUICK, "--flow", tiny, "--injections", "1", "--out", tmp_path / "toy", "--json")
    assert plgl(*common, "--answers", answers(tmp_path / "w", "1")) == 0
    (tmp_path / "toy" / "state.safetensors").write_bytes(state(tmp_path / "toy")[:2000])
    assert plgl(*common, "--no-ask") == 2
    assert "is damaged; remove" in capsys.readouterr().out
    assert plgl("--flow", tiny, "--no-ask", "--out", tmp_path / "toy") == 2
    assert "teach is" in capsys.readouterr().err
    assert plgl(*common, "--answers", answers(tmp_path / "w", "7"), "--seed", "5", "--out", tmp_path / "other") == 2
    assert "answer '7' is unknown; write 1 to 4" in capsys.readouterr().out
