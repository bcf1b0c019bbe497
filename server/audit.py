"""The audit log: what was changed and refused in a federation, appended and never rewritten.

One line of canonical JSON for each event: number, time, kind, body, hash of the line before, hash of this line. The
last number and hash also stand in ``audit.head`` beside it, so that a log whose end was cut off does not pass for a
shorter one. Somebody who can write both files can still forge both; the operator who wants to notice that keeps a hash
elsewhere.

Nothing in it identifies a device: addresses are cut to their network, and whatever looks like a key or a token to its
first digits, whoever wrote it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import ipaddress
import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from common.errors import LedgerError, SettingError, StorageError
from common.files import write_privately
from common.signing import canonical

SUMMARY_SECONDS = 60.0
LONGEST_LINE = 8 * 1024
_BEFORE_THE_FIRST = "0" * 64
_LONGEST_TEXT = 200
_MOST_REASONS = 32
_SECRET = re.compile(r"[A-Za-z0-9+/_=-]{24,}")
_ADDRESS = re.compile(r"(?<![0-9A-Za-z.:])(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f.]{0,15}){2,8})")


class Event(StrEnum):
    """Kinds of lines."""

    INVITED = "invite created"
    ENROLLED = "member enrolled"
    REVOKED = "member revoked"
    UP = "federation up"
    DOWN = "federation down"
    RUN_STARTED = "run started"
    RUN_ENDED = "run ended"
    REFUSED = "gate refusals"
    CONTINUED = "log continued after damage"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the log.

    Attributes:
        number: from 1.
        time: seconds since 1970.
        kind: an ``Event``, or what a newer version wrote.
        body: plain values, cut as the module says.
        previous: hash of the line before, 64 hexadecimal digits.
        hash: of this line.
    """

    number: int
    time: float
    kind: str
    body: dict[str, Any]
    previous: str
    hash: str


