"""Taking a store elsewhere: one file locked by a passphrase, or plain JSON and CSV.

An export is a header as that of a store (Argon2id, wrapped file key, MAC), then the STREAM construction as age uses
it (C2SP, age.md, "Payload"): chunks of 64 KiB, each sealed with AES-256-GCM under a nonce that is a counter and a flag
for the last one. A chunk that is altered, moved, repeated or missing is noticed, and so is a file that is cut short.
"""

from __future__ import annotations

import csv
import io
import json
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from client.journal import Event
from client.records import pack, unpack
from client.store_files import disk_errors, private_file
from client.vault import TAG, Cost, Header, lock, subkey, unlock
from common.errors import DamagedStore, SettingError

CHUNK = 1 << 16
_LINES = 5  # of a header
_FIRST = struct.Struct("<QQ")  # number the next event gets, how many events follow
_EACH = struct.Struct("<QI")  # number of an event, length of its record


def write_export(path: Path, passphrase: str, cost: Cost, events: Sequence[Event], following: int) -> None:
    """Write events to one file that a passphrase opens; an existing file is replaced at once or not at all.

    Args:
        path: of the file, for the owner only.
        passphrase: that opens it.
        cost: work of a guess.
        events: with their numbers.
        following: number the next event gets.

    Raises:
        StorageError: the disk refuses.
        SettingError: the passphrase is empty.
    """
    key = os.urandom(32)
    header = lock(key, "export", os.urandom(16), passphrase, cost, None)
    content = io.BytesIO()
    content.write(_FIRST.pack(following, len(events)))
    for event, record in zip(events, pack(events), strict=True):
        content.write(_EACH.pack(event.id, len(record)) + record)
    with private_file(path.expanduser().resolve()) as file:
        file.write(header.encode())
        for chunk in _sealed(content.getbuffer(), key):
            file.write(chunk)


def read_export(path: Path, passphrase: str) -> tuple[list[Event], int]:
    """The events of an export, and the number the next one gets.

    Raises:
        WrongKey: another passphrase.
        DamagedStore: altered, cut short, or no export.
        NewerStore: written by a newer version.
    """
    with disk_errors(path), path.expanduser().open("rb") as file:
        header = Header.decode(b"".join(file.readline(200) for _ in range(_LINES)), "export")
        if header.cost is None:
            raise DamagedStore(f"{path} names no passphrase; it was altered, take another copy")
        content = b"".join(_opened(file, unlock(header, passphrase, None), path))
    try:  # who made it may know the passphrase and mean ill
        following, count = _FIRST.unpack_from(content)
        records = list(_records(content, count, following))
    except struct.error:
        raise DamagedStore(f"{path} holds less than it says; take another copy of the export") from None
    return unpack(records), following


def _records(content: bytes, count: int, following: int) -> Iterator[tuple[int, bytes]]:
    start, before = _FIRST.size, 0
    for _ in range(count):
        number, length = _EACH.unpack_from(content, start)
        if not before < number < following < 1 << 62:
            raise DamagedStore(f"event {number} of an export is out of order; take another copy of it")
        start, before = start + _EACH.size, number
        yield number, content[start : start + length]
        start += length


def _nonce(counter: int, last: bool) -> bytes:
    # each file has its own key, so a counter is never used twice with one key
    return counter.to_bytes(11, "big") + bytes([last])


def _sealed(content: memoryview, key: bytes) -> Iterator[bytes]:
    cipher = AESGCM(subkey(key, "stream"))
    for counter, start in enumerate(range(0, max(1, len(content)), CHUNK)):
        yield cipher.encrypt(_nonce(counter, start + CHUNK >= len(content)), content[start : start + CHUNK], None)


def _opened(file: BinaryIO, key: bytes, path: Path) -> Iterator[bytes]:
    cipher = AESGCM(subkey(key, "stream"))
    counter, chunk = 0, file.read(CHUNK + TAG)
    while True:
        following = file.read(CHUNK + TAG)
        try:
            yield cipher.decrypt(_nonce(counter, not following), chunk, None)
        except (InvalidTag, ValueError):
            raise DamagedStore(f"{path} was altered or cut short; take another copy of the export") from None
        if not following:
            return
        counter, chunk = counter + 1, following


def write_plain(path: Path, events: Iterable[Event], format: Literal["json", "csv"]) -> None:
    """Write events to a file that anybody can read.

    JSON is one object ``{"version": 1, "events": [{"id", "at", "kind", "body", "latent"}, ...]}``; CSV has the same
    five columns, with body and latent as JSON.

    Args:
        path: of the file; only its owner may read it, until somebody allows more.
        events: with their numbers.
        format: ``json`` or ``csv``.

    Raises:
        SettingError: another format.
        StorageError: the disk refuses.
    """
    if format not in ("json", "csv"):
        raise SettingError(f"format={format!r} must be json or csv")
    rows = [_plain(event) for event in events]
    text = io.StringIO(newline="")
    if format == "json":
        json.dump({"version": 1, "events": rows}, text, ensure_ascii=False)
        text.write("\n")
    else:
        lines = csv.writer(text)
        lines.writerow(["id", "at", "kind", "body", "latent"])
        for row in rows:
            latent = "" if row["latent"] is None else json.dumps(row["latent"])
            body = json.dumps(row["body"], ensure_ascii=False)
            lines.writerow([row["id"], row["at"], row["kind"], body, latent])
    with private_file(path.expanduser().resolve()) as file:
        file.write(text.getvalue().encode("utf-8", "surrogatepass"))


def _plain(event: Event) -> dict[str, Any]:
    latent = None if event.latent is None else event.latent.tolist()
    return {"id": event.id, "at": event.at, "kind": event.kind, "body": event.body, "latent": latent}
