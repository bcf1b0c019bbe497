"""A population policy as it is published: signed by the operator, dated and numbered, like the prior it was made of.

One signed JSON document of purpose ``policy``; see `common.release` for the same of a prior. It costs no privacy, as it
is made of a release alone, so it carries that release's claim, and what the claim says is recomputed from the terms.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch

from common.errors import PriorError, ReleaseError
from common.population_policy import PopulationPolicy
from common.privacy.statement import PrivacyStatement
from common.release import Form, check_statement, read_published, statement_values
from common.signing import SigningKey, sign_document
from common.terms import Terms

FORMAT = "plgl-policy-release-1"
_FORM = Form(
    purpose="policy",
    what="policy",
    otherwise="ask the operator",
    format=FORMAT,
    fields=frozenset(["format", "terms", "version", "rounds", "created", "expires", "size", "privacy", "tensors"]),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class PolicyRelease:
    """A published population policy.

    Guarantee: complete and consistent with its terms; anything else raises when it is made. That it is fresh, wanted
    and not older than what was seen is for others to say.

    Attributes:
        terms: of the federation.
        version: from 1, one more with each policy that is published, never back.
        policy: everybody's; its statement is that of the release it was made of.
        created: seconds since 1970.
        expires: seconds since 1970; nobody takes it up after that.
    """

    terms: Terms
    version: int
    policy: PopulationPolicy
    created: int
    expires: int

    def __post_init__(self) -> None:
        if type(self.version) is not int or not 1 <= self.version < 2**31:
            raise ReleaseError(f"version={str(self.version)[:40]} of a published policy must be a number from 1")
        if type(self.created) is not int or type(self.expires) is not int or not 0 <= self.created < self.expires:
            raise ReleaseError("a published policy must expire after it was made")
        if self.policy.pack != self.terms.pack:
            raise ReleaseError(
                f"the policy draws for pack {self.policy.pack[:12]!r}; the terms say {self.terms.pack[:12]!r}"
            )
        if self.policy.rounds < 1:
            raise ReleaseError("a published policy must come from at least one round")
        check_statement(self.policy.privacy, self.terms)

    def to_bytes(self, key: SigningKey) -> bytes:
        """The policy as a signed document; the same every time."""
        policy = self.policy
        raw = safetensors.torch.save({name: weight.cpu().contiguous() for name, weight in policy.weights.items()})
        content = {
            "format": FORMAT,
            "terms": self.terms.to_json(),
            "version": self.version,
            "rounds": policy.rounds,
            "created": self.created,
            "expires": self.expires,
            "size": dict(policy.size),
            "privacy": policy.privacy.to_json(),
            "tensors": base64.b64encode(raw).decode(),
        }
        return sign_document(content, key, _FORM.purpose)

    @classmethod
    def from_bytes(cls, raw: bytes, public: bytes) -> PolicyRelease:
        """Read a published policy. Nothing of it is looked at before its signature holds.

        Args:
            raw: as it was fetched, of any origin.
            public: ``(32,)`` the release key, as pinned.

        Raises:
            SignatureError: it is not signed with that key for this purpose, or is no document at all.
            ReleaseError: it is signed, and wrong.
        """
        return read_published(raw, public, _FORM, cls._parsed)

    @classmethod
    def _parsed(cls, content: dict[str, Any]) -> PolicyRelease:
        terms, text = Terms.from_json(content["terms"]), content["tensors"]
        if not isinstance(text, str):  # how long it may be, `read_document` has said
            raise ReleaseError("the weights of a policy must be text; ask the operator")
        try:
            weights = safetensors.torch.load(base64.b64decode(text, validate=True))
        except safetensors.SafetensorError as error:
            raise ReleaseError("the weights of the policy cannot be read; ask the operator") from error
        try:
            policy = PopulationPolicy(
                weights=weights,
                size=dict(content["size"]),
                pack=terms.pack,
                privacy=PrivacyStatement.from_json(statement_values(content["privacy"])),
                rounds=content["rounds"],
            )
        except PriorError as error:
            raise ReleaseError(str(error)) from error
        rest = {name: content[name] for name in ("version", "created", "expires")}
        return cls(terms=terms, policy=policy, **rest)
