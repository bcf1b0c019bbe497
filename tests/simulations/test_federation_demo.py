import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.errors import FolderError, SettingError
from simulations.federation_demo import Demo, Settings


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The whole demonstration, with the command itself: SuperLink, gate, five devices, TLS, node keys."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    command = [sys.executable, "-m", "common", "federation", "demo", "--out", str(out), "--json"]
    # a busy machine needs longer deadlines than a quiet one
    done = subprocess.run([*command, "--stage-seconds", "15"], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout), out


def test_rounds_are_released_although_one_device_is_killed_and_one_lies(result: tuple[dict[str, Any], Path]) -> None:
    said, out = result
    assert said["success"]
    assert said["killed_in_a_round"]
    assert said["released"] >= 2
    assert len(list((out / "operator" / "releases").glob("release-*.json"))) == said["released"]


def test_the_first_round_goes_on_without_the_killed_device(result: tuple[dict[str, Any], Path]) -> None:
    first = result[0]["federation"]["rounds"][0]
    assert first["state"] == "published"
    assert first["answered"] in (3, 4)  # with its vector if that was sent in time; its secrets come from the others
    assert first["rejected"] == {"not certified": 1}  # the liar's forged keys


def test_what_was_spent_is_counted_on_both_sides(result: tuple[dict[str, Any], Path]) -> None:
    said, _ = result
    spent = [device["participations"] for device in said["devices"]]
    debited = sum(entry["state"] == "published" for entry in said["federation"]["rounds"])
    assert max(spent) <= 4
    assert max(spent) >= debited - 1
    assert said["federation"]["privacy"]["epsilon_spent"] <= 8.0


def test_no_rating_lies_in_what_the_operator_has(result: tuple[dict[str, Any], Path]) -> None:
    """Nothing of a device's store, and no passphrase, is in any file of the operator."""
    _, out = result
    secrets = [(home / "passphrase").read_bytes().strip() for home in out.glob("device-*")]
    for path in (out / "operator").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets)
            assert b'"choice"' not in content


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FolderError, match="something else"):
        Demo(Settings(folder=tmp_path), lambda line: None).run()
    assert (tmp_path / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("wrong", [{"devices": 4}, {"rounds": 0}, {"answers": 1}, {"stage_seconds": 1.0}])
def test_settings_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Settings(folder=tmp_path, **wrong)
