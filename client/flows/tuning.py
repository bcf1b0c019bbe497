"""Teaching the flow of a pack in rounds, watched by held-out answers and by how far it has gone from the original."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from client.flows.adapters import AdapterSettings
from client.flows.denoising import DenoisingPolicy, DenoisingSettings
from client.flows.model import FlowModel
from client.flows.pack_lesson import PackLesson, must_have_pairs
from client.flows.packs import plain
from client.flows.pairwise import PairSettings, contrast
from client.flows.stochastic import StochasticSettings
from client.flows.teaching import TeachSettings, inject
from client.flows.tuning_guard import Check, DriftSettings, Watch
from common.errors import Interrupted, SettingError

_STRENGTH = 5.0  # of pairs; pictures are far from each other, and 20 settles each pair next to the original
_RATES = {"injection": 2e-4, "pairwise": 5e-5, "denoising": 3e-4}  # tried on avatars of 32 pixels
_SLOWEST = 1 / 16  # of the rate at first, which is halved when a round goes too far
_GROUP = 4  # ways from each noise, of denoising


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """How a flow is taught; all of it must stay the same when teaching goes on.

    Attributes:
        by: a name from `WAYS`.
        rounds: most of them, >= 1; each ends with a check and can be gone on from.
        steps: of the optimiser in a round, >= 1; of denoising, passes over a round's ways.
        anchor: how firmly it is held to the original, >= 0; of denoising, weight of the divergence from it.
        learning_rate: at first, above 0, halved when a round goes too far; None for what suits the way.
        batch: samples in a step, >= 4: half are answers, half hold to the original; of denoising, ways in a round.
        held_out: share of the answers that only the guard hears, 0 to below 1; 0 for none.
        drift: how far it may go.
        seed: of everything random.

    Raises:
        SettingError: a value is out of range.
    """

    by: str = "injection"
    rounds: int = 10
    steps: int = 15
    anchor: float = 0.3
    learning_rate: float | None = None
    batch: int = 48
    held_out: float = 0.2
    drift: DriftSettings = field(default_factory=DriftSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise SettingError(f"by={self.by[:40]!r} must be one of {', '.join(WAYS)}")
        for name, least in (("rounds", 1), ("steps", 1), ("batch", 4), ("seed", 0)):
            if getattr(self, name) < least:
                raise SettingError(f"{name}={getattr(self, name)} must be >= {least}")
        if not 0 <= self.anchor < math.inf or not 0 <= self.held_out < 1:
            raise SettingError(
                f"anchor={self.anchor} must be >= 0, and held_out={self.held_out} at least 0 and below 1"
            )
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise SettingError(f"learning_rate={self.learning_rate} must be > 0; try {_RATES[self.by]:g}")

    @property
    def rate(self) -> float:
        """The learning rate at first."""
        return _RATES[self.by] if self.learning_rate is None else self.learning_rate


class Way(Protocol):
    """A way of teaching: one round at a time."""

    @property
    def flow(self) -> FlowModel:
        """What was taught so far."""

    def advance(self, round: int) -> bool:
        """Teach for one round; False where the way itself says that it is far enough."""

    def gentler(self) -> bool:
        """Take the last round back, and go on half as fast; False where that cannot be."""

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes to go on as if nothing had stopped it."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""


Round = Callable[[FlowModel, torch.Generator, float], FlowModel]
"""A flow, randomness and a learning rate to the flow after a round."""


class Descent:
    """A way whose rounds need nothing but the weights and a learning rate."""

    def __init__(self, base: FlowModel, teach: Round, rate: float, seed: int) -> None:
        self.flow, self._before, self._base = base, base, base
        self._teach, self._rate, self._slowest, self._seed = teach, rate, rate * _SLOWEST, seed

    def advance(self, round: int) -> bool:
        """See `Way`."""
        generator = torch.Generator(self._base.device).manual_seed(self._seed * 1_000_003 + round)
        self._before, self.flow = self.flow, self._teach(self.flow, generator, self._rate)
        return True

    def gentler(self) -> bool:
        """See `Way`."""
        if self._rate <= self._slowest:
            return False
        self.flow, self._rate = self._before, self._rate / 2
        return True

    def state(self) -> dict[str, Tensor]:
        """See `Way`."""
        weights = {f"weight.{name}": value for name, value in self.flow.velocity.state_dict().items()}
        return {**weights, "rate": torch.tensor(self._rate, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Way`."""
        weights = {name[7:]: value for name, value in state.items() if name.startswith("weight.")}
        self.flow, self._rate = with_weights(self._base, self._base.velocity, weights), float(state["rate"])


