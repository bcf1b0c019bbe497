"""The bundle that Flower sends to devices: code and licence, nothing else, and it can be loaded."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
import client.app, server.app
assert client.app.__file__.startswith(sys.argv[1]) and server.app.__file__.startswith(sys.argv[1])
assert isinstance(client.app.app, ClientApp) and isinstance(server.app.app, ServerApp)
assert not any(name == "ray" or name.startswith("simulations") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("project")
    for package in ("client", "server", "common", "simulations"):
        shutil.copytree(ROOT / package, project / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, project)
    # Files that must not travel, where careless hands would put them.
    (project / "client" / "ratings.safetensors").write_bytes(b"secret")
    (project / "client" / "people.json").write_text("{}")
    environment = {
        **os.environ,
        "FLWR_HOME": str(tmp_path_factory.mktemp("flower")),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    build = [sys.executable, "-m", "flwr.cli.app", "build", "--app", str(project)]
    command = Path(sys.executable).with_name("flwr")
    if command.exists():
        build = [str(command), "build", "--app", str(project)]
    subprocess.run(build, cwd=project, env=environment, check=True, capture_output=True, timeout=120)
    (built,) = project.glob("*.fab")
    return built


def test_the_bundle_holds_code_and_licence_only(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        names = {name for name in archive.namelist() if not name.startswith(".info/")}  # Flower's own list of hashes
    assert all(name.endswith((".py", ".toml")) or name == "LICENSE" for name in names), sorted(names)
    assert {"LICENSE", "pyproject.toml", "client/app.py", "server/app.py", "common/update.py"} <= names
    assert {name.split("/")[0] for name in names} == {"LICENSE", "pyproject.toml", "client", "server", "common"}


def test_both_apps_load_from_the_unpacked_bundle(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path)
    result = subprocess.run(
        [sys.executable, "-P", "-c", LOAD, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
