"""Rounds of learning under a guard. Whatever ends them, the last good policy is what is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor

from client.policy.flow import LatentPolicy
from client.policy.guard import Check, Guard, Verdict
from client.policy.learner import Learner

Tell = Callable[[Check], None]
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
        stopped: why the guard ended it; None where all rounds were done.
    """

    policy: LatentPolicy
    kept: Check
    checks: tuple[Check, ...]
    stopped: str | None


class Training:
    """Learning that can be left and resumed.

    Guarantee: after `run`, however it ends (Ctrl-C, a reward that raises, memory that runs out), the policy is the last
    one the guard called good, and `state` is that of the last whole round: a training restored from it goes on as if it
    had never stopped.

    Attributes:
        learner: improves.
        guard: watches.
        stopped: why the guard ended it; None before that.
    """

    def __init__(self, learner: Learner, guard: Guard, warm: Callable[[], object] | None = None) -> None:
        """Begin with the learner's policy as it is.

        Args:
            learner: improves it.
            guard: watches; the policy as it is counts as good.
            warm: changes the policy before the first round, see `client.policy.replay.warm_start`.
        """
        self.learner, self.guard, self._warm = learner, guard, warm
        self.stopped: str | None = None
        self._good = _copied(learner.policy.state_dict())
        self._kept: Check | None = None
        self._snapshot: dict[str, Tensor] = {}

    @property
    def rounds(self) -> int:
        """Rounds that are done."""
        return max(0, len(self.guard.checks) - 1)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.stopped is not None or self.rounds >= self.learner.settings.rounds

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
            if not self.guard.checks:
                self._take(self._check(), Verdict(None, True), tell)
            while not self.finished:
                check = self._round()
                self._take(check, self.guard.judge(check), tell)
                if keep is not None:
                    keep()
        finally:
            policy.load_state_dict(self._good)
        assert self._kept is not None, "the policy before the first round is good"
        return Learned(policy, self._kept, tuple(self.guard.checks), self.stopped)

    def _check(self) -> Check:
        return self.guard.check(self.learner.policy, len(self.guard.checks))

    def _round(self) -> Check:
        """A round of learning, done again from its beginning and slower where it overshot the limits of drift."""
        if self._warm is not None and not self.rounds:
            self._warm()
        for _ in range(RETRIES):
            self.learner.round()
            check = self._check()
            if self.guard.drift(check) <= OVERSHOT:
                break
            rate = float(self.learner.state()["rate"])
            self._return(self._snapshot)
            self.learner.slow_down(SLOWER * rate / float(self.learner.state()["rate"]))
        return check

    def _take(self, check: Check, verdict: Verdict, tell: Tell | None) -> None:
        self.guard.note(check)
        self.stopped = verdict.stop
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
            "checks": torch.tensor([astuple(check) for check in self.guard.checks], dtype=torch.float64),
            "kept": torch.tensor(self._kept.round),
        }

    def state(self) -> dict[str, Tensor]:
        """Everything `restore` needs, as of the last whole round; empty before the first check."""
        return dict(self._snapshot)

    def restore(self, state: Mapping[str, Tensor], stopped: str | None = None) -> None:
        """Go on from a state, with the same goal, guard and settings.

        Raises:
            KeyError, ValueError, RuntimeError: it is not the state of such a training.
        """
        checks = checks_of(state)
        self._return(state)
        self._good, self.guard.checks, self.stopped = _part(state, _GOOD), checks, stopped
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
