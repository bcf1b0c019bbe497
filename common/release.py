"""A release: a population prior with its terms, its place in the row of releases, and the operator's signature.

One signed JSON document of purpose ``release``. The numbers are safetensors in base64; the privacy statement is inside.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from common.errors import PlglError, ReleaseError
from common.prior import PopulationPrior
from common.privacy.accounting import epsilon
from common.privacy.promise import promise
from common.privacy.statement import PrivacyStatement
from common.signing import SigningKey, read_document, sign_document
from common.terms import Terms

FORMAT = "plgl-release-1"
CLOCK_SECONDS = 300
"""How far clocks may differ."""

LARGEST_NUMBER = 1e6
"""Log-odds beyond this mean nothing, and their squares would not be finite for long."""

_FIELDS = frozenset(
    ("format", "terms", "version", "round", "rounds", "created", "expires", "previous", "privacy", "tensors")
)
_TENSORS = {"mean", "covariance", "thresholds"}
_HEADER_BYTES = 4096  # of safetensors, around the numbers themselves


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a kind of signed document looks like.

    Attributes:
        purpose: it is signed for; what: it is called; otherwise: what holds when it cannot be used.
        what: see above.
        otherwise: see above.
        format: its name.
        fields: all of them.
    """

    purpose: str
    what: str
    otherwise: str
    format: str
    fields: frozenset[str]


_FORM = Form(
    purpose="release",
    what="release",
    otherwise="the prior in use stays",
    format=FORMAT,
    fields=frozenset(
        ["format", "terms", "version", "round", "rounds", "created", "expires", "previous", "privacy", "tensors"]
    ),
)


