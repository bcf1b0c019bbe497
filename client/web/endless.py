"""More of a wall, without end: a policy learned beside the page while the person goes on.

Learning takes seconds to minutes and must not make anybody wait, so it runs in a thread that uses the session only for
a moment at its beginning and at its end, under the lock.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from client.items import Item
from client.policy import keeping
from client.policy.flow import LatentPolicy
from client.policy.guard import Check
from client.policy.population import policy_of
from client.policy.stream import FEWEST, Stream, StreamSettings, fingerprint, prepare
from client.policy.training import Training
from client.session import Session
from common.errors import PlglError
from common.population_policy import PopulationPolicy

log = logging.getLogger(__name__)
PATIENCE = 10.0  # seconds to wait for the thread at the end


@dataclass(frozen=True)
class Progress:
    """How learning goes.

    Attributes:
        done: rounds.
        total: most of them.
    """

    done: int
    total: int


class _Stopped(Exception):
    """The page is closed, or the person has said more since."""


class Endless:
    """The policy of a session's answers as they are; learned when it is first asked for.

    Attributes:
        settings: how it is learned.
        population: everybody's policy: the stream while there are too few answers, and what learning begins with;
            None for none.
        trouble: why it could not be learned; None where it could.
    """

    def __init__(
        self,
        session: Session,
        lock: threading.RLock,
        settings: StreamSettings | None = None,
        population: PopulationPolicy | None = None,
    ) -> None:
        """Stream for a session that is used under ``lock``.

        Raises:
            PriorError: the population policy is for another generator.
        """
        self.settings, self.population = settings or StreamSettings(), population
        if population is not None:
            policy_of(population, session.pack)
        self.trouble: PlglError | None = None
        self._session, self._lock = session, lock
        self._mark = ""
        self._policy: LatentPolicy | None = None
        self._thread: threading.Thread | None = None
        self._progress: Progress | None = None

    @property
    def progress(self) -> Progress | None:
        """How learning goes; None where nothing is being learned."""
        with self._lock:
            return self._progress

    def ready(self) -> bool:
        """Whether there is a policy for what the person has said; begins to learn one where there is none."""
        with self._lock:
            mark = fingerprint(self._session, self.settings, self.population)
            if mark != self._mark:
                self._begin(mark)
            return self._policy is not None

    def items(self, count: int, level: float) -> list[Item]:
        """Items of the policy, remembered as shown; none before it is `ready`."""
        with self._lock:
            if not self.ready() or self._policy is None:
                return []
            return Stream(self._session, self._policy, level=level).items(count)

    def wait(self, seconds: float) -> None:
        """Wait until nothing is being learned, or until time is up."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def close(self) -> None:
        """Stop learning; twice does no harm."""
        with self._lock:
            self._mark = ""
        self.wait(PATIENCE)

    def _begin(self, mark: str) -> None:
        """Take up the policy that is kept, or learn one in a thread."""
        self._mark, self._policy, self.trouble, self._progress = mark, None, None, None
        if self.population is not None and len(self._session.lesson()[0]) < FEWEST:
            self._policy = policy_of(self.population, self._session.pack).requires_grad_(False)
            return
        kept = keeping.load(self._session)
        if kept is not None and kept.fingerprint == mark and kept.finished:
            self._policy = kept.policy
            return
        self._progress = Progress(0, self.settings.most_rounds)
        self._thread = threading.Thread(target=self._learn, args=(mark,), name="plgl-endless", daemon=True)
        self._thread.start()

    def _learn(self, mark: str) -> None:
        try:
            with self._lock:
                self._check(mark)
                training = prepare(self._session, self.settings, self.population)
            training.run(lambda check: self._tell(check, mark))
            self._finish(training, mark)
        except _Stopped:
            pass
        except PlglError as error:
            self._give_up(error, mark)
        except Exception as error:  # a mistake in the program must not leave a page waiting for ever
            log.exception("learning an endless wall failed")
            self._give_up(PlglError(f"learning failed: {type(error).__name__}; the window of plgl says more"), mark)

    def _give_up(self, error: PlglError, mark: str) -> None:
        with self._lock:
            if mark == self._mark:
                self.trouble, self._progress = error, None

    def _check(self, mark: str) -> None:
        if mark != self._mark:
            raise _Stopped

    def _tell(self, check: Check, mark: str) -> None:
        with self._lock:
            self._check(mark)
            self._progress = Progress(check.round, self.settings.most_rounds)

    def _finish(self, training: Training, mark: str) -> None:
        with self._lock:
            self._check(mark)
            if (
                fingerprint(self._session, self.settings, self.population) == mark
            ):  # else it is somebody else's turn by now
                keeping.save(self._session, training, mark)
            self._policy, self._progress = training.learner.policy.requires_grad_(False), None
