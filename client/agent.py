"""The edge process: a device that stays in a federation, answers its rounds and keeps the model warm.

It asks the gate for messages, lets the locally installed ``device_app`` answer them and runs nothing a server sends:
a run whose app bundle is not in the invitation is refused before anything of it is fetched. What Flower keeps between
the stages of a round lives in this process's memory only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import random
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client.agent_status import LOCK, STATUS, Status
from client.app import device_app
from client.fleet import Fleet, FleetError, RunOver, Trouble
from client.gate import Gate, tls_context
from client.membership import Membership, record_verdict
from client.store_files import ProcessLock
from common.errors import ConsentError, DeploymentError, EnrolmentError, PlglError, StorageError, StoreInUse
from common.files import write_privately
from common.rounds import MASKED, UPDATE

if TYPE_CHECKING:
    from client.likelihood import Evidence
    from client.vault import KeyringLike

NOT_ALLOWED = 7  # Flower's code for a bundle that is refused
FAILED = 2  # Flower's code for an app that raised
MOST_RUNS = 4
"""Runs whose state is kept; a federation has one at a time."""
log = logging.getLogger("plgl.device")


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often an edge process asks, in seconds.

    Attributes:
        idle: between two questions when nothing happens; Flower's own nodes take 3.
        busy: between two questions in a round.
        calm: after a message a round is taken to be under way for so long.
        first_pause: before the first new attempt to connect; it doubles with each failure.
        longest_pause: and is never longer than this.
        lapse: pause after the server said that this node is online still.
        heartbeat: the server hears of this device at least that often.
        releases: between two looks for a new release.
        after_round: from this device's last answer to the look for what came of it.
    """

    idle: float = 3.0
    busy: float = 0.3
    calm: float = 30.0
    first_pause: float = 1.0
    longest_pause: float = 60.0
    lapse: float = 10.0
    heartbeat: float = 30.0
    releases: float = 6 * 3600.0
    after_round: float = 60.0


