"""Where a teaching is kept while it goes on: sealed beside the answers it learns from, and gone with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from client.flows.tuning import Tuner, TuneSettings
from client.session import Session
from client.store import Store
from common.errors import DamagedStore

FORMAT = "plgl-tuning-1"
_ABOUT = "plgl"


def mark_of(session: Session, settings: TuneSettings) -> str:
    """Names what is taught to what and how; a digest of private things, so it stays sealed.

    Args:
        session: on the pack that is taught.
        settings: how.
    """
    said = [rated.to_json() for rated in session.history]
    about = [session.pack.hash, session.profile, session.context, said, asdict(settings)]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def save(session: Session, tuner: Tuner, mark: str) -> bool:
    """Keep a teaching as of its last whole round; False for a session that keeps nothing.

    Raises:
        StorageError: the disk refuses; what was kept before stays.
    """
    if not isinstance(session.journal, Store):
        return False
    about = {"format": FORMAT, "mark": mark, "stopped": tuner.stopped}
    session.journal.keep_derived(_name(session), safetensors.torch.save(tuner.state(), {_ABOUT: json.dumps(about)}))
    return True


def restore(session: Session, tuner: Tuner, mark: str) -> bool:
    """Give a teaching what was kept of it.

    Returns:
        Whether there was something: of this pack, these answers and these settings, and not damaged.
    """
    if not isinstance(session.journal, Store):
        return False
    try:
        content = session.journal.derived(_name(session))
        found = None if content is None else _decoded(content, mark)
        if found is None:
            return False
        tuner.restore(*found)
    except (DamagedStore, SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return False  # it is learned again from the answers, which are what counts
    return True


def _decoded(content: bytes, mark: str) -> tuple[Mapping[str, Tensor], str | None] | None:
    length = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_ABOUT])
    if about["format"] != FORMAT or about["mark"] != mark:
        return None
    return safetensors.torch.load(content), about["stopped"]


def _name(session: Session) -> str:
    return json.dumps(["tuning", session.pack.hash, session.profile, session.context])
