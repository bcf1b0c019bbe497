"""``plgl sharing`` as somebody types it, and the line about it where people rate."""

import json
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from client.generators.pack import GeneratorPack
from client.membership import memberships, record_verdict, verdicts
from client.policy.flow import FlowSettings, LatentPolicy
from client.policy.population import publish
from client.policy.published import open_population
from client.releases import Verdict
from common.cli import GROUP, run
from common.policy_release import PolicyRelease
from common.prior import PopulationPrior
from common.privacy.promise import statement_of
from common.release import Release
from common.signing import SigningKey


def test_sharing_is_shown_paused_resumed_and_ended(operator: Any, plgl: Any, home: Path, store: Path) -> None:
    assert "you share nothing" in plgl("sharing", "show")[1]
    assert json.loads(plgl("sharing", "show", "--json")[1]) == {"success": True, "memberships": []}
    plgl("join", operator.invite().to_text(), "--no-start", "--yes")
    (member,) = memberships(home)
    with member.ledger() as ledger:
        ledger.charge(federation=member.terms.federation, session="s", round=7, limit=4)
    code, out, _ = plgl("sharing", "show")
    assert code == 0
    for words in ("Test people, member 1", "not running", "round 7", "1 of at most 4", "the vector begins"):
        assert words in out, words
    out = plgl("sharing", "show", passphrase=None)[1]
    assert "could not be read now" in out
    assert "no example" in out
    told = json.loads(plgl("sharing", "show", "--json")[1])["memberships"][0]
    assert (told["running"], told["paused"], told["preview"]["answers"]) == (False, False, 6)
    assert 0 < told["preview"]["epsilon"] < told["preview"]["epsilon-after-next-round"] < 1
    assert "paused: nothing is sent" in plgl("sharing", "pause")[1]
    assert "paused: nothing is sent until you resume" in plgl("sharing", "show")[1]
    assert json.loads(plgl("sharing", "resume", "--json")[1])["paused"] is False
    before = store.read_bytes()
    code, _, err = plgl("sharing", "leave", answer="n\n")
    assert (code, "still a member" in err, len(memberships(home))) == (1, True, 1)
    assert plgl("sharing", "leave", "--json")[0] == 1
    code, out, _ = plgl("sharing", "leave", answer="y\n")
    assert code == 0
    for words in ("keys are destroyed", "cannot forget what was added", "cannot spend it twice"):
        assert words in out, words
    assert operator.left == [1]
    assert store.read_bytes() == before
    assert "no membership here" in plgl("sharing", "pause")[2]


def test_leaving_offline_is_said(operator: Any, plgl: Any, home: Path) -> None:
    plgl("join", operator.invite().to_text(), "--no-start", "--yes")
    operator.leaving = JSONResponse({"error-message": "closed"}, 500)
    told = json.loads(plgl("sharing", "leave", "--yes", "--json")[1])
    assert (told["success"], told["told"]) == (True, False)
    assert memberships(home) == []


def released(operator: Any, version: int = 1, **changes: Any) -> bytes:
    """A release of an operator: what somebody knows who knows nobody, after a round."""
    terms, now = operator.terms, int(time.time())
    prior = PopulationPrior.flat(terms.parameters, terms.pack)
    values = {name: getattr(prior, name) for name in ("mean", "covariance", "thresholds")}
    learned = PopulationPrior(**values, pack=terms.pack, privacy=statement_of(terms, version), rounds=version)
    release = Release(
        terms=terms,
        version=version,
        round=version,
        prior=learned,
        created=now,
        expires=now + 3600,
        previous="" if version == 1 else "a" * 64,
    )
    return release.to_bytes(changes.get("key", operator.release_key))


def published(operator: Any, version: int, key: SigningKey | None = None) -> bytes:
    """Everybody's policy, which draws what the generator draws."""
    pack, now = GeneratorPack.open("art"), int(time.time())
    policy = LatentPolicy(FlowSettings(dimension=pack.latents.dimension, couplings=2, width=4))
    made = publish(policy, pack, statement_of(operator.terms, 1), 1)
    release = PolicyRelease(terms=operator.terms, version=version, policy=made, created=now, expires=now + 900)
    return release.to_bytes(key or operator.release_key)


