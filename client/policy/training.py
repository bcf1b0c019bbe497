"""Rounds of learning under a guard. Whatever ends them, the last good policy is what is left.

Learning may have a second part, from more than the first: that is how answers that were held out are heard in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor

from client.policy.flow import LatentPolicy
from client.policy.guard import Check, Guard, Verdict
from client.policy.learner import Learner

Tell = Callable[[Check], None]
Again = Callable[[Guard, Check], tuple[Learner, Guard]]
"""Guard and kept check of a finished learning, to a learner of the same policy and its guard, for a second one."""
OVERSHOT = 1.15  # of the limits of drift: a round that ends beyond is done again, slower
RETRIES = 6
SLOWER = 0.25  # times the rate
_GOOD, _NOW, _LEARNER = "good.", "now.", "learner."


@dataclass(frozen=True, eq=False)
class Learned:
    """What learning came to.

    Attributes:
        policy: the last good one.
        kept: the check of that policy.
        checks: of all rounds, the first before any.
        stopped: why the guard ended it, or its first part; None where all rounds were done.
        decided: the check that said how far the policy may go, before it heard all answers; None where it did not.
    """

    policy: LatentPolicy
    kept: Check
    checks: tuple[Check, ...]
    stopped: str | None
    decided: Check | None = None


class Training:
    """Learning that can be left and resumed.

    Guarantee: after `run`, however it ends (Ctrl-C, a reward that raises, memory that runs out), the policy is the last
    one the guard called good, and `state` is that of the last whole round: a training restored from it goes on as if it
    had never stopped. Where learning has a second part, that begins with the policy the first one kept; where the first
    kept nothing but what it began with, there is none.

    Attributes:
        learner: improves.
        guard: watches.
        stopped: why the guard ended it, or its first part; None before that.
    """

    def __init__(
        self, learner: Learner, guard: Guard, warm: Callable[[], object] | None = None, again: Again | None = None
    ) -> None:
        """Begin with the learner's policy as it is.

        Args:
            learner: improves it.
            guard: watches; the policy as it is counts as good.
            warm: changes the policy before the first round, see `client.policy.replay.warm_start`.
            again: makes learner and guard of a second part, the same ones whenever it is asked.
        """
        self.learner, self.guard, self._warm, self._again = learner, guard, warm, again
        self.stopped: str | None = None
        self._past: list[Check] = []
        self._decided: Check | None = None
        self._good = _copied(learner.policy.state_dict())
        self._kept: Check | None = None
        self._snapshot: dict[str, Tensor] = {}

    @property
    def rounds(self) -> int:
        """Rounds that are done."""
        return max(0, len(self.checks) - 1)

    @property
    def checks(self) -> list[Check]:
        """Of all rounds, oldest first."""
        return [*self._past, *self.guard.checks]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self._over and not self._goes_on

    @property
    def _over(self) -> bool:
        """Whether the part that is on is over."""
        if self._decided is not None:
            return self._lost or len(self.guard.checks) >= self.learner.settings.rounds
        return self.stopped is not None or self.rounds >= self.learner.settings.rounds

    @property
    def _lost(self) -> bool:
        return bool(self.guard.checks) and not self.guard.checks[-1].finite

    @property
    def _goes_on(self) -> bool:
        """Whether there is a second part, and it has not begun."""
        first = self._decided is None and self._again is not None
        return first and self._kept is not None and self._kept.round > 0

    def run(self, tell: Tell | None = None, keep: Callable[[], object] | None = None) -> Learned:
        """Learn until the rounds are done or the guard says stop.

        Args:
            tell: is told of every check.
            keep: called after each round, to put `state` where it survives.

        Raises:
            RewardError, OutOfMemory: see `Learner.round`; the last good policy is in place.
        """
        policy = self.learner.policy
        try:
            if not self.checks:
                self._take(self._check(), Verdict(None, True), tell)
            while not self.finished:
                if self._over:
                    self._turn()
                check = self._round()
                self._take(check, self.guard.judge(check), tell)
                if keep is not None:
                    keep()
        finally:
            policy.load_state_dict(self._good)
        assert self._kept is not None, "the policy before the first round is good"
        return Learned(policy, self._kept, tuple(self.checks), self.stopped, self._decided)

    def _turn(self) -> None:
        """Begin the second part, with the policy that was kept."""
        assert self._kept is not None, "only what was kept goes on"
        self.learner.policy.load_state_dict(self._good)
        self._part_two(self._kept, self.guard.checks)
        self._snapshot = self._taken()

    def _part_two(self, decided: Check, past: list[Check]) -> None:
        assert self._again is not None, "a second part is made by somebody"
        self._past, self._decided = past, decided
        self.learner, self.guard = self._again(self.guard, decided)

    def _check(self) -> Check:
        return self.guard.check(self.learner.policy, len(self.checks))

    def _round(self) -> Check:
        """A round of learning, done again from its beginning and slower where it overshot the limits of drift.

        As long as nothing was kept, going beyond them at all is too far: the guard would stop with nothing learned.
        """
        if self._warm is not None and not self.rounds:
            self._warm()
        for _ in range(RETRIES):
            self.learner.round()
            check = self._check()
            if self.guard.drift(check) <= (OVERSHOT if self._kept is not None and self._kept.round else 1.0):
                break
            rate = float(self.learner.state()["rate"])
            self._return(self._snapshot)
            self.learner.slow_down(SLOWER * rate / float(self.learner.state()["rate"]))
        return check

    def _take(self, check: Check, verdict: Verdict, tell: Tell | None) -> None:
        self.guard.note(check)
        self.stopped = self.stopped or verdict.stop
        if verdict.keep:
            self._good, self._kept = _copied(self.learner.policy.state_dict()), check
        self._snapshot = self._taken()
        if tell is not None:
            tell(check)

    def _taken(self) -> dict[str, Tensor]:
        assert self._kept is not None
        now = _copied(self.learner.policy.state_dict())
        return {
            **{_GOOD + name: value for name, value in self._good.items()},
            **{_NOW + name: value for name, value in now.items()},
            **{_LEARNER + name: value for name, value in self.learner.state().items()},
            "generator": self.learner.generator.get_state(),
            "checks": torch.tensor([astuple(check) for check in self.checks], dtype=torch.float64),
            "kept": torch.tensor(self._kept.round),
            "parts": torch.tensor([len(self._past), -1 if self._decided is None else self._decided.round]),
        }

    def state(self) -> dict[str, Tensor]:
        """Everything `restore` needs, as of the last whole round; empty before the first check."""
        return dict(self._snapshot)

    def restore(self, state: Mapping[str, Tensor], stopped: str | None = None) -> None:
        """Go on from a state, with the same goal, guard and settings; this training has not begun.

        Raises:
            KeyError, ValueError, RuntimeError: it is not the state of such a training.
        """
        checks, (past, decided) = checks_of(state), state["parts"].tolist()
        if decided >= 0:
            self._part_two(checks[decided], checks[:past])
        self._return(state)
        self._good, self.guard.checks, self.stopped = _part(state, _GOOD), checks[past:], stopped
        self._kept = checks[int(state["kept"])]
        self._snapshot = dict(state)

    def _return(self, state: Mapping[str, Tensor]) -> None:
        """Policy, learner and random numbers as they were."""
        self.learner.policy.load_state_dict(_part(state, _NOW))
        self.learner.restore(_part(state, _LEARNER))
        self.learner.generator.set_state(state["generator"])


def checks_of(state: Mapping[str, Tensor]) -> list[Check]:
    """The checks a state tells of, oldest first."""
    names = [each.name for each in fields(Check)]
    rows = [dict(zip(names, row, strict=True)) for row in state["checks"].tolist()]
    return [Check(**{**row, "round": int(row["round"])}) for row in rows]


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value.clone() for name, value in state.items() if name.startswith(prefix)}


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}
