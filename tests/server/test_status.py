"""What the operator is told, and what the view keeps to itself."""

import json
from typing import Any

import pytest

from common.errors import LedgerError
from server.federation import Federation
from server.status import look, shown, status, summarise, troubles


@pytest.fixture(scope="module")
def federation(make_federation: Any) -> Any:
    def play(rounds: Any) -> None:
        rounds.release(dropped={"missing": 1, "refused": 1, "error": 1, "malformed": 2}, answered=22)
        rounds.fail(answered=13, debited=22)
        rounds.release(members=23, dropped={"budget spent": 1})

    return make_federation(play=play)


def test_a_round_says_who_was_asked_who_answered_and_what_broke_the_rules(federation: Federation, now: float) -> None:
    found = status(federation, now)
    first = found["rounds"][0]
    assert (found["rounds_done"], found["rounds_failed"]) == (2, 1)
    assert (first["asked"], first["answered"], first["rejected"]) == (24, 22, {"malformed": 2})
    assert (first["clip_fraction"], first["noise_std"], first["update_norm"]) == (0.3125, 0.75, 0.42)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_whether_somebody_paused_or_was_away_is_not_told(federation: Federation, now: float) -> None:
    found = status(federation, now)["rounds"]
    assert [entry["no_answer"] for entry in found] == [3, None, 1]
    text = json.dumps(found)
    assert "refused" not in text
    assert "budget spent" not in text


def test_nothing_in_a_round_below_the_minimum_gives_the_number_back(federation: Federation, now: float) -> None:
    failed = status(federation, now)["rounds"][1]
    assert failed["answered"] == "fewer than 20"
    assert (failed["no_answer"], failed["rejected"]) == (None, {})
    assert failed["reason"] == "fewer than 20 members take part, 20 are needed"
    assert (failed["clip_fraction"], failed["noise_std"], failed["update_norm"]) == (None, None, None)
    text = json.dumps({key: value for key, value in failed.items() if key != "times"})
    for told in ("13", "11", "0.777", "0.888", "0.999"):
        assert told not in text


@pytest.mark.parametrize("answered", range(20))
def test_every_number_below_the_minimum_looks_the_same(answered: int) -> None:
    assert shown(answered, 20) == "fewer than 20"
    assert shown(20, 20) == 20


def test_two_rounds_below_the_minimum_cannot_be_told_apart(make_federation: Any, now: float) -> None:
    views = []
    for answered in (0, 19):
        made = make_federation(members=0, play=lambda rounds, n=answered: rounds.fail(answered=n, dropped={"stale": n}))
        entry = status(made, now)["rounds"][0]
        entry.pop("times")
        views.append(entry)
    assert views[0] == views[1]


def test_epsilon_is_what_the_busiest_member_spent_and_ends_at_the_budget(make_federation: Any, now: float) -> None:
    spent, after = [], []
    for count in range(4):
        made = make_federation(members=0, participations=3, play=lambda r, n=count: [r.release() for _ in range(n)])
        privacy = status(made, now)["privacy"]
        spent.append(privacy["epsilon_spent"])
        after.append(privacy["epsilon_after_next_round"])
    assert spent[0] == 0
    assert spent == sorted(spent)
    assert after[:3] == spent[1:]
    assert after[3] is None
    assert spent[3] == pytest.approx(2.0, rel=1e-4)
    assert spent[3] <= 2.0


def test_releases_come_with_their_hash(federation: Federation, now: float) -> None:
    releases = status(federation, now)["releases"]
    assert [entry["version"] for entry in releases] == [1, 2]
    assert all(len(entry["sha256"]) == 64 for entry in releases)


def test_few_who_left_cannot_be_counted(make_federation: Any, now: float) -> None:
    made = make_federation(members=26)
    assert status(made, now)["members"] == {"active": 26, "revoked": "fewer than 20", "enrolled": "26 or more"}
    for member in (3, 4):
        made.book().revoke(member, "left")
    assert status(made, now)["members"] == {"active": 24, "revoked": "fewer than 20", "enrolled": "24 or more"}
    assert status(make_federation(members=3), now)["members"]["active"] == "fewer than 20"


def test_it_says_why_no_round_is_possible(make_federation: Any, federation: Federation, now: float) -> None:
    assert troubles(look(federation, now)) == []
    few = make_federation(members=3, play=lambda rounds: rounds.fail(answered=3))
    assert [line.split(" ")[0] for line in troubles(look(few, now))] == ["fewer", "the"]
    assert "3" not in "".join(troubles(look(few, now)))
    spent = make_federation(participations=1, play=lambda rounds: rounds.release(members=22))
    assert "budget is spent" in troubles(look(spent, now))[0]
    late = look(federation, now + 400 * 86_400)
    assert "active" in troubles(late)[0]
    assert summarise(late)["members"]["active"] == "fewer than 20"


def test_a_damaged_journal_gives_no_status(make_federation: Any, now: float) -> None:
    made = make_federation(members=0, play=lambda rounds: rounds.release())
    raw = bytearray(made.journal.read_bytes())
    place = raw.index(b"clip_fraction")
    raw[place : place + 4] = b"CLIP"
    made.journal.write_bytes(raw)
    with pytest.raises(LedgerError):
        status(made, now)
