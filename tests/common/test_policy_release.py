"""Published population policies: signed, complete, and believed no more than their terms allow."""

import base64
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch
import torch

from common.errors import ReleaseError, SignatureError
from common.policy_release import PolicyRelease
from common.population_policy import PopulationPolicy
from common.privacy.promise import statement_of
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from common.release import check_fresh, check_terms
from common.signing import SigningKey, read_document, sign_document
from common.terms import Terms, Trust

KEY, OTHER = SigningKey.from_bytes(bytes(range(32))), SigningKey.from_bytes(bytes(range(1, 33)))
TERMS = Terms(
    federation="a" * 32,
    name="test",
    pack="c" * 64,
    components=4,
    settings=PrivacySettings(epsilon=2.0),
    trust=Trust.CENTRAL,
    honest_people=50,
)
POLICY = PopulationPolicy(
    weights={"last.weight": torch.arange(6.0).view(2, 3)},
    size={"dimension": 4},
    pack=TERMS.pack,
    privacy=statement_of(TERMS, 1),
    rounds=1,
)


def release(**change: Any) -> PolicyRelease:
    usual = {"terms": TERMS, "version": 1, "policy": POLICY, "created": 100, "expires": 900}
    return PolicyRelease(**{**usual, **change})


def test_what_was_signed_is_read_again() -> None:
    found = PolicyRelease.from_bytes(release().to_bytes(KEY), KEY.public)
    assert (found.terms, found.version, found.created, found.expires) == (TERMS, 1, 100, 900)
    assert torch.equal(found.policy.weights["last.weight"], POLICY.weights["last.weight"])
    assert (found.policy.size, found.policy.privacy, found.policy.rounds) == (POLICY.size, POLICY.privacy, 1)
    assert release().to_bytes(KEY) == release().to_bytes(KEY)
    check_terms(found, TERMS)
    check_fresh(found, 500)
    with pytest.raises(ReleaseError, match="expired"):
        check_fresh(found, 900)


@pytest.mark.parametrize("spoil", ["key", "byte", "purpose", "unsigned"])
def test_what_is_not_signed_with_the_pinned_key_for_this_purpose_is_not_looked_at(spoil: str) -> None:
    raw = release().to_bytes(KEY)
    content = read_document(raw, KEY.public, "policy")
    broken = {
        "key": release().to_bytes(OTHER),
        "byte": raw.replace(b'"version":1', b'"version":2'),
        "purpose": sign_document(content, KEY, "release"),
        "unsigned": json.dumps(content).encode(),
    }[spoil]
    with pytest.raises(SignatureError):
        PolicyRelease.from_bytes(broken, KEY.public)


def _too_private(content: dict[str, Any]) -> None:
    content["privacy"]["epsilon"] = 0.01


def _too_little(content: dict[str, Any]) -> None:
    content["privacy"]["epsilon"] = 9.0


def _public(content: dict[str, Any]) -> None:
    content["privacy"] = PrivacyStatement.public().to_json()


def _unfinished(content: dict[str, Any]) -> None:
    weights = {"last.weight": torch.full((2, 3), torch.nan)}
    content["tensors"] = base64.b64encode(safetensors.torch.save(weights)).decode()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda c: c.update(format="plgl-policy-release-9"), "install a newer plgl"),
        (lambda c: c.update(extra=1), "missing or unknown fields"),
        (lambda c: c.update(version=0), "version=0"),
        (lambda c: c.update(version=True), "version=True"),
        (lambda c: c.update(expires=100), "must expire after it was made"),
        (lambda c: c.update(rounds=0), "at least one round"),
        (lambda c: c.update(size={"dimension": 4.5}), "whole numbers"),
        (lambda c: c.update(size=7), "a field has another form"),
        (lambda c: c.update(tensors="!"), "another form"),
        (lambda c: c.update(tensors=base64.b64encode(b"x" * 40).decode()), "cannot be read"),
        (lambda c: c.update(tensors=[1]), "must be text"),
        (_unfinished, "NaN or infinite"),
        (_too_private, "does not give the epsilon"),
        (_too_little, "the terms promised"),
        (_public, "in the privacy statement has another form"),
    ],
    ids=range(15),
)
def test_signed_nonsense_is_refused(spoil: Callable[[dict[str, Any]], None], why: str) -> None:
    content = read_document(release().to_bytes(KEY), KEY.public, "policy")
    spoil(content)
    with pytest.raises(ReleaseError, match=why):
        PolicyRelease.from_bytes(sign_document(content, KEY, "policy"), KEY.public)


def test_a_policy_of_another_generator_is_none_of_the_federations() -> None:
    with pytest.raises(ReleaseError, match="draws for pack 'dddd"):
        release(policy=dataclasses.replace(POLICY, pack="d" * 64))
