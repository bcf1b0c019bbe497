"""``plgl generator tune`` as a person types it."""

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from client.flows.tune_cli import _in_words
from client.flows.tuning_guard import Check
from client.generators.pack import GeneratorPack
from client.generators.training.cli import PACK
from client.ratings import Choice, Like
from client.session import Session
from client.store import Store
from client.vault import Cost
from common.cli import GROUP, run
from common.errors import StorageError
from tests.client.flows.colours import redness
from tests.client.flows.trained import course, training

ENTRY = [EntryPoint("generator", "client.generators.cli:app", GROUP)]
QUICK = ("--rounds", "2", "--steps", "6", "--rate", "0.003", "--batch", "24", "--map-pictures", "0")


def plgl(*arguments: object) -> int:
    return run(["generator", "tune", *map(str, arguments)], ENTRY)


@pytest.fixture(scope="module", autouse=True)
def believed() -> Iterator[None]:
    """The first run of a foreign pack in a child process takes seconds and is tested with packs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GeneratorPack, "_is_trusted", lambda *_: True)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training, and the answers of somebody who likes red to what its pack draws."""
    found = training(tmp_path_factory.mktemp("trained") / "run", course(space="vae"))
    with (
        Store.open(found / "me.plgl", passphrase="a b c", cost=Cost(passes=1, kib=8, lanes=1)) as store,
        Session.open(found / PACK, store=store, seed=0, model="bayes") as session,
    ):
        for row in range(20):
            latents = session.pack.latents.sample(2, torch.Generator().manual_seed(row))
            a, b = session.items_at(latents)
            red = redness(session.pack.generate(latents)).tolist()
            session.rate(Choice(a, b, "a" if red[0] > red[1] else "b"))
        session.use(profile="sour")
        for item in session.items_at(session.pack.latents.sample(8, torch.Generator().manual_seed(0))):
            session.rate(Like(item, False))
    return found


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLGL_PASSPHRASE", "a b c")


def test_what_was_rated_is_taught_and_the_new_generator_can_be_rated_and_taught_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, sheets = tmp_path / "home", tmp_path / "sheets"
    asked = (folder, "--as", "mine", "--by", "pairwise", "--store", folder / "me.plgl", "--home", home, *QUICK)
    assert plgl(*asked, "--map-pictures", 1000, "--before-after", sheets, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["answers"], told["name"], len(told["checks"])) == (20, "mine", 3)
    assert told["kept"] > 0
    assert told["checks"][told["kept"]]["held_out"] > 0
    assert {path.name for path in sheets.iterdir()} == {"before.png", "after.png"}
    old, new = GeneratorPack.open(folder / PACK), GeneratorPack.open("mine", home)
    assert new.manifest.origin is not None
    assert (new.hash, new.manifest.origin.sha256) == (told["pack"], old.hash)
    assert old.components == 0 < new.components == told["components"]  # learned from its own pictures
    assert new.component_r2[0] > 0.3
    noise = old.latents.sample(200, torch.Generator().manual_seed(77))
    before, after = redness(old.generate(noise)), redness(new.generate(noise))
    assert float((after - before).mean()) > 0.1 * float(before.std())
    with Session.open(home / "mine", seed=0) as session:
        assert len(session.propose(2)) == 2
    monkeypatch.setenv("PLGL_PASSPHRASE", "a b c")
    assert plgl(*asked) == 2  # the name is taken, which is said before anything is taught
    assert "'mine' is here already; choose another --as" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--as", "Mine"), "--as 'Mine' must be small letters"),
        (("--as", "art"), "'art' came with the program"),
        (("--as", "x", "--by", "magic"), "by='magic' must be one of"),
        (("--as", "x", "--map-pictures", "10"), "pictures=10 must lie between"),
        (("--as", "x", "--profile", "nobody"), "0 answers are too few to teach a flow, which needs 8"),
        (("--as", "x", "--profile", "sour"), "none of 8 answers is positive"),
        (("--as", "x", "--store", "nowhere.plgl"), "there are no ratings at nowhere.plgl"),
    ],
    ids=["letters", "shipped", "way", "map", "few", "sour", "store"],
)
def test_what_cannot_be_taught_is_told(
    arguments: tuple[str, ...], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (folder, "--store", folder / "me.plgl", "--home", tmp_path, *QUICK, *arguments)
    assert plgl(*asked) in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split())
    assert not any(tmp_path.iterdir())


def test_a_generator_that_is_no_flow_is_told_what_works_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plgl("art", "--as", "mine", "--home", tmp_path) == 2
    assert "plgl stream --generator art" in " ".join(capsys.readouterr().err.split())


def test_a_teaching_goes_on_where_it_was_stopped(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (folder, "--as", "mine", "--seed", 4, "--store", folder / "me.plgl", "--home", tmp_path, *QUICK)

    def stop(check: Check) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr("client.flows.tune_cli._in_words", stop)  # where a person looks when they press Ctrl-C
        assert plgl(*asked) == 3
    assert "stopped after round 1 of 2; the same command goes on" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setenv("PLGL_PASSPHRASE", "a b c")

    def enough(*_: object) -> None:
        raise StorageError("enough seen")

    monkeypatch.setattr("client.flows.tune_cli._installed", enough)
    assert plgl(*asked) == 1
    assert "goes on after round 1 of 2" in " ".join(capsys.readouterr().err.split())


def test_a_check_is_told_in_words_with_and_without_a_judge() -> None:
    check = Check(round=1, reward=0.5, held_out=float("nan"), error=float("nan"), distance=0.1, variety=0.9)
    assert _in_words(check) == "reward +0.50, 0.10 away, 90% of the variety"
