"""``plgl stream`` as a person types it."""

import dataclasses
import io
import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from client.generators.pack import GeneratorPack
from client.policy.cli import _goes_on
from client.policy.learner import LearnSettings
from client.policy.population import PopulationSettings, publish, train
from client.ratings import Choice
from client.session import Session
from client.store import Store
from client.terminal_keys import Script
from client.vault import Cost
from common.cli import GROUP, run
from common.prior import PopulationPrior
from common.privacy.statement import PrivacyStatement

ENTRY = [EntryPoint("stream", "client.policy.cli:app", GROUP)]
QUICK = ("--model", "bayes", "--prior", "none", "--rounds", "2", "--batch", "64", "--held-out", "0")


def plgl(*arguments: object) -> int:
    return run(["stream", *map(str, arguments)], ENTRY)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Answers of somebody who likes bright pictures."""
    path = tmp_path / "ratings.plgl"
    with (
        Store.open(path, passphrase="a b c", cost=Cost(passes=1, kib=8, lanes=1)) as opened,
        Session.open("art", store=opened, seed=0, model="bayes") as session,
    ):
        for row in range(10):
            latents = session.pack.latents.sample(2, torch.Generator().manual_seed(row))
            a, b = session.items_at(latents)
            light = session.pack.generate(latents, size=16).mean((1, 2, 3)).tolist()
            session.rate(Choice(a, b, "a" if light[0] > light[1] else "b"))
    monkeypatch.setenv("PLGL_PASSPHRASE", "a b c")
    return path


def test_items_come_as_pictures_and_the_policy_is_kept(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pictures"
    assert plgl("--store", store, *QUICK, "--count", 5, "--pictures", out, "--before-after", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["items"] == 5
    assert [check["round"] for check in found["checks"]] == [0, 1, 2]
    assert found["latents_per_second"] > found["items_per_second"] > 0
    assert {path.name for path in out.iterdir()} == {"before.png", "after.png", "stream-000000.png"}
    assert any(".derived-" in path.name for path in tmp_path.iterdir())
    monkeypatch.setenv("PLGL_PASSPHRASE", "a b c")
    assert plgl("--store", store, *QUICK, "--count", 1, "--level", 1) == 0
    told = capsys.readouterr()
    assert "Your stream, from safe (0) to surprising (1) at 1" in told.out
    assert "is kept: reward" in told.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--count", "1", "--level", "2"), "level=2.0 must lie between 0 (safe) and 1"),
        (("--count", "-1"), "count=-1 must be >= 0"),
        ((), "nobody is here to stop it; give --count"),
        (("--count", "1", "--learner", "magic"), "learner='magic' must be one of reparameterised, ppo"),
        (("--count", "1"), "there are no ratings at"),
        (("--count", "1", "--rounds", "0"), "rounds=0 must be >= 1"),
    ],
    ids=["level", "count", "endless", "learner", "store", "rounds"],
)
def test_what_cannot_be_streamed_is_told(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert plgl("--store", tmp_path / "none.plgl", *arguments) in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split())


def test_too_few_answers_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, phrase = tmp_path / "ratings.plgl", tmp_path / "phrase"
    Store.open(path, passphrase="a b c", cost=Cost(passes=1, kib=8, lanes=1)).close()
    phrase.write_text("a b c\n")
    assert plgl("--store", path, "--passphrase-file", phrase, "--prior", "none", "--count", 3) == 2
    assert "0 answers are too few for a stream, which needs 8" in " ".join(capsys.readouterr().err.split())


def test_any_key_goes_on_and_q_or_the_end_stops() -> None:
    assert _goes_on(Script(io.StringIO("redraw space")))
    assert not _goes_on(Script(io.StringIO("q")))
    assert not _goes_on(Script(io.StringIO("")))


@pytest.fixture(scope="module")
def everybody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of people who like one thing, published."""
    pack, folder = GeneratorPack.open("art"), tmp_path_factory.mktemp("everybody")
    settings = PopulationSettings(couplings=2, width=8, warm=10, learn=LearnSettings(rounds=1, steps=5, batch=64))
    learned = train(pack, torch.tensor([1.5, 0.0, 0.3]), settings=settings)
    publish(learned.policy, pack, PrivacyStatement.public(), 0).save(folder)
    return folder


def test_a_new_person_sees_what_everybody_likes_before_any_rating(
    everybody: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "none.plgl"
    asked = ("--count", 4, "--pictures", tmp_path / "out", "--seed", 1, "--store", nowhere, "--json", *QUICK)
    assert plgl(*asked, "--population", everybody) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["items"] == 4
    assert len(told["checks"]) == 1
    assert told["kept"]["reward"] is None  # nothing was learned, nothing is claimed
    assert not nowhere.exists()
    assert plgl(*asked) == 1  # nobody's ratings, and nobody's policy


def test_learning_begins_with_what_everybody_likes_and_a_damaged_policy_is_refused(
    everybody: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--count", 2, "--pictures", tmp_path / "out", "--store", store, "--json")
    assert plgl(*asked, *QUICK, "--population", everybody) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["checks"]) > 1
    assert told["checks"][0]["divergence"] > 0.1  # from the first check on it is not the generator
    assert plgl(*asked, *QUICK, "--population", tmp_path) == 1


def test_everybodys_policy_is_made_of_a_prior_at_home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = PopulationPrior.flat(3, GeneratorPack.open("art").hash)
    dataclasses.replace(flat, mean=torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)).save(tmp_path / "prior")
    asked = ("--count", 2, "--store", tmp_path / "none.plgl", "--pictures", tmp_path / "out", "--seed", 1, *QUICK)
    assert plgl(*asked, "--population", tmp_path / "prior") == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "begins with what everybody likes" in told
    assert "you have rated too little to learn from" in told
    dataclasses.replace(flat, pack="b" * 64).save(tmp_path / "other")
    assert plgl(*asked, "--population", tmp_path / "other") == 1
