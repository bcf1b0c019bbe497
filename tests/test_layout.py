"""What lies where: our generic import names are ours alone, the tree holds what it should, help and README agree."""

import ast
import importlib
import importlib.metadata
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from common.cli import GROUP, run

ROOT = Path(__file__).parents[1]
PACKAGES = ("common", "client", "server", "simulations")
TOP = {
    *PACKAGES,
    *(".ci", ".git", ".github", ".gitattributes", ".gitignore", "tests", "docs"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md", "constraints.txt", "pyproject.toml"),
}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def commands() -> list[EntryPoint]:
    """The entry points the project declares, whether or not it is installed."""
    declared = project()["project"]["entry-points"][GROUP]
    return [EntryPoint(name, value, GROUP) for name, value in declared.items()]


@pytest.mark.parametrize("name", PACKAGES)
def test_our_names_resolve_to_this_checkout(name: str) -> None:
    file = importlib.import_module(name).__file__
    assert file is not None
    assert Path(file).resolve() == ROOT / name / "__init__.py"


def test_no_other_distribution_claims_our_names() -> None:
    claimed = importlib.metadata.packages_distributions()
    assert {name: found for name in PACKAGES if (found := set(claimed.get(name, ())) - {"plgl"})} == {}


def test_the_repository_holds_nothing_else_at_its_top() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} - TOP == set()


def test_there_is_no_utils_and_no_init_below_tests() -> None:
    files = [file for name in (*PACKAGES, "tests") for file in (ROOT / name).rglob("*.py")]
    assert [file for file in files if file.stem in {"utils", "util", "helpers", "misc"}] == []
    assert [file for file in files if file.name == "__init__.py" and "tests" in file.relative_to(ROOT).parts] == []


def without_docstring(source: str) -> list[str]:
    """Public functions, classes and methods of a file that say nothing about themselves."""
    found: list[str] = []

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                if ast.get_docstring(node) is None:
                    found.append(node.name)
                if isinstance(node, ast.ClassDef):
                    visit(node.body)

    tree = ast.parse(source)
    if source.strip() and ast.get_docstring(tree) is None:
        found.append("(module)")
    visit(tree.body)
    return found


@pytest.mark.parametrize("name", PACKAGES)
def test_everything_public_has_a_docstring(name: str) -> None:
    files = sorted((ROOT / name).rglob("*.py"))
    missing = [
        f"{file.relative_to(ROOT)}: {thing}" for file in files for thing in without_docstring(file.read_text("utf-8"))
    ]
    assert missing == []


def test_a_missing_docstring_is_seen() -> None:
    source = '"""M."""\nclass A:\n    """A."""\n    def f(self): ...\n    def _g(self): ...\ndef h(): ...\n'
    assert without_docstring(source) == ["f", "h"]


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    """A command imports torch, Flower or ONNX Runtime when it runs, so that help and mistakes are quick."""
    script = (
        "import sys\n"
        "from importlib.metadata import EntryPoint\n"
        "from common.cli import run\n"
        f"entries = [EntryPoint(*e) for e in {[(e.name, e.value, e.group) for e in commands()]!r}]\n"
        "assert run(['--help'], entries) == 0\n"
        "heavy = [n for n in ('torch', 'flwr', 'ray', 'matplotlib', 'onnxruntime') if n in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", script],
        cwd=ROOT, capture_output=True, encoding="utf-8", env=None,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cannot be loaded" not in done.stdout
    for entry in commands():
        assert entry.name in done.stdout


def test_every_command_has_help_and_stands_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for entry in commands():
        assert run([entry.name, "--help"], commands()) == 0
        assert f"plgl {entry.name}" in capsys.readouterr().out
        assert f"plgl {entry.name}" in readme, f"README.md does not show plgl {entry.name}"


def test_every_argument_and_option_says_what_it_is() -> None:
    """Click 8.5 forgets what typer 0.20 says of arguments; a walk through all commands sees it."""
    silent, seen = [], 0
    stack = [(entry.name, get_command(entry.load())) for entry in commands()]
    while stack:
        name, command = stack.pop()
        stack += [(f"{name} {sub}", each) for sub, each in getattr(command, "commands", {}).items()]
        seen += len(command.params)
        silent += [f"{name} {each.name}" for each in command.params if not getattr(each, "help", None)]
    assert seen > 300
    assert not silent, silent


def test_the_app_bundle_takes_code_only() -> None:
    flower = project()["tool"]["flwr"]["app"]
    assert set(flower["fab-include"]) <= {"client/**/*.py", "server/**/*.py", "common/**/*.py", "LICENSE"}
