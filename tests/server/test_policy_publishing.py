"""The operator signs everybody's policy, and devices read it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from common.errors import PriorError, ReleaseError
from common.policy_release import PolicyRelease
from common.population_policy import PopulationPolicy
from common.privacy.promise import statement_of
from common.privacy.settings import PrivacySettings
from common.terms import Terms, Trust
from server.federation import Federation
from server.federation_cli import publish_policy as command
from server.policy_publishing import publish_policy

TERMS = Terms(
    federation="a" * 32, name="club", pack="c" * 64, components=4, settings=PrivacySettings(epsilon=2.0),
    trust=Trust.CENTRAL, honest_people=50,
)  # fmt: skip
POLICY = PopulationPolicy(
    weights={"weight": torch.ones(2, 2)}, size={"dimension": 4}, pack=TERMS.pack, privacy=statement_of(TERMS, 1),
    rounds=1,
)  # fmt: skip


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    made = Federation.create(tmp_path / "club", terms=TERMS, address="localhost:8443")
    (made.releases / "release-000001.json").write_bytes(b"{}")
    return made


def test_each_policy_is_the_next_version_and_signed_with_the_release_key(
    federation: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    POLICY.save(tmp_path / "policy")
    first, _ = publish_policy(federation, tmp_path / "policy", 1000.0)
    command(federation.folder, tmp_path / "policy", True)
    second = Path(json.loads(capsys.readouterr().out)["policy"])
    key = federation.key("release").public
    found = [PolicyRelease.from_bytes(path.read_bytes(), key) for path in (first, second)]
    assert [(each.version, each.terms) for each in found] == [(1, TERMS), (2, TERMS)]
    assert found[0].expires == 1000 + 90 * 86_400
    assert found[0].policy.digest == POLICY.digest


def test_a_policy_that_claims_too_much_or_came_before_any_release_is_not_signed(
    federation: Federation, tmp_path: Path
) -> None:
    boast = dataclasses.replace(POLICY.privacy, epsilon=0.01)
    dataclasses.replace(POLICY, privacy=boast).save(tmp_path / "boast")
    with pytest.raises(ReleaseError, match="does not give the epsilon"):
        publish_policy(federation, tmp_path / "boast")
    dataclasses.replace(POLICY, pack="d" * 64).save(tmp_path / "other")
    with pytest.raises(PriorError, match="draws for pack"):
        publish_policy(federation, tmp_path / "other")
    POLICY.save(tmp_path / "policy")
    (federation.releases / "release-000001.json").unlink()
    with pytest.raises(ReleaseError, match="no round gave a release yet"):
        publish_policy(federation, tmp_path / "policy")
    assert not list(federation.releases.iterdir())
