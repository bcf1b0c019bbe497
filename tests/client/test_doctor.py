import json
import os
import shutil
import socket
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from client import doctor, doctor_facts
from client.doctor import Check, Speed
from client.doctor_cli import report
from client.explanation import Explanation
from client.generators.pack import PACKS, GeneratorPack
from client.journal import Event
from client.ratings import Choice
from client.session import Session
from client.store import Store
from client.vault import Cost
from common.cli import GROUP, run

DOCTOR = [EntryPoint("doctor", "client.doctor_cli:app", GROUP)]
QUICK = Cost(passes=1, kib=64, lanes=1)
FAST = Speed(picture=10, update_20=5, update_100=15, proposal=20)


@pytest.fixture(autouse=True)
def fresh_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("PLGL_PASSPHRASE", raising=False)


def known(**changes: Any) -> Explanation:
    usual: dict[str, Any] = {
        "answers": 40, "by_kind": {"choice": 40}, "guessed_of_last": (7, 10), "held_out_accuracy": 0.7, "chance": 0.5,
        "certainty": 0.5, "next_question": "", "source": "you", "notice": None, "troubles": [],
    }  # fmt: skip
    return Explanation(**{**usual, **changes})


HEALTH = {
    "path": "p", "rows": 3, "bytes": 4096, "wal_bytes": 0, "schema": 1, "kdf": "keyring", "integrity": True,
    "problem": None, "checkpointed": 0.0,
}  # fmt: skip
OFF = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
GIB = 1 << 30