class Steps:
    """A policy on the steps of the flow, as a way."""

    def __init__(self, policy: DenoisingPolicy) -> None:
        self._policy = policy

    @property
    def flow(self) -> FlowModel:
        """See `Way`."""
        return self._policy.flow

    def advance(self, round: int) -> bool:
        """See `Way`."""
        return self._policy.advance() is not None

    def gentler(self) -> bool:
        """See `Way`; its own limits have stopped it before."""
        return False

    def state(self) -> dict[str, Tensor]:
        """See `Way`."""
        return self._policy.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Way`."""
        self._policy.restore(state)


def _injection(base: FlowModel, lesson: PackLesson, watch: Watch, settings: TuneSettings) -> Way:
    half = settings.batch // 2
    how = TeachSettings(
        steps=settings.steps, picks=half, most_picks=half, anchors=half, anchor=settings.anchor,
    )  # fmt: skip

    def teach(student: FlowModel, generator: torch.Generator, rate: float) -> FlowModel:
        now = replace(how, learning_rate=rate)
        return base.moved(
            inject(student.velocity, base.velocity, lesson.liked, watch.anchors, now, generator, base.pairing)
        )

    return Descent(base, teach, settings.rate, settings.seed)


def _pairwise(base: FlowModel, lesson: PackLesson, watch: Watch, settings: TuneSettings) -> Way:
    must_have_pairs(lesson)
    half = max(1, settings.batch // 4)  # a pair is two samples
    how = PairSettings(
        steps=settings.steps, pairs=half, anchors=settings.batch // 2, anchor=settings.anchor,
        strength=_STRENGTH,
    )  # fmt: skip

    def teach(student: FlowModel, generator: torch.Generator, rate: float) -> FlowModel:
        now = replace(how, learning_rate=rate)
        return contrast(base, lesson.better, lesson.worse, watch.anchors, now, generator, student=student)

    return Descent(base, teach, settings.rate, settings.seed)


def _denoising(base: FlowModel, lesson: PackLesson, watch: Watch, settings: TuneSettings) -> Way:
    how = DenoisingSettings(
        iterations=settings.rounds, noises=max(1, settings.batch // _GROUP), group=_GROUP,
        epochs=max(1, settings.steps // 4), divergence=settings.anchor / 3,
        learning_rate=settings.rate, seed=settings.seed,
        way=StochasticSettings(steps=max(2, len(base.sampler.times) - 1), until=1.0),
        adapter=AdapterSettings(rank=8),
    )  # fmt: skip
    return Steps(DenoisingPolicy(base, watch.reward, how))


WAYS: dict[str, Callable[[FlowModel, PackLesson, Watch, TuneSettings], Way]] = {
    "injection": _injection,
    "pairwise": _pairwise,
    "denoising": _denoising,
}
"""Ways of teaching the flow of a pack; see `client.flows.comparison` for how they compare on the toy."""


class Tuner:
    """One teaching of a flow.

    Guarantee: `flow` is always the best one so far that the guard lets pass, at first the original. A teaching that is
    stopped after any round, kept with `state` and gone on with `restore` ends with the same weights.

    Attributes:
        settings: how.
        checks: one before the first round and one after each.
        kept: which of them `flow` is from.
        stopped: why the guard ended it; None where it did not.
    """

    def __init__(self, base: FlowModel, lesson: PackLesson, settings: TuneSettings) -> None:
        """Start as the original.

        Args:
            base: the original, of pictures; it stays as it is.
            lesson: what was answered.
            settings: how.

        Raises:
            RewardError: the answers teach nothing in this way.
        """
        self.settings, self._base = settings, base
        self._watch = Watch(base, lesson, settings.drift, settings.seed)
        self._way = WAYS[settings.by](base, lesson, self._watch, settings)
        self.checks = [self._watch.check(base, 0)]
        self.kept = 0
        self.stopped: str | None = None
        self._good = _weights(base)

    @property
    def flow(self) -> FlowModel:
        """The last good one, frozen."""
        return with_weights(self._base, self._base.velocity, self._good)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.stopped is not None or len(self.checks) > self.settings.rounds

    def run(self, tell: Callable[[Check], None] | None = None, keep: Callable[[], object] | None = None) -> None:
        """Teach until it is done.

        Args:
            tell: is told of every check.
            keep: called after every whole round.

        Raises:
            Interrupted: Ctrl-C; what `keep` kept is the last whole round.
            RewardError, SettingError, OutOfMemory: see `WAYS`; the last good flow stays.
        """
        try:
            while not self.done:
                check = self._round()
                if keep is not None:
                    keep()
                if tell is not None:
                    tell(check)
        except KeyboardInterrupt:
            done = f"stopped after round {len(self.checks) - 1} of {self.settings.rounds}"
            raise Interrupted(f"{done}; the same command goes on from there") from None

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes, on the CPU; `stopped` aside."""
        kept = {f"way.{name}": value for name, value in self._way.state().items()}
        kept |= {f"good.{name}": value for name, value in self._good.items()}
        kept |= {"checks": Check.rows(self.checks), "kept": torch.tensor(self.kept)}
        return {name: value.detach().cpu().clone().contiguous() for name, value in kept.items()}

    def restore(self, state: Mapping[str, Tensor], stopped: str | None) -> None:
        """Go on from a `state` of the same pack, answers and settings.

        Raises:
            KeyError, RuntimeError, SettingError: it is another's.
        """
        self._way.restore({name[4:]: value for name, value in state.items() if name.startswith("way.")})
        self._good = {name[5:]: value for name, value in state.items() if name.startswith("good.")}
        self.checks, self.kept, self.stopped = Check.of_rows(state["checks"]), int(state["kept"]), stopped

    def _round(self) -> Check:
        number = len(self.checks)
        while True:
            if not self._way.advance(number):
                self.stopped = "it is as far from the original as it may go"
                return self.checks[-1]
            check = self._watch.check(self._way.flow, number)
            verdict = self._watch.verdict([*self.checks, check], self.kept)
            if not verdict.far or not self._way.gentler():
                break
        if verdict.keep:
            self.kept, self._good = number, _weights(self._way.flow)
        self.checks.append(check)
        self.stopped = verdict.stop
        return check


def with_weights(base: FlowModel, velocity: nn.Module, weights: Mapping[str, Tensor]) -> FlowModel:
    """A flow whose velocity is a copy of one with other weights, frozen."""
    made = copy.deepcopy(velocity)
    made.load_state_dict({name: value.to(base.device) for name, value in weights.items()})
    return replace(base, velocity=made.requires_grad_(False))


def _weights(flow: FlowModel) -> dict[str, Tensor]:
    """The weights of a flow that was taught, as the velocity it began with names them."""
    return {name: value.detach().clone() for name, value in plain(flow.velocity).state_dict().items()}
