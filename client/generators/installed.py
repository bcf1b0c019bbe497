"""Generators a person added: where their packs lie, and what was seen of each name, so that versions never go back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from client.generators.manifest import MANIFEST, Manifest
from common.errors import DamagedPack, PackError, SignatureError, StorageError, UnknownGenerator
from common.files import write_atomically
from common.signing import fingerprint

HOME = "PLGL_GENERATORS"
"""Environment variable with the folder of added generators."""
FORMAT = "plgl-generators-1"
_SEEN = "seen.json"


def generators_folder(home: Path | None = None) -> Path:
    """Where added generators lie: ``home``, or what the environment says, or the usual place of this system."""
    if home is not None:
        return home
    if named := os.environ.get(HOME):
        return Path(named)
    return Path(platformdirs.user_data_dir("plgl", appauthor=False)) / "generators"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The newest pack of a name that was ever added here; outlives its removal.

    Attributes:
        version: three numbers.
        manifest: SHA-256 of its manifest; its networks were run for the first time in a child process.
        key: public key that signed it, hexadecimal; empty for none.
    """

    version: str
    manifest: str
    key: str = ""

    @property
    def order(self) -> tuple[int, ...]:
        """The version as numbers, to compare."""
        return tuple(int(part) for part in self.version.split("."))


class InstalledPacks:
    """The added generators of one folder.

    Guarantee: a pack is there whole or not at all; a name's version never falls, and once signed, its later versions
    are signed by the same key, unless the person forgets the name.
    """

    def __init__(self, home: Path | None = None) -> None:
        self.home = generators_folder(home)

    def names(self) -> tuple[str, ...]:
        """Names of the packs that are here, sorted."""
        return tuple(
            sorted(p.parent.name for p in self.home.glob(f"*/{MANIFEST}") if not p.parent.name.startswith("."))
        )

    def folder(self, name: str) -> Path:
        """Where the pack of a name lies or would lie."""
        return self.home / name

    def seen(self) -> dict[str, Seen]:
        """What was seen, by name.

        Raises:
            DamagedPack: the record is damaged; without it nobody can tell whether a version goes back.
        """
        path = self.home / _SEEN
        if not path.exists():
            return {}
        try:
            about = json.loads(path.read_bytes())
            found = {str(name): Seen(**entry) for name, entry in about["packs"].items()}
            if about["format"] != FORMAT or not all(_is_seen(entry) for entry in found.values()):
                raise ValueError("of another format")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedPack(f"{path} is damaged; move it away, and versions may go back once") from error
        return found

    def is_proven(self, manifest: Manifest) -> bool:
        """Whether these very files were checked when they were added."""
        known = self.seen().get(manifest.name)
        return known is not None and known.manifest == _hash(manifest)

    def admit(self, manifest: Manifest, signer: bytes | None) -> None:
        """Check that a pack may be added.

        Args:
            manifest: of the pack.
            signer: the key that signed it, checked; None for none.

        Raises:
            PackError: its version goes back, or is here with other files.
            SignatureError: another key signed earlier versions.
        """
        known = self.seen().get(manifest.name)
        if known is None:
            return
        forget = f"if that is right, forget what was seen: plgl generator remove {manifest.name} --forget"
        if known.key and (signer is None or signer.hex() != known.key):
            now = "nobody" if signer is None else fingerprint(signer)
            before = fingerprint(bytes.fromhex(known.key))
            raise SignatureError(f"{manifest.name} was signed by {before} before and by {now} now; {forget}")
        if manifest.order < known.order:
            raise PackError(
                f"{manifest.name} {manifest.version} is older than {known.version}, which was here; fetch the newest, "
                f"or {forget}"
            )
        same = manifest.order == known.order and _hash(manifest) != known.manifest
        if same and (known.key or manifest.name in self.names()):
            raise PackError(
                f"{manifest.name} {manifest.version} is here with other files; give this one a higher --version, or "
                f"remove that one: plgl generator remove {manifest.name}"
            )

    def install(self, manifest: Manifest, files: Mapping[str, bytes], signer: bytes | None = None) -> Path:
        """Add a pack that was checked, in place of an older version.

        Args:
            manifest: of the pack.
            files: everything in its folder, with the manifest and, if signed, the signature.
            signer: the key that signed it.

        Returns:
            Its folder.

        Raises:
            PackError, SignatureError: as `admit`.
            StorageError: the disk refused; what was there stays.
        """
        self.admit(manifest, signer)
        target = self.folder(manifest.name)
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.home, prefix=f".{manifest.name}.") as workshop:
                new, old = Path(workshop) / "new", Path(workshop) / "old"
                new.mkdir()
                for name, content in files.items():
                    write_atomically(new / name, content)
                if target.exists():
                    target.rename(old)
                try:
                    new.rename(target)
                except BaseException:  # Ctrl-C too must not lose the pack that was here
                    if old.exists():
                        old.rename(target)
                    raise
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error.strerror or error}; free some space") from error
        self.remember(manifest, signer)
        return target

    def remember(self, manifest: Manifest, signer: bytes | None = None) -> None:
        """Note a pack as the newest of its name, its networks as checked; a key once seen stays.

        Raises:
            StorageError: the disk refused.
        """
        seen = self.seen()
        before = seen[manifest.name].key if manifest.name in seen else ""
        key = before if signer is None else signer.hex()
        seen[manifest.name] = Seen(version=manifest.version, manifest=_hash(manifest), key=key)
        self._write(seen)

    def remove(self, name: str, *, forget: bool = False) -> None:
        """Delete an added pack.

        Args:
            name: of the pack.
            forget: also forget its version and key, so that an older or foreign one may come.

        Raises:
            UnknownGenerator: there is none of that name.
            StorageError: the disk refused.
        """
        seen = self.seen()
        here = name in self.names()
        if not here and not (forget and name in seen):
            known = ", ".join(self.names()) or "none"
            raise UnknownGenerator(f"no added generator {name!r}; added: {known}")
        try:
            if here:
                shutil.rmtree(self.folder(name))
        except OSError as error:
            raise StorageError(f"cannot delete {self.folder(name)}: {error.strerror or error}") from error
        if forget and seen.pop(name, None) is not None:
            self._write(seen)

    def _write(self, seen: Mapping[str, Seen]) -> None:
        about = {"format": FORMAT, "packs": {name: asdict(entry) for name, entry in sorted(seen.items())}}
        self.home.mkdir(parents=True, exist_ok=True)
        write_atomically(self.home / _SEEN, json.dumps(about, indent=2).encode() + b"\n")


def _hash(manifest: Manifest) -> str:
    return hashlib.sha256(manifest.encode()).hexdigest()


def _is_seen(entry: Seen) -> bool:
    return (
        bool(re.fullmatch(r"\d{1,9}\.\d{1,9}\.\d{1,9}", entry.version))
        and bool(re.fullmatch(r"[0-9a-f]{64}", entry.manifest))
        and bool(re.fullmatch(r"([0-9a-f]{64})?", entry.key))
    )
