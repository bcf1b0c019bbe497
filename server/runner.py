"""What ``plgl federation run`` does: submits the app bundle to the SuperLink and follows the journal.

The outcome is read from the journal and from the run's status, never from a command's exit code: Flower's is 0 when a
run failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import BudgetError, CohortError, DeploymentError, Interrupted, SettingError
from server.audit import Audit, Event
from server.superlink import Control, RunState

if TYPE_CHECKING:
    from server.federation import Federation
    from server.journal import JournalView, RoundEntry

POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0  # the SuperLink may be starting again
_PENDING_SECONDS = 120.0
_STAGES = 5  # waiting for devices, and the four of a secure round
_SPARE_SECONDS = 60.0  # of a round: starting, adding up, writing


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """How a run went.

    Attributes:
        run: Flower's number of it.
        outcome: ``completed``, ``failed`` or ``stopped``.
        details: what Flower says about it.
        rounds: those of this run, as ``server.status`` shows them, with version and hash of the release.
    """

    run: int
    outcome: str
    details: str
    rounds: list[dict[str, Any]]

    @property
    def released(self) -> int:
        """Rounds that gave a release."""
        return sum(each["state"] == "published" for each in self.rounds)


class Runner:
    """Rounds of one federation."""

    def __init__(self, federation: Federation, control: Control) -> None:
        """Nothing is started yet.

        Args:
            federation: its folder.
            control: of its SuperLink, which runs.
        """
        self._federation, self._control = federation, control
        self._journal_key = federation.key("journal").public

    def check(self) -> None:
        """Refuse at once what could not give a release.

        Raises:
            CohortError: too few members. BudgetError: too few with participations left.
            DeploymentError: rounds are going on.
        """
        settings = self._federation.terms.settings
        active = [member.number for member in self._federation.book().active()]
        with self._view() as view:
            left = sum(view.spent(number) < settings.participations for number in active)
        if len(active) < settings.minimum_people:
            raise CohortError(
                f"fewer than the needed {settings.minimum_people} members are enrolled; invite more with "
                f"plgl federation invite {self._federation.folder}"
            )
        if left < settings.minimum_people:
            raise BudgetError(
                f"the budget is spent: fewer than {settings.minimum_people} members have any of their "
                f"{settings.participations} participations left; enrol new members, the published priors stay valid"
            )
        for run in self._control.unfinished_runs():
            raise DeploymentError(f"run {run.number} is going on; wait until it is over")

    def run(self, rounds: int, stage_seconds: float, on_round: Callable[[dict[str, Any]], None]) -> RunReport:
        """Run some rounds and wait for their end.

        Args:
            rounds: how many.
            stage_seconds: deadline of each stage of a round.
            on_round: told of each round when it is over.

        Raises:
            SettingError: no rounds, or no time for them.
            DeploymentError: the SuperLink does not answer, or the run does not end.
            Interrupted: stopped with Ctrl-C.
        """
        if not 1 <= rounds <= 1_000 or not 1 <= stage_seconds <= 86_400:
            raise SettingError(f"rounds={rounds} or stage_seconds={stage_seconds:g} is out of range; try 4 and 60")
        with self._view() as view:
            before = max((entry.number for entry in view.rounds()), default=0)
        number = self._control.start_run(
            self._federation.bundle.read_bytes(),
            {"federation": str(self._federation.folder), "rounds": rounds, "stage-seconds": float(stage_seconds)},
        )
        audit = Audit(self._federation.audit_log)
        audit.record(Event.RUN_STARTED, run=number, rounds=rounds)
        try:
            deadline = time.monotonic() + _PENDING_SECONDS + rounds * (_STAGES * stage_seconds + _SPARE_SECONDS)
            with self._view() as view:
                report = self._follow(number, view, before, deadline, on_round)
        except KeyboardInterrupt:
            self._control.stop_run(number)
            audit.record(Event.RUN_ENDED, run=number, outcome="stopped")
            raise Interrupted(
                f"run {number} is stopped; released priors stay, and a round that had begun stays charged; go on with "
                f"plgl federation run {self._federation.folder}"
            ) from None
        audit.record(Event.RUN_ENDED, run=number, outcome=report.outcome, released=report.released)
        return report

    def _follow(
        self,
        number: int,
        view: JournalView,
        before: int,
        deadline: float,
        on_round: Callable[[dict[str, Any]], None],
    ) -> RunReport:
        told: dict[int, dict[str, Any]] = {}
        begun = heard = time.monotonic()
        state: RunState | None = None
        while True:
            try:
                state, heard = self._control.run(number), time.monotonic()
            except DeploymentError:
                if time.monotonic() > heard + _PATIENCE_SECONDS:
                    raise
            view.refresh()  # after the status, so that nothing is missed at the end
            for entry in view.rounds():
                if entry.number > before and entry.number not in told and entry.finished:
                    told[entry.number] = self._values(entry)
                    on_round(told[entry.number])
            if state is not None and state.finished:
                rounds = [told[each] for each in sorted(told)]
                return RunReport(run=number, outcome=state.outcome, details=state.details, rounds=rounds)
            pending = state is not None and state.status == "pending" and heard > begun + _PENDING_SECONDS
            if pending or time.monotonic() > deadline:
                self._control.stop_run(number)
                raise DeploymentError(f"run {number} did not {'start' if pending else 'end'} in time and is stopped")
            time.sleep(POLL_SECONDS)

    def _view(self) -> JournalView:
        from server.journal import Journal

        return Journal.read(self._federation.journal, self._journal_key)

    def _values(self, entry: RoundEntry) -> dict[str, Any]:
        """A round as everybody may see it, with its release."""
        from server.status import status

        rounds = status(self._federation, time.time())["rounds"]
        public = next(each for each in rounds if each["round"] == entry.number)
        return {**public, "version": entry.version, "release": entry.release}
