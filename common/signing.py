"""Signatures: who said something, and that nobody changed it.

Ed25519 (RFC 8032) over a purpose and the content, so that a signature made for one thing is worth nothing for another.
Documents are canonical JSON: the same values are always the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import SignatureError

KEY_BYTES = 32
SIGNATURE_BYTES = 64
LARGEST_DOCUMENT = 64 * 2**20
"""Bytes of a signed document that are looked at; a prior of 1,024 weights is 11 MiB."""


class SigningKey:
    """A private Ed25519 key. Never printed, never in a settings object; its owner writes it to a 0600 file."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, raw: bytes) -> SigningKey:
        """The key ``to_bytes`` gave.

        Raises:
            SignatureError: not 32 bytes.
        """
        if len(raw) != KEY_BYTES:
            raise SignatureError(f"a signing key has {KEY_BYTES} bytes, not {len(raw)}")
        return cls(Ed25519PrivateKey.from_private_bytes(raw))

    def to_bytes(self) -> bytes:
        """The 32 secret bytes."""
        return self._key.private_bytes_raw()

    def sign(self, purpose: str, content: bytes) -> bytes:
        """``(64,)`` bytes: a signature of ``content`` for ``purpose``; the same every time."""
        return self._key.sign(_message(purpose, content))

    def __repr__(self) -> str:
        return f"SigningKey({fingerprint(self.public)})"


def verify(public: bytes, purpose: str, content: bytes, signature: bytes) -> None:
    """Check a signature.

    Raises:
        SignatureError: it is not ``public``'s signature of ``content`` for ``purpose``.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _message(purpose, content))
    except (InvalidSignature, ValueError, TypeError) as error:
        raise SignatureError(f"the {purpose} is not signed by {fingerprint(public)}; ask for it again") from error


def fingerprint(public: bytes) -> str:
    """A short name of a public key, for people: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def canonical(values: Any) -> bytes:
    """Values as JSON in one way only: sorted keys, no spaces, ASCII, no NaN.

    Raises:
        ValueError: a number is not finite. TypeError: something JSON cannot hold.
    """
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def sign_document(content: dict[str, Any], key: SigningKey, purpose: str) -> bytes:
    """``content`` with its signature, as one line of JSON."""
    signature = key.sign(purpose, canonical(content))
    return canonical({"content": content, "signature": signature.hex()}) + b"\n"


def read_document(raw: bytes, public: bytes, purpose: str) -> dict[str, Any]:
    """The content of a signed document.

    Guarantee: nothing of it is returned unless the signature holds. Deeply nested, oversize and otherwise hostile
    text is refused like any other that is not signed.

    Raises:
        SignatureError: it is no signed document, or not signed by ``public`` for ``purpose``.
    """
    if len(raw) > LARGEST_DOCUMENT:
        raise SignatureError(f"a {purpose} of {len(raw)} bytes is over the limit of {LARGEST_DOCUMENT}")
    try:
        values = json.loads(raw)
        content, signature = values["content"], bytes.fromhex(values["signature"])
        if set(values) != {"content", "signature"} or not isinstance(content, dict):
            raise ValueError("it has other fields")
        plain = canonical(content)
        if canonical({"content": content, "signature": signature.hex()}) + b"\n" != raw:
            raise ValueError("it is written another way")  # so that one document has one hash
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SignatureError(f"this is no signed {purpose}; it is damaged or cut short, fetch it again") from error
    verify(public, purpose, plain, signature)
    return content


def _message(purpose: str, content: bytes) -> bytes:
    return b"plgl " + purpose.encode() + b"\0" + content
