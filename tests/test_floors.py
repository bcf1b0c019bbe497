"""Imports point down: simulations -> client, server -> common; client and server never see each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "common": {"common"},
    "client": {"client", "common"},
    "server": {"server", "common"},
    "simulations": {"simulations", "client", "server", "common"},
}
NOT_IN_COMMON = {"flwr", "ray", "onnxruntime", "socket", "urllib", "http", "requests", "httpx"}
LOADERS = {"import_module", "__import__", "find_spec", "run_module"}


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The modules a file imports, anywhere in it, and by a name written out; ``"."`` for a relative one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else str(node.module), node.lineno
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in LOADERS and isinstance(node.args[0].value, str):
                yield node.args[0].value, node.lineno


def faults(source: str, floor: str) -> list[str]:
    """What is wrong with the imports of a file on a floor."""
    found = []
    for module, line in imported(ast.parse(source)):
        top = module.split(".")[0]
        if not top:
            found.append(f"line {line}: a relative import")
        elif top == "tests" or (top in FLOORS and top not in FLOORS[floor]):
            found.append(f"line {line}: {floor} imports {module}")
        elif floor == "common" and top in NOT_IN_COMMON:
            found.append(f"line {line}: common imports {module}")
    return found


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down(floor: str) -> None:
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files
    wrong = [f"{file.relative_to(ROOT)} {fault}" for file in files for fault in faults(file.read_text("utf-8"), floor)]
    assert wrong == []


@pytest.mark.parametrize(
    ("floor", "source"),
    [
        ("common", "import client.ratings"),
        ("common", "from server.rounds import run"),
        ("common", "def late():\n    import flwr.app"),
        ("common", "from urllib import request"),
        ("client", "from server import state"),
        ("client", "if True:\n    from simulations.people import People"),
        ("server", "import os, client"),
        ("server", "import importlib\nimportlib.import_module('client.ratings')"),
        ("client", "from . import ratings"),
        ("client", "from ..common import prior"),
        ("simulations", "import tests.helpers"),
    ],
)
def test_the_walk_sees_an_import_that_points_up(floor: str, source: str) -> None:
    assert len(faults(source, floor)) == 1


@pytest.mark.parametrize(
    ("floor", "source"),
    [
        ("common", "import json\nfrom common.errors import PlglError"),
        ("client", "import flwr\nfrom common.prior import PopulationPrior\nimport client.ratings"),
        ("simulations", "from client import ratings\nfrom server import rounds"),
        ("server", "import clients_of_somebody_else"),
    ],
)
def test_the_walk_leaves_imports_that_point_down_alone(floor: str, source: str) -> None:
    assert faults(source, floor) == []
