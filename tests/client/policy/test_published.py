"""Everybody's policy on a device: what is published is believed only as far as it is signed and new."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from client.generators.pack import GeneratorPack
from client.ledger import Ledger
from client.policy import published as module
from client.policy.flow import FlowSettings, LatentPolicy
from client.policy.learner import LearnSettings
from client.policy.population import PopulationSettings, publish
from client.policy.published import open_population, published, take_up
from common.errors import PriorError, ReleaseError, SignatureError
from common.policy_release import PolicyRelease
from common.prior import PopulationPrior
from common.privacy.promise import statement_of
from common.privacy.settings import PrivacySettings
from common.signing import SigningKey, read_document, sign_document
from common.terms import Terms, Trust

KEY, OTHER = SigningKey.from_bytes(bytes(range(32))), SigningKey.from_bytes(bytes(range(1, 33)))
NOW = 1000.0


@pytest.fixture(scope="module")
def pack() -> GeneratorPack:
    return GeneratorPack.open("art")


@pytest.fixture(scope="module")
def terms(pack: GeneratorPack) -> Terms:
    settings = PrivacySettings(epsilon=2.0)
    return Terms(
        federation="a" * 32, name="club", pack=pack.hash, components=4, settings=settings, trust=Trust.CENTRAL,
        honest_people=50,
    )  # fmt: skip


@pytest.fixture(scope="module")
def signed(pack: GeneratorPack, terms: Terms) -> Callable[..., bytes]:
    """A published policy; its version, key and dates as they are said."""
    policy = LatentPolicy(FlowSettings(dimension=pack.latents.dimension, couplings=2, width=4))
    made = publish(policy, pack, statement_of(terms, 1), 1)

    def sign(version: int = 1, key: SigningKey = KEY, **change: Any) -> bytes:
        usual = {"terms": terms, "policy": made, "created": int(NOW) - 10, "expires": int(NOW) + 900}
        return PolicyRelease(version=version, **{**usual, **change}).to_bytes(key)

    return sign


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(tmp_path / "ledger.db", create=True)


Take = Callable[[bytes], PolicyRelease]


@pytest.fixture
def take(terms: Terms, ledger: Ledger) -> Take:
    return lambda raw: take_up(raw, release_key=KEY.public, terms=terms, ledger=ledger, now=NOW)


def refusals(take: Take, signed: Callable[..., bytes], terms: Terms) -> None:
    """What every device must do; `BROKEN` devices fail it."""
    assert take(signed(3)).version == 3
    with pytest.raises(SignatureError):
        take(signed(4, OTHER))
    content = read_document(signed(4), KEY.public, "policy")
    with pytest.raises(SignatureError):
        take(sign_document(content, KEY, "release"))
    with pytest.raises(ReleaseError, match="policy 2 is older than policy 3, which was seen before; fetch the newest"):
        take(signed(2))
    with pytest.raises(ReleaseError, match="two different"):
        take(signed(3, created=int(NOW) - 11))
    with pytest.raises(ReleaseError, match="expired"):
        take(signed(4, expires=int(NOW) - 1))
    with pytest.raises(ReleaseError, match="another federation"):
        take(signed(4, terms=dataclasses.replace(terms, federation="b" * 32)))
    assert take(signed(3)).version == 3
    assert take(signed(4)).version == 4


def test_only_what_is_signed_of_this_federation_fresh_and_not_older_is_taken_up(
    take: Take, signed: Callable[..., bytes], terms: Terms, ledger: Ledger
) -> None:
    refusals(take, signed, terms)
    assert ledger.highest_version(terms.federation) == 0  # priors are counted apart


def _any_key(patch: pytest.MonkeyPatch) -> None:
    """A device that reads what anybody signed, or nobody."""

    def believing(raw: bytes, public: bytes, purpose: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(raw)["content"]
        return content

    patch.setattr("common.release.read_document", believing)


def _no_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "saw_version", lambda *_: None)


def _no_clock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, "check_fresh", lambda *_: None)


def _no_terms(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, "check_terms", lambda *_: None)


BROKEN = {"key": _any_key, "memory": _no_memory, "clock": _no_clock, "terms": _no_terms}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_device_that_lacks_one_of_these_checks_is_caught(
    broken: str, take: Take, signed: Callable[..., bytes], terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    BROKEN[broken](monkeypatch)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        refusals(take, signed, terms)


def member(terms: Terms, ledger: Ledger, key: SigningKey = KEY) -> Any:
    return SimpleNamespace(invite=SimpleNamespace(release_key=key.public), terms=terms, ledger=lambda: ledger)


def test_a_file_is_checked_with_the_keys_of_the_federations_somebody_is_in(
    terms: Terms, ledger: Ledger, signed: Callable[..., bytes]
) -> None:
    stranger = member(terms, ledger, OTHER)
    assert published(signed(), [stranger, member(terms, ledger)], NOW).version == 1
    with pytest.raises(SignatureError, match="is not signed by"):
        published(signed(), [stranger], NOW)
    with pytest.raises(SignatureError, match="join it first"):
        published(signed(), [], NOW)


def test_a_file_a_folder_and_a_prior_become_the_policy_of_a_session(
    terms: Terms, ledger: Ledger, signed: Callable[..., bytes], pack: GeneratorPack, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "memberships", lambda root: [member(terms, ledger)])
    file, now = tmp_path / "policy.json", int(time.time())
    file.write_bytes(signed(1, created=now, expires=now + 90))
    found, about = open_population(file, pack)
    assert about.startswith("policy 1 of club, signed; ")
    found.save(tmp_path / "folder")
    again, told = open_population(tmp_path / "folder", pack)
    assert again.digest == found.digest
    assert told.startswith("nobody signed it")
    flat = PopulationPrior.flat(3, pack.hash)
    dataclasses.replace(flat, mean=torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)).save(tmp_path / "prior")
    quick = PopulationSettings(couplings=2, width=4, warm=0, learn=LearnSettings(rounds=1, steps=1, batch=16, groups=4))
    made, said = open_population(tmp_path / "prior", pack, quick)
    assert made.pack == pack.hash
    assert said.startswith("made here of a prior; ")
    file.write_bytes(b"torn")
    with pytest.raises(SignatureError, match="no signed policy"):
        open_population(file, pack)
    other = dataclasses.replace(terms, pack="c" * 64)
    monkeypatch.setattr(module, "memberships", lambda root: [member(other, ledger)])
    policy = dataclasses.replace(found, pack="c" * 64)
    file.write_bytes(signed(2, terms=other, policy=policy, created=now, expires=now + 90))
    with pytest.raises(PriorError, match="another generator than art"):
        open_population(file, pack)
