"""Keys of a store: how a person's passphrase, or the keyring of their system, opens what is sealed on disk.

A random 256-bit data key seals everything with AES-256-GCM. The data key itself lies in a small header, wrapped by
a key that is either Argon2id of a passphrase (RFC 9106) or 32 random bytes kept in the system keyring. The header
follows age (C2SP, age.md): lines of text, one stanza with the parameters and the wrapped key, and a MAC over all of
it under a key that comes from the data key.

What is sealed says nothing by its content, and its place is bound to it: store, table, row and schema version are
associated data, so a row cannot be moved, and ``Vault.digest`` of all rows shows which of them belong there.

What this cannot do: Python cannot overwrite ``bytes``, so keys and passphrases stay in memory until the process ends
(and may reach swap or a core dump). A nonce is 96 random bits, good for 2**32 records with one data key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from common.errors import DamagedStore, KeyringError, NewerStore, SettingError, StoreError, WrongKey

SERVICE = "plgl"  # under which the keyring knows our keys; the user name is the number of the store
NONCE, TAG = 12, 16
OVERHEAD = NONCE + TAG  # bytes that sealing adds
_NUMBER = rb"([1-9][0-9]{0,8})"
_LAYOUT = re.compile(
    rb"plgl-(store|export)/1\nid ([0-9a-f]{32})\n"
    rb"-> (?:argon2id ([0-9a-f]{32}) " + rb" ".join([_NUMBER] * 3) + rb"|keyring)\n"
    rb"([0-9a-f]{120})\n--- ([0-9a-f]{64})\n"
)
_NEWER = re.compile(rb"plgl-(store|export)/([0-9]{1,4})\n")

Purpose = Literal["store", "export"]


class KeyringLike(Protocol):
    """The part of a ``keyring`` backend that is used."""

    def get_password(self, service: str, username: str) -> str | None:
        """The password kept under these names, or None."""

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep a password under these names."""

    def delete_password(self, service: str, username: str) -> None:
        """Forget it."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """How much work one guess of a passphrase is, for Argon2id.

    The default is twice the memory of the second choice of RFC 9106 (section 4); it takes 0.2 to 1 s on a machine of
    today. The limits keep a forged header from freezing a machine; they are looked at before any work is done.

    Attributes:
        passes: over the memory.
        kib: memory, KiB.
        lanes: worked on at once.

    Raises:
        SettingError: outside the limits.
    """

    passes: int = 3
    kib: int = 128 * 1024
    lanes: int = 4

    def __post_init__(self) -> None:
        limits = {"passes": (1, 16), "lanes": (1, 16), "kib": (8 * self.lanes, 1 << 20)}
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise SettingError(f"{name}={getattr(self, name)} of a passphrase must be between {least} and {most}")
        if self.passes * self.kib > 1 << 22:
            raise SettingError(f"passes * kib = {self.passes * self.kib} of a passphrase must be at most {1 << 22}")

    def derive(self, passphrase: str, salt: bytes) -> bytes:
        """The 32-byte key of a passphrase; two ways to write one accent give one key (NFC)."""
        said = unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogateescape")
        kdf = Argon2id(salt=salt, length=32, iterations=self.passes, lanes=self.lanes, memory_cost=self.kib)
        try:
            return kdf.derive(said)
        except MemoryError:
            raise StoreError(f"a passphrase needs {self.kib} KiB of memory; close other programs first") from None


@dataclass(frozen=True)
class Header:
    """What lies beside sealed data in the clear: nothing a thief can use without the passphrase or the keyring.

    Attributes:
        purpose: of the file it stands in.
        id: 16 random bytes, never used for another file.
        salt: 16 random bytes; empty for a key in the keyring.
        cost: of the passphrase; None for a key in the keyring.
        wrapped: the data key, sealed.
        mac: 32 bytes over everything above, under a key that comes from the data key.
    """

    purpose: Purpose
    id: bytes
    salt: bytes
    cost: Cost | None
    wrapped: bytes = b""
    mac: bytes = b""

    @property
    def stanza(self) -> bytes:
        """The lines that say how the data key is wrapped; what the wrapping is bound to."""
        way = "keyring"
        if self.cost is not None:
            way = f"argon2id {self.salt.hex()} {self.cost.passes} {self.cost.kib} {self.cost.lanes}"
        return f"plgl-{self.purpose}/1\nid {self.id.hex()}\n-> {way}\n".encode()

    def encode(self) -> bytes:
        """The header as bytes; `decode` takes them back."""
        return self.stanza + f"{self.wrapped.hex()}\n--- {self.mac.hex()}\n".encode()

    @classmethod
    def decode(cls, content: bytes, purpose: Purpose) -> Header:
        """Read a header. Nothing in it can be believed before `unlock`.

        Raises:
            NewerStore: written by a newer version.
            DamagedStore: not a header, or one that asks for absurd work.
        """
        found = _LAYOUT.fullmatch(content)
        if found is None:
            newer = _NEWER.match(content)
            if newer and int(newer[2]) > 1:
                raise NewerStore(f"its header has version {int(newer[2])}, this program knows 1; install a newer plgl")
            raise DamagedStore("its header cannot be read; import an export or take a backup of the file")
        said, name, salt, passes, kib, lanes, wrapped, mac = found.groups()
        if said != purpose.encode():
            raise DamagedStore(f"it is a plgl {said.decode()}, not a plgl {purpose}; see: plgl store import --help")
        try:
            cost = Cost(passes=int(passes), kib=int(kib), lanes=int(lanes)) if salt else None
        except SettingError as error:
            raise DamagedStore(f"its header asks for absurd work: {error}; it was altered, take a backup") from error
        fields = (bytes.fromhex(part.decode()) for part in (name, salt or b"", wrapped, mac))
        number, salted, sealed, code = fields
        return cls(purpose, number, salted, cost, sealed, code)


def lock(
    data_key: bytes, purpose: Purpose, number: bytes, passphrase: str | None, cost: Cost, keyring: KeyringLike | None
) -> Header:
    """Wrap a data key, by a passphrase or (without one) by the keyring, where a new key is kept under the number.

    Raises:
        SettingError: the passphrase is empty.
        KeyringError: there is no keyring, or it does not keep what it is given.
    """
    if passphrase is None:
        header = Header(purpose, number, b"", None)
        key = _new_key_in(_usable(keyring), number)
    elif not passphrase:
        raise SettingError("the passphrase is empty; choose one of several words")
    else:
        header = Header(purpose, number, os.urandom(16), cost)
        key = cost.derive(passphrase, header.salt)
    nonce = os.urandom(NONCE)
    header = replace(header, wrapped=nonce + AESGCM(key).encrypt(nonce, data_key, header.stanza))
    return replace(header, mac=_mac(header, data_key))


def unlock(header: Header, passphrase: str | None, keyring: KeyringLike | None) -> bytes:
    """The data key.

    Raises:
        WrongKey: another passphrase, a passphrase where the keyring is asked for, or a key the keyring does not have.
        KeyringError: the keyring is locked or missing.
        DamagedStore: the key is right and the header was altered.
    """
    if header.cost is None:
        if passphrase is not None:
            raise WrongKey("it is locked by the system keyring, not by a passphrase; open it without one")
        key = _key_in(_usable(keyring), header.id)
    elif passphrase is None:
        raise WrongKey("it is locked by a passphrase and none was given; set PLGL_PASSPHRASE or type it")
    else:
        key = header.cost.derive(passphrase, header.salt)
    try:
        data_key = AESGCM(key).decrypt(header.wrapped[:NONCE], header.wrapped[NONCE:], header.stanza)
    except InvalidTag:
        raise WrongKey("the passphrase is wrong, or the header was altered; try again, or take a backup") from None
    if not hmac.compare_digest(_mac(header, data_key), header.mac):
        raise DamagedStore("its header was altered; import an export or take a backup of the file")
    return data_key


def forget_key(header: Header, keyring: KeyringLike | None) -> None:
    """Remove the key of a store from the keyring, where it has one. A key that is gone already is no error."""
    if header.cost is not None:
        return
    backend, failures = _usable(keyring), _failures()
    try:
        if backend.get_password(SERVICE, header.id.hex()) is not None:
            backend.delete_password(SERVICE, header.id.hex())
    except failures as error:
        raise KeyringError(_UNREACHABLE.format(type(error).__name__)) from error


def subkey(data_key: bytes, use: str) -> bytes:
    """A 32-byte key for one use (HKDF, RFC 5869 section 2.3); the uses tell nothing about each other."""
    return HKDFExpand(algorithm=SHA256(), length=32, info=b"plgl " + use.encode()).derive(data_key)


def _mac(header: Header, data_key: bytes) -> bytes:
    return hmac.digest(subkey(data_key, "header"), header.stanza + header.wrapped, "sha256")


class Vault:
    """Seals records of one store, each bound to its place.

    Guarantee: `open` gives back what `seal` took only for the same store, table, row, schema version and key, and not
    one bit altered.
    """

    def __init__(self, data_key: bytes, number: bytes, schema: int) -> None:
        """Take the data key, the number of the store and the version of its schema."""
        self._cipher = AESGCM(subkey(data_key, "rows"))
        self._digest = hashlib.blake2b(key=subkey(data_key, "digest"), digest_size=32)
        self._place = b"plgl\0" + number + schema.to_bytes(4, "little")

    def associated(self, table: str, row: int) -> bytes:
        """What a record is bound to: store, schema version, table, row."""
        return self._place + table.encode() + row.to_bytes(8, "little")

    def seal(self, table: str, row: int, content: bytes) -> bytes:
        """A nonce, the content encrypted, and its tag: ``OVERHEAD`` bytes more than the content."""
        nonce = os.urandom(NONCE)
        return nonce + self._cipher.encrypt(nonce, content, self.associated(table, row))

    def open(self, table: str, row: int, sealed: bytes) -> bytes:
        """The content.

        Raises:
            DamagedStore: the record was altered, or belongs elsewhere.
        """
        try:
            return self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], self.associated(table, row))
        except (InvalidTag, ValueError, TypeError, OverflowError):
            raise DamagedStore(f"row {row} of {table} was altered or moved; take a backup of the store") from None

    def seal_all(self, table: str, rows: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """`seal` for numbered rows, in their order."""
        return [(row, self.seal(table, row, content)) for row, content in rows]

    def digest(self, rows: Iterable[tuple[int, bytes]]) -> int:
        """A number of 256 bits that stands for a set of sealed rows, whatever their order.

        It is the exclusive or of a keyed hash of each, so the digest of two sets together is the exclusive or of
        theirs: adding and removing rows needs only those rows. The hashes never leave the store unsealed, so nobody
        can look for another set with the same digest.
        """
        total = 0
        for row, sealed in rows:
            code = self._digest.copy()
            code.update(row.to_bytes(8, "little") + sealed[:NONCE] + sealed[-TAG:])
            total ^= int.from_bytes(code.digest(), "little")
        return total


_UNREACHABLE = (
    "the system keyring does not answer ({}); unlock it, or use a passphrase: set PLGL_PASSPHRASE or --passphrase-file"
)


def _failures() -> tuple[type[Exception], ...]:
    import keyring.errors

    return (keyring.errors.KeyringError, RuntimeError, OSError)


def _usable(backend: KeyringLike | None) -> KeyringLike:
    """The backend, or that of the system; one that keeps keys in plain files is refused."""
    import keyring

    try:
        found: KeyringLike = backend if backend is not None else keyring.get_keyring()
    except _failures() as error:
        raise KeyringError(_UNREACHABLE.format(type(error).__name__)) from error
    for part in (found, *getattr(found, "backends", ())):
        if "plaintext" in type(part).__name__.lower():
            raise KeyringError(f"{type(part).__name__} keeps keys in plain text; use a passphrase: set PLGL_PASSPHRASE")
    return found


def _new_key_in(backend: KeyringLike, number: bytes) -> bytes:
    key = os.urandom(32)
    try:
        backend.set_password(SERVICE, number.hex(), key.hex())
        kept = backend.get_password(SERVICE, number.hex())
    except _failures() as error:
        raise KeyringError(_UNREACHABLE.format(type(error).__name__)) from error
    if kept != key.hex():
        raise KeyringError("the system keyring forgets what it is given; use a passphrase: set PLGL_PASSPHRASE")
    return key


def _key_in(backend: KeyringLike, number: bytes) -> bytes:
    try:
        kept = backend.get_password(SERVICE, number.hex())
    except _failures() as error:
        raise KeyringError(_UNREACHABLE.format(type(error).__name__)) from error
    if kept is None or re.fullmatch("[0-9a-f]{64}", kept) is None:
        raise WrongKey(f"the system keyring has no key for store {number.hex()}; import an export of it")
    return bytes.fromhex(kept)
