import dataclasses
from typing import Any

import pytest

from common.errors import SettingError
from common.privacy.settings import PrivacySettings
from common.terms import Rule, Terms, Trust

SETTINGS = PrivacySettings(
    epsilon=1.5, delta=1e-7, participations=3, norm_bound=6.0, expected_people=90, minimum_people=60
)
TERMS = Terms(
    federation="0123456789abcdef" * 2,
    name="Test people",
    pack="ab" * 32,
    components=8,
    settings=SETTINGS,
    honest_people=40,
    minimum_ratings=25,
)
OTHER: dict[str, Any] = {
    "federation": "f" * 32,
    "name": "Other people",
    "pack": "cd" * 32,
    "components": 9,
    "trust": Trust.LOCAL,
    "honest_people": 41,
    "minimum_ratings": 26,
    "step": 1.25,
}
OTHER_SETTINGS: dict[str, Any] = {
    "epsilon": 1.6,
    "delta": 1e-6,
    "participations": 4,
    "norm_bound": 6.5,
    "expected_people": 91,
    "minimum_people": 61,
}


def test_terms_come_back_as_they_were() -> None:
    assert Terms.from_json(TERMS.to_json()) == TERMS
    krum = dataclasses.replace(TERMS, trust=Trust.CENTRAL, rule=Rule.KRUM, malicious=9)
    assert Terms.from_json(krum.to_json()) == krum
    assert TERMS.parameters == 9


def test_whole_numbers_stand_for_real_ones() -> None:
    values = TERMS.to_json()
    values["settings"] = {**values["settings"], "norm_bound": 6}
    assert Terms.from_json(values) == TERMS
    assert Terms.from_json(values).digest() == TERMS.digest()


def test_the_digest_changes_with_every_field() -> None:
    changed = [dataclasses.replace(TERMS, **{name: value}) for name, value in OTHER.items()]
    for name, value in OTHER_SETTINGS.items():
        changed.append(dataclasses.replace(TERMS, settings=dataclasses.replace(SETTINGS, **{name: value})))
    central = dataclasses.replace(TERMS, trust=Trust.CENTRAL)
    changed += [central] + [dataclasses.replace(central, rule=rule, malicious=1) for rule in Rule if rule != Rule.MEAN]
    changed.append(dataclasses.replace(central, rule=Rule.KRUM, malicious=2))
    assert len({made.digest() for made in [TERMS, *changed]}) == 1 + len(changed)
    fields = {field.name for field in dataclasses.fields(Terms)}
    assert fields - OTHER.keys() == {"settings", "rule", "malicious", "protocol"}  # protocol has one value only
    assert {field.name for field in dataclasses.fields(PrivacySettings)} == OTHER_SETTINGS.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"federation": "F" * 32}, "federation='FFFF.* must be 32 hexadecimal digits"),
        ({"federation": "f" * 31}, "federation=.* must be 32"),
        ({"name": ""}, "name must have 1 to 80"),
        ({"name": "x" * 81}, "name must have 1 to 80"),
        ({"name": "a\x1b[31m"}, "name must have 1 to 80 printable"),
        ({"pack": "ab"}, "pack='ab' must be a SHA-256, 64"),
        ({"components": 0}, "components=0 must be between 1 and 1023"),
        ({"components": 1_024}, "components=1024 must be between 1 and 1023"),
        ({"honest_people": 0}, "honest_people=0 must be between 1 and minimum_people=60; try half"),
        ({"honest_people": 61}, "honest_people=61 must be between 1 and minimum_people=60; try half"),
        ({"minimum_ratings": -1}, "minimum_ratings=-1 must be >= 0"),
        ({"minimum_ratings": 2**31}, "minimum_ratings=2147483648 must be .* at most 2.31 - 1"),
        ({"rule": Rule.KRUM}, "rule=krum needs to see single updates, which trust=distributed forbids; use"),
        ({"rule": Rule.MEDIAN, "trust": Trust.LOCAL}, "rule=median .* trust=local forbids"),
        ({"malicious": 1}, "malicious=1 must be 0 with rule=mean"),
        ({"malicious": 45, "rule": Rule.KRUM, "trust": Trust.CENTRAL}, "malicious=45 .* half of expected_people=90"),
        ({"malicious": -1}, "malicious=-1"),
        ({"step": 0.0}, "step=0.0 must be > 0 and finite; try 1.5"),
        ({"step": float("inf")}, "step=inf must be"),
        ({"step": float("nan")}, "step=nan must be"),
        ({"protocol": 2}, "protocol 2 is not 1; update the older side"),
    ],
)
def test_a_value_outside_its_range_is_named_with_its_limit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        dataclasses.replace(TERMS, **changes)
    plain = {name: str(value) if isinstance(value, Rule | Trust) else value for name, value in changes.items()}
    with pytest.raises(SettingError, match=message):
        Terms.from_json({**TERMS.to_json(), **plain})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, "epsilon=0.0 must be > 0"),
        ({"epsilon": float("inf")}, "epsilon=inf protects nobody"),
        ({"epsilon": float("nan")}, "epsilon=nan must be > 0"),
        ({"delta": 1.0}, "delta=1.0 must be in"),
        ({"participations": 0}, "participations=0 must be >= 1"),
        ({"participations": 2**31}, "participations=2147483648 must be at most 2147483647"),
        ({"norm_bound": 0.0}, "norm_bound=0.0 must be > 0"),
        ({"norm_bound": 1e7}, "norm_bound=10000000.0 must be at most 1e.06"),
        ({"minimum_people": 0}, "minimum_people=0 must be >= 1"),
        ({"minimum_people": 91}, "expected_people=90 is below minimum_people=91"),
        ({"expected_people": 2**31}, "expected_people=2147483648 must be at most"),
    ],
)
def test_a_setting_outside_its_range_is_named_with_its_limit(changes: dict[str, Any], message: str) -> None:
    values = TERMS.to_json()
    with pytest.raises(SettingError, match=message):
        Terms.from_json({**values, "settings": {**values["settings"], **changes}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": True}, "components='True' in terms must be of type int"),
        ({"components": 8.0}, "components='8.0' in terms must be of type int"),
        ({"name": 5}, "name='5' in terms must be of type str"),
        ({"step": "1.5"}, "step='1.5' in terms must be of type float"),
        ({"step": 10**400}, "step=1000.* in terms must be at most 2.53"),
        ({"trust": "nobody"}, "trust='nobody' must be one of central, distributed, local"),
        ({"rule": "best"}, "rule='best' must be one of mean, "),
        ({"settings": []}, "settings='..' in terms must be of type PrivacySettings"),
        ({"settings": {}}, "settings with missing or unknown fields: delta, "),
        ({"colour": 1}, "terms with missing or unknown fields: colour"),
    ],
)
def test_json_of_another_type_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Terms.from_json({**TERMS.to_json(), **changes})


def test_a_missing_field_is_named() -> None:
    for name in TERMS.to_json():
        values = TERMS.to_json()
        del values[name]
        with pytest.raises(SettingError, match=f"missing or unknown fields: {name}"):
            Terms.from_json(values)


@pytest.mark.parametrize("values", [None, [], "terms", 5])
def test_terms_are_an_object(values: object) -> None:
    with pytest.raises(SettingError, match="terms must be an object"):
        Terms.from_json(values)
