"""The operator's list of invitations and members, in SQLite.

Numbers are given once and never again, a token works for one pair of keys, and of a token only a hash is kept, so
somebody who reads the file can enrol nobody.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.enrolment import MemberCertificate
from common.errors import EnrolmentError, SettingError, SignatureError, StorageError
from common.signing import KEY_BYTES, SigningKey, canonical, verify

MEMBERSHIP_SECONDS = 365 * 86_400
CLOCK_SECONDS = 300
"""How far the clock in a request to leave may be from the gate's."""
_LONGEST_NODE_KEY = 1_024
_BUSY_SECONDS = 10.0
_TABLES = """
CREATE TABLE IF NOT EXISTS invites (
    token BLOB PRIMARY KEY, created INTEGER NOT NULL, expires INTEGER NOT NULL, member INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS members (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, node_key TEXT NOT NULL UNIQUE,
    enrolled INTEGER NOT NULL, expires INTEGER NOT NULL, certificate TEXT NOT NULL, revoked INTEGER, reason TEXT
);
"""


@dataclass(frozen=True, kw_only=True)
class Member:
    """An enrolled device.

    Attributes:
        number: from 1, never given twice.
        key: ``(32,)`` bytes, public Ed25519 enrolment key.
        node_key: public P-384 key of its connection, OpenSSH text without a comment.
        enrolled: seconds since 1970.
        expires: end of its certificate, seconds since 1970.
        revoked: when it left or was removed, seconds since 1970; None for a member.
        reason: why; None for a member.
    """

    number: int
    key: bytes
    node_key: str
    enrolled: int
    expires: int
    revoked: int | None
    reason: str | None


