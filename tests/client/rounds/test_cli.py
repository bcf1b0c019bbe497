import csv
import json
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch import nn

from client.generators.onnx import export
from common.cli import GROUP, run

ENTRY = EntryPoint("rounds", "client.rounds.cli:app", GROUP)
QUICK = ["--rounds", "3", "--pairs", "2", "--candidates", "8", "--size", "24", "--epochs", "2"]
LATENT = ["rounds", "--target-latent", "7", *QUICK]


def plgl(*arguments: str | Path) -> int:
    return run([str(argument) for argument in arguments], [ENTRY])


def same_pictures(first: Path, second: Path) -> bool:
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in ("best.png", "progress.png"))


def test_a_run_writes_everything_it_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert plgl(*LATENT, "--out", out, "--json", "--log", "tensorboard,folder") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rounds"] == 3
    assert found["reason"] == "limit"
    assert 0 < found["distance_favourite"] <= found["distance_start"]
    with (out / "rounds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["distance_favourite"]) == pytest.approx(found["distance_favourite"])
    assert sum(int(row["questions"]) for row in rows) == found["questions"]
    for name, least in (("best.png", 256), ("progress.png", 5 * 160)):
        with Image.open(out / name) as image:
            assert image.size[0] >= least
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert {"loss/preference", "reward/mean", "reward/best", "distance/destination"} <= set(events.Tags()["scalars"])
    assert set(events.Tags()["images"]) == {"destination", "pairs"}
    assert (out / "folder" / "0003-destination.png").exists()


def test_a_finished_run_is_told_again_without_more_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for _ in range(2):
        assert plgl(*LATENT, "--out", tmp_path / "out", "--log", "none") == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    assert "3 rounds" in told[0]
    assert "the limit of 3 rounds" in told[0]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_keeps_what_is_there_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """A real process, a real signal: it ends as an uninterrupted one does."""
    command = [*LATENT, "--log", "none", "--rounds", "20"]
    script = (
        "import sys; from importlib.metadata import EntryPoint; from common.cli import run\n"
        f"sys.exit(run(sys.argv[1:], [EntryPoint('rounds', 'client.rounds.cli:app', {GROUP!r})]))"
    )
    out, whole = tmp_path / "out", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command, "--out", str(out)], stderr=subprocess.PIPE, text=True
    )
    for _ in range(1200):
        if (out / "rounds.csv").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert "give the same command again to go on" in said
    assert (out / "progress.png").exists()
    assert 1 <= len((out / "rounds.csv").read_text().splitlines()) - 1 < 20
    assert plgl(*command, "--out", out) == 0
    assert plgl(*command, "--out", whole) == 0
    assert (out / "rounds.csv").read_bytes() == (whole / "rounds.csv").read_bytes()
    assert same_pictures(out, whole)


def test_a_target_may_be_any_picture(tmp_path: Path) -> None:
    Image.effect_noise((90, 60), 80).save(tmp_path / "target.jpg")
    out = tmp_path / "out"
    assert plgl("rounds", "--target", tmp_path / "target.jpg", *QUICK, "--out", out, "--stopping", "plateau") == 0
    assert len(json.loads((out / "settings.json").read_text())["settings"]["target"]) == 64


def test_a_discriminator_may_filter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 1))
    path = tmp_path / "judge.onnx"
    path.write_bytes(export(network, {"picture": torch.zeros(3, 3, 24, 24)}, "score", {"picture": {0: "n"}}))
    assert plgl(*LATENT, "--out", tmp_path / "out", "--discriminator", path, "--filtering", "realism") == 0
    assert plgl(*LATENT, "--out", tmp_path / "two", "--discriminator", path) == 2
    assert "add --filtering realism" in capsys.readouterr().err


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert plgl(*LATENT, "--out", out, "--log", "none") == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert plgl(*LATENT, "--out", out, "--log", "none", "--noise", "0.5") == 2
    assert "noise is 0.0 there, 0.5 here" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_folders_of_somebody_else_and_damaged_states_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.txt").write_text("mine")
    assert plgl(*LATENT, "--out", tmp_path) == 2
    assert "it holds photo.txt" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photo.txt"]
    out = tmp_path / "out"
    assert plgl(*LATENT, "--out", out, "--log", "none") == 0
    (out / "state.safetensors").write_bytes((out / "state.safetensors").read_bytes()[:100])
    assert plgl(*LATENT, "--out", out, "--log", "none") == 2
    assert "is damaged; remove it to start again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one target"),
        (["--target-latent", "1", "--target", "x.png"], "give one target"),
        (["--target", "missing.png"], "cannot read missing.png"),
        (["--target-latent", "1", "--log", "printer"], "log='printer' is unknown"),
        (["--target-latent", "1", "--sampling", "moon"], "sampling='moon' is unknown"),
        (["--target-latent", "1", "--generator", "moon"], "no generator 'moon'"),
        (["--target-latent", "1", "--filtering", "realism", "--discriminator", "x.onnx"], "cannot read x.onnx"),
    ],
)
def test_wrong_use_ends_with_one_line_and_no_folder(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plgl("rounds", *arguments, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_two_runs_cannot_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from client.rounds.folder import RoundsFolder
    from common.errors import FolderError

    with RoundsFolder(tmp_path / "out", {"seed": 0}), pytest.raises(FolderError, match="in use by another run"):
        RoundsFolder(tmp_path / "out", {"seed": 0})
    with RoundsFolder(tmp_path / "out", {"seed": 0}) as folder:
        assert folder.load() is None
