import ast
import hashlib
import io
import tomllib
import zipfile
from importlib.util import find_spec

import pytest
from flwr.cli.build import build_fab_from_files
from flwr.common.config import validate_config

from server import bundle

# Devices that were invited with this hash refuse any other bundle: a change is a new protocol.
KNOWN = "e37b07255e4d9cb23af07814e6e56feec23b514f64cecb6447508391a307cedc"


def test_the_bundle_is_the_one_that_invitations_name() -> None:
    assert bundle.digest(bundle.build()) == KNOWN


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # in Flower
def test_flowers_own_build_gives_the_same_bytes() -> None:
    built, _ = build_fab_from_files(bundle.files())
    assert built == bundle.build()


def test_flower_takes_its_settings() -> None:
    config = tomllib.loads(bundle.files()["pyproject.toml"].decode())
    assert validate_config(config, check_module=False)[:2] == (True, [])
    assert set(config["tool"]["flwr"]["app"]["config"]) == {"federation", "rounds", "stage-seconds"}


def test_it_has_no_code_but_names_of_installed_apps() -> None:
    for path, content in bundle.files().items():
        if path.endswith(".py"):
            kinds = {type(each) for each in ast.parse(content).body}
            assert kinds <= {ast.Expr, ast.Import, ast.Assign}, path


def test_no_name_in_it_hides_an_installed_package() -> None:
    tops = {path.split("/")[0] for path in bundle.files()} - {"pyproject.toml"}
    assert tops == {"plgl_bundle"}
    assert all(find_spec(top) is None for top in tops)


def test_its_list_of_hashes_is_right() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle.build())) as archive:
        for line in archive.read(".info/CONTENT").decode().splitlines():
            path, sha, bits = line.split(",")
            content = archive.read(path)
            assert (hashlib.sha256(content).hexdigest(), 8 * len(content)) == (sha, int(bits))
