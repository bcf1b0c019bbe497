"""Enrolment: which keys belong to members of a federation.

The federation's authority signs one certificate for each member. Members check each other's certificates before they
agree on masks, so a server cannot invent a member without the authority's key, which need not lie on the server.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

from common.errors import EnrolmentError, SignatureError
from common.signing import KEY_BYTES, SIGNATURE_BYTES, SigningKey, canonical, verify

_PURPOSE = "member certificate"
LARGEST_MEMBER = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class MemberCertificate:
    """The authority's word that a key belongs to a member.

    Attributes:
        federation: identifier of the federation.
        member: the member's number, from 1; the authority never gives it to another key.
        key: ``(32,)`` bytes, the member's public Ed25519 enrolment key.
        issued: seconds since 1970.
        expires: seconds since 1970.
        signature: ``(64,)`` bytes, the authority's.
    """

    federation: str
    member: int
    key: bytes
    issued: int
    expires: int
    signature: bytes

    @classmethod
    def issue(
        cls, authority: SigningKey, *, federation: str, member: int, key: bytes, issued: int, expires: int
    ) -> MemberCertificate:
        """Sign a certificate.

        Raises:
            EnrolmentError: a value is outside its range.
        """
        bare = cls(federation=federation, member=member, key=key, issued=issued, expires=expires, signature=b"")
        if not 1 <= member <= LARGEST_MEMBER or len(key) != KEY_BYTES or expires <= issued:
            raise EnrolmentError(f"cannot certify member {member} from {issued} to {expires}")
        return dataclasses.replace(bare, signature=authority.sign(_PURPOSE, bare._signed()))

    def check(self, authority: bytes, federation: str, now: float, *, known: bool = False) -> None:
        """Check the certificate.

        Args:
            authority: the authority's public key, as pinned.
            federation: the federation it must be for.
            now: seconds since 1970.
            known: the authority's signature of this very certificate was checked before.

        Raises:
            EnrolmentError: it is another federation's, expired, not yet valid, or not signed by the authority.
        """
        if self.federation != federation:
            raise EnrolmentError(f"member {self.member} is certified for another federation")
        if now >= self.expires:
            raise EnrolmentError(f"the certificate of member {self.member} expired at {self.expires}; join again")
        if now < self.issued - 300:  # clocks of people's machines differ
            raise EnrolmentError(
                f"the certificate of member {self.member} begins at {self.issued}, this clock shows {now:.0f}; "
                "set the clock"
            )
        if known:
            return
        try:
            verify(authority, _PURPOSE, self._signed(), self.signature)
        except SignatureError as error:
            raise EnrolmentError(f"member {self.member} is not certified by the federation's authority") from error

    def digest(self) -> bytes:
        """``(32,)`` SHA-256 of everything in it."""
        return hashlib.sha256(self._signed() + self.signature).digest()

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "federation": self.federation,
            "member": self.member,
            "key": self.key.hex(),
            "issued": self.issued,
            "expires": self.expires,
            "signature": self.signature.hex(),
        }

    @classmethod
    def from_json(cls, values: object) -> MemberCertificate:
        """The certificate that ``to_json`` wrote; the signature is not checked here.

        Raises:
            EnrolmentError: a field is missing, unknown, of another type or size.
        """
        try:
            if not isinstance(values, dict) or set(values) != {field.name for field in dataclasses.fields(cls)}:
                raise ValueError("fields")
            for name in ("member", "issued", "expires"):
                if type(values[name]) is not int or not 0 <= values[name] < 2**53:
                    raise ValueError(name)
            if not isinstance(values["federation"], str) or len(values["federation"]) > 64:
                raise ValueError("federation")
            made = cls(
                **{**values, "key": bytes.fromhex(values["key"]), "signature": bytes.fromhex(values["signature"])}
            )
            if len(made.key) != KEY_BYTES or len(made.signature) != SIGNATURE_BYTES:
                raise ValueError("sizes")
        except (ValueError, TypeError) as error:
            raise EnrolmentError("this is no member certificate; join again") from error
        return made

    def _signed(self) -> bytes:
        return canonical([_PURPOSE, self.federation, self.member, self.key.hex(), self.issued, self.expires])
