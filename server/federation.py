"""The operator's folder: everything one federation is, on the operator's machine.

::

    federation.json   terms and address, signed by the authority
    keys/             authority.key release.key journal.key (32 bytes each), ca.key server.key (PEM)
    ca.crt server.crt enrolment.db journal.db audit.jsonl
    releases/         release-000001.json and so on
    bundle/           the app bundle: its files and plgl.fab
    flower/           state of the SuperLink
    start/            the flat prior the first round starts from
    up.json           ports, while ``plgl federation up`` runs

The folder is readable by its owner only. Whoever has ``keys/`` is the federation.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import shutil
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import DeploymentError, FolderError, PackError, SettingError, SignatureError, StorageError
from common.files import write_atomically, write_privately
from common.invite import Invite
from common.signing import SigningKey, read_document, sign_document
from common.terms import Terms
from server import authority, bundle
from server.enrolment_book import EnrolmentBook

if TYPE_CHECKING:  # torch comes with it
    from server.coordinator import Desk

PURPOSE = "federation"
START = "start"
_SIGNING_KEYS = ("authority", "release", "journal")
_LARGEST_MANIFEST = 1 << 20
_HOST = re.compile(r"\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Federation:
    """One federation, as its folder says it.

    Attributes:
        folder: absolute.
        terms: what members agree to.
        address: ``host:port`` that devices dial.
        public: ``(32,)`` bytes, the authority's public key.
    """

    folder: Path
    terms: Terms
    address: str
    public: bytes

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        terms: Terms,
        address: str,
        scale: Sequence[float] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Federation:
        """Make a new federation: keys, certificates, an empty journal and enrolment book, the app bundle.

        Args:
            folder: new or empty.
            terms: what members will agree to.
            address: ``host:port`` that devices dial.
            scale: relative spread of the features of the pack, for the flat prior the first round starts from; equal
                without it.
            clock: seconds since 1970.

        Guarantee: the folder appears whole or not at all, for its owner only.

        Raises:
            FolderError: something is there already.
            SettingError: the address is not ``host:port``.
            StorageError: the disk refuses.
        """
        host, _ = split_address(address)
        folder = folder.absolute()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FolderError(f"{folder} is not empty; a federation needs a folder of its own")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as workshop:
                whole = Path(workshop) / "federation"
                _fill(whole, terms, address, host, clock())
                _write_start(whole / START, terms, scale)
                if folder.exists():
                    folder.rmdir()
                shutil.move(whole, folder)
        except OSError as error:
            raise StorageError(f"cannot make {folder}: {error.strerror or error}; choose another folder") from error
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path | str) -> Federation:
        """Read a federation's folder.

        Raises:
            FolderError: it is no federation, or cannot be read by this user.
            SignatureError: ``federation.json`` was altered.
        """
        folder = Path(folder).absolute()
        try:
            raw = (folder / "federation.json").read_bytes()
            public = SigningKey.from_bytes((folder / "keys" / "authority.key").read_bytes()).public
        except OSError as error:
            raise FolderError(
                f"{folder} is no federation this user can read ({error.strerror or error}); make one with "
                "plgl federation init"
            ) from error
        content = read_document(raw, public, PURPOSE)
        if set(content) != {"terms", "address"}:
            raise SignatureError(f"{folder / 'federation.json'} is of another version; update plgl")
        terms, address = Terms.from_json(content["terms"]), content["address"]
        split_address(address)
        return cls(folder=folder, terms=terms, address=address, public=public)

    @property
    def host(self) -> str:
        """Name or address that devices dial; an IPv6 address without brackets."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """Port that devices dial."""
        return split_address(self.address)[1]

    @property
    def document(self) -> Path:
        """The signed terms and address."""
        return self.folder / "federation.json"

    @property
    def tls_authority(self) -> Path:
        """Certificate of the federation's own authority, PEM."""
        return self.folder / "ca.crt"

    @property
    def certificate(self) -> Path:
        """The server's certificate, PEM."""
        return self.folder / "server.crt"

    @property
    def server_key(self) -> Path:
        """Private key of the server's certificate, PEM."""
        return self.folder / "keys" / "server.key"

    @property
    def enrolment(self) -> Path:
        """The enrolment book."""
        return self.folder / "enrolment.db"

    @property
    def journal(self) -> Path:
        """The journal of rounds."""
        return self.folder / "journal.db"

    @property
    def audit_log(self) -> Path:
        """What was refused and changed, one JSON object a line."""
        return self.folder / "audit.jsonl"

    @property
    def releases(self) -> Path:
        """Folder of published releases."""
        return self.folder / "releases"

    @property
    def flower(self) -> Path:
        """``FLWR_HOME`` of the SuperLink, with its database and log."""
        return self.folder / "flower"

    @property
    def bundle(self) -> Path:
        """The app bundle that is submitted; its folder works with ``flwr run``."""
        return self.folder / "bundle" / bundle.NAME

    @property
    def running(self) -> Path:
        """Ports and process of ``plgl federation up``, while it runs."""
        return self.folder / "up.json"

    def key(self, name: str) -> SigningKey:
        """A private key: ``authority``, ``release`` or ``journal``.

        Raises:
            FolderError: it cannot be read.
        """
        path = self.folder / "keys" / f"{name}.key"
        try:
            return SigningKey.from_bytes(path.read_bytes())
        except OSError as error:
            raise FolderError(f"{path} cannot be read: {error.strerror or error}; restore it") from error

    def view_token(self) -> str:
        """What opens the operator's view; made when it is first asked for, in ``keys/view.token``.

        Raises:
            StorageError: it cannot be written.
        """
        path = self.folder / "keys" / "view.token"
        if not path.exists():
            write_privately(path, secrets.token_hex(32).encode() + b"\n")
        return path.read_text("ascii").strip()

    def book(self, *, clock: Callable[[], float] = time.time) -> EnrolmentBook:
        """The enrolment book.

        Raises:
            StorageError: it cannot be used.
        """
        return EnrolmentBook(self.enrolment, self.terms.federation, self.key("authority"), clock=clock)

    def bundle_hash(self) -> str:
        """SHA-256 of the app bundle, which invitations carry."""
        return bundle.digest(self.bundle.read_bytes())

    def invite(self, token: str, expires: int) -> Invite:
        """An invitation around a token of the enrolment book.

        Args:
            token: of ``EnrolmentBook.create_invite``.
            expires: when it ends, seconds since 1970; the gate decides by its own book.
        """
        return Invite(
            terms=self.terms,
            address=self.address,
            tls_authority=self.tls_authority.read_text("ascii"),
            authority=self.public,
            release_key=self.key("release").public,
            bundles=(self.bundle_hash(),),
            token=token,
            expires=expires,
        )

    @contextlib.contextmanager
    def desk(self) -> Iterator[Desk]:
        """What the rounds work with; the journal is open for writing inside the block.

        Raises:
            LedgerError: the journal is missing or damaged.
        """
        from common.prior import PopulationPrior
        from server.coordinator import Desk
        from server.journal import Journal

        book = self.book()
        newest = max((int(path.stem[8:]) for path in self.releases.glob("release-*.json")), default=0)
        with Journal.open(self.journal, self.key("journal"), self.terms, newest) as journal:
            yield Desk(
                terms=self.terms,
                start=PopulationPrior.load(self.folder / START, pack=self.terms.pack),
                authority=self.public,
                release_key=self.key("release"),
                journal=journal,
                active=lambda: {member.number for member in book.active()},
                releases=self.releases,
            )

    def renew_certificate(self, now: float) -> bool:
        """Make the server's certificate anew if it ends soon; devices trust the authority, so they notice nothing.

        Returns:
            Whether it was made anew.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with contextlib.suppress(OSError):  # a crash between the two files leaves a pair that does not match
            context.load_cert_chain(self.certificate, self.server_key)
            if authority.days_left(self.certificate.read_bytes(), now) > authority.RENEW_DAYS:
                return False
        _certify(self.folder, self.host, now)
        return True

    def where(self) -> dict[str, Any]:
        """What ``plgl federation up`` wrote about itself.

        Raises:
            DeploymentError: it does not run.
        """
        try:
            values = json.loads(self.running.read_bytes())
            return {name: values[name] for name in ("pid", "gate", "superlink", "view", "started")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DeploymentError(
                f"the federation is not up; start it in another terminal with: plgl federation up {self.folder}"
            ) from error


def split_address(address: str) -> tuple[str, int]:
    """Host and port; an IPv6 address comes in brackets and is returned without.

    Raises:
        SettingError: it is not ``host:port``.
    """
    host, _, port = address.rpartition(":")
    if not _HOST.fullmatch(host) or not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65_535:
        raise SettingError(f"address={address[:80]!r} must be host:port, as devices dial it; try localhost:8443")
    return host.strip("[]"), int(port)


def pack_hash(pack: str) -> tuple[str, list[float] | None]:
    """The hash that everybody's generator pack must have, and the spread of each component it offers.

    Args:
        pack: a SHA-256, the folder of a pack, or the name of a pack that comes with the program.

    Returns:
        The SHA-256, and the spread of each component where the manifest is at hand.

    Raises:
        PackError: there is no such pack.
    """
    if re.fullmatch("[0-9a-f]{64}", pack):
        return pack, None
    shipped = Path(__file__).parent.parent / "client" / "generators" / "packs"  # files only; no code of that side
    folder = shipped / pack if re.fullmatch("[a-z0-9-]{1,40}", pack) and (shipped / pack).is_dir() else Path(pack)
    try:
        with (folder / "manifest.json").open("rb") as file:
            raw = file.read(_LARGEST_MANIFEST)
        scale = [float(each) for each in json.loads(raw)["scale"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackError(
            f"{pack[:80]!r} is neither a pack with a manifest.json nor a SHA-256; plgl generator list shows the names"
        ) from error
    return hashlib.sha256(raw).hexdigest(), scale


def new_identifier() -> str:
    """An identifier for a new federation, 32 hexadecimal digits."""
    return secrets.token_hex(16)


def _fill(folder: Path, terms: Terms, address: str, host: str, now: float) -> None:
    for each in (folder, folder / "keys", folder / "releases", folder / "flower", folder / "bundle"):
        each.mkdir(mode=0o700)
    keys = {name: SigningKey.generate() for name in _SIGNING_KEYS}
    for name, key in keys.items():
        write_privately(folder / "keys" / f"{name}.key", key.to_bytes())
    document = sign_document({"terms": terms.to_json(), "address": address}, keys["authority"], PURPOSE)
    write_atomically(folder / "federation.json", document)
    certificate, private = authority.make_authority(terms.federation, now)
    write_privately(folder / "keys" / "ca.key", private)
    write_atomically(folder / "ca.crt", certificate)
    _certify(folder, host, now)
    EnrolmentBook(folder / "enrolment.db", terms.federation, keys["authority"])
    _write_bundle(folder / "bundle")
    _begin_journal(folder / "journal.db", keys["journal"], terms)


def _write_start(folder: Path, terms: Terms, scale: Sequence[float] | None) -> None:
    import torch

    from common.prior import TYPICAL_SPREAD, PopulationPrior

    relative = None if scale is None else torch.tensor(scale[: terms.components], dtype=torch.float64)
    PopulationPrior.flat(terms.parameters, terms.pack, TYPICAL_SPREAD, relative).save(folder)


def _certify(folder: Path, host: str, now: float) -> None:
    root, root_key = (folder / "ca.crt").read_bytes(), (folder / "keys" / "ca.key").read_bytes()
    certificate, private = authority.make_server_certificate(root, root_key, host, now)
    write_privately(folder / "keys" / "server.key", private)
    write_atomically(folder / "server.crt", certificate)


def _write_bundle(folder: Path) -> None:
    for path, content in bundle.files().items():
        (folder / path).parent.mkdir(exist_ok=True)
        write_atomically(folder / path, content)
    write_atomically(folder / bundle.NAME, bundle.build())


def _begin_journal(path: Path, key: SigningKey, terms: Terms) -> None:
    from server.journal import Journal

    Journal.create(path, key, terms).close()
