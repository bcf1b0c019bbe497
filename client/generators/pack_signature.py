"""Signatures of packs: a file of its own beside the manifest, so that signing changes no hash.

A signature says that the owner of a key vouches for one manifest, and so for every file it names. Whose key that is, a
person compares once by its fingerprint; `installed.py` then insists on the same key for later versions of that name.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from client.generators.manifest import SIGNATURE, Manifest
from client.generators.pack_files import read, read_manifest
from common.errors import SignatureError, StorageError
from common.files import write_atomically, write_privately
from common.signing import KEY_BYTES, SigningKey, fingerprint, read_document, sign_document

PURPOSE = "generator pack"
_LARGEST_SIGNATURE = 1 << 16


def sign_pack(folder: Path, key: SigningKey) -> str:
    """Sign the pack in a folder, in place of any earlier signature.

    Returns:
        The signing key's fingerprint.

    Raises:
        DamagedPack: there is no manifest, or it is not one.
        StorageError: the disk refused.
    """
    content = {**_statement(read_manifest(folder)), "key": key.public.hex()}
    write_atomically(folder / SIGNATURE, sign_document(content, key, PURPOSE))
    return fingerprint(key.public)


def signer_of(folder: Path, manifest: Manifest) -> bytes | None:
    """The public key that signed this pack, ``(32,)`` bytes; None for a pack without a signature.

    Raises:
        SignatureError: there is a signature, and it is not one of this manifest.
    """
    if not (folder / SIGNATURE).exists():
        return None
    raw = read(folder, SIGNATURE, _LARGEST_SIGNATURE)
    found = re.search(rb'"key":"([0-9a-f]{64})"', raw)
    if found is None:
        raise SignatureError(f"{folder / SIGNATURE} names no key; fetch the pack again, or delete that file")
    public = bytes.fromhex(found.group(1).decode())
    content = read_document(raw, public, PURPOSE)
    if content != {**_statement(manifest), "key": public.hex()}:
        raise SignatureError(f"{folder / SIGNATURE} signs another pack or version; fetch the pack again")
    return public


def signature_bytes(folder: Path) -> bytes:
    """The signature's file as it is, to copy it with its pack.

    Raises:
        DamagedPack: there is none.
    """
    return read(folder, SIGNATURE, _LARGEST_SIGNATURE)


def load_or_make_key(path: Path) -> tuple[SigningKey, bool]:
    """The signing key in a file of 64 hexadecimal digits, made with mode 0600 where there is none.

    Returns:
        The key, and whether it is new.

    Raises:
        SignatureError: the file holds something else.
        StorageError: the disk refused.
    """
    if path.exists():
        try:
            return SigningKey.from_bytes(bytes.fromhex(path.read_text("ascii").strip())), False
        except (OSError, ValueError) as error:
            raise SignatureError(f"{path} holds no signing key of {2 * KEY_BYTES} hexadecimal digits") from error
    if not path.parent.is_dir():
        raise StorageError(f"cannot write {path}: no such folder; make it first or choose another")
    key = SigningKey.generate()
    write_privately(path, key.to_bytes().hex().encode() + b"\n")
    return key, True


def read_public_key(text: str) -> bytes:
    """A public key as written in hexadecimal.

    Raises:
        SignatureError: not 64 hexadecimal digits.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise SignatureError(f"a public key has {2 * KEY_BYTES} hexadecimal digits, not {text[:80]!r}")
    return bytes.fromhex(text)


def _statement(manifest: Manifest) -> dict[str, str]:
    encoded = manifest.encode()
    return {"name": manifest.name, "version": manifest.version, "manifest": hashlib.sha256(encoded).hexdigest()}
