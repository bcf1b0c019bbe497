"""The audit log: what it keeps, what it leaves out, and that nobody changes it unseen."""

import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import LedgerError, SettingError
from server.audit import Audit, Event


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def written(path: Path) -> Audit:
    audit = Audit(path)
    for member in range(1, 6):
        audit.record(Event.ENROLLED, member=member)
    return audit


def test_lines_are_chained_numbered_and_for_the_operator_only(path: Path) -> None:
    audit = written(path)
    assert audit.verify() == 5
    assert [line.body["member"] for line in audit.tail(2)] == [5, 4]
    lines = [json.loads(raw) for raw in path.read_bytes().splitlines()]
    assert [line["previous"] for line in lines] == ["0" * 64, *(line["hash"] for line in lines[:-1])]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(path.with_name("audit.head").stat().st_mode) == 0o600


def test_a_log_nobody_began_is_empty(path: Path) -> None:
    assert Audit(path).verify() == 0
    assert Audit(path).tail(3) == []
    assert not path.exists()


def cut_a_line(raw: bytes) -> bytes:
    lines = raw.splitlines(keepends=True)
    return b"".join(lines[:2] + lines[3:])


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw.replace(b'"member":3', b'"member":9'),
        lambda raw: raw[:-10],
        lambda raw: raw[: raw.rstrip(b"\n").rfind(b"\n") + 1],
        lambda raw: b"",
        cut_a_line,
        lambda raw: b"".join(reversed(raw.splitlines(keepends=True))),
        lambda raw: raw + b"{}\n",
        lambda raw: raw + b"[" * 7000 + b"\n",
        lambda raw: raw.replace(b'"kind"', b'"kind" ', 1),
    ],
    ids=["altered", "torn", "last line cut", "emptied", "line missing", "reordered", "appended", "deep", "spaced"],
)
def test_damage_is_reported_and_never_repaired_in_silence(path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    audit = written(path)
    raw = damage(path.read_bytes())
    path.write_bytes(raw)
    with pytest.raises(LedgerError, match="damaged"):
        audit.verify()
    assert path.read_bytes() == raw


@pytest.mark.parametrize("damage", [lambda raw: raw[:-10], lambda raw: b"", lambda raw: raw + b"{}\n"])
def test_a_damaged_end_is_not_continued(path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    audit = written(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LedgerError, match="damaged"):
        audit.record(Event.UP)
    with pytest.raises(LedgerError, match="damaged"):
        Audit(path).refused("rate limit")


def test_a_log_that_vanished_is_damage_too(path: Path) -> None:
    audit = written(path)
    path.unlink()
    with pytest.raises(LedgerError):
        audit.verify()
    with pytest.raises(LedgerError):
        audit.record(Event.UP)


def test_a_crash_between_line_and_head_is_not_damage(path: Path) -> None:
    audit = written(path)
    head = path.with_name("audit.head").read_bytes()
    audit.record(Event.UP)
    path.with_name("audit.head").write_bytes(head)
    assert Audit(path).verify() == 6
    assert Audit(path).record(Event.DOWN).number == 7
    assert audit.verify() == 7


def test_a_damaged_log_is_put_aside_on_request_and_named_in_the_new_one(path: Path) -> None:
    audit = written(path)
    assert audit.continue_after_damage() is None
    path.write_bytes(path.read_bytes()[:-10])
    torn = path.read_bytes()
    aside = audit.continue_after_damage()
    assert aside is not None
    assert aside.read_bytes() == torn
    (line,) = audit.tail(5)
    assert line.kind == Event.CONTINUED
    assert aside.name.endswith(line.body["sha256"])


def append(path: Path, who: int) -> None:
    audit = Audit(path)
    for number in range(20):
        audit.record(Event.ENROLLED, who=who, number=number)


def test_two_processes_append_to_one_chain(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=append, args=(path, who)) for who in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    lines = list(Audit(path).lines())
    for who in range(2):
        assert [line.body["number"] for line in lines if line.body["who"] == who] == list(range(20))


def test_a_flood_of_refusals_is_one_line_a_minute(path: Path) -> None:
    clock = Clock()
    audit = Audit(path, clock=clock)
    for second in range(120):
        clock.now = 1_000.0 + second
        for _ in range(100):
            audit.refused("rate limit")
    audit.flush()
    audit.flush()
    lines = list(audit.lines())
    assert len(lines) == 3
    assert sum(line.body["counts"]["rate limit"] for line in lines) == 12_000


def test_invented_reasons_cannot_make_a_line_long(path: Path) -> None:
    audit = Audit(path, clock=Clock())
    for number in range(10_000):
        audit.refused(f"reason {number} " + "x " * 500)
    audit.flush()
    assert path.stat().st_size < 8_192
    assert sum(sum(line.body["counts"].values()) for line in audit.lines()) == 10_000


def test_no_key_token_or_whole_address_is_written_down(path: Path) -> None:
    token, key = "kR3vJx0mT2pQ9sLwZy8uBn4cVf6hGd1aEiOoPp5kMnQ", os.urandom(32).hex()
    audit = Audit(path)
    audit.record(
        Event.INVITED,
        token=token,
        text=f"from 203.0.113.77:5123 with {key}",
        more=["2001:db8:1:2::42", {"198.51.100.4": "::1 fe80::1:2:3:4"}],
    )
    raw = path.read_text()
    for secret in (token, key, "113.77", "100.4", "1:2::42", "2:3:4"):
        assert secret not in raw
    assert "203.0.0.0/16" in raw
    assert "2001:db8::/32" in raw


@settings(deadline=None, max_examples=60)
@given(value=st.text(max_size=400))
def test_any_text_is_written_and_read_back(value: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    line = Audit(path).record(Event.UP, text=value)
    assert Audit(path).tail(1) == [line]
    assert len(line.body["text"]) <= 200


def test_what_is_no_plain_value_is_refused(path: Path) -> None:
    with pytest.raises(SettingError, match="bytes"):
        Audit(path).record(Event.UP, key=b"secret")
    with pytest.raises(SettingError, match="say less"):
        Audit(path).record(Event.UP, many=[0] * 9_000)
    assert Audit(path).verify() == 0
