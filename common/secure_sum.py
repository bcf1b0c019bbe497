"""A sum nobody can take apart: masks that cancel between members, and shares of secrets that survive drop-outs.

After Bonawitz et al. 2017 ("Practical secure aggregation for privacy-preserving machine learning", CCS 2017, figure 4)
and, beyond some hundred members, the sparse graph of Bell et al. 2020 ("Secure single-server aggregation with
(poly)logarithmic overhead", CCS 2020). Member u sends, in integers mod 2^b::

    y_u = x_u + PRG(b_u) + sum_{v > u} PRG(k_uv) - sum_{v < u} PRG(k_uv)

``k_uv`` comes from X25519 and HKDF-SHA256, PRG is ChaCha20. Whoever answers has its ``b_u`` given back to the server by
its neighbours, whoever does not has its mask key given back; no honest member ever gives both of one neighbour.

What a key is good for goes into its derivation: round, prior, terms, roster. So masks cancel only between members who
were told the same, and a server that tells one of them something else gets noise.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from common.enrolment import MemberCertificate
from common.errors import EnrolmentError, ProtocolError, SignatureError
from common.shamir import SHARE_BYTES
from common.signing import SIGNATURE_BYTES, SigningKey, canonical, verify

KEY_BYTES = 32
SEALED_BYTES = 2 * SHARE_BYTES + 16
"""Bytes of one sealed box: two shares and the tag."""

COMPLETE = 128
"""Up to this many members everybody is everybody's neighbour."""

NEIGHBOURS = 128
"""Neighbours of each member beyond that; even, so that the ring graph is regular."""

LARGEST_ROSTER = 20_000

Words = NDArray[np.uint64]

_PURPOSE = "round keys"


def degree(members: int) -> int:
    """Neighbours of each member: all others in a complete graph, else ``NEIGHBOURS``.

    With 1,000 members of whom a tenth collude, a member has a third or more colluding neighbours (what it takes to
    read it) with probability below 1e-11, and fewer than two thirds answering when 15 % drop out below 1e-5 (the round
    is then lost, not its secrecy); ``tests/common/test_secure_sum.py`` computes both from the hypergeometric law.
    """
    return members - 1 if members <= COMPLETE else NEIGHBOURS


def threshold(members: int) -> int:
    """Smallest number of shares that may give a secret back: more than two thirds of its holders.

    The holders are a member's k neighbours and itself. An honest holder gives a share of one of its two secrets; with c
    colluding ones there are at most ``k + 1 + c`` shares of both together, less than twice the threshold while
    ``c < (k + 1) / 3``. So nobody gets both.
    """
    return 2 * (degree(members) + 1) // 3 + 1


def neighbours(roster: Sequence[int], seed: bytes) -> dict[int, tuple[int, ...]]:
    """The graph: who shares masks and secrets with whom.

    A ring of all members in an order drawn from ``seed``; everybody is joined to the nearest on both sides. The seed is
    the roster's digest, which holds a fresh key of every member, so no single one of them chooses its place.

    Args:
        roster: member numbers, ascending.
        seed: the roster's digest.

    Returns:
        For each member its neighbours, ascending; the relation is symmetric.
    """
    order = _ring(roster, seed)
    return {member: _around(order, place) for place, member in enumerate(order)}


def neighbours_of(member: int, roster: Sequence[int], seed: bytes) -> tuple[int, ...]:
    """``neighbours(roster, seed)[member]``, without the rest of the graph."""
    order = _ring(roster, seed)
    return _around(order, order.index(member))


def _ring(roster: Sequence[int], seed: bytes) -> Sequence[int]:
    if degree(len(roster)) == len(roster) - 1:
        return roster  # everybody is joined to everybody, in whatever order
    return sorted(roster, key=lambda member: hashlib.sha256(seed + member.to_bytes(8, "big")).digest())


