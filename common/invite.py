"""An invitation: one string or file with all a device needs to join a federation, and to trust nobody else.

It carries the pins (certificate authority of the connection, the authority that certifies members, the key that signs
releases), the terms, and a token that works once. Whoever hands it over vouches for it, so it should come by a way the
person trusts. ``plgl1:`` and base64 of canonical JSON behind a checksum, so that a string cut short is noticed.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import EnrolmentError, SettingError
from common.signing import KEY_BYTES, canonical
from common.terms import Terms

PREFIX = "plgl1:"
_LARGEST = 64 * 1024
_ADDRESS = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}:[0-9]{1,5}")


@dataclass(frozen=True, kw_only=True)
class Invite:
    """What a device is told about a federation.

    Attributes:
        terms: what the person agrees to by joining.
        address: ``host:port`` of the gate, reached by TLS only.
        tls_authority: PEM of the certificate authority the gate's certificate must come from.
        authority: ``(32,)`` bytes: public key that certifies members.
        release_key: ``(32,)`` bytes: public key that signs releases.
        bundles: SHA-256 of the app bundles a device may answer for, hexadecimal.
        token: works once; empty where the device is enrolled already.
        expires: seconds since 1970.
    """

    terms: Terms
    address: str
    tls_authority: str
    authority: bytes
    release_key: bytes
    bundles: tuple[str, ...]
    token: str
    expires: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "terms": self.terms.to_json(),
            "authority": self.authority.hex(),
            "release_key": self.release_key.hex(),
            "bundles": list(self.bundles),
        }

    @classmethod
    def from_json(cls, values: object) -> Invite:
        """The invitation that ``to_json`` wrote.

        Raises:
            EnrolmentError: a field is missing, unknown, of another type or outside its range.
        """
        try:
            if not isinstance(values, dict) or set(values) != {field.name for field in dataclasses.fields(cls)}:
                raise ValueError("missing or unknown fields")
            for name in ("address", "tls_authority", "token"):
                if not isinstance(values[name], str):
                    raise ValueError(f"{name} must be text")
            if type(values["expires"]) is not int:
                raise ValueError("expires must be a whole number")
            bundles = values["bundles"]
            if not isinstance(bundles, list) or not all(
                isinstance(each, str) and re.fullmatch("[0-9a-f]{64}", each) for each in bundles
            ):
                raise ValueError("bundles must be SHA-256 hashes")
            made = cls(
                terms=Terms.from_json(values["terms"]),
                address=values["address"],
                tls_authority=values["tls_authority"],
                authority=bytes.fromhex(values["authority"]),
                release_key=bytes.fromhex(values["release_key"]),
                bundles=tuple(bundles),
                token=values["token"],
                expires=values["expires"],
            )
            if not _ADDRESS.fullmatch(made.address):
                raise ValueError(f"address={made.address[:60]!r} must be host:port")
            if len(made.authority) != KEY_BYTES or len(made.release_key) != KEY_BYTES:
                raise ValueError("keys must have 32 bytes")
        except (ValueError, TypeError, SettingError) as error:
            raise EnrolmentError(f"this invitation cannot be used: {error}; ask for a new one") from error
        return made

    def to_text(self) -> str:
        """The invitation as one line."""
        packed = zlib.compress(canonical(self.to_json()), 9)
        check = hashlib.sha256(packed).digest()[:8]
        return PREFIX + base64.urlsafe_b64encode(check + packed).decode().rstrip("=")

    @classmethod
    def from_text(cls, text: str) -> Invite:
        """Read an invitation.

        Raises:
            EnrolmentError: it is none, cut short, altered, or of another version.
        """
        text = "".join(text.split())  # mail programs break long lines
        if not text.startswith(PREFIX):
            raise EnrolmentError(f"an invitation begins with {PREFIX}, not with {text[:8]!r}; ask for a new one")
        if len(text) > _LARGEST:
            raise EnrolmentError(f"an invitation of {len(text)} characters is over the limit of {_LARGEST}")
        try:
            body = text[len(PREFIX) :]
            raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            check, packed = raw[:8], raw[8:]
            if hashlib.sha256(packed).digest()[:8] != check:
                raise ValueError("its checksum is wrong")
            plain = zlib.decompressobj().decompress(packed, 4 * _LARGEST)
            values = json.loads(plain)
        except (ValueError, zlib.error, RecursionError) as error:
            raise EnrolmentError(
                "the invitation is cut short or altered; copy all of it, or ask for a new one"
            ) from error
        return cls.from_json(values)

    @classmethod
    def read(cls, text_or_path: str) -> Invite:
        """Read an invitation from its text or from a file that holds it.

        Raises:
            EnrolmentError: it is none, cut short, altered, or the file cannot be read.
        """
        if text_or_path.lstrip().startswith(PREFIX):
            return cls.from_text(text_or_path)
        try:
            with Path(text_or_path).open(encoding="ascii") as file:
                return cls.from_text(file.read(_LARGEST + 1))
        except (OSError, ValueError) as error:  # not text, or a path no file can have
            raise EnrolmentError(
                f"{text_or_path[:80]!r} is neither an invitation nor a file that holds one; it begins with {PREFIX}"
            ) from error
