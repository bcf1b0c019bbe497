"""A person's membership of a federation: one private folder with what this device is, may do and has done.

Files, readable by their owner only: ``membership.json`` (the invitation without its token, the certificate, the
person's choices), ``node.key`` (EC P-384, the connection), ``enrolment.key`` (Ed25519, the member), ``ledger.db`` (what
was spent), ``releases/`` (priors that were accepted), ``agent.json`` (what the edge process last did).

The ledger and the releases outlive the membership: who joins again has not forgotten what was spent.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from client.gate import Gate
from client.store_files import private_folder, wipe
from common.enrolment import MemberCertificate
from common.errors import ConsentError, EnrolmentError, NoMembership, PackError, PlglError, SignatureError
from common.files import write_privately
from common.invite import Invite
from common.signing import SigningKey, canonical
from common.terms import Terms

if TYPE_CHECKING:  # torch comes with these
    from client.device import Device
    from client.generators.pack import GeneratorPack
    from client.ledger import Ledger
    from client.likelihood import Evidence
    from client.releases import Shelf, Verdict
    from client.vault import KeyringLike
    from common.prior import PopulationPrior

FORMAT = "plgl-membership-1"
RECORD, NODE_KEY, KEY, LEDGER = "membership.json", "node.key", "enrolment.key", "ledger.db"
_LARGEST_RECORD = 1 << 20
_VERDICTS = 100


def federations_folder() -> Path:
    """Where the memberships of this person lie, a folder for each federation."""
    return Path(platformdirs.user_data_dir("plgl", appauthor=False)) / "federations"


@dataclass(frozen=True, kw_only=True)
class Membership:
    """A membership as its folder says it.

    Attributes:
        folder: where it lies.
        invite: what was agreed to; its token is empty.
        certificate: the authority's word for this device's key.
        limit: participations the person allows.
        store: path of the store with the answers; None for the usual one.
        profile: whose answers.
        generator: name or folder of the generator pack.
        paused: whether the person takes a break; nothing is sent then.
        joined: seconds since 1970.
    """

    folder: Path
    invite: Invite
    certificate: MemberCertificate
    limit: int
    store: Path | None
    profile: str
    generator: str
    paused: bool
    joined: int

    @property
    def terms(self) -> Terms:
        """What the person agreed to."""
        return self.invite.terms

    @property
    def member(self) -> int:
        """The member's number."""
        return self.certificate.member

    @classmethod
    def open(cls, folder: Path) -> Membership:
        """Read a membership.

        Raises:
            EnrolmentError: there is none, or it is damaged.
        """
        try:
            with (folder / RECORD).open("rb") as file:
                values = json.loads(file.read(_LARGEST_RECORD))
            if values.pop("format") != FORMAT:
                raise ValueError("another format")
            kinds = {"limit": int, "profile": str, "generator": str, "paused": bool, "joined": int}
            if any(type(values[name]) is not kind for name, kind in kinds.items()):
                raise ValueError("a field of another type")
            store = None if values["store"] is None else Path(values["store"])
            invite = Invite.from_json(values["invite"])
            certificate = MemberCertificate.from_json(values["certificate"])
            return cls(
                **{**values, "folder": folder, "invite": invite, "certificate": certificate, "store": store},
            )
        except FileNotFoundError as error:
            raise EnrolmentError(f"there is no membership in {folder}; join with: plgl join INVITE") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, EnrolmentError) as error:
            raise EnrolmentError(
                f"the membership in {folder} is damaged ({type(error).__name__}); restore {RECORD} from a backup, or "
                "leave and join again"
            ) from error

    def save(self) -> None:
        """Write ``membership.json``.

        Raises:
            StorageError: the disk refuses.
        """
        values = {
            "format": FORMAT,
            "invite": dataclasses.replace(self.invite, token="").to_json(),
            "certificate": self.certificate.to_json(),
            "limit": self.limit,
            "store": None if self.store is None else str(self.store),
            "profile": self.profile,
            "generator": self.generator,
            "paused": self.paused,
            "joined": self.joined,
        }
        write_privately(self.folder / RECORD, canonical(values) + b"\n")

    def pausing(self, paused: bool) -> Membership:
        """The membership with sharing paused or resumed, written down; rounds notice at once."""
        changed = dataclasses.replace(Membership.open(self.folder), paused=paused)
        changed.save()
        return changed

    def key(self) -> SigningKey:
        """The member's enrolment key.

        Raises:
            EnrolmentError: it is missing or damaged.
        """
        try:
            return SigningKey.from_bytes((self.folder / KEY).read_bytes())
        except (OSError, SignatureError) as error:
            raise EnrolmentError(f"{self.folder / KEY} cannot be read; leave and join again") from error

    def node_key(self) -> Any:
        """The private key of the connection, ``cryptography``'s ``EllipticCurvePrivateKey``.

        Raises:
            EnrolmentError: it is missing or damaged.
        """
        try:
            return read_node_key(self.folder)
        except (OSError, ValueError, TypeError) as error:
            raise EnrolmentError(f"{self.folder / NODE_KEY} cannot be read; leave and join again") from error

    def pack(self) -> GeneratorPack:
        """The generator pack of the terms.

        Raises:
            PackError: it is not here any more.
        """
        return pack_of(self.terms, self.generator)

    def ledger(self) -> Ledger:
        """What was spent; the caller closes it.

        Raises:
            LedgerError: it is missing or damaged.
        """
        from client.ledger import Ledger

        return Ledger.open(self.folder / LEDGER)

    def shelf(self) -> Shelf:
        """The release this device took up, if any."""
        from client.releases import Shelf

        return Shelf(self.folder / "releases", release_key=self.invite.release_key)

    def starting_prior(self) -> PopulationPrior:
        """What a round would start from: the release in use, or the prior of somebody who knows nobody.

        Raises:
            PackError: the generator pack is not here any more.
        """
        from client.consent import starting_prior

        release = self.shelf().current()
        return starting_prior(self.terms, self.pack()) if release is None else release.prior

    def device(
        self,
        passphrase: str | None = None,
        *,
        keyring: KeyringLike | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Device:
        """What this device brings to a round. Rounds read the pause and the store anew each time.

        Args:
            passphrase: of the store; None to ask the system keyring.
            keyring: instead of that of the system.
            clock: seconds since 1970.

        Raises:
            EnrolmentError: a key is missing, or the certificate has expired.
            PackError: the generator pack is not here any more.
            LedgerError: the ledger is damaged.
        """
        from client.device import Device
        from client.own_answers import OwnAnswers

        self.certificate.check(self.invite.authority, self.terms.federation, clock())
        answers = OwnAnswers(
            store=self.store,
            passphrase=passphrase,
            profile=self.profile,
            pack=self.pack(),
            components=self.terms.components,
            keyring=keyring,
        )

        def evidence() -> Evidence:
            if Membership.open(self.folder).paused:
                answers.forget()
                raise ConsentError("sharing is paused; resume it with: plgl sharing resume")
            return answers()

        return Device(
            terms=self.terms,
            certificate=self.certificate,
            key=self.key(),
            authority=self.invite.authority,
            ledger=self.ledger(),
            evidence=evidence,
            limit=self.limit,
            clock=clock,
        )

    def leave(self, *, clock: Callable[[], float] = time.time) -> str | None:
        """End the membership: tell the operator, then destroy the keys whatever the operator says.

        The store is not touched, and neither is the ledger. Priors that were released stay as they are.

        Returns:
            None where the operator was told; else why not.
        """
        problem = None
        try:
            with Gate(self.invite, clock=clock) as gate:
                gate.leave(self.member, self.key())
        except PlglError as error:
            problem = str(error)
        for name in (KEY, NODE_KEY, RECORD):
            wipe(self.folder / name)
        (self.folder / "agent.json").unlink(missing_ok=True)
        return problem


def record_verdict(membership: Membership, verdict: Verdict, at: float) -> None:
    """Write down what became of a release, for the person to look at; the newest `_VERDICTS` are kept.

    Raises:
        StorageError: the disk refuses.
    """
    line = {"at": int(at), "accepted": verdict.accepted, "reason": verdict.reason, "changes": list(verdict.changes)}
    kept = [*verdicts(membership), line][-_VERDICTS:]
    private_folder(membership.folder / "releases")
    write_privately(membership.folder / "releases" / "verdicts.json", json.dumps(kept).encode())


def verdicts(membership: Membership) -> list[dict[str, Any]]:
    """What became of releases, oldest first: ``at``, ``accepted``, ``reason``, ``changes``."""
    try:
        kept = json.loads((membership.folder / "releases" / "verdicts.json").read_bytes())
        return [{name: each[name] for name in ("at", "accepted", "reason", "changes")} for each in kept]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def memberships(root: Path | None = None) -> list[Membership]:
    """Every membership of this person, the oldest first.

    Raises:
        EnrolmentError: one is damaged.
    """
    root = federations_folder() if root is None else root
    found = [Membership.open(record.parent) for record in root.glob(f"*/{RECORD}")]
    return sorted(found, key=lambda membership: (membership.joined, membership.terms.federation))


def membership_of(federation: str | None = None, root: Path | None = None) -> Membership:
    """The membership a person means.

    Args:
        federation: its identifier or the beginning of it, or its name; None where there is only one.
        root: folder of the memberships; None for the usual one.

    Raises:
        NoMembership: none fits, or several.
    """
    found = memberships(root)
    if federation is not None:
        found = [m for m in found if m.terms.name == federation or m.terms.federation.startswith(federation.lower())]
    if len(found) == 1:
        return found[0]
    if not found:
        what = "no membership here" if federation is None else f"no membership of {federation[:40]!r} here"
        raise NoMembership(f"{what}; nothing is shared; join with: plgl join INVITE")
    names = ", ".join(f"{m.terms.federation[:8]} ({m.terms.name})" for m in found)
    raise NoMembership(f"several memberships fit: {names}; say which with --federation")


def sharing_line(root: Path | None = None) -> str:
    """What is shared, in one line."""
    try:
        found = memberships(root)
    except EnrolmentError:
        return "sharing: a membership cannot be read; see: plgl sharing show"
    if not found:
        return "sharing: off; you share nothing"
    said = [f"{m.terms.name}{' (paused)' if m.paused else ''}" for m in found]
    return f"sharing: with {', '.join(said)}; see: plgl sharing show"


def pack_of(terms: Terms, generator: str | None = None) -> GeneratorPack:
    """The generator pack the terms name, found on this machine.

    Args:
        terms: of the federation.
        generator: name or folder of the pack; None to look among those that come with the program, then among those
            that were added.

    Raises:
        PackError: it is another pack, or not here.
    """
    from client.generators.installed import InstalledPacks
    from client.generators.pack import GeneratorPack, known_generators

    names = (*known_generators(), *InstalledPacks().names()) if generator is None else (generator,)
    tried = []
    for name in dict.fromkeys(names):
        try:
            pack = GeneratorPack.open(name)
        except PlglError as error:
            if generator is not None:
                raise
            tried.append(f"{name} (cannot be used: {error})")  # another one may still be the right one
            continue
        if pack.hash == terms.pack:
            if pack.components < terms.components:
                raise PackError(f"the terms ask for {terms.components} features, pack {name!r} has {pack.components}")
            return pack
        tried.append(f"{pack.name} {pack.hash[:12]}")
    raise PackError(
        f"the federation uses the generator pack {terms.pack[:12]}, here is {', '.join(tried) or 'none'}; "
        "give the folder of the right one with --generator"
    )


def read_node_key(folder: Path) -> Any:
    """The connection's private key in a folder; raises what reading it raises."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    key = load_ssh_private_key((folder / NODE_KEY).read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise TypeError("another kind of key")
    return key