@pytest.mark.parametrize(
    ("check", "state", "words"),
    [
        (doctor.check_versions({"torch": "2.12.1+cpu"}, {"torch": ">=2.10"}), "ok", "torch 2.12.1"),
        (doctor.check_versions({"torch": "2.9.0"}, {"torch": ">=2.10"}), "problem", ">=2.10 is asked for"),
        (doctor.check_versions({"flwr": None}, {}), "problem", "flwr is missing"),
        (doctor.check_providers(["CPUExecutionProvider"], "CPUExecutionProvider", False, ["o"]), "ok", "CPU active"),
        (doctor.check_providers(["CPUExecutionProvider"], "CPUExecutionProvider", True, ["o"]), "advice", "GPU"),
        (doctor.check_providers(["CUDAExecutionProvider"], "CUDAExecutionProvider", True, ["o"]), "ok", "CUDA active"),
        (doctor.check_providers([], None, False, ["onnxruntime", "onnxruntime-gpu"]), "problem", "overwrite"),
        (doctor.check_devices(["H100, 80 GiB"], "12.8"), "ok", "H100"),
        (doctor.check_devices([], None), "ok", "rating needs none"),
        (doctor.check_threads(2, 2, 1.0), "ok", "2 of 2"),
        (doctor.check_threads(8, 2, 1.0), "advice", "OMP_NUM_THREADS=2"),
        (doctor.check_threads(2, 2, 3.1), "advice", "busy"),
        (doctor.check_threads(2, 2, None), "ok", "2 of 2"),
        (doctor.check_pack("art", None, "1.0.0"), "ok", "1.0.0"),
        (doctor.check_pack("art", "generator.onnx was altered", ""), "problem", "altered"),
        (doctor.check_speed(FAST, "CPUExecutionProvider", 2, 2, 0.1), "ok", "55 ms from an answer"),
        (doctor.check_keyring("macOS Keyring", True, False), "ok", "macOS"),
        (doctor.check_keyring("fail", False, False), "advice", "PLGL_PASSPHRASE"),
        (doctor.check_keyring("PlaintextKeyring", True, True), "advice", "plain text"),
        (doctor.check_disk(5 * GIB, "f"), "ok", "5.0 GiB"),
        (doctor.check_disk(GIB // 10, "f"), "advice", "before it is full"),
        (doctor.check_disk(1000, "f"), "problem", "cannot be kept"),
        (doctor.check_memory(8 * GIB), "ok", "8.0 GiB"),
        (doctor.check_memory(None), "ok", "unknown"),
        (doctor.check_memory(GIB // 2), "advice", "smaller chunks"),
        (doctor.check_memory(8 * GIB, GIB // 2), "advice", "torch.utils.checkpoint"),
        (doctor.check_loopback(None, 0), "ok", "nobody else"),
        (doctor.check_loopback("in use", 8000), "problem", "--port 0"),
        (doctor.check_browser("firefox"), "ok", "firefox"),
        (doctor.check_browser(None), "advice", "--terminal"),
        (doctor.check_terminal("24-bit"), "ok", "24-bit"),
        (doctor.check_terminal(None), "ok", "files"),
        (doctor.check_telemetry(OFF), "ok", "off"),
        (doctor.check_telemetry({**OFF, "FLWR_TELEMETRY_ENABLED": "1"}), "advice", "set FLWR_TELEMETRY_ENABLED=0"),
        (doctor.check_store_file("p", None, None, False), "ok", "none yet"),
        (doctor.check_store_file("p", "keyring", None, False, 1 << 20), "ok", "1.0 MiB, opened by keyring"),
        (doctor.check_store_file("p", "passphrase", None, False, 1, True), "advice", "chmod 600"),
        (doctor.check_store_file("p", None, "process 7", True), "ok", "process 7"),
        (doctor.check_store_file("p", None, "no header", False), "problem", "backup"),
        (doctor.check_store_health(HEALTH), "ok", "every row verified"),
        (doctor.check_store_health({**HEALTH, "wal_bytes": 1 << 27}), "advice", "128 MiB wait"),
        (doctor.check_store_health({**HEALTH, "integrity": False, "problem": "row 3"}), "problem", "row 3"),
        (doctor.check_locked(), "ok", "--store"),
        (doctor.check_learning(known()), "ok", "70%"),
        (doctor.check_learning(known(answers=5, held_out_accuracy=None)), "ok", "are needed"),
        (doctor.check_learning(known(held_out_accuracy=0.52)), "advice", "does not converge"),
        (doctor.check_contradictions(known()), "ok", "no answer"),
        (doctor.check_diversity(0.8), "ok", "80%"),
        (doctor.check_diversity(0.1), "advice", "--surprise"),
        (doctor.check_diversity(None), "ok", "too few"),
    ],
)
def test_every_verdict_names_what_was_seen_and_what_to_do(check: Check, state: str, words: str) -> None:
    assert check.state == state
    assert words in f"{check.seen}; {check.next}"
    assert state == "ok" or check.next


@pytest.mark.parametrize(
    ("speed", "provider", "threads", "load", "words"),
    [
        (Speed(picture=90, update_20=5, update_100=9, proposal=9), "CPU", 2, 0.1, "drawing takes 91%"),
        (Speed(picture=90, update_20=5, update_100=9, proposal=9), "CPU", 2, 9.0, "other programs"),
        (Speed(picture=9, update_20=5, update_100=400, proposal=9), "CPU", 16, 0.1, "OMP_NUM_THREADS=2"),
        (Speed(picture=9, update_20=5, update_100=400, proposal=9), "CPU", 2, None, "--model bayes"),
        (Speed(picture=90, update_20=5, update_100=9, proposal=9), "CUDA", 2, 0.1, "generator is large"),
        (Speed(picture=9, update_20=5, update_100=9, proposal=300), "CPU", 2, 0.1, "choosing takes"),
    ],
)
def test_what_is_slow_is_named_with_the_reason(
    speed: Speed, provider: str, threads: int, load: float | None, words: str
) -> None:
    check = doctor.check_speed(speed, f"{provider}ExecutionProvider", threads, 2, load)
    assert check.state == "advice"
    assert words in check.next


def look(tmp_path: Path, **changes: Any) -> doctor_facts.Look:
    return doctor_facts.Look(**{"store": tmp_path / "mine.plgl", "measure": False, **changes})


def seen(look: doctor_facts.Look) -> dict[str, Check]:
    checks = list(doctor_facts.examine(look, os.environ))
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def test_this_machine_is_looked_at_without_making_or_opening_anything(tmp_path: Path) -> None:
    checks = seen(look(tmp_path))
    assert "torch" in checks["packages"].seen
    assert checks["packages"].state == checks["pack art"].state == checks["page"].state == "ok"
    assert "none yet" in checks["store"].seen
    assert "stays locked" in checks["your answers"].seen
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_pack_is_a_problem_and_the_rest_is_still_looked_at(tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(PACKS / "art", pack)
    content = bytearray((pack / "generator.onnx").read_bytes())
    content[100] ^= 1
    (pack / "generator.onnx").write_bytes(content)
    checks = seen(look(tmp_path, generator=str(pack), measure=True))
    assert checks[f"pack {pack}"].state == "problem"
    assert checks["pack art"].state == "ok"
    assert "none active" in checks["ONNX Runtime"].seen
    assert "speed" not in checks


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of somebody who likes the left one and then the right one of the same two, again and again."""
    path = tmp_path / "mine.plgl"
    with Session.open("art", store=Store.open(path, passphrase="p", cost=QUICK), seed=0) as session:
        a, b, c = session.propose(3)
        for first, second in ((a, b), (b, c), (c, a)):
            session.rate(Choice(first, second, "a"))
    return path


def test_a_locked_store_is_only_looked_at_from_outside(tmp_path: Path, store: Path) -> None:
    checks = seen(look(tmp_path))
    assert "opened by passphrase; not unlocked" in checks["store"].seen
    store.chmod(0o644)
    assert seen(look(tmp_path))["store"].state == ("advice" if os.name == "posix" else "ok")


def test_an_open_store_is_verified_and_its_answers_are_looked_at(tmp_path: Path, store: Path) -> None:
    before = store.read_bytes()
    checks = seen(look(tmp_path, unlock=True, passphrase="p"))
    assert "every row verified" in checks["store"].seen
    assert "6 rows" in checks["store"].seen
    assert checks["agreement"].state == "advice"
    assert "contradict" in checks["agreement"].seen
    assert "3 answers" in checks["learning"].seen
    assert "too few" in checks["diversity"].seen
    assert store.read_bytes() == before


def test_a_wrong_passphrase_an_altered_store_and_one_in_use_are_told_apart(tmp_path: Path, store: Path) -> None:
    assert "passphrase is wrong" in seen(look(tmp_path, unlock=True, passphrase="q"))["store"].seen
    with Store.open(store, passphrase="p"):
        for unlock in (True, False):
            check = seen(look(tmp_path, unlock=unlock, passphrase="p"))["store"]
            assert check.state == "ok"
            assert "in use now" in check.seen
    store.write_bytes(b"nothing of the kind" * 1000)
    for unlock in (True, False):
        assert seen(look(tmp_path, unlock=unlock, passphrase="p"))["store"].state == "problem"


def test_answers_about_another_pack_are_no_end(tmp_path: Path) -> None:
    with Store.open(tmp_path / "mine.plgl", passphrase="p", cost=QUICK) as store:
        store.append([Event("item", {"item": 0, "pack": "0" * 64, "profile": "me"}, torch.zeros(24))])
    check = seen(look(tmp_path, unlock=True, passphrase="p"))["learning"]
    assert check.state == "advice"
    assert "another generator pack" in check.seen


def test_spread_is_one_for_random_questions_and_nothing_for_the_same_ones() -> None:
    with Session.open("art", seed=0) as session:
        assert doctor_facts.spread(session) is None
        latents = session.pack.latents.sample(40, torch.Generator().manual_seed(3))
        items = session.items_at(latents)
        for a, b in zip(items[::2], items[1::2], strict=True):
            session.rate(Choice(a, b, "a"))
        random = doctor_facts.spread(session)
        assert random is not None
        assert 0.8 < random < 1.2
        session.use(profile="other")
        alike = session.items_at(session.pack.latents.project(latents[:1] + 0.02 * latents))
        for a, b in zip(alike[::2], alike[1::2], strict=True):
            session.rate(Choice(a, b, "a"))
        found = doctor_facts.spread(session)
        assert found is not None
        assert found < 0.1


def test_speed_is_measured_on_real_answers() -> None:
    speed = doctor_facts.measure_speed(GeneratorPack.open("art"))
    assert 0.1 < speed.picture < 5000
    assert min(speed.update_20, speed.update_100, speed.proposal) > 0.1
    assert speed.answer == speed.update_100 + speed.proposal + 2 * speed.picture


def test_free_memory_is_read_where_the_system_tells_it(tmp_path: Path) -> None:
    told = tmp_path / "meminfo"
    told.write_text("MemTotal:       100 kB\nMemAvailable:    42 kB\n")
    assert doctor_facts.free_memory(told) == 42 * 1024
    told.write_text("MemTotal:       100 kB\n")
    assert doctor_facts.free_memory(told) is None
    assert doctor_facts.free_memory(tmp_path / "none") is None


# -- the command


def test_with_json_it_prints_every_check_and_ends_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--quick", "--json"], DOCTOR) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert err == ""
    assert told["success"] is True
    assert all(set(check) == {"name", "state", "seen", "next"} for check in told["checks"])
    assert "speed" not in {check["name"] for check in told["checks"]}


def test_a_problem_ends_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["doctor", "--quick", "--json", "--port", str(port)], DOCTOR) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["success"] is False
    assert [check["name"] for check in told["checks"] if check["state"] == "problem"] == ["page"]


def test_the_table_fits_80_columns_and_needs_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    long = "/home/somebody/with/a/very/long/path/" + "x" * 90
    checks = [
        Check(name="store", state="problem", seen=f"{long} [red]", next="take a backup"),
        Check(name="ONNX Runtime", state="advice", seen="CPU active, though there is a GPU", next="install it"),
        Check(name="disk", state="ok", seen="fine"),
    ]
    report(Console(width=80, color_system=None), checks)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert all(word in out for word in ("✗ problem", "! advice", "✓ ok", "[red]", "→ take a backup"))
    assert "1 of 3 checks found a problem" in out
    assert long in "".join(part.strip() for part in out.split("\n"))
