"""Releases: what is signed and right is read back to the bit; of everything else only our own errors come out."""

import base64
import dataclasses
import json
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import PlglError, ReleaseError, SignatureError
from common.prior import PopulationPrior
from common.privacy.promise import statement_of
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from common.release import Release, check_fresh, check_terms, digest
from common.signing import SigningKey, sign_document
from common.terms import Terms, Trust

KEY = SigningKey.from_bytes(bytes(range(32)))
TERMS = Terms(
    federation="a" * 32,
    name="test",
    pack="c" * 64,
    components=3,
    settings=PrivacySettings(epsilon=2.0),
    trust=Trust.CENTRAL,
    honest_people=50,
)


def prior(terms: Terms = TERMS) -> PopulationPrior:
    flat = PopulationPrior.flat(terms.parameters, terms.pack)
    mean = torch.linspace(-1, 1, terms.parameters, dtype=torch.float64) / 3
    return dataclasses.replace(flat, mean=mean, rounds=1, privacy=statement_of(terms, 1))


def release(**changes: Any) -> Release:
    values = {
        "terms": TERMS,
        "version": 1,
        "round": 4,
        "prior": prior(),
        "created": 1_000,
        "expires": 9_000,
        "previous": "",
    }
    return Release(**{**values, **changes})


def content() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(release().to_bytes(KEY))["content"]
    return found


def signed(**changes: Any) -> bytes:
    return sign_document({**content(), **changes}, KEY, "release")


def test_a_release_comes_back_as_it_was() -> None:
    made = release(version=2, previous="ab" * 32)
    raw = made.to_bytes(KEY)
    back = Release.from_bytes(raw, KEY.public)
    for name in ("terms", "version", "round", "created", "expires", "previous"):
        assert getattr(back, name) == getattr(made, name)
    for name in ("mean", "covariance", "thresholds"):
        assert torch.equal(getattr(back.prior, name), getattr(made.prior, name))
    assert (back.prior.privacy, back.prior.rounds, back.prior.pack) == (made.prior.privacy, 1, TERMS.pack)
    assert back.to_bytes(KEY) == raw
    assert len(digest(raw)) == 64


def test_only_the_release_key_counts_and_only_for_this_purpose() -> None:
    raw = release().to_bytes(KEY)
    with pytest.raises(SignatureError):
        Release.from_bytes(raw, SigningKey.generate().public)
    with pytest.raises(SignatureError):
        Release.from_bytes(sign_document(content(), KEY, "federation"), KEY.public)


def test_every_altered_byte_is_noticed() -> None:
    raw = release().to_bytes(KEY)
    for i in range(0, len(raw) - 1, 7):
        with pytest.raises(SignatureError):
            Release.from_bytes(raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :], KEY.public)


def packed(**tensors: torch.Tensor) -> str:
    own = prior()
    values = {"mean": own.mean, "covariance": own.covariance, "thresholds": own.thresholds}
    return base64.b64encode(safetensors.torch.save({**values, **tensors})).decode()


def claims(**changes: Any) -> dict[str, Any]:
    return {**statement_of(TERMS, 1).to_json(), **changes}


NAN = torch.full((4,), torch.nan, dtype=torch.float64)
LIES: list[tuple[str, dict[str, Any]]] = [
    ("format", {"format": "plgl-release-2"}),
    ("fields", {"extra": 1}),
    ("number from 1", {"version": 0}),
    ("number from 1", {"version": True}),
    ("number from 1", {"round": 1.0}),
    ("at least one round", {"rounds": 0}),
    ("expire after", {"expires": 1_000}),
    ("expire after", {"created": "1000"}),
    ("the one before", {"version": 2}),
    ("the one before", {"previous": "ab" * 32}),
    ("SHA-256", {"version": 2, "previous": "x" * 64}),
    ("terms", {"terms": {}}),
    ("components", {"terms": {**TERMS.to_json(), "components": 0}}),
    ("should be", {"tensors": packed(covariance=torch.eye(3, dtype=torch.float64))}),
    ("terms say", {"terms": {**TERMS.to_json(), "components": 5}}),
    ("must fit in", {"terms": {**TERMS.to_json(), "components": 1}, "tensors": "A" * 9_000}),
    ("NaN", {"tensors": packed(mean=NAN)}),
    ("float64", {"tensors": packed(mean=torch.zeros(4))}),
    ("float64", {"tensors": packed(more=torch.zeros(4, dtype=torch.float64))}),
    ("over the limit", {"tensors": packed(mean=torch.full((4,), 1e7, dtype=torch.float64))}),
    ("positive definite", {"tensors": packed(covariance=-torch.eye(4, dtype=torch.float64))}),
    ("cannot be read", {"tensors": base64.b64encode(b"\xff" * 99).decode()}),
    ("another form", {"tensors": "not base64 at all!"}),
    ("must fit in", {"tensors": "A" * 100_000}),
    ("must fit in", {"tensors": None}),
    ("statement", {"privacy": None}),
    ("statement", {"privacy": {}}),
    ("another form", {"privacy": claims(epsilon=None)}),
    ("how private", {"privacy": claims(epsilon=0.0)}),
    ("promised", {"privacy": claims(epsilon=2.1)}),
    ("promised", {"privacy": claims(delta=1e-5)}),
    ("5 participations", {"privacy": claims(participations=5)}),
    ("does not give", {"privacy": claims(noise_multiplier=0.5)}),
    ("does not give", {"privacy": claims(epsilon=0.5)}),
    ("another form", {"privacy": claims(epsilon="1")}),
    ("another form", {"privacy": claims(unit="x" * 501)}),
    ("another form", {"privacy": claims(trust="\x1b[2J")}),
    ("another form", {"privacy": claims(rho=10**400)}),
]