def read_published(raw: bytes, public: bytes, form: Form, parse: Callable[[dict[str, Any]], T]) -> T:
    """Read a signed document. Nothing of it is looked at before its signature holds.

    Args:
        raw: as it was fetched, of any origin.
        public: ``(32,)`` the release key, as pinned.
        form: what it must look like.
        parse: makes the thing itself of the fields.

    Raises:
        SignatureError: it is not signed with that key for this purpose, or is no document at all.
        ReleaseError: it is signed, and wrong.
    """
    content = read_document(raw, public, form.purpose)
    if content.get("format") != form.format:
        name = str(content.get("format"))[:40]
        raise ReleaseError(f"format {name!r} of the {form.what} is not {form.format}; install a newer plgl")
    if set(content) != form.fields:
        raise ReleaseError(f"the {form.what} has missing or unknown fields; {form.otherwise}")
    try:
        return parse(content)
    except ReleaseError:
        raise
    except (PlglError, ValueError, KeyError, TypeError, ArithmeticError, RuntimeError) as error:
        reason = str(error)[:200] if isinstance(error, PlglError) else "a field has another form"
        raise ReleaseError(f"this {form.what} cannot be used: {reason}; {form.otherwise}") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Release:
    """A published prior.

    Guarantee: complete and consistent with its terms; anything else raises when it is made. That it is fresh, wanted
    and good for somebody is for others to say.

    Attributes:
        terms: of the federation.
        version: from 1, one more with each release, never back.
        round: the round it came from.
        prior: what was learned; its statement covers all rounds so far.
        created: seconds since 1970.
        expires: seconds since 1970; nobody takes it up after that.
        previous: `digest` of the release before, ``""`` for version 1.
    """

    terms: Terms
    version: int
    round: int
    prior: PopulationPrior
    created: int
    expires: int
    previous: str

    def __post_init__(self) -> None:
        for name in ("version", "round"):
            if type(getattr(self, name)) is not int or not 1 <= getattr(self, name) < 2**31:
                raise ReleaseError(f"{name}={str(getattr(self, name))[:40]} of a release must be a number from 1")
        if type(self.created) is not int or type(self.expires) is not int or not 0 <= self.created < self.expires:
            raise ReleaseError("a release must expire after it was made")
        if not isinstance(self.previous, str) or len(self.previous) != 64 * (self.version > 1):
            raise ReleaseError(f"release {self.version} must name the one before it by its SHA-256, and release 1 none")
        if set(self.previous) - set("0123456789abcdef"):
            raise ReleaseError("the release before must be named by a SHA-256, 64 hexadecimal digits")
        _check_prior(self.prior, self.terms)
        check_statement(self.prior.privacy, self.terms)

    def to_bytes(self, key: SigningKey) -> bytes:
        """The release as a signed document; the same every time."""
        prior = self.prior
        tensors = {"mean": prior.mean, "covariance": prior.covariance, "thresholds": prior.thresholds}
        raw = safetensors.torch.save({name: tensor.double().contiguous() for name, tensor in tensors.items()})
        content = {
            "format": FORMAT,
            "terms": self.terms.to_json(),
            "version": self.version,
            "round": self.round,
            "rounds": prior.rounds,
            "created": self.created,
            "expires": self.expires,
            "previous": self.previous,
            "privacy": prior.privacy.to_json(),
            "tensors": base64.b64encode(raw).decode(),
        }
        return sign_document(content, key, _FORM.purpose)

    @classmethod
    def from_bytes(cls, raw: bytes, public: bytes) -> Release:
        """Read a release. Nothing of it is looked at before its signature holds.

        Args:
            raw: as it was fetched, of any origin.
            public: ``(32,)`` the release key, as pinned.

        Raises:
            SignatureError: it is not signed with that key for this purpose, or is no document at all.
            ReleaseError: it is signed, and wrong.
        """
        return read_published(raw, public, _FORM, cls._parsed)

    @classmethod
    def _parsed(cls, content: dict[str, Any]) -> Release:
        terms = Terms.from_json(content["terms"])
        rounds = content["rounds"]
        if type(rounds) is not int or not 1 <= rounds < 2**31:
            raise ReleaseError("a release must come from at least one round")
        prior = PopulationPrior(
            **_tensors(content["tensors"], terms.parameters),
            pack=terms.pack,
            privacy=PrivacyStatement.from_json(statement_values(content["privacy"])),
            rounds=rounds,
        )
        rest = {name: content[name] for name in ("version", "round", "created", "expires", "previous")}
        return cls(terms=terms, prior=prior, **rest)


class Published(Protocol):
    """Anything of a federation that is signed, dated and numbered."""

    @property
    def terms(self) -> Terms:
        """Of the federation."""

    @property
    def version(self) -> int:
        """From 1."""

    @property
    def created(self) -> int:
        """Seconds since 1970."""

    @property
    def expires(self) -> int:
        """Seconds since 1970."""


def digest(raw: bytes) -> str:
    """SHA-256 of the bytes of a release, 64 hexadecimal digits."""
    return hashlib.sha256(raw).hexdigest()


def check_terms(release: Published, terms: Terms) -> None:
    """Check that a release keeps to the terms a person agreed to.

    Raises:
        ReleaseError: it is another federation's, or the terms were changed.
    """
    if release.terms.federation != terms.federation:
        raise ReleaseError("this release is another federation's; the prior in use stays")
    if release.terms != terms:
        ours, theirs = terms.to_json(), release.terms.to_json()
        changed = ", ".join(sorted(name for name in ours if ours[name] != theirs[name]))
        raise ReleaseError(f"the terms of this release are not those you agreed to ({changed}); ask the operator why")


def check_fresh(release: Published, now: float) -> None:
    """Check that a release may be taken up now.

    Args:
        release: that was read.
        now: seconds since 1970.

    Raises:
        ReleaseError: it has expired, or was made more than ``CLOCK_SECONDS`` from now in the future.
    """
    if not now < release.expires:
        raise ReleaseError(
            f"release {release.version} expired at {release.expires}, this clock shows {now:.0f}; "
            "ask the operator for a newer one"
        )
    if release.created > now + CLOCK_SECONDS:
        raise ReleaseError(
            f"release {release.version} was made at {release.created}, this clock shows {now:.0f}; set the clock"
        )