class EnrolmentBook:
    """Invitations and members of one federation; the gate and commands may have it open at once.

    Guarantee: what a method says has happened is on the disk (``synchronous=FULL``) when it returns.
    """

    def __init__(
        self, path: Path, federation: str, authority: SigningKey, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Open the book, or begin it.

        Raises:
            StorageError: the disk refuses, or the file is no enrolment book.
        """
        self._path, self._federation, self._authority, self._clock = path, federation, authority, clock
        with self._database() as database:
            if database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'members'").fetchone() == (0,):
                for statement in _TABLES.split(";"):
                    database.execute(statement)
        path.chmod(0o600)

    def create_invite(self, valid_seconds: float) -> str:
        """A new token that enrols one device.

        Raises:
            SettingError: ``valid_seconds`` is not positive.
        """
        if not 0 < valid_seconds < 2**40:
            raise SettingError(f"an invitation valid for {valid_seconds:g} seconds is of no use; try 7 days")
        token, now = secrets.token_urlsafe(32), int(self._clock())
        with self._database() as database:
            row = (_hash(token), now, now + max(1, int(valid_seconds)))
            database.execute("INSERT INTO invites VALUES (?, ?, ?, NULL)", row)
        return token

    def enrol(self, token: str, key: bytes, node_key: str) -> MemberCertificate:
        """Exchange a token for membership.

        Guarantee: the same token with the same keys gives the same certificate, however often it is asked, so a
        device whose connection broke may ask again.

        Args:
            token: of an invitation.
            key: ``(32,)`` bytes, public Ed25519 enrolment key.
            node_key: public P-384 key of the connection, OpenSSH text.

        Raises:
            EnrolmentError: the token is unknown, expired or used by other keys, or a key is unusable or belongs to a
                member already.
        """
        plain = plain_node_key(node_key)
        now = int(self._clock())
        with self._database() as database:
            invite = database.execute("SELECT expires, member FROM invites WHERE token = ?", (_hash(token),)).fetchone()
            if invite is None:
                raise EnrolmentError("this invitation is unknown here; ask the operator for a new one")
            expires, number = invite
            if number is not None:
                return self._again(database, number, key, plain)
            if now >= expires:
                raise EnrolmentError(f"the invitation expired {now - expires} seconds ago; ask for a new one")
            return self._admit(database, token, key, plain, now)

    def check_request(self, token: str, key: bytes, node_key: str, proof: bytes) -> None:
        """Check that whoever asks to enrol ``key`` has it, and means this federation.

        Args:
            proof: signature by ``key`` over federation, token and ``node_key``; the others as in ``enrol``.

        Raises:
            EnrolmentError: it is not.
        """
        try:
            verify(key, "enrolment request", canonical([self._federation, token, node_key]), proof)
        except SignatureError as error:
            raise EnrolmentError(
                "the request is not signed by its key for this federation; the invitation may be another federation's"
            ) from error

    def leave(self, number: int, when: int, proof: bytes) -> Member:
        """End a membership on the member's own word.

        Args:
            number: the member's.
            when: the member's clock, seconds since 1970.
            proof: signature by the member's key over federation, number and ``when``.

        Raises:
            EnrolmentError: the clocks differ by more than 300 s, or the member did not sign this.
        """
        apart = when - self._clock()
        if abs(apart) > CLOCK_SECONDS:
            raise EnrolmentError(
                f"the clock of this device is {abs(apart):.0f} seconds {'fast' if apart > 0 else 'slow'}, the limit is "
                f"{CLOCK_SECONDS}; set the clock and try again"
            )
        member = next(iter(self._members("WHERE number = ?", number)), None)
        try:
            # an unknown number is answered like a wrong signature: numbers are nobody else's business
            content = canonical([self._federation, number, when])
            verify(bytes(KEY_BYTES) if member is None else member.key, "leave", content, proof)
        except SignatureError as error:
            raise EnrolmentError(f"the request to leave is not signed by member {number}") from error
        return self.revoke(number, "left")

    def revoke(self, number: int, reason: str) -> Member:
        """End a membership; the number and its keys are never used again. A second time changes nothing.

        Raises:
            EnrolmentError: there is no such member. SettingError: the reason is empty or too long.
        """
        if not 0 < len(reason) <= 200 or not reason.isprintable():
            raise SettingError("a reason has 1 to 200 printable characters")
        with self._database() as database:
            changes = (int(self._clock()), reason, number)
            database.execute("UPDATE members SET revoked = ?, reason = ? WHERE number = ? AND revoked IS NULL", changes)
        for member in self._members("WHERE number = ?", number):
            return member
        raise EnrolmentError(f"there is no member {number}; see plgl federation members")

    def members(self) -> list[Member]:
        """Everybody who was ever enrolled, by number."""
        return self._members("")

    def active(self) -> list[Member]:
        """Those who may take part now: neither revoked nor expired."""
        return self._members("WHERE revoked IS NULL AND expires > ?", int(self._clock()))

    def is_active(self, number: int) -> bool:
        """Whether this member may take part now."""
        condition = "WHERE revoked IS NULL AND expires > ? AND number = ?"
        return bool(self._members(condition, int(self._clock()), number))

    def open_invites(self) -> int:
        """Invitations that can still be used."""
        with self._database() as database:
            condition = "SELECT count(*) FROM invites WHERE member IS NULL AND expires > ?"
            return int(database.execute(condition, (int(self._clock()),)).fetchone()[0])

    def _again(self, database: sqlite3.Connection, number: int, key: bytes, node_key: str) -> MemberCertificate:
        row = database.execute(f"SELECT {_COLUMNS}, certificate FROM members WHERE number = ?", (number,)).fetchone()
        member = _member(row[:-1])
        if member.key != key or member.node_key != node_key:
            raise EnrolmentError("the invitation was used by another device; ask for a new one")
        if member.revoked is not None:
            raise EnrolmentError("the membership has ended; ask for a new invitation")
        return MemberCertificate.from_json(json.loads(row[-1]))

    def _admit(
        self, database: sqlite3.Connection, token: str, key: bytes, node_key: str, now: int
    ) -> MemberCertificate:
        expires = now + MEMBERSHIP_SECONDS
        try:
            cursor = database.execute(
                "INSERT INTO members (key, node_key, enrolled, expires, certificate) VALUES (?, ?, ?, ?, '')",
                (key, node_key, now, expires),
            )
        except sqlite3.IntegrityError as error:
            raise EnrolmentError("one of these keys is known here already; make new keys to join again") from error
        number = int(cursor.lastrowid or 0)
        certificate = MemberCertificate.issue(
            self._authority, federation=self._federation, member=number, key=key, issued=now, expires=expires
        )
        text = json.dumps(certificate.to_json())
        database.execute("UPDATE members SET certificate = ? WHERE number = ?", (text, number))
        database.execute("UPDATE invites SET member = ? WHERE token = ?", (number, _hash(token)))
        return certificate

    def _members(self, condition: str, *values: int) -> list[Member]:
        with self._database() as database:
            rows = database.execute(f"SELECT {_COLUMNS} FROM members {condition} ORDER BY number", values).fetchall()
        return [_member(row) for row in rows]

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """A connection in one transaction; several threads and processes may each have their own."""
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as database:
                database.isolation_level = None
                database.execute("PRAGMA synchronous = FULL")
                with database:
                    database.execute("BEGIN IMMEDIATE")
                    yield database
        except sqlite3.DatabaseError as error:
            raise StorageError(f"cannot use {self._path}: {error}; free some space or restore the file") from error


def plain_node_key(text: str) -> str:
    """A node's public key as OpenSSH text in one form only, without a comment.

    Raises:
        EnrolmentError: it is no P-384 key in OpenSSH form.
    """
    try:
        if len(text) > _LONGEST_NODE_KEY:
            raise ValueError("too long")
        key = serialization.load_ssh_public_key(text.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise ValueError("another kind of key")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EnrolmentError("node_key must be a P-384 public key in OpenSSH form") from error
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


_COLUMNS = "number, key, node_key, enrolled, expires, revoked, reason"


def _member(row: tuple[int, bytes, str, int, int, int | None, str | None]) -> Member:
    number, key, node_key, enrolled, expires, revoked, reason = row
    return Member(
        number=number,
        key=key,
        node_key=node_key,
        enrolled=enrolled,
        expires=expires,
        revoked=revoked,
        reason=reason,
    )


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
