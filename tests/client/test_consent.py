"""What a person is shown is what would be sent: the same numbers, noise and cost."""

import itertools
import math
from typing import Any

import pytest
import torch

from client.consent import Example, Preview, in_numbers, in_plain_words, starting_prior
from client.contribution import summand_of
from client.generators.pack import GeneratorPack
from client.journal import MemoryJournal
from client.likelihood import Evidence
from client.own_answers import evidence_in
from client.ratings import Best, Choice, Glance, Like, Stars
from client.session import Session
from common.privacy.fixed_point import SCALE
from common.privacy.promise import promise
from common.privacy.settings import PrivacySettings
from common.terms import Terms, Trust


@pytest.fixture(scope="module")
def pack() -> GeneratorPack:
    return GeneratorPack.open("art")


@pytest.fixture(scope="module")
def evidence(pack: GeneratorPack) -> Evidence:
    """One answer of each kind, and three more."""
    journal = MemoryJournal()
    session = Session(pack, journal, seed=0)
    for answer in ("a", "b", "both", "neither"):
        a, b = session.propose(2)
        session.rate(Choice(a, b, answer))
    one, two = session.propose(1) + session.propose(1)
    session.rate(Like(one, True))
    session.rate(Stars(two, 4))
    session.rate(Glance(two, 3.0))
    for worst in (False, True):
        session.rate(Best(session.propose(4), 2, worst))
    return evidence_in(journal, "me", pack, 8)


def terms(pack: GeneratorPack, **changes: Any) -> Terms:
    values: dict[str, Any] = {
        "federation": "0" * 32,
        "name": "Test people",
        "pack": pack.hash,
        "components": 8,
        "settings": PrivacySettings(minimum_people=20, expected_people=50),
        "honest_people": 10,
        "minimum_ratings": 5,
    }
    return Terms(**{**values, **changes})


def test_all_kinds_of_answers_are_evidence(evidence: Evidence, pack: GeneratorPack) -> None:
    assert evidence.features.shape == (1, 9, 4, 9)
    assert evidence.features.dtype == torch.float64
    assert sorted(evidence.kind[0].tolist()) == [0, 1, 1, 1, 1, 2, 3, 4, 5]
    assert evidence.answers == 9
    shown = evidence.features[0, :4, :2]
    assert bool((shown[..., -1] == 1).all())
    assert shown[..., :-1].abs().max() < 6  # standardised


def test_nobody_has_no_evidence(pack: GeneratorPack) -> None:
    nothing = evidence_in(MemoryJournal(), "me", pack, 8)
    assert (nothing.people, nothing.answers) == (1, 0)
    preview = Preview.of(terms(pack), evidence=nothing, prior=starting_prior(terms(pack), pack), spent=0, limit=4)
    assert preview.example is None
    assert not preview.enough


def test_the_example_is_the_vector_a_round_would_take(evidence: Evidence, pack: GeneratorPack) -> None:
    agreed = terms(pack)
    prior = starting_prior(agreed, pack)
    example = Example.of(evidence, prior, agreed)
    sent = summand_of(evidence, prior, agreed.settings.norm_bound)[0]
    assert all(abs(a - b) <= 1 / SCALE for a, b in zip(example.plain, sent.tolist(), strict=False))
    assert example.norm == pytest.approx(example.clipped)
    assert example.plain != example.noised


def test_a_long_vector_is_shown_before_and_after_clipping(evidence: Evidence, pack: GeneratorPack) -> None:
    agreed = terms(pack, settings=PrivacySettings(minimum_people=20, expected_people=50, norm_bound=0.5))
    example = Example.of(evidence, starting_prior(agreed, pack), agreed)
    assert example.norm > 0.6
    assert example.clipped == pytest.approx(0.5, rel=1e-6)


def test_the_noise_shown_is_the_noise_of_the_promise(evidence: Evidence, pack: GeneratorPack) -> None:
    agreed = terms(pack)
    preview = Preview.of(agreed, evidence=evidence, prior=starting_prior(agreed, pack), spent=0, limit=4)
    kept = promise(agreed)
    assert preview.own_noise == pytest.approx(math.sqrt(kept.share_variance) / SCALE)
    assert preview.total_noise == pytest.approx(math.sqrt(10) * preview.own_noise, rel=1e-4)
    draws = torch.tensor(
        [
            [n - p for n, p in zip(example.noised, example.plain, strict=True)]
            for example in (Example.of(evidence, starting_prior(agreed, pack), agreed) for _ in range(120))
        ]
    )
    assert 0.85 < float(draws.std()) / preview.own_noise < 1.15  # 720 draws: 5.7 standard errors


def test_epsilon_adds_up_to_what_was_agreed(pack: GeneratorPack) -> None:
    agreed = terms(pack)
    prior = starting_prior(agreed, pack)
    costs = [Preview.of(agreed, evidence=None, prior=prior, spent=spent, limit=4) for spent in range(5)]
    assert costs[0].epsilon_so_far == 0
    for before, after in itertools.pairwise(costs):
        assert before.epsilon_next == after.epsilon_so_far > before.epsilon_so_far
    assert costs[4].epsilon_next is None
    assert costs[4].epsilon_so_far == costs[0].epsilon_limit == pytest.approx(1.0, rel=1e-4)
    assert costs[4].epsilon_so_far <= 1.0
    fewer = Preview.of(agreed, evidence=None, prior=prior, spent=2, limit=2)
    assert fewer.epsilon_next is None
    assert fewer.epsilon_limit < 1.0
    assert Preview.of(agreed, evidence=None, prior=prior, spent=0, limit=99).limit == 4


@pytest.mark.parametrize("trust", list(Trust))
def test_each_kind_of_trust_is_said_as_it_is(evidence: Evidence, pack: GeneratorPack, trust: Trust) -> None:
    agreed = terms(pack, trust=trust, honest_people=10 if trust is Trust.DISTRIBUTED else 20)
    words = dict(in_plain_words(agreed, 4))
    who = {Trust.CENTRAL: "sees your vector as it is", Trust.DISTRIBUTED: "at least 10 members", Trust.LOCAL: "Nobody"}
    assert who[trust] in words["Who has to be trusted"]
    assert ("Masks" in words["What is sent"]) == (trust is Trust.DISTRIBUTED)
    preview = Preview.of(agreed, evidence=evidence, prior=starting_prior(agreed, pack), spent=0, limit=4)
    rows = dict(in_numbers(preview, agreed))
    assert preview.example is not None
    if trust is Trust.CENTRAL:
        assert preview.example.plain == preview.example.noised
        assert "the server adds it" in rows["Noise your device adds to each number"]
    else:
        assert preview.example.plain != preview.example.noised


def test_terms_say_what_the_promise_is(pack: GeneratorPack) -> None:
    words = dict(in_plain_words(terms(pack), 1))
    assert "At most 1 time, never with fewer than 20 people" in words["How often"]
    assert "only once you have given 5 answers" in words["How often"]
    assert f"{promise(terms(pack)).numbers} numbers in each round" in words["What is sent"]
    loose = terms(pack, settings=PrivacySettings(epsilon=3.0, minimum_people=20, expected_people=50))
    assert "Epsilon is at most 3 in all" in dict(in_plain_words(loose, 4))["What it can reveal"]


def test_a_preview_in_json_holds_no_number_of_the_vector(evidence: Evidence, pack: GeneratorPack) -> None:
    agreed = terms(pack)
    preview = Preview.of(agreed, evidence=evidence, prior=starting_prior(agreed, pack), spent=1, limit=4)
    assert preview.example is not None
    told = set(preview.to_json().values())
    assert told.isdisjoint(preview.example.plain)
