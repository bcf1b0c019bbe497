"""What an edge process last did, for everybody on this machine who asks; reading it needs neither torch nor Flower."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from client.store_files import ProcessLock
from common.errors import StoreInUse

STATUS, LOCK = "agent.json", "agent.lock"


@dataclass(frozen=True, kw_only=True)
class Status:
    """What an edge process last did, as ``agent.json`` says it. Times are seconds since 1970, 0 for never.

    Attributes:
        pid: its process.
        connected: whether the server knows it as online.
        changed: when this was written.
        answered: rounds in which a vector was sent.
        last_round: when that was last.
        refused: messages that were refused.
        last_refusal: why, the last time.
        last_refused: when that was.
        trouble: why there is no connection; empty where there is one.
        release: what came of the last look for a release.
    """

    pid: int = 0
    connected: bool = False
    changed: float = 0.0
    answered: int = 0
    last_round: float = 0.0
    refused: int = 0
    last_refusal: str = ""
    last_refused: float = 0.0
    trouble: str = ""
    release: str = ""

    @classmethod
    def read(cls, folder: Path) -> Status | None:
        """The status of a membership; None where no edge process ran yet, or it cannot be read."""
        try:
            return cls(**json.loads((folder / STATUS).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


def running(folder: Path) -> bool:
    """Whether an edge process of this membership runs now."""
    if not (folder / LOCK).exists():
        return False
    try:
        ProcessLock(folder / LOCK).close()
    except StoreInUse:
        return True
    return False
