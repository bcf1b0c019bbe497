"""What a strategy is: one file here, one line in ``STRATEGIES``, and every engine, experiment and report runs it.

A strategy is the pair of functions a federation is made of, and what a new person does with the result::

    state_0                                     public, the same for everybody
    u_i = updates(answers of person i, state)   on the device, any number of numbers D
    state' = advance(state, mean of clip(u_i))  on the server, from a noised sum: post-processing
    scores(answers of a new person, state)      on the device

Clipping, rounding, adding, sampling and noise are not its business: the engine does them, in one place, from a
``Mechanism``, which also writes the privacy statement. A strategy that is protected on the devices instead, or not at
all, says so itself: ``OwnPrivacy``. ``simulations.strategies.arrange`` makes the right pair for a promise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from client.likelihood import Evidence
from common.prior import PopulationPrior
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from simulations.crowd import Items
from simulations.mechanisms import Mechanism

State = dict[str, Tensor]
"""What the server publishes after each round, plain arrays by name. Public."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a strategy knows before the first round; all of it is public.

    Attributes:
        items: what will be rated.
        flat: the prior of somebody who knows nobody, over ``items.features``.
        rounds: how many there will be.
        ratings: answers a person has given, at most.
        seed: of anything a strategy draws in public, e.g. initial weights.
    """

    items: Items
    flat: PopulationPrior
    rounds: int
    ratings: int
    seed: int = 0


class Strategy(Protocol):
    """A federated learner of tastes. Everything is batched over people and runs on the device of its input."""

    @property
    def name(self) -> str:
        """For scripts, e.g. ``"dp-em"``."""

    @property
    def label(self) -> str:
        """For people."""

    @property
    def norm_bound(self) -> float:
        """Clip norm that suits its updates, in their own units; chosen on invented people only."""

    @property
    def rounds(self) -> int:
        """How many rounds suit it where nothing else is asked for."""

    def start(self, task: Task) -> State:
        """The state before the first round."""

    def view(self, items: Items, state: State) -> Tensor:
        """``(n, q)`` what people's devices look at in this round: the items as this strategy sees them.

        Called once a round, so whatever is the same for everybody (whitening, say) belongs here.
        """

    def updates(self, evidence: Evidence, state: State) -> Tensor:
        """``(people, D)`` of people whose ``evidence`` is over ``view(items, state)``, before clipping."""

    def advance(self, state: State, mean: Tensor, round: int) -> State:
        """The next state, from ``(D,)`` float64, the noised sum divided by a number fixed beforehand."""

    def scores(self, evidence: Evidence, state: State, items: Items) -> Tensor:
        """``(people, n)`` how much new people will like ``items``, higher is better.

        Args:
            evidence: the new people's own answers, perhaps none, over ``view`` of the items they are about.
            state: the last state.
            items: what to score, not what was rated.
        """


@runtime_checkable
class OwnPrivacy(Protocol):
    """What a strategy has besides if the noise of a mechanism is not what protects people.

    Its devices add noise themselves, or nobody does; it runs with the mechanism that ``keeping`` returns, and its own
    ``statement`` stands beside the result.
    """

    def keeping(self, settings: PrivacySettings, task: Task) -> tuple[Strategy, Mechanism]:
        """The strategy with the noise that keeps a promise, and the mechanism to run it with.

        Args:
            settings: epsilon, delta, rounds and expected people of the promise; each strategy has its own norm bound.
            task: what will be rated.
        """

    def statement(self, numbers: int, rounds: int) -> PrivacyStatement:
        """The claim for what ``rounds`` releases of ``numbers`` numbers were made into."""


def statement_of(strategy: Strategy, mechanism: Mechanism, numbers: int, rounds: int) -> PrivacyStatement:
    """The claim that stands beside a result: the strategy's own where it protects people itself, or nobody does."""
    if isinstance(strategy, OwnPrivacy):
        return strategy.statement(numbers, rounds)
    return mechanism.statement(numbers, rounds)