def test_everybodys_policy_is_fetched_checked_and_begins_a_stream(
    operator: Any, plgl: Any, home: Path, tmp_path: Path
) -> None:
    plgl("join", operator.invite().to_text(), "--no-start", "--yes")
    file = tmp_path / "everybody.json"
    code, _, said = plgl("sharing", "policy", "--save", str(file))
    assert (code, file.exists()) == (1, False)
    assert "published no policy yet" in said
    operator.policy = published(operator, 2)
    code, out, _ = plgl("sharing", "policy", "--save", str(file))
    assert code == 0
    assert "policy 2 of" in out
    found, about = open_population(file, GeneratorPack.open("art"), root=home)
    assert found.rounds == 1
    assert "signed" in about
    before = file.read_bytes()
    for wrong, why in (
        (published(operator, 1), "older"),
        (published(operator, 3, SigningKey.generate()), "not signed"),
    ):
        operator.policy = wrong
        code, _, said = plgl("sharing", "policy", "--save", str(file))
        assert code == 1
        assert why in " ".join(said.split())
        assert file.read_bytes() == before


def test_releases_are_fetched_judged_shown_and_saved(operator: Any, plgl: Any, home: Path, tmp_path: Path) -> None:
    from client.agent import Agent
    from common.signing import SigningKey

    plgl("join", operator.invite().to_text(), "--no-start", "--yes")
    (member,) = memberships(home)
    assert "no release is in use" in plgl("sharing", "releases")[1]
    assert "there is nothing to save yet" in plgl("sharing", "releases", "--save", str(tmp_path / "prior"))[2]
    agent = Agent(member, passphrase="a long one")
    agent._look_for_release()
    assert verdicts(member) == []
    operator.release = released(operator)
    for _ in range(2):  # the same bytes are judged once
        agent._look_for_release()
    operator.release = released(operator, 2, key=SigningKey.generate())
    agent._look_for_release()
    assert [each["accepted"] for each in verdicts(member)] == [True, False]
    code, out, _ = plgl("sharing", "releases", "--save", str(tmp_path / "prior"))
    assert code == 0
    for words in ("release 1 is in use", "taken up", "refused", "not signed by", "the first prior on this device"):
        assert words in out, words
    assert PopulationPrior.load(tmp_path / "prior").rounds == 1
    told = json.loads(plgl("sharing", "releases", "--json")[1])
    assert (told["in-use"]["version"], len(told["releases"])) == (1, 2)
    (shown,) = json.loads(plgl("sharing", "show", "--json")[1])["memberships"]
    assert shown["release"].startswith("a release was refused")
    member.pausing(True)
    operator.release = released(operator, 2)
    agent._look_for_release()  # nobody may read the answers now: later
    assert len(verdicts(member)) == 2
    member.pausing(False)
    agent._look_for_release()
    assert verdicts(member)[-1]["accepted"]


def test_only_so_many_verdicts_are_kept(operator: Any, plgl: Any, home: Path) -> None:
    plgl("join", operator.invite().to_text(), "--no-start", "--yes")
    (member,) = memberships(home)
    for number in range(105):
        record_verdict(member, Verdict(accepted=False, reason=f"number {number}"), 1.0)
    assert [each["reason"] for each in verdicts(member)] == [f"number {number}" for number in range(5, 105)]
    (member.folder / "releases" / "verdicts.json").write_text("[1]")
    assert verdicts(member) == []


def test_the_terminal_shows_the_state_of_sharing_among_its_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    answers = tmp_path / "answers.txt"
    answers.write_text("help quit\n")
    words = ["rate", "--terminal", "--in-memory", "--answers", str(answers), "--pictures", str(tmp_path / "pictures")]
    assert run(words, [EntryPoint("rate", "client.rate_cli:app", GROUP)]) == 0
    assert "sharing: off; you share nothing" in capsys.readouterr().out