def _around(order: Sequence[int], place: int) -> tuple[int, ...]:
    n, k = len(order), degree(len(order))
    if k == n - 1:
        return tuple(sorted((*order[:place], *order[place + 1 :])))
    return tuple(sorted(order[(place + step) % n] for step in range(-k // 2, k // 2 + 1) if step))


@dataclass(frozen=True, kw_only=True)
class RosterEntry:
    """One member's keys for one round, signed with its enrolment key.

    Attributes:
        certificate: who it is.
        box_key: ``(32,)`` X25519 public key that shares are sealed to.
        mask_key: ``(32,)`` X25519 public key that masks are agreed with.
        signature: ``(64,)`` the member's, over the round's context and both keys.
    """

    certificate: MemberCertificate
    box_key: bytes
    mask_key: bytes
    signature: bytes

    @classmethod
    def sign(
        cls, key: SigningKey, certificate: MemberCertificate, context: bytes, box_key: bytes, mask_key: bytes
    ) -> RosterEntry:
        """An entry for the round of ``context``."""
        signature = key.sign(_PURPOSE, _signed(context, certificate.member, box_key, mask_key))
        return cls(certificate=certificate, box_key=box_key, mask_key=mask_key, signature=signature)

    @property
    def member(self) -> int:
        """The member's number."""
        return self.certificate.member

    def check_signature(self, context: bytes) -> None:
        """Check that the certified key signed these keys for this very round.

        Raises:
            ProtocolError: it did not.
        """
        try:
            signed = _signed(context, self.member, self.box_key, self.mask_key)
            verify(self.certificate.key, _PURPOSE, signed, self.signature)
        except SignatureError as error:
            raise ProtocolError(f"the round keys of member {self.member} are not signed by that member") from error


@dataclass(frozen=True)
class Roster:
    """The members of one round, ascending by number.

    Guarantee: no number and no key twice, at least two members.

    Attributes:
        entries: ascending by member number.
        raw: the bytes it was read from or is sent as.
    """

    entries: tuple[RosterEntry, ...]
    raw: bytes = b""

    def __post_init__(self) -> None:
        numbers = [entry.member for entry in self.entries]
        if not 2 <= len(numbers) <= LARGEST_ROSTER:
            raise ProtocolError(f"a roster of {len(numbers)} members; between 2 and {LARGEST_ROSTER} are allowed")
        if numbers != sorted(set(numbers)):
            raise ProtocolError("a roster must name each member once, in ascending order")
        for keys in ("box_key", "mask_key"):
            if len({getattr(entry, keys) for entry in self.entries}) != len(numbers):
                raise ProtocolError("two members of a roster have the same key")
        if len({entry.certificate.key for entry in self.entries}) != len(numbers):
            raise ProtocolError("two members of a roster have the same enrolment key")

    @property
    def members(self) -> tuple[int, ...]:
        """Member numbers, ascending."""
        return tuple(entry.member for entry in self.entries)

    @cached_property
    def by_member(self) -> dict[int, RosterEntry]:
        """Entries by member number."""
        return {entry.member: entry for entry in self.entries}

    def to_bytes(self) -> bytes:
        """The bytes it was read from, else canonical JSON."""
        return self.raw or canonical(
            [
                [entry.certificate.to_json(), entry.box_key.hex(), entry.mask_key.hex(), entry.signature.hex()]
                for entry in self.entries
            ]
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> Roster:
        """The roster that ``to_bytes`` wrote; signatures are not checked here.

        Raises:
            ProtocolError: it cannot be read.
        """
        try:
            lines = json.loads(raw)
            entries = []
            for certificate, *rest in lines:
                box_key, mask_key, signature = (bytes.fromhex(each) for each in rest)
                if len(box_key) != KEY_BYTES or len(mask_key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
                    raise ValueError("a key of another size")
                made = MemberCertificate.from_json(certificate)
                entries.append(RosterEntry(certificate=made, box_key=box_key, mask_key=mask_key, signature=signature))
        except (ValueError, TypeError, RecursionError, EnrolmentError) as error:
            raise ProtocolError("a roster that cannot be read") from error
        return cls(tuple(entries), raw)

    def digest(self, context: bytes) -> bytes:
        """``(32,)`` SHA-256 of the context and the roster as it was sent: what all masks of the round depend on."""
        return hashlib.sha256(context + self.to_bytes()).digest()


class KeyPair:
    """An X25519 key pair, made ready once for many agreements.

    Attributes:
        private: ``(32,)`` secret bytes.
        public: ``(32,)`` bytes.
    """

    def __init__(self, private: bytes) -> None:
        self.private = private
        self._key = X25519PrivateKey.from_private_bytes(private)
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> KeyPair:
        """From the operating system's randomness."""
        return cls(os.urandom(KEY_BYTES))

    def agree(self, public: bytes) -> bytes:
        """``(32,)`` the secret shared with the owner of a public key.

        Raises:
            ProtocolError: the public key is one that gives a known secret (RFC 7748, section 6.1).
        """
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise ProtocolError("a public key that lies in a small subgroup") from error


def derive(secret: bytes, digest: bytes, use: str, low: int, high: int) -> bytes:
    """``(32,)`` a key of 256 bits for one use between two members in one round (HKDF-SHA256, RFC 5869)."""
    info = b"plgl secure sum 1\0" + digest + use.encode() + low.to_bytes(8, "big") + high.to_bytes(8, "big")
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def expand(key: bytes, count: int) -> Words:
    """``(count,)`` uniform 64-bit words from a 256-bit key (ChaCha20).

    The nonce may be fixed because a key is derived for one round and used once.
    """
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor().update(bytes(8 * count))
    return np.frombuffer(stream, dtype="<u8")


def pair_key(pair: KeyPair, own: int, other: int, mask_key: bytes, digest: bytes) -> bytes:
    """The key of the mask between a member and a neighbour with its public mask key; both derive the same."""
    return derive(pair.agree(mask_key), digest, "mask", min(own, other), max(own, other))


def pair_masks(pair: KeyPair, own: int, others: Iterable[RosterEntry], digest: bytes, count: int) -> Words:
    """``(count,)`` the sum of a member's pairwise masks, signs included, mod 2^64."""
    return masks_with(pair, own, {other.member: other.mask_key for other in others}, digest, count)


def masks_with(pair: KeyPair, own: int, others: Mapping[int, bytes], digest: bytes, count: int) -> Words:
    """``pair_masks`` where only the public mask key of each neighbour was kept."""
    total = np.zeros(count, dtype=np.uint64)
    for other, mask_key in others.items():
        mask = expand(pair_key(pair, own, other, mask_key, digest), count)
        total = total + mask if own < other else total - mask
    return total


def commit(seed: bytes, digest: bytes) -> bytes:
    """``(32,)`` a commitment to a self-mask seed: says which it is to who finds it, and nothing before."""
    return hashlib.sha256(b"plgl self-mask seed\0" + digest + seed).digest()


def box_keys(pair: KeyPair, own: int, other: RosterEntry, digest: bytes) -> tuple[bytes, bytes]:
    """Keys of the box to a neighbour and of the box from it, for this round."""
    secret = pair.agree(other.box_key)
    return derive(secret, digest, "box", own, other.member), derive(secret, digest, "box", other.member, own)


def seal(key: bytes, source: int, target: int, shares: bytes) -> bytes:
    """Shares for a neighbour, that only it can read and only in this round."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), shares, _direction(source, target))  # one key, one message


def unseal(key: bytes, source: int, target: int, box: bytes) -> bytes:
    """What ``seal`` closed, read by the member it is for.

    Raises:
        ProtocolError: it was altered, is for somebody else, or was made under another roster.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), box, _direction(source, target))
    except (InvalidTag, ValueError) as error:
        raise ProtocolError(f"the box from member {source} does not open; it was altered or mixed up") from error


def modulus_bits(members: int, bound: float, share_variance: int) -> int:
    """Bits b so that a sum of ``members`` vectors and their noise cannot wrap around mod 2^b.

    Args:
        members: most members a sum can have.
        bound: largest size of an entry of one member, integer steps.
        share_variance: variance of one member's noise.

    Raises:
        ProtocolError: it would need more than 62 bits.
    """
    largest = members * bound + 40 * math.sqrt(members * share_variance)  # beyond 40 sigma: probability below e^-800
    bits = math.ceil(math.log2(largest + 1)) + 1
    if bits > 62:
        raise ProtocolError(f"a sum of {members} members needs {bits} bits, 62 are there; lower norm_bound")
    return bits


def pack(words: Words, bits: int) -> bytes:
    """The lowest ``bits`` bits of each word, without gaps."""
    table = np.unpackbits(words.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    return np.packbits(table[:, :bits].reshape(-1), bitorder="little").tobytes()


def packed_bytes(count: int, bits: int) -> int:
    """Length of ``pack``'s result."""
    return -(-count * bits // 8)


def unpack(raw: bytes, count: int, bits: int) -> Words:
    """What ``pack`` packed.

    Raises:
        ProtocolError: another number of bytes.
    """
    if len(raw) != packed_bytes(count, bits):
        raise ProtocolError(f"a masked vector of {len(raw)} bytes where {packed_bytes(count, bits)} are expected")
    table = np.zeros((count, 64), dtype=np.uint8)
    flat = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), bitorder="little")[: count * bits]
    table[:, :bits] = flat.reshape(count, bits)
    return np.packbits(table, axis=1, bitorder="little").view("<u8").reshape(-1)


def signed(words: Words, bits: int) -> NDArray[np.int64]:
    """Words mod 2^bits as integers around zero."""
    shift = np.uint64(64 - bits)
    shifted: NDArray[np.int64] = (words << shift).view(np.int64) >> np.int64(64 - bits)
    return shifted


def unmask(
    total: Words,
    roster: Roster,
    digest: bytes,
    graph: Mapping[int, Sequence[int]],
    seeds: Mapping[int, bytes],
    mask_keys: Mapping[int, bytes],
) -> Words:
    """Take the masks off a sum.

    Args:
        total: ``(count,)`` sum of the masked vectors of those in ``seeds``, mod 2^64.
        roster: everybody who had keys in the round.
        digest: the roster's.
        graph: who is whose neighbour.
        seeds: self-mask seeds of all who answered.
        mask_keys: private mask keys of those who shared secrets but did not answer.

    Returns:
        ``(count,)`` the plain sum, mod 2^64.
    """
    plain = total.copy()
    for seed in seeds.values():
        plain -= expand(seed, total.size)
    for member, private in mask_keys.items():
        left = [roster.by_member[other] for other in graph[member] if other in seeds]
        # the survivors' masks with this member are still in the sum, with the opposite sign of its own
        plain += pair_masks(KeyPair(private), member, left, digest, total.size)
    return plain


def context(**parts: str | int | float) -> bytes:
    """``(32,)`` SHA-256 of all a round is about; every key of the round is bound to it."""
    return hashlib.sha256(canonical(parts)).digest()


def without(roster: Roster, members: Iterable[int]) -> Roster:
    """The roster without some members."""
    gone = set(members)
    return dataclasses.replace(roster, entries=tuple(entry for entry in roster.entries if entry.member not in gone))


def _signed(context: bytes, member: int, box_key: bytes, mask_key: bytes) -> bytes:
    return context + member.to_bytes(8, "big") + box_key + mask_key


def _direction(source: int, target: int) -> bytes:
    return f"{source}>{target}".encode()
