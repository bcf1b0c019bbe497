import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import keyring
import pytest
from keyring.backends.fail import Keyring as NoKeyring

from client.generators.interface import Output
from client.generators.pack import FORMAT, GENERATOR, GeneratorPack, write_pack
from client.joining import join
from client.journal import Event
from client.membership import Membership, memberships
from client.policy.flow import FlowSettings, LatentPolicy
from client.policy.population import publish
from client.rate_cli import accepted_release, given_passphrase, open_store
from client.store import Store
from client.vault import Cost
from common.cli import GROUP, run
from common.errors import KeyringError, SettingError, StoreError, WrongKey
from common.prior import PopulationPrior
from common.privacy.promise import statement_of
from common.privacy.statement import PrivacyStatement
from common.release import Release
from common.signing import SigningKey

ROOT = Path(__file__).parents[2]
RATE = [EntryPoint("rate", "client.rate_cli:app", GROUP)]
QUICK = Cost(passes=1, kib=64, lanes=1)


class Keyring:
    """A keyring that keeps its passwords in memory."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


class Person:
    """Somebody who is asked for passphrases and told things."""

    def __init__(self, *answers: str) -> None:
        self._answers = iter(answers)
        self.asked: list[str] = []
        self.told: list[str] = []

    def ask(self, prompt: str) -> str:
        self.asked.append(prompt)
        return next(self._answers)

    def open(
        self, path: Path | None, passphrase: str | None = None, *, there: bool = True, keyring: Keyring | None = None
    ) -> Store | None:
        return open_store(
            path, passphrase, interactive=there, say=self.told.append, ask=self.ask, keyring=keyring
        )  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody was here before, and there is no keyring."""
    for name in ("HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("PLGL_PASSPHRASE", raising=False)
    before = keyring.get_keyring()
    keyring.set_keyring(NoKeyring())  # type: ignore[no-untyped-call]
    yield
    keyring.set_keyring(before)


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A store with one event, locked by a passphrase."""
    path = tmp_path / "locked.plgl"
    with Store.open(path, passphrase="open sesame", cost=QUICK) as store:
        store.append([Event("skip", {"items": []})])
    return path


# -- the store of a person


def test_with_a_keyring_nobody_is_asked_anything(tmp_path: Path) -> None:
    path, mine, person = tmp_path / "new.plgl", Keyring(), Person()
    for there in (True, False):
        store = person.open(path, keyring=mine, there=there)
        assert store is not None
        store.close()
    assert person.asked == []
    assert len(person.told) == 1
    assert "in your system keyring" in person.told[0]
    assert Store.locked_by(path) == "keyring"


def test_without_a_keyring_a_newcomer_chooses_a_passphrase_twice(tmp_path: Path) -> None:
    path, person = tmp_path / "new.plgl", Person("one", "another", "long and good", "long and good")
    store = person.open(path)
    assert store is not None
    store.close()
    assert len(person.asked) == 4
    assert "different" in " ".join(person.told)
    Store.open(path, passphrase="long and good").close()


def test_enter_alone_keeps_nothing(tmp_path: Path) -> None:
    path, person = tmp_path / "new.plgl", Person("")
    assert person.open(path) is None
    assert len(person.asked) == 1
    assert "keep nothing" in person.asked[0]
    assert "nothing is kept" in person.told[-1]
    assert not path.exists()


def test_three_pairs_that_differ_end_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="different"):
        Person(*"abcdef").open(tmp_path / "new.plgl")


def test_where_nobody_can_be_asked_nothing_is_kept_and_that_is_said() -> None:
    from client.store import default_path

    person = Person()
    assert person.open(None, there=False) is None
    assert "nothing is kept" in person.told[-1]
    assert "PLGL_PASSPHRASE" in person.told[-1]
    assert not default_path().exists()


def test_a_store_that_was_asked_for_is_never_left_aside_in_silence(tmp_path: Path, locked: Path) -> None:
    with pytest.raises(KeyringError):
        Person().open(tmp_path / "new.plgl", there=False)
    with pytest.raises(WrongKey, match="PLGL_PASSPHRASE"):
        Person().open(locked, there=False)


def test_a_store_by_keyring_is_not_replaced_where_the_keyring_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "mine.plgl"
    Store.open(path, keyring=Keyring()).close()
    with pytest.raises(StoreError):
        Person().open(path)
    with pytest.raises(WrongKey, match="not by a passphrase"):
        Person().open(path, "a guess")


def test_a_wrong_passphrase_may_be_typed_again(locked: Path) -> None:
    person = Person("open barley", "open sesame")
    store = person.open(locked)
    assert store is not None
    with store:
        assert len(store.events()) == 1
    assert person.told == ["that is not it; 2 more tries"]


def test_three_wrong_passphrases_end_with_the_next_step(locked: Path) -> None:
    person = Person("a", "", "c")
    with pytest.raises(WrongKey, match="--in-memory"):
        person.open(locked)
    assert len(person.asked) == 3
    Store.open(locked, passphrase="open sesame").close()


def test_a_given_passphrase_asks_nobody(locked: Path) -> None:
    person = Person()
    store = person.open(locked, "open sesame")
    assert store is not None
    store.close()
    with pytest.raises(WrongKey):
        person.open(locked, "open barley")
    assert person.asked == []


# -- where a passphrase comes from


def test_a_passphrase_is_the_first_line_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    for content in (b"two  words \nmore", b"two  words \r\n", b"\xef\xbb\xbftwo  words "):
        file.write_bytes(content)
        assert given_passphrase(file) == "two  words "


def test_a_passphrase_from_the_environment_is_taken_out_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLGL_PASSPHRASE", "from outside")
    assert given_passphrase(None) == "from outside"
    assert "PLGL_PASSPHRASE" not in os.environ
    assert given_passphrase(None) is None
    monkeypatch.setenv("PLGL_PASSPHRASE", "from outside")
    file = tmp_path / "passphrase"
    file.write_text("from the file")
    assert given_passphrase(file) == "from the file"
    assert "PLGL_PASSPHRASE" not in os.environ


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot read"), (b"", "empty"), (b"\nsecond", "empty"), (b"\xff\xfe\n", "text")]
)
def test_a_file_without_a_passphrase_is_an_error(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "passphrase"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingError, match=words):
        given_passphrase(file)


def test_an_empty_passphrase_in_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLGL_PASSPHRASE", "")
    with pytest.raises(SettingError, match="empty"):
        given_passphrase(None)


# -- the command


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_a_script_of_answers_ends_with_one_object(
    tmp_path: Path, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    typed("a b both skip f 1 undo a w")
    folder = tmp_path / "pictures"
    options = ["--in-memory", "--terminal", "--seed", "1", "--json", "--pictures", str(folder)]
    assert run(["rate", *options], RATE) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert err == ""
    assert told["success"] is True
    assert told["answered"] == 3
    assert told["explanation"]["by_kind"] == {"choice": 3}
    assert told["store"] is None
    assert len(told["favourites"]) == 1
    assert {Path(file) for file in told["pictures"]} == set(folder.iterdir())
    assert "wall" in told["pictures"][-1]


def test_answers_of_a_file_are_kept_under_a_passphrase_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, passphrase, answers = tmp_path / "mine.plgl", tmp_path / "passphrase", tmp_path / "answers"
    passphrase.write_text("a long passphrase\n")
    answers.write_text("5 3 # enough for today\n1")
    options = ["--terminal", "--mode", "stars", "--seed", "1", "--store", str(store), "--answers", str(answers)]
    assert run(["rate", *options, "--passphrase-file", str(passphrase)], RATE) == 0
    out = capsys.readouterr().out
    assert "3 answers this time, 3 in all" in out
    assert f"is kept, encrypted, in {store}" in out
    monkeypatch.setenv("PLGL_PASSPHRASE", "a long passphrase")
    assert run(["rate", *options, "--context", "evening"], RATE) == 0
    assert "3 answers this time, 6 in all" in capsys.readouterr().out
    monkeypatch.setenv("PLGL_PASSPHRASE", "a wrong passphrase")
    assert run(["rate", *options], RATE) == 1
    assert "passphrase is wrong" in capsys.readouterr().err


def test_what_cannot_work_is_refused_before_a_passphrase_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ["--terminal", "--in-memory"]
    art = GeneratorPack.open("art")
    points = dataclasses.replace(
        art.manifest,
        format=FORMAT,
        output=Output(kind="points", shape=(9, 2)),
        name="dots",
        files={GENERATOR: art.manifest.files[GENERATOR]},
        components=0,
        r2=(),
        scale=(),
    )
    write_pack(tmp_path / "dots", points, {GENERATOR: art.files[GENERATOR]})
    cases = {
        ("--generator", str(tmp_path / "dots"), *here): "dots makes points, and only pictures and sounds",
        ("--generator", "nothing", *here): "no generator 'nothing'",
        ("--prior", str(tmp_path), *here): str(tmp_path),
        ("--model", "oracle", *here): "oracle",
        ("--mode", "guess", *here): "choice, like, stars, best",
        ("--surprise", "2", *here): "surprise=2.0",
        ("--answers", str(tmp_path / "none"), *here): "cannot read answers",
        ("--surprise", "0.5"): "add --terminal",
        ("--json",): "add --terminal",
        ("--port", "8000", *here): "--terminal out",
        ("--no-browser", *here): "--terminal out",
        ("--population", "x", *here): "--terminal out",
        ("--port", "8000", "--socket", "s"): "exclude each other",
        ("--store", "s", *here): "--in-memory",
        ("--passphrase", "secret", *here): "--passphrase",
    }
    for options, words in cases.items():
        assert run(["rate", *options], RATE) in (1, 2), options
        said = capsys.readouterr()
        assert words in " ".join((said.err + said.out).split()), options


def test_a_store_of_another_pack_is_refused_and_let_go(
    tmp_path: Path, typed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    path = tmp_path / "mine.plgl"
    with Store.open(path, passphrase="p", cost=QUICK) as store:
        latent = GeneratorPack.open("art").latents.sample(1, torch.Generator().manual_seed(0))[0]
        store.append([Event("item", {"item": 0, "pack": "0" * 64, "profile": "me"}, latent)])
    typed("a")
    monkeypatch.setenv("PLGL_PASSPHRASE", "p")
    assert run(["rate", "--terminal", "--store", str(path)], RATE) == 1
    assert "another generator pack" in capsys.readouterr().err
    Store.open(path, passphrase="p").close()


def test_a_word_that_means_nothing_ends_the_script_and_keeps_what_was_before(
    tmp_path: Path, typed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed("a sideways b")
    monkeypatch.setenv("PLGL_PASSPHRASE", "p")
    path = tmp_path / "mine.plgl"
    assert run(["rate", "--terminal", "--json", "--store", str(path)], RATE) == 2
    assert "sideways" in json.loads(capsys.readouterr().out)["error-message"]
    with Store.open(path, passphrase="p") as store:
        assert [event.kind for event in store.events()].count("rating") == 1


# -- what a session starts from


def take_up(member: Membership, key: SigningKey, *, version: int = 1, age: int = 0) -> None:
    """The device accepts a release: what somebody knows who knows nobody, after a round."""
    terms, now = member.terms, int(time.time())
    flat = PopulationPrior.flat(terms.parameters, terms.pack)
    learned = dataclasses.replace(flat, rounds=version, privacy=statement_of(terms, version))
    release = Release(
        terms=terms,
        version=version,
        round=version,
        prior=learned,
        created=now - age,
        expires=now + 3600,
        previous="" if version == 1 else "a" * 64,
    )
    with member.ledger() as ledger:
        verdict = member.shelf().offer(
            release.to_bytes(key), release_key=key.public, terms=terms, ledger=ledger, now=now
        )  # fmt: skip
    assert verdict.accepted


@pytest.fixture
def look(typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Rates nothing; gives what the session starts from."""

    def looked(*options: str) -> tuple[str, str | None]:
        typed("quit")
        assert run(["rate", "--in-memory", "--terminal", "--json", *options], RATE) == 0
        told = json.loads(capsys.readouterr().out)
        return told["explanation"]["source"], told["start"]

    return looked


Look = Callable[..., tuple[str, str | None]]


def test_a_session_starts_from_the_release_the_device_accepted(
    operator: Any, look: Look, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    member = join(operator.invite())
    assert look() == ("nothing yet", None)
    take_up(member, operator.release_key)
    line = (
        "starts from what rounds of 3 people or more taught: release 1 of Test people; --prior none starts from nothing"
    )
    assert look() == ("the crowd", line)
    for options in (("--prior", "none"), ("--model", "svm")):
        assert look(*options) == ("nothing yet", None), options
    typed("a quit")
    assert run(["rate", "--in-memory", "--terminal"], RATE) == 0
    assert capsys.readouterr().err.splitlines().count(line) == 1
    (member.folder / "membership.json").unlink()
    assert look() == ("nothing yet", None)


def test_a_prior_that_is_given_goes_before_a_release(operator: Any, look: Look, tmp_path: Path) -> None:
    take_up(join(operator.invite()), operator.release_key)
    mine = PopulationPrior.flat(operator.terms.parameters, operator.terms.pack)
    mine.save(tmp_path / "mine")
    assert look("--prior", str(tmp_path / "mine")) == ("the crowd", None)


def test_of_several_federations_the_newest_release_is_taken_and_none_of_another_generator(
    operator: Any, serve: Any, look: Look, tmp_path: Path
) -> None:
    names = {"Art club": 7200, "Friends": 3600, "Late": None, "Robots": 0}
    for number, (name, age) in enumerate(names.items()):
        (tmp_path / name).mkdir()
        other = type(operator)(tmp_path / name)
        other.terms = dataclasses.replace(other.terms, federation=f"{number}" * 32, name=name)
        serve(other)
        member = join(other.invite())
        if name == "Robots":
            record = member.folder / "membership.json"
            record.write_text(record.read_text().replace(other.terms.pack, "d" * 64))
            (member,) = (each for each in memberships() if each.folder == member.folder)
        if age is not None:
            take_up(member, other.release_key, version=2 if name == "Friends" else 1, age=age)
    source, line = look()
    assert source == "the crowd"
    assert line is not None
    assert "release 2 of Friends" in line
    robots = accepted_release("d" * 64)
    assert robots is not None
    assert robots.terms.name == "Robots"
    assert accepted_release("e" * 64) is None


def test_a_damaged_membership_keeps_nobody_from_rating(operator: Any, look: Look) -> None:
    member = join(operator.invite())
    take_up(member, operator.release_key)
    (member.folder / "releases" / "release.json").write_text("{}")
    assert look() == ("nothing yet", None)
    (member.folder / "membership.json").write_text("{}")
    source, line = look()
    assert source == "nothing yet"
    assert line is not None
    assert line.startswith(f"starts from nothing: the membership in {member.folder} is damaged")


# -- the page and the help


def test_the_page_is_served_in_the_way_that_was_asked_for_until_ctrl_c(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom importlib.metadata import EntryPoint\nfrom common.cli import GROUP, run\n"
        "sys.exit(run(sys.argv[1:], [EntryPoint('rate', 'client.rate_cli:app', GROUP)]))\n"
    )
    pack = GeneratorPack.open("art")
    policy = LatentPolicy(FlowSettings(dimension=pack.latents.dimension, couplings=2, width=4))
    publish(policy, pack, PrivacyStatement.public(), 0).save(tmp_path / "everybody")
    options = ["--in-memory", "--no-browser", "--mode", "like", "--port", "0"]
    options += ["--population", str(tmp_path / "everybody")]
    with subprocess.Popen(
        [sys.executable, "-c", script, "rate", *options],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "COLUMNS": "200"},
    ) as served:  # fmt: skip
        try:
            assert served.stdout is not None
            address = re.search(r"http://\S+", served.stdout.readline())
            assert address is not None
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            with opener.open(address[0], timeout=20) as page:
                assert "Do you like it?" in page.read().decode()
            with opener.open(urllib.parse.urljoin(address[0], "/wall"), timeout=60) as page:
                assert "Suggestions from the crowd" in page.read().decode()  # before any answer
            served.send_signal(signal.SIGINT)
            assert served.wait(20) in (0, 3)
        finally:
            served.kill()


def test_help_needs_nothing_heavy_and_names_every_key_source() -> None:
    script = (
        "import sys\nfrom importlib.metadata import EntryPoint\nfrom common.cli import GROUP, run\n"
        "entries = [EntryPoint(n, f'client.{n}_cli:app', GROUP) for n in ('rate', 'doctor')]\n"
        "assert run(['rate', '--help'], entries) == 0\nassert run(['doctor', '--help'], entries) == 0\n"
        "heavy = ('torch', 'numpy', 'onnxruntime', 'keyring', 'fastapi', 'matplotlib')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "PLGL_PASSPHRASE" in done.stdout
