"""``plgl stream`` as a person types it."""

import dataclasses
import io
import json
import sys
import wave
from collections.abc import Iterator
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
from tests.client.in_terminal import Terminal
from tests.client.tones import RATE, SAMPLES, tones_pack

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
        (("--count", "1", "--sounds", "x"), "art makes pictures, which have no sound; use --pictures x"),
    ],
    ids=["level", "count", "endless", "learner", "store", "rounds", "sounds"],
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
    drawn: list[str] = []

    def again() -> None:
        drawn.append("again")

    assert _goes_on(Script(io.StringIO("redraw space")), again)
    assert drawn == ["again"]
    assert not _goes_on(Script(io.StringIO("q")), again)
    assert not _goes_on(Script(io.StringIO("")), again)
    assert drawn == ["again"]


def test_keys_in_a_terminal_bring_more_and_stop_and_leave_a_clean_window(store: Path, tmp_path: Path) -> None:
    typed = ("stream", "client.policy.cli:app", "--store", str(store), "--seed", "1", *QUICK)
    with Terminal(*typed, home=tmp_path, environment={"PLGL_PASSPHRASE": "a b c"}) as terminal:
        terminal.wait_for("12 items")
        terminal.press(b" ")
        terminal.wait_for("24 items")
        terminal.press(b"\x1b[15~")  # a key that means nothing
        terminal.resize(40, 120)
        terminal.wait_for("24 items")  # the same again, larger
        terminal.press(b"q")
        assert terminal.end() == 0
        assert terminal.seen.count("\x1b[?1049h") == 1
        assert "any key: more" in terminal.seen.replace("\xa0", " ")
        assert "▀" not in terminal.after
        assert "24 items" in terminal.after
        assert terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[?25l")


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A generator of sounds, without a latent map, whose first run in a child process is left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GeneratorPack, "_is_trusted", lambda *_: True)
        yield tones_pack(tmp_path_factory.mktemp("packs") / "tones")


@pytest.fixture
def deep(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Answers of somebody who likes deep tones."""
    path = tmp_path / "heard.plgl"
    with (
        Store.open(path, passphrase="a b c", cost=Cost(passes=1, kib=8, lanes=1)) as opened,
        Session.open(tones, store=opened, seed=0, model="bayes") as session,
    ):
        for row in range(10):
            latents = session.pack.latents.sample(2, torch.Generator().manual_seed(row))
            a, b = session.items_at(latents)
            session.rate(Choice(a, b, "a" if latents[0, 0] < latents[1, 0] else "b"))
    monkeypatch.setenv("PLGL_PASSPHRASE", "a b c")
    return path


def test_a_stream_of_sounds_is_written_as_wav_files(
    deep: Path, tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--generator", tones, "--store", deep, "--count", 3, "--seed", 1, "--held-out", 0, *QUICK[:6])
    out = tmp_path / "out"
    assert plgl(*asked, "--sounds", out, "--level", 0, "--rounds", 8, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(each).name for each in told["sounds"]] == [f"stream-000000-{i}.wav" for i in (1, 2, 3)]
    assert [Path(each).name for each in told["pictures"]] == ["stream-000000.png"]  # their spectra
    for each in told["sounds"]:
        with wave.open(each) as file:
            assert (file.getframerate(), file.getnframes()) == (RATE, SAMPLES)
            heard = torch.frombuffer(bytearray(file.readframes(SAMPLES)), dtype=torch.int16)
        assert float(heard.float().abs().max()) > 1000
    monkeypatch.setenv("PLGL_PASSPHRASE", "a b c")
    assert plgl(*asked, "--rounds", 8) == 0
    assert "a terminal plays no sound; write them to files with: --sounds FOLDER" in capsys.readouterr().out
    for wrong, why in (("--before-after", "a contact sheet shows pictures"), ("--pictures", f"use --sounds {out}")):
        assert plgl(*asked, wrong, out) == 2
        assert why in " ".join(capsys.readouterr().err.split())


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
