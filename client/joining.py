"""Becoming a member: what can be refused before anything is asked, then keys, the gate, a certificate."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from client.gate import Gate
from client.ledger import Ledger
from client.membership import KEY, LEDGER, NODE_KEY, RECORD, Membership, federations_folder, pack_of, read_node_key
from client.store_files import ProcessLock, private_folder
from common.errors import EnrolmentError, SettingError, SignatureError, StoreInUse
from common.files import write_privately
from common.invite import Invite
from common.signing import SigningKey

PENDING = "joining"  # which token the keys were made for, until there is a certificate


def join(
    invite: Invite,
    *,
    root: Path | None = None,
    generator: str | None = None,
    store: Path | None = None,
    profile: str = "me",
    limit: int | None = None,
    clock: Callable[[], float] = time.time,
) -> Membership:
    """Become a member. The first moment anything leaves this machine: two public keys and the token.

    Guarantee: the keys are on disk before the gate hears of them, so after a crash the same keys are sent again and
    the token is not lost. Nothing about the person's answers is sent.

    Args:
        invite: of the federation.
        root: folder of the memberships; None for the usual one.
        generator: name or folder of the generator pack; None to look for it.
        store: path of the store with the answers; None for the usual one.
        profile: whose answers.
        limit: participations the person allows; None for all of the terms.
        clock: seconds since 1970.

    Raises:
        EnrolmentError: the invitation expired or is refused, the clock is wrong, the gate's certificate is foreign or
            expired, or there is a membership already.
        PackError: the generator pack is not here.
        SettingError: a limit the terms do not allow.
        DeploymentError: the gate does not answer.
    """
    limit = check_invite(invite, limit=limit, root=root, clock=clock)
    pack = pack_of(invite.terms, generator)
    folder = (federations_folder() if root is None else root) / invite.terms.federation
    private_folder(folder)
    with _alone(folder):
        key, node_key = _keys(folder, invite.token)
        with Gate(invite, clock=clock) as gate:
            gate.greet()
            certificate = gate.enrol(invite.token, key, node_key)
        certificate.check(invite.authority, invite.terms.federation, clock())
        if certificate.key != key.public:
            raise EnrolmentError("the gate certified another key than this device's; tell the operator")
        made = Membership(
            folder=folder,
            invite=dataclasses.replace(invite, token=""),
            certificate=certificate,
            limit=limit,
            store=None if store is None else store.expanduser().resolve(),
            profile=profile,
            generator=pack.name if generator in (None, pack.name) else str(pack.folder.resolve()),
            paused=False,
            joined=int(clock()),
        )
        Ledger.open(folder / LEDGER, create=True).close()  # one from an earlier membership counts on
        made.save()
        (folder / PENDING).unlink()
    return made


def check_invite(
    invite: Invite,
    *,
    limit: int | None = None,
    root: Path | None = None,
    clock: Callable[[], float] = time.time,
) -> int:
    """What can be refused before anything is asked or sent.

    Returns:
        Participations the person allows.

    Raises:
        EnrolmentError: the invitation expired or has no token, or there is a membership already.
        SettingError: a limit the terms do not allow.
    """
    terms, now = invite.terms, clock()
    most = terms.settings.participations
    if limit is not None and not 1 <= limit <= most:
        raise SettingError(f"participations={limit} must be between 1 and the {most} of the terms")
    folder = (federations_folder() if root is None else root) / terms.federation
    if (folder / RECORD).exists():
        member = Membership.open(folder).member
        raise EnrolmentError(
            f"this device is member {member} of {terms.name!r} already; see it with: plgl sharing show, or first: "
            f"plgl sharing leave --federation {terms.federation[:8]}"
        )
    if now >= invite.expires:
        raise EnrolmentError(
            f"the invitation expired {_ago(now - invite.expires)} ago, if this clock is right "
            f"({time.strftime('%Y-%m-%d %H:%M', time.localtime(now))}); ask for a new one"
        )
    if not invite.token:
        raise EnrolmentError("the invitation has no token; it was used already, ask for a new one")
    return most if limit is None else limit


def _ago(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        lock = ProcessLock(folder / "join.lock")
    except StoreInUse as error:
        raise EnrolmentError(f"another process joins in {folder} right now; wait for it") from error
    with contextlib.closing(lock):
        yield


def _keys(folder: Path, token: str) -> tuple[SigningKey, str]:
    """The keys of this device for this token, made and written where there are none.

    Keys that were made for another token may be known to the gate already, which takes none twice.

    Returns:
        The member's key, and the public one of the connection as OpenSSH text.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    made_for = hashlib.sha256(token.encode()).hexdigest().encode()
    if not (folder / PENDING).exists() or (folder / PENDING).read_bytes() != made_for:
        write_privately(folder / KEY, SigningKey.generate().to_bytes())
        raw = ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        write_privately(folder / NODE_KEY, raw)
        write_privately(folder / PENDING, made_for)
    try:
        key = SigningKey.from_bytes((folder / KEY).read_bytes())
        public = read_node_key(folder).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    except (OSError, ValueError, TypeError, SignatureError) as error:
        raise EnrolmentError(f"a key in {folder} is damaged; remove {PENDING} there and join again") from error
    return key, public.decode()