@pytest.mark.parametrize(("message", "changes"), LIES)
def test_a_signed_release_that_is_wrong_is_refused(message: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ReleaseError, match=message):
        Release.from_bytes(signed(**changes), KEY.public)


def test_the_same_document_without_a_lie_is_read() -> None:
    assert Release.from_bytes(signed(), KEY.public).version == 1
    assert Release.from_bytes(signed(tensors=packed(), privacy=claims()), KEY.public).version == 1


@pytest.mark.parametrize("said", [PrivacyStatement.public(), PrivacyStatement.not_private(1)])
def test_a_release_without_a_finite_claim_cannot_be_made(said: PrivacyStatement) -> None:
    with pytest.raises(ReleaseError, match="how private"):
        release(prior=dataclasses.replace(prior(), privacy=said))


def test_a_prior_for_another_pack_cannot_be_released() -> None:
    with pytest.raises(ReleaseError, match="terms say"):
        release(prior=dataclasses.replace(prior(), pack="d" * 64))


def test_a_release_is_fresh_between_its_two_times() -> None:
    made = release()
    check_fresh(made, 700)
    check_fresh(made, 8_999.9)
    with pytest.raises(ReleaseError, match="expired at 9000"):
        check_fresh(made, 9_000)
    with pytest.raises(ReleaseError, match="set the clock"):
        check_fresh(made, 699.9)
    with pytest.raises(ReleaseError, match="expired"):
        check_fresh(made, float("nan"))


def test_other_terms_are_noticed_and_named() -> None:
    check_terms(release(), TERMS)
    with pytest.raises(ReleaseError, match="another federation"):
        check_terms(release(), dataclasses.replace(TERMS, federation="b" * 32))
    with pytest.raises(ReleaseError, match=r"agreed to \(minimum_ratings, step\)"):
        check_terms(release(), dataclasses.replace(TERMS, step=1.0, minimum_ratings=0))


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=200))
def test_of_any_bytes_only_our_errors_come_out(raw: bytes) -> None:
    with pytest.raises(PlglError):
        Release.from_bytes(raw, KEY.public)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(10**30), 10**400])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=70)
    | st.text("0123456789abcdef", min_size=64, max_size=64),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
PLACES: list[tuple[str, ...]] = [(name,) for name in content()] + [("privacy", name) for name in claims()]
PLACES += [("terms", name) for name in TERMS.to_json()] + [("terms", "settings", name) for name in ("epsilon", "delta")]


@settings(max_examples=400, deadline=None)
@given(place=st.sampled_from(PLACES), value=JSON, gone=st.booleans())
def test_of_any_signed_values_a_consistent_release_or_our_error_comes_out(
    place: tuple[str, ...], value: Any, gone: bool
) -> None:
    values = content()
    inner = values
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    if gone:
        del inner[place[-1]]
    try:
        made = Release.from_bytes(sign_document(values, KEY, "release"), KEY.public)
    except PlglError:
        return
    assert made.prior.privacy.epsilon <= made.terms.settings.epsilon
    assert made.prior.parameters == made.terms.parameters


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_of_any_altered_tensors_a_finite_prior_or_our_error_comes_out(data: st.DataObject) -> None:
    raw = bytearray(base64.b64decode(content()["tensors"]))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        made = Release.from_bytes(signed(tensors=base64.b64encode(raw).decode()), KEY.public)
    except PlglError:
        return
    assert bool(made.prior.covariance.isfinite().all())


def test_the_largest_release_fits_in_a_document() -> None:
    terms = dataclasses.replace(TERMS, components=1_023)
    raw = release(terms=terms, prior=prior(terms)).to_bytes(KEY)
    assert Release.from_bytes(raw, KEY.public).prior.parameters == 1_024
