"""The server killed at any instant: nothing is spent that is not in the journal, and a release stays the same bytes.

``PLGL_KILLS=200`` kills it 200 times, 50 at each state, instead of 20 times.
"""

import hashlib
import os
import random
import signal
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest

from common.privacy.settings import PrivacySettings
from common.signing import SigningKey
from common.terms import Terms, Trust
from server.journal import Journal, State

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

KILLS = int(os.environ.get("PLGL_KILLS", "20"))
KEY = SigningKey.from_bytes(bytes(range(32)))
TERMS = Terms(
    federation="a" * 32,
    name="test",
    pack="c" * 64,
    components=3,
    settings=PrivacySettings(epsilon=2.0, participations=1_000),
    trust=Trust.CENTRAL,
    honest_people=50,
)


def serve(path: Path, say: int) -> None:
    """Rounds without end; says what was really done, right after the journal let it."""
    journal = Journal.open(path, KEY, TERMS)
    while True:
        number = journal.plan(session="s", start="x")
        os.write(say, b"planned %d -\n" % number)
        journal.debit(number, [number, number + 1])
        os.write(say, b"debited %d -\n" % number)  # members answer from here on
        content = os.urandom(20_000)  # noise: never the same twice
        journal.release(number, content, {"asked": 2})
        os.write(say, b"released %d %s\n" % (number, hashlib.sha256(content).hexdigest().encode()))
        journal.published(number)
        os.write(say, b"published %d -\n" % number)


def kill_after(path: Path, state: State, seconds: float) -> list[list[str]]:
    """What a server said that was killed some time after it said ``state`` for the first time."""
    hear, say = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child uses none of them
        child = os.fork()
    if child == 0:
        try:
            serve(path, say)
        finally:
            os._exit(1)
    os.close(say)
    heard = b""
    while state.encode() not in heard:
        heard += (more := os.read(hear, 4096))
        assert more, "the server ended by itself"
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    while more := os.read(hear, 4096):
        heard += more
    os.close(hear)
    return [line.split() for line in heard.decode().splitlines()]


@pytest.mark.parametrize("state", [State.PLANNED, State.DEBITED, State.RELEASED, State.PUBLISHED])
def test_a_killed_server_has_journaled_all_it_did(tmp_path: Path, state: State) -> None:
    path, chosen = tmp_path / "journal.db", random.Random(int.from_bytes(state.encode()[:4]))
    Journal.create(path, KEY, TERMS).close()
    owed, shown = Counter[int](), dict[int, str]()
    for _ in range(KILLS // 4):
        for what, round, digest in kill_after(path, state, chosen.random() * 0.004):
            if what == "debited":
                owed.update([int(round), int(round) + 1])
            elif what == "released":
                shown[int(round)] = digest
        with Journal.open(path, KEY, TERMS) as journal:  # verifies the whole chain
            assert all(journal.spent(member) >= spent for member, spent in owed.items())
            kept = {entry.number: entry for entry in journal.rounds()}
            for number, digest in shown.items():
                content = journal.release_content(kept[number].version or 0)
                assert content is not None
                assert hashlib.sha256(content).hexdigest() == digest
            for entry in journal.unfinished():  # as the coordinator recovers
                if entry.state is State.RELEASED:
                    shown[entry.number] = hashlib.sha256(journal.latest_release() or b"").hexdigest()
                    journal.published(entry.number)
                else:
                    journal.abort(entry.number, "killed")
    assert len(shown) >= KILLS // 8 or state in {State.PLANNED, State.DEBITED}
