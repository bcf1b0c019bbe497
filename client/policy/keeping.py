"""A policy as bytes, and where it is kept: sealed beside the ratings it was learned from, never in the clear.

A policy tells what somebody likes, so it is as private as their ratings. It can always be learned again: one that
cannot be read any more is no loss, and `load` says there is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from client.policy.flow import FlowSettings, LatentPolicy
from client.policy.training import Learned, Training, checks_of
from client.session import Session
from client.store import Store
from common.errors import DamagedStore

FORMAT = "plgl-policy-2"
_ABOUT = "plgl"


@dataclass(frozen=True, eq=False)
class Kept:
    """A policy that was kept, with its training.

    Attributes:
        flow: size of the policy.
        fingerprint: of what it was learned from, see `client.policy.stream.fingerprint`.
        state: of its training, see `Training.restore`.
        stopped: why the guard ended it.
        finished: whether nothing is left to do.
    """

    flow: FlowSettings
    fingerprint: str
    state: Mapping[str, Tensor]
    stopped: str | None
    finished: bool

    @property
    def policy(self) -> LatentPolicy:
        """The last good policy."""
        policy = LatentPolicy(self.flow)
        good = {name.removeprefix("good."): value for name, value in self.state.items() if name.startswith("good.")}
        policy.load_state_dict(good)
        return policy.requires_grad_(False)

    @property
    def learned(self) -> Learned:
        """What the training came to so far."""
        checks = tuple(checks_of(self.state))
        decided = int(self.state["parts"][1])
        return Learned(
            self.policy,
            checks[int(self.state["kept"])],
            checks,
            self.stopped,
            None if decided < 0 else checks[decided],
        )


def encode(training: Training, fingerprint: str) -> bytes:
    """A training as of its last whole round, as a safetensors file."""
    about = {
        "format": FORMAT,
        "flow": asdict(training.learner.policy.settings),
        "fingerprint": fingerprint,
        "stopped": training.stopped,
        "finished": training.finished,
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in training.state().items()}
    return safetensors.torch.save(tensors, {_ABOUT: json.dumps(about)})


def decode(content: bytes) -> Kept:
    """Read what `encode` wrote.

    Raises:
        DamagedStore: it is no such file, or written by a newer version.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_ABOUT])
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']!r}")
        kept = Kept(
            FlowSettings(**about["flow"]),
            str(about["fingerprint"]),
            safetensors.torch.load(content),
            about["stopped"],
            bool(about["finished"]),
        )
        if not all(bool(value.isfinite().all()) for value in kept.policy.state_dict().values()):
            raise ValueError("weights that are not finite")
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DamagedStore(f"the policy cannot be read ({error}); it is learned again from the ratings") from error
    return kept


def _name(session: Session) -> str:
    return json.dumps(["policy", session.pack.hash, session.profile, session.context])


def save(session: Session, training: Training, fingerprint: str) -> bool:
    """Keep a policy beside the ratings of a session; False for a session that keeps nothing.

    Raises:
        StorageError: the disk refuses; the one kept before stays.
    """
    if not isinstance(session.journal, Store):
        return False
    session.journal.keep_derived(_name(session), encode(training, fingerprint))
    return True


def load(session: Session) -> Kept | None:
    """The policy kept for a session's generator, profile and context; None where there is none that can be read."""
    if not isinstance(session.journal, Store):
        return None
    try:
        content = session.journal.derived(_name(session))
        return None if content is None else decode(content)
    except DamagedStore:
        return None
