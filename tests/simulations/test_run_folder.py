import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.errors import FolderError, SettingError, StorageError
from common.version import version
from simulations.run_folder import RunFolder, plain

ROOT = Path(__file__).parents[2]
SETTINGS = {"people": 2000, "epsilon": [1.0], "seeds": [1, 2], "pack": Path("art"), "widths": (3, 4)}


def opened(path: Path, **changes: object) -> RunFolder:
    return RunFolder.open(path, "simulate cold-start", {**SETTINGS, **changes})


def test_a_new_folder_says_what_made_it(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "run") as folder:
        marker = json.loads(folder.path("settings.json").read_text())
        assert not folder.complete
    assert marker["command"] == "simulate cold-start"
    assert marker["settings"] == {**SETTINGS, "pack": "art", "widths": [3, 4]}
    assert marker["seeds"] == [1, 2]
    assert marker["version"] == version()
    assert {"python", "platform", "torch", "numpy", "flwr"} <= marker["environment"].keys()
    assert marker["date"].endswith("+00:00")


def test_an_empty_folder_that_exists_is_taken(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        assert folder.path("settings.json").exists()


def test_the_same_settings_go_on_with_the_cells_that_are_there(tmp_path: Path) -> None:
    values = {"percentile": [0.1 + 0.2, 1e-300, float("nan")], "n": 3}
    with opened(tmp_path / "run") as folder:
        assert folder.cell("seed=1") is None
        folder.save_cell("seed=1", values)
        date = folder.settings["date"]
    with opened(tmp_path / "run") as again:
        cell = again.cell("seed=1")
        assert cell is not None
        np.testing.assert_array_equal(cell["percentile"], values["percentile"])
        assert again.settings["date"] == date
        assert not again.complete
        again.finish()
        assert again.complete
    with opened(tmp_path / "run") as finished:
        assert finished.complete


def test_other_settings_are_refused_and_each_difference_is_named(tmp_path: Path) -> None:
    opened(tmp_path / "run").close()
    with pytest.raises(FolderError) as refused:
        opened(tmp_path / "run", people=500, fresh=True, seeds=[3])
    message = str(refused.value)
    assert "people is 2000 there, 500 here" in message
    assert "fresh is not set there, true here" in message
    assert message.count("seeds is [1, 2] there, [3] here") == 1
    assert "epsilon" not in message
    assert message.endswith("choose another --out or remove the folder")


def test_another_command_is_refused(tmp_path: Path) -> None:
    opened(tmp_path / "run").close()
    with pytest.raises(FolderError, match="command is"):
        RunFolder.open(tmp_path / "run", "simulate privacy", SETTINGS)


def test_another_version_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    marker = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps({**marker, "version": "0.0.1"}))
    with pytest.raises(FolderError, match=r"version is .* there"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["holiday.jpg", ".hidden", "cells"])
def test_a_folder_that_is_not_ours_is_refused_and_left_as_it_was(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FolderError, match="not empty and not ours"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": "other"}', '{"format": "plgl-run-1"}', '{"format": "plgl-run-1", "settings": 3}']
)
def test_a_settings_file_that_is_not_ours_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(FolderError, match="not ours"):
        opened(tmp_path)
    assert (tmp_path / "settings.json").read_text() == content


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(FolderError, match="is a file"):
        opened(tmp_path / "run")
    with pytest.raises((FolderError, StorageError)):
        opened(tmp_path / "run" / "below")


def test_a_start_that_was_killed_before_its_settings_were_whole_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".settings.json.x1").write_text("{")
    opened(tmp_path).close()
    assert (tmp_path / "settings.json").exists()


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(FolderError, match="in use by another run"):
        opened(tmp_path)
    opened(tmp_path).close()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_killed_process_leaves_a_folder_that_can_be_resumed(tmp_path: Path) -> None:
    script = (
        "from simulations.run_folder import RunFolder\n"
        f"folder = RunFolder.open({str(tmp_path)!r}, 'c', {{}})\n"
        "folder.save_cell('first', {'x': 1})\n"
        "print('ready', flush=True)\n"
        "n = 0\n"
        "while True:\n    n += 1\n    folder.save_cell('busy', {'n': [n] * 10000})\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(FolderError, match="in use"):
            RunFolder.open(tmp_path, "c", {})
        os.kill(process.pid, signal.SIGKILL)
    with RunFolder.open(tmp_path, "c", {}) as folder:
        assert folder.cell("first") == {"x": 1}
        busy = folder.cell("busy")
        assert busy is None or len(busy["n"]) == 10000


def test_a_damaged_cell_counts_as_not_finished(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        folder.save_cell("a", {"x": 1})
        folder.path("cells/a.json").write_text('{"x": ')
        assert folder.cell("a") is None


@pytest.mark.parametrize("name", ["../up", "/etc/x", "", "a/../../b"])
def test_names_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    with opened(tmp_path) as folder:
        with pytest.raises(SettingError):
            folder.write(name, b"")
        with pytest.raises(SettingError):
            folder.save_cell(name, {})


def test_a_disk_that_refuses_is_a_storage_error(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        folder.path("cells").write_text("in the way")
        with pytest.raises(StorageError):
            folder.save_cell("a", {})


def test_plain_values_are_what_json_holds() -> None:
    given = {"a": np.float64(0.5), "b": np.arange(2), "c": float("inf"), 4: {3, 1}, "e": None, "f": True}
    assert plain(given) == {"a": 0.5, "b": [0, 1], "c": None, "4": [1, 3], "e": None, "f": True}
