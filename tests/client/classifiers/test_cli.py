import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.classifiers import MODELS
from client.classifiers.cli import ENOUGH, app
from client.ratings import Choice, Like
from client.session import Session
from common.cli import GROUP, run
from common.errors import SettingError, WrongKey

PASSPHRASE = "correct horse battery staple"
ENTRIES = [EntryPoint("compare", "client.classifiers.cli:app", GROUP)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of somebody who answered 12 questions, and of a second person with 3 likes."""
    path = tmp_path_factory.mktemp("person") / "me.plgl"
    with Session.open("art", store=path, passphrase=PASSPHRASE, seed=0) as session:
        for _ in range(12):
            a, b = session.propose(2)
            session.rate(Choice(a, b, "a" if a.features[0] > b.features[0] else "b"))
        session.use(profile="guest")
        for item in session.propose(3):
            session.rate(Like(item, True))
    return path


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "passphrase"
    path.write_text(PASSPHRASE + "\n")
    return path


def test_every_model_is_compared_on_ones_own_ratings(
    store: Path, secret: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", "--store", str(store), "--passphrase-file", str(secret), "--folds", "2"]
    assert run(arguments, ENTRIES) == 0
    printed = capsys.readouterr().out
    assert "12 ratings" in printed
    assert "best: " in printed
    assert all(name in printed for name in MODELS)


def test_json_is_one_object(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLGL_PASSPHRASE", PASSPHRASE)
    arguments = ["--store", str(store), "--json", "--model", "bayes", "--model", "linear"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    found = json.loads(result.stdout)
    assert (found["ratings"], found["enough"]) == (12, True)
    assert sorted(row["model"] for row in found["models"]) == ["bayes", "linear"]
    accuracies = [row["accuracy"] for row in found["models"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert all(row["fit_milliseconds"] > 0 and row["log_loss"] > 0 for row in found["models"])


def test_too_few_ratings_are_said_so(store: Path, secret: Path) -> None:
    arguments = ["--store", str(store), "--profile", "guest", "--passphrase-file", str(secret)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "only 3 ratings" in result.stdout
    assert f"at least {ENOUGH}" in result.stdout
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert (found["enough"], found["models"]) == (False, [])


def test_a_passphrase_that_is_typed_is_not_shown(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLGL_PASSPHRASE", raising=False)
    result = CliRunner().invoke(app, ["--store", str(store), "--profile", "guest"], input=PASSPHRASE + "\n")
    assert "only 3 ratings" in result.stdout
    assert PASSPHRASE not in result.output


def test_a_wrong_passphrase_a_missing_store_and_a_missing_file_are_refused(store: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("guess")
    with pytest.raises(WrongKey):
        CliRunner().invoke(app, ["--store", str(store), "--passphrase-file", str(wrong)], catch_exceptions=False)
    with pytest.raises(SettingError, match="there is no store at"):
        CliRunner().invoke(app, ["--store", str(tmp_path / "nobody")], catch_exceptions=False)
    assert not (tmp_path / "nobody").exists()
    with pytest.raises(SettingError, match="cannot read the passphrase file"):
        CliRunner().invoke(
            app, ["--store", str(store), "--passphrase-file", str(tmp_path / "none")], catch_exceptions=False
        )


def test_models_are_named_rightly_before_anything_is_computed(store: Path, secret: Path) -> None:
    arguments = ["--store", str(store), "--profile", "guest", "--passphrase-file", str(secret), "--model", "bayes"]
    with pytest.raises(SettingError, match="name one more"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    with pytest.raises(SettingError, match="'oracle' is unknown"):
        CliRunner().invoke(app, [*arguments, "--model", "oracle"], catch_exceptions=False)


def test_a_profile_without_ratings_is_told_which_have_some(store: Path, secret: Path) -> None:
    with pytest.raises(SettingError, match="'nobody' has no ratings in this store; it holds guest, me"):
        CliRunner().invoke(
            app,
            ["--store", str(store), "--profile", "nobody", "--passphrase-file", str(secret)],
            catch_exceptions=False,
        )


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from importlib.metadata import EntryPoint\n"
        "from common.cli import GROUP, run\n"
        "entries = [EntryPoint('compare', 'client.classifiers.cli:app', GROUP)]\n"
        "assert run(['compare', '--help'], entries) == 0\n"
        "assert not {'torch', 'sklearn', 'scipy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--passphrase-file" in done.stdout