class Agent:
    """One membership's edge process. Its methods are for one thread, except `stop`.

    Guarantee: no message, however broken, ends it; `run` returns only when it is told to, when the membership is
    ended, or when it could not begin.
    """

    def __init__(
        self,
        membership: Membership,
        *,
        passphrase: str | None = None,
        keyring: KeyringLike | None = None,
        app: ClientApp | None = None,
        pace: Pace | None = None,
        say: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Make everything ready that needs no connection.

        Args:
            membership: whose.
            passphrase: of the store; kept in memory as long as the process lives.
            keyring: instead of that of the system.
            app: what answers; the app of this membership's device unless a test brings another.
            pace: how often to ask.
            say: takes a line when something changes.
            clock: seconds since 1970.

        Raises:
            EnrolmentError, PackError, LedgerError: see ``Membership.device``.
        """
        self.membership, self._clock, self._say = membership, clock, say or (lambda line: None)
        self._pace, self._stop = pace or Pace(), threading.Event()
        self._device = membership.device(passphrase, keyring=keyring, clock=clock)
        self._app = device_app(lambda context: self._device) if app is None else app
        self._tls, self._key = tls_context(membership.invite.tls_authority), membership.node_key()
        self._contexts: OrderedDict[int, Context] = OrderedDict()
        self._status = Status()
        self._look_at = 0.0  # for a release, in monotonic seconds
        self._offered = b""  # SHA-256 of the release that was judged last
        self._refusals = _Refusals()

    def stop(self) -> None:
        """End `run` soon: the message under way is still answered. Safe from any thread and from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Stay in the federation until `stop` is called.

        Raises:
            DeploymentError: another edge process of this membership runs.
            EnrolmentError: the membership was ended here.
        """
        with self._alone(), self._refusals:
            before = Status.read(self.membership.folder) or Status()
            self._note(**{**dataclasses.asdict(before), "pid": os.getpid(), "connected": False, "trouble": ""})
            self._warm()
            pause = self._pace.first_pause
            try:
                while not self._stop.is_set():
                    self._still_member()
                    trouble = self._stay()
                    pause = self._pace.first_pause if trouble is None else pause
                    if not self._stop.is_set():
                        self._stop.wait(self._pausing(pause, trouble))
                        pause = min(2 * pause, self._pace.longest_pause)
            finally:
                self._contexts.clear()
                if (self.membership.folder / "membership.json").exists():
                    self._note(connected=False, pid=0)

    def _pausing(self, pause: float, trouble: Trouble | None) -> float:
        least = self._pace.lapse if trouble is Trouble.NOT_ACTIVATED else 0.0
        return max(least, pause) * random.uniform(0.5, 1.0)  # devices that lost a server together come back apart

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            lock = ProcessLock(self.membership.folder / LOCK)
        except StoreInUse as error:
            raise DeploymentError(
                f"an edge process of {self.membership.terms.name!r} runs already; stop it first"
            ) from error
        with contextlib.closing(lock):
            yield

    def _still_member(self) -> None:
        if not (self.membership.folder / "membership.json").exists():
            raise EnrolmentError(f"the membership of {self.membership.terms.name!r} was ended; nothing is shared")

    def _warm(self) -> None:
        """Load the network and the answers before the first round, so that the first round does not wait for them."""
        torch.set_num_threads(1)  # the matrices are small, and the machine is somebody's
        try:
            self._device.evidence()
        except PlglError as error:
            self._say(f"not ready for a round: {error}")

    def _stay(self) -> Trouble | None:
        """Connect and answer messages until the connection is lost.

        Returns:
            Why no connection came about; None where there was one.
        """
        connected = False
        try:
            address = self.membership.invite.address
            with Fleet(address, self._tls, self._key, heartbeat_seconds=self._pace.heartbeat) as fleet:
                connected = True
                self._note(connected=True, trouble="")
                self._say(f"connected to {address}")
                self._serve(fleet)
        except FleetError as error:
            self._note(connected=False, trouble=str(error))
            if not self._stop.is_set():
                self._say(f"{error}; trying again")
            return None if connected else error.trouble
        return None

    def _serve(self, fleet: Fleet) -> None:
        busy_until = 0.0
        while not self._stop.is_set():
            self._still_member()
            head = fleet.receive()
            if head is not None:
                busy_until = time.monotonic() + self._pace.calm
                with contextlib.suppress(RunOver):
                    self._answer(fleet, head)
                continue
            busy = time.monotonic() < busy_until
            if not busy and time.monotonic() >= self._look_at:
                self._look_for_release()
            self._stop.wait(self._pace.busy if busy else self._pace.idle)

    def _answer(self, fleet: Fleet, head: Message) -> None:
        run_id, started = head.metadata.run_id, time.monotonic()
        fleet.identify(run_id)
        run = fleet.run(run_id)
        if run.fab_hash not in self.membership.invite.bundles:
            self._refuse(f"a run with the app bundle {run.fab_hash[:12]}, which is not in the invitation")
            fleet.reply(Message(Error(NOT_ALLOWED, "bundle not allowed on this device"), reply_to=head), 0.0)
            return
        message = fleet.content(head)
        reply = self._handled(message, self._context(run_id, fleet.node_id))
        if reply.has_error():
            self._refuse(self._refusals.take() or "a message that could not be answered")
        elif head.metadata.message_type.endswith((f".{MASKED}", f".{UPDATE}")):
            self._note(answered=self._status.answered + 1, last_round=self._clock())
            self._say("took part in a round")
            self._look_at = time.monotonic() + self._pace.after_round
        fleet.reply(reply, time.monotonic() - started)

    def _handled(self, message: Message, context: Context) -> Message:
        try:
            return self._app(message, context)
        except Exception as error:  # whatever a server sends; only that it failed leaves
            log.warning("refused a message: %s", error if isinstance(error, PlglError) else type(error).__name__)
            return Message(Error(FAILED, "refused"), reply_to=message)

    def _context(self, run_id: int, node_id: int) -> Context:
        """The state of a run, in memory; the oldest goes when there are too many."""
        if run_id not in self._contexts:
            self._contexts[run_id] = Context(
                run_id=run_id, node_id=node_id, node_config={}, state=RecordDict(), run_config={}
            )
        self._contexts.move_to_end(run_id)
        while len(self._contexts) > MOST_RUNS:
            self._contexts.popitem(last=False)
        return self._contexts[run_id]

    def _refuse(self, why: str) -> None:
        self._note(refused=self._status.refused + 1, last_refusal=why, last_refused=self._clock())
        self._say(f"refused: {why}")

    def _look_for_release(self) -> None:
        """Fetch what is new and try it on the person's own answers; trouble is noted and never more than that."""
        self._look_at = time.monotonic() + self._pace.releases * random.uniform(0.8, 1.0)
        try:
            evidence = self._evidence()
            with Gate(self.membership.invite, clock=self._clock) as gate:
                raw = gate.latest_release()
            if raw is not None and hashlib.sha256(raw).digest() != self._offered:
                self._offer(raw, evidence)
                self._offered = hashlib.sha256(raw).digest()
        except (ConsentError, StoreInUse):  # nobody could say what the release is worth: later
            self._look_at = time.monotonic() + self._pace.after_round
        except PlglError as error:
            self._note(release=f"no release could be fetched: {error}")

    def _evidence(self) -> Evidence | None:
        """What a release is tried on; None where there are no answers."""
        try:
            return self._device.evidence()
        except (ConsentError, StoreInUse):
            raise
        except PlglError:
            return None

    def _offer(self, raw: bytes, evidence: Evidence | None) -> None:
        shelf, terms = self.membership.shelf(), self.membership.terms
        verdict = shelf.offer(
            raw,
            release_key=self.membership.invite.release_key,
            terms=terms,
            ledger=self._device.ledger,
            now=self._clock(),
            evidence=evidence,
            scale=self.membership.pack().component_scale[: terms.components],
        )
        record_verdict(self.membership, verdict, self._clock())
        said = f"a release was {'taken up' if verdict.accepted else 'refused'}: {verdict.reason}"
        self._note(release=said)
        self._say(said)

    def _note(self, **changes: object) -> None:
        self._status = dataclasses.replace(self._status, **{**changes, "changed": self._clock()})  # type: ignore[arg-type]
        with contextlib.suppress(StorageError):  # a full disk must not end a round that needs none
            write_privately(self.membership.folder / STATUS, json.dumps(dataclasses.asdict(self._status)).encode())


class _Refusals(logging.Handler):
    """Why the device's app refused last; the server is not told."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self._last = record.getMessage()[:300].removeprefix("refused ")

    def take(self) -> str:
        last, self._last = self._last, ""
        return last

    def __enter__(self) -> None:
        log.addHandler(self)
        self._propagated, log.propagate = log.propagate, False

    def __exit__(self, *raised: object) -> None:
        log.removeHandler(self)
        log.propagate = self._propagated


def run_until_stopped(agent: Agent) -> None:
    """Run an edge process until SIGINT or SIGTERM; the server then knows at once that the device is offline.

    Raises:
        DeploymentError, EnrolmentError: see ``Agent.run``.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        agent.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        agent.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
