"""Files of a pack: read no further than the manifest says, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

from client.generators.interface import Learning
from client.generators.manifest import LARGEST_MANIFEST, LATENT_MAP, MANIFEST, SIGNATURE, Manifest
from common.errors import DamagedPack, FolderError, StorageError
from common.files import write_atomically


def fingerprint(content: bytes) -> tuple[int, str]:
    """Size in bytes and SHA-256 in hexadecimal, as a manifest holds them."""
    return len(content), hashlib.sha256(content).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        DamagedPack: there is none, or it is not one.
    """
    return Manifest.decode(read(folder, MANIFEST, LARGEST_MANIFEST))


def verified(folder: Path, name: str, manifest: Manifest) -> bytes:
    """Content of a file, exactly as the manifest names it.

    Raises:
        DamagedPack: it is missing, or has other bytes.
    """
    size, sha = manifest.files[name]
    content = read(folder, name, size)
    if len(content) != size:
        found = "more" if len(content) > size else len(content)
        raise DamagedPack(f"{folder / name} has {found} bytes, not {size}; fetch the pack again")
    if hashlib.sha256(content).hexdigest() != sha:
        raise DamagedPack(f"{folder / name} was altered: its SHA-256 is not the manifest's; fetch the pack again")
    return content


def refuse_others(folder: Path, manifest: Manifest) -> None:
    """Refuse a folder with files beside those of a pack that runs in torch, such as code; hidden ones are not read.

    Raises:
        DamagedPack: names one.
    """
    known = {*manifest.files, MANIFEST, SIGNATURE}
    if others := sorted(p.name for p in folder.iterdir() if p.name not in known and not p.name.startswith(".")):
        raise DamagedPack(f"{folder} also holds {others[0][:80]!r}, which its manifest does not name; remove it")


def read(folder: Path, name: str, limit: int) -> bytes:
    """At most ``limit + 1`` bytes of a plain file, so that neither a huge one nor a pipe can do harm.

    Raises:
        DamagedPack: it is missing, or cannot be read.
    """
    try:
        # a pipe is opened at once instead of waiting for its other end, and then refused
        handle = os.open(folder / name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise DamagedPack(f"{folder / name} is not a plain file; fetch the pack again")
            return file.read(limit + 1)
    except FileNotFoundError as error:
        raise DamagedPack(f"{folder} has no {name}; it is not a generator pack, or fetch the pack again") from error
    except OSError as error:
        raise DamagedPack(f"{folder / name} cannot be read: {error.strerror or error}") from error


def check_target(folder: Path) -> Manifest | None:
    """Whether a pack may be written here.

    Returns:
        The manifest of the pack that would be replaced; None for a new or an empty folder.

    Raises:
        FolderError: something else is there.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise FolderError(f"{folder} is a file; choose another folder")
    if not any(folder.iterdir()):
        return None
    try:
        return read_manifest(folder)
    except DamagedPack as error:
        raise FolderError(f"{folder} is not empty and holds no generator pack; choose another folder") from error


def write_pack(folder: Path, manifest: Manifest, content: dict[str, bytes]) -> None:
    """Write a pack, or the changed files of one.

    Guarantee: a new folder appears whole or not at all. In an existing pack each file is whole, and the manifest comes
    last: after a crash in between, opening the pack says that it is damaged and the same command repairs it. The
    signature of another manifest is removed.

    Args:
        folder: new, empty, or a pack; its parent folders are made.
        manifest: with the fingerprints of all files.
        content: the files to write.

    Raises:
        FolderError: something else is there.
        StorageError: the disk refused.
    """
    existing = check_target(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if existing is not None:
            if manifest.encode() != existing.encode():
                (folder / SIGNATURE).unlink(missing_ok=True)
            _write_files(folder, manifest, content)
            for name in existing.files.keys() - manifest.files.keys():
                (folder / name).unlink(missing_ok=True)
            return
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as workshop:
            whole = Path(workshop) / "pack"
            whole.mkdir()
            _write_files(whole, manifest, content)
            if folder.exists():
                folder.rmdir()
            shutil.move(whole, folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write {folder}: {reason}; free some space or choose another folder") from error


def _write_files(folder: Path, manifest: Manifest, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        write_atomically(folder / name, data)
    write_atomically(folder / MANIFEST, manifest.encode())


def with_map(
    manifest: Manifest,
    network: bytes,
    r2: tuple[float, ...],
    scale: tuple[float, ...],
    learned: Learning | None = None,
) -> Manifest:
    """A manifest with another latent map.

    Args:
        manifest: of the pack; one it may already name is replaced.
        network: the map as an ONNX file.
        r2: ``(k,)`` and scale: ``(k,)``, see `client.generators.latent_map.LearnedMap`.
        scale: see above.
        learned: what the map was learned with; None to leave that out.
    """
    files = {**manifest.files, LATENT_MAP: fingerprint(network)}
    return replace(manifest, files=files, components=len(r2), r2=r2, scale=scale, learned=learned)