class Audit:
    """The log of one federation; several processes may append to it at once.

    Guarantee: a line is on the disk when ``record`` returns. A damaged or cut log is never continued as if nothing had
    happened: ``record`` raises, until somebody calls ``continue_after_damage``.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Name the log; the file is made with the first line.

        Args:
            path: ``audit.jsonl`` of the federation's folder.
            clock: seconds since 1970.
        """
        self._path, self._head, self._clock = path, path.with_name("audit.head"), clock
        self._lock = threading.Lock()
        self._refusals: Counter[str] = Counter()
        self._told = float("-inf")

    def record(self, kind: Event, **body: object) -> Line:
        """Append a line.

        Args:
            kind: what happened.
            body: more about it: text, numbers, lists and objects of these; keys and addresses are cut short.

        Raises:
            LedgerError: the log is damaged or was cut.
            StorageError: the disk refuses the write.
        """
        with self._lock:
            return self._append(kind, body)

    def refused(self, reason: str) -> None:
        """Count a refusal; one line a minute says how many there were, so nobody can fill the disk with them.

        Args:
            reason: a short fixed text; beyond 32 different ones in a minute they count as ``other``.
        """
        with self._lock:
            reason = _cut(reason[:40])
            known = reason in self._refusals or len(self._refusals) < _MOST_REASONS
            self._refusals[reason if known else "other"] += 1
            self._tell(self._clock() - self._told >= SUMMARY_SECONDS)

    def flush(self) -> None:
        """Write down the refusals counted so far; call it once a minute and at the end."""
        with self._lock:
            self._tell(True)

    def verify(self) -> int:
        """Check every line.

        Returns:
            How many there are.

        Raises:
            LedgerError: a line is altered, missing, out of order, or the end was cut off.
            StorageError: the file cannot be read.
        """
        return sum(1 for _ in self.lines())

    def lines(self) -> Iterator[Line]:
        """Every line, checked; the check of the end comes after the last one.

        Raises:
            LedgerError: see ``verify``. StorageError: the file cannot be read.
        """
        with self._held() as file:
            last = (0, _BEFORE_THE_FIRST)
            for raw in iter(lambda: file.readline(LONGEST_LINE + 1), b""):
                line = self._read(raw, *last)
                last = line.number, line.hash
                yield line
            self._check_head(*last)

    def tail(self, count: int) -> list[Line]:
        """The last lines, newest first; the whole log is checked.

        Raises:
            LedgerError: see ``verify``. StorageError: the file cannot be read.
        """
        found = list(self.lines())
        return found[: -count - 1 : -1] if count > 0 else []

    def continue_after_damage(self) -> Path | None:
        """Put a damaged log aside and begin a new one, whose first line names the old one by its SHA-256.

        Returns:
            Where the damaged log is now; None if there is no damage, and then nothing is changed.

        Raises:
            StorageError: the disk refuses.
        """
        with contextlib.suppress(LedgerError):
            self.verify()
            return None
        with self._lock, _disk(self._path):
            raw = self._path.read_bytes() if self._path.exists() else b""
            digest = hashlib.sha256(raw).hexdigest()
            aside = self._path.with_name(f"{self._path.name}.damaged-{digest[:16]}")
            if self._path.exists():
                self._path.replace(aside)
            self._head.unlink(missing_ok=True)
            self._append(Event.CONTINUED, {"bytes": len(raw), "sha256": digest[:16]})
        return aside

    def _tell(self, due: bool) -> None:
        if due and self._refusals:
            counted, self._refusals = self._refusals, Counter()
            self._told = self._clock()
            self._append(Event.REFUSED, {"counts": dict(counted), "within_seconds": SUMMARY_SECONDS})

    def _append(self, kind: Event, body: dict[str, Any]) -> Line:
        with self._held(writing=True) as file:
            number, previous = self._end(file)
            content = {
                "number": number + 1,
                "time": round(self._clock(), 3),
                "kind": str(kind),
                "body": _shortened(body),
                "previous": previous,
            }
            digest = hashlib.sha256(canonical(content)).hexdigest()
            raw = canonical({**content, "hash": digest}) + b"\n"
            if len(raw) > LONGEST_LINE:
                raise SettingError(f"an audit line of {len(raw)} bytes is over {LONGEST_LINE}; say less")
            file.seek(0, os.SEEK_END)
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
            write_privately(self._head, canonical({"number": number + 1, "hash": digest}))
        return Line(**content, hash=digest)

    def _end(self, file: Any) -> tuple[int, str]:
        """Number and hash of the last line, of which only the last bytes are read."""
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            self._check_head(0, _BEFORE_THE_FIRST)
            return 0, _BEFORE_THE_FIRST
        file.seek(max(0, size - LONGEST_LINE - 1))
        found = file.read()
        if not found.endswith(b"\n"):
            raise self._damaged("its last line is not whole")
        line = self._read(found[found.rstrip(b"\n").rfind(b"\n") + 1 :])
        self._check_head(line.number, line.hash, line.previous)
        return line.number, line.hash

    def _read(self, raw: bytes, number: int | None = None, previous: str | None = None) -> Line:
        where = "its last line" if number is None else f"line {number + 1}"
        try:
            line = Line(**json.loads(raw))
            content = {name: value for name, value in vars(line).items() if name != "hash"}
            right = raw == canonical({**content, "hash": line.hash}) + b"\n"
            right &= hashlib.sha256(canonical(content)).hexdigest() == line.hash
        except (ValueError, TypeError, RecursionError) as error:
            raise self._damaged(f"{where} cannot be read") from error
        if not right or (number is not None and (line.number, line.previous) != (number + 1, previous)):
            raise self._damaged(f"{where} was altered, or lines before it are missing")
        return line

    def _check_head(self, number: int, digest: str, previous: str | None = None) -> None:
        """The end of the log is what ``audit.head`` says, or one line further after a crash between the two."""
        try:
            head = json.loads(self._head.read_bytes())
            claimed = head["number"], head["hash"]
        except FileNotFoundError:
            claimed = 0, _BEFORE_THE_FIRST
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged("audit.head cannot be read") from error
        behind = claimed[0] == number - 1 and (previous is None or claimed[1] == previous)
        if claimed != (number, digest) and not behind:
            raise self._damaged(f"audit.head names line {str(claimed[0])[:20]} as the last, the log ends at {number}")

    def _damaged(self, how: str) -> LedgerError:
        return LedgerError(
            f"the audit log {self._path} is damaged: {how}; restore it, or put it aside with continue_after_damage"
        )

    @contextlib.contextmanager
    def _held(self, *, writing: bool = False) -> Iterator[Any]:
        """The file, locked against other processes; made 0600 by the first writer, empty where there is none."""
        if not writing and not self._path.exists():
            self._check_head(0, _BEFORE_THE_FIRST)
            with Path(os.devnull).open("rb") as nothing:
                yield nothing
            return
        with _disk(self._path):
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT if writing else os.O_RDONLY, 0o600)
            with os.fdopen(handle, "r+b" if writing else "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX if writing else fcntl.LOCK_SH)  # ends when the file is closed
                yield file


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot use {path}: {error.strerror or error}; free some space") from error


def _shortened(value: object) -> Any:
    if isinstance(value, str):
        return _cut(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {_cut(str(key)): _shortened(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(entry) for entry in value]
    raise SettingError(f"a {type(value).__name__} does not belong in the audit log; give text or numbers")


def _cut(text: str) -> str:
    """``text`` without whole addresses, keys and tokens."""
    return _SECRET.sub(lambda found: f"{found[0][:8]}…", _ADDRESS.sub(_network, text[: 4 * _LONGEST_TEXT]))[
        :_LONGEST_TEXT
    ]


def _network(found: re.Match[str]) -> str:
    try:
        address = ipaddress.ip_address(found[0])
    except ValueError:
        return found[0]
    return str(ipaddress.ip_network((int(address), 16 if address.version == 4 else 32), strict=False))
