"""The terms of a federation: everything a member agrees to, and a server may not change afterwards.

The terms are in the invitation, their digest is in every request, and the masks of a secure sum depend on it: members
who were told different things get a sum nobody can read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from common.errors import SettingError
from common.privacy.settings import PrivacySettings
from common.signing import canonical

_E = TypeVar("_E", bound=StrEnum)

PROTOCOL = 1
"""Version of what members and servers say to each other."""

LARGEST_COUNT = 2**31 - 1
"""People, participations and ratings that terms may name; more has no meaning and would not fit where it is used."""

LARGEST_NORM_BOUND = 1e6
"""A clipping bound beyond this bounds nothing."""


class Rule(StrEnum):
    """How the server combines updates; all but the mean need central trust, because they look at single updates."""

    MEAN = "mean"
    TRIMMED_MEAN = "trimmed-mean"
    MEDIAN = "median"
    KRUM = "krum"
    MULTI_KRUM = "multi-krum"


class Trust(StrEnum):
    """Who has to be trusted with what leaves a device before noise protects it."""

    CENTRAL = "central"
    """The server sees each update and adds the noise."""

    DISTRIBUTED = "distributed"
    """Members add the noise and mask their updates; the server can read only the noised sum."""

    LOCAL = "local"
    """Each member adds all the noise alone; nobody has to be trusted, and the sum is much noisier."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a federation promises its members.

    Guarantee: complete and within range; anything else raises when it is made.

    Attributes:
        federation: its identifier, 32 hexadecimal digits.
        name: for people.
        pack: SHA-256 of the generator pack everybody uses.
        components: features of the latent map, without the bias.
        settings: the privacy promise; ``minimum_people`` is the smallest number of survivors of a round.
        trust: who sees what.
        honest_people: members of the smallest accepted round who are assumed to add their share of the noise; the
            shares are sized so that these alone give all of it. Only with distributed trust, else equal to
            ``minimum_people``.
        minimum_ratings: a member with fewer answers of its own does not take part.
        rule: how updates are combined; proofs of what one person can do to each are in ``server.robust``.
        malicious: people the rule withstands; 0 with the mean.
        step: learning rate of the M-step; it is post-processing and costs no privacy.
        protocol: version of the messages.
    """

    federation: str
    name: str
    pack: str
    components: int
    settings: PrivacySettings
    trust: Trust = Trust.DISTRIBUTED
    honest_people: int
    minimum_ratings: int = 50
    rule: Rule = Rule.MEAN
    malicious: int = 0
    step: float = 1.5
    protocol: int = PROTOCOL

    def __post_init__(self) -> None:
        if len(self.federation) != 32 or set(self.federation) - set("0123456789abcdef"):
            raise SettingError(f"federation={self.federation[:40]!r} must be 32 hexadecimal digits")
        if not 0 < len(self.name) <= 80 or not self.name.isprintable():
            raise SettingError("name must have 1 to 80 printable characters")
        if len(self.pack) != 64 or set(self.pack) - set("0123456789abcdef"):
            raise SettingError(f"pack={self.pack[:70]!r} must be a SHA-256, 64 hexadecimal digits")
        if not 1 <= self.components < 1_024:
            raise SettingError(f"components={self.components} must be between 1 and 1023")
        if not self.settings.private:
            raise SettingError("epsilon=inf protects nobody; a federation of real people needs a finite epsilon")
        if not 1 <= self.honest_people <= self.settings.minimum_people:
            raise SettingError(
                f"honest_people={self.honest_people} must be between 1 and "
                f"minimum_people={self.settings.minimum_people}; try half of it"
            )
        if not 0 <= self.minimum_ratings <= LARGEST_COUNT:
            raise SettingError(f"minimum_ratings={self.minimum_ratings} must be >= 0, at most 2^31 - 1; try 50")
        for name in ("participations", "expected_people"):
            if getattr(self.settings, name) > LARGEST_COUNT:
                raise SettingError(f"{name}={getattr(self.settings, name)} must be at most {LARGEST_COUNT}")
        if self.settings.norm_bound > LARGEST_NORM_BOUND:
            raise SettingError(f"norm_bound={self.settings.norm_bound} must be at most {LARGEST_NORM_BOUND:g}; try 8.0")
        if self.rule is not Rule.MEAN and self.trust is not Trust.CENTRAL:
            raise SettingError(
                f"rule={self.rule} needs to see single updates, which trust={self.trust} forbids; use trust=central, "
                "or rule=mean, where clipping bounds what anybody can do"
            )
        if not 0 <= 2 * self.malicious < self.settings.expected_people or (self.rule is Rule.MEAN and self.malicious):
            raise SettingError(
                f"malicious={self.malicious} must be 0 with rule=mean, and fewer than half of "
                f"expected_people={self.settings.expected_people} otherwise"
            )
        if not 0 < self.step < math.inf:
            raise SettingError(f"step={self.step} must be > 0 and finite; try 1.5")
        if self.protocol != PROTOCOL:
            raise SettingError(f"protocol {self.protocol} is not {PROTOCOL}; update the older side")

    @property
    def parameters(self) -> int:
        """Taste weights p, the bias included."""
        return self.components + 1

    def digest(self) -> str:
        """SHA-256 of the terms, 64 hexadecimal digits."""
        return hashlib.sha256(canonical(self.to_json())).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "trust": str(self.trust), "rule": str(self.rule)}

    @classmethod
    def from_json(cls, values: object) -> Terms:
        """The terms that ``to_json`` wrote.

        Raises:
            SettingError: a field is missing, unknown, of another type or outside its range.
        """
        if not isinstance(values, dict):
            raise SettingError("terms must be an object")
        checked = _typed(cls, values, "terms")
        settings = checked["settings"]
        if not isinstance(settings, dict):
            raise SettingError("the settings in terms must be an object")
        checked["settings"] = PrivacySettings(**_typed(PrivacySettings, settings, "settings"))
        checked["trust"] = one_of(Trust, "trust", checked["trust"])
        checked["rule"] = one_of(Rule, "rule", checked["rule"])
        return cls(**checked)


def one_of(kind: type[_E], name: str, value: object) -> _E:
    """The member of ``kind`` that ``value`` names.

    Raises:
        SettingError: it names none.
    """
    try:
        return kind(str(value))
    except ValueError as error:
        raise SettingError(f"{name}={str(value)[:40]!r} must be one of {', '.join(kind)}") from error


_KINDS = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "Trust": (str,),
    "Rule": (str,),
    "PrivacySettings": (dict,),
}


def _typed(record: Any, values: dict[str, Any], name: str) -> dict[str, Any]:
    fields = {field.name: str(field.type) for field in dataclasses.fields(record)}
    if set(values) != set(fields):
        wrong = sorted(str(key)[:40] for key in set(values) ^ set(fields))
        raise SettingError(f"{name} with missing or unknown fields: {', '.join(wrong[:8])}")
    for key, kind in fields.items():
        if type(values[key]) not in _KINDS[kind]:  # a bool is an int to isinstance
            raise SettingError(f"{key}={str(values[key])[:40]!r} in {name} must be of type {kind}")
        if type(values[key]) is int and abs(values[key]) > 2**53:  # no float holds it
            raise SettingError(f"{key}={str(values[key])[:40]} in {name} must be at most 2^53")
    return {key: float(value) if fields[key] == "float" else value for key, value in values.items()}