def _tensors(text: object, parameters: int) -> dict[str, Tensor]:
    """The numbers of a prior; sizes are checked before anything is taken apart."""
    largest = 8 * (parameters * parameters + parameters + 4) + _HEADER_BYTES
    if not isinstance(text, str) or len(text) > 4 * (largest // 3 + 1):
        raise ReleaseError(f"the numbers of a release with {parameters} weights must fit in {largest} bytes")
    try:
        found = safetensors.torch.load(base64.b64decode(text, validate=True))
    except safetensors.SafetensorError as error:
        raise ReleaseError("the numbers of the release cannot be read; the prior in use stays") from error
    if set(found) != _TENSORS or any(tensor.dtype != torch.float64 for tensor in found.values()):
        raise ReleaseError("a release holds mean, covariance and thresholds in float64 and nothing else")
    return found


def statement_values(values: object) -> dict[str, Any]:
    """The fields of a statement, each of its type; whole numbers may stand for real ones.

    Raises:
        ReleaseError: one is of another type.
    """
    if not isinstance(values, dict):
        raise ReleaseError("the release has no privacy statement")
    reals = {"sensitivity", "noise_multiplier", "epsilon", "delta", "rho"}
    for name, value in values.items():
        if name in reals:
            right = type(value) in (int, float)
        elif name == "participations":
            right = type(value) is int
        else:
            right = isinstance(value, str) and len(value) <= 500 and value.isprintable()
        if not right:
            raise ReleaseError(f"{name[:40]!r} in the privacy statement has another form")
    return {name: float(value) if name in reals else value for name, value in values.items()}


def _check_prior(prior: PopulationPrior, terms: Terms) -> None:
    if prior.pack != terms.pack or prior.parameters != terms.parameters:
        raise ReleaseError(
            f"the prior has {prior.parameters} weights for pack {prior.pack[:12]!r}; the terms say "
            f"{terms.parameters} for {terms.pack[:12]!r}"
        )
    largest = max(float(x.abs().max()) for x in (prior.mean, prior.covariance, prior.thresholds))
    if not largest <= LARGEST_NUMBER:
        raise ReleaseError(f"a number of {largest:.3g} in the prior is over the limit of {LARGEST_NUMBER:g}")
    # also where eigenvalues are not numbers, which compare with nothing
    if not float(torch.linalg.eigvalsh(prior.covariance)[0]) > 0:
        raise ReleaseError("the covariance of the prior is not positive definite")


def check_statement(said: PrivacyStatement, terms: Terms) -> None:
    """What a release claims against what the terms promised, recomputed: a claim is not believed for being signed.

    Raises:
        ReleaseError: it claims more than was promised, or than its noise gives.
    """
    settings, z = terms.settings, said.noise_multiplier
    if not 0 < said.epsilon < math.inf or z is None or said.sensitivity is None:
        raise ReleaseError(f"a release must state how private it is; this one says: {said}")
    if said.epsilon > settings.epsilon or said.delta > settings.delta:
        raise ReleaseError(
            f"the release claims ({said.epsilon:.4g}, {said.delta:.2g})-DP, the terms promised "
            f"({settings.epsilon:.4g}, {settings.delta:.2g})"
        )
    if said.participations != settings.participations:
        raise ReleaseError(
            f"the release is accounted for {said.participations} participations, the terms say "
            f"{settings.participations}"
        )
    least = promise(terms).noise_multiplier * (1 - 1e-6)
    if not least <= z < math.inf or epsilon(z, said.participations, said.delta) > said.epsilon * (1 + 1e-6):
        raise ReleaseError(f"noise of z={z:.4g} does not give the epsilon={said.epsilon:.4g} that the release claims")
