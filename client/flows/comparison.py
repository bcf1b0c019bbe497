"""Ways of teaching a flow beside each other: the same answers, the same noises, the same judge.

To add a way: one function of a `Lesson` and one line in `METHODS`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from client.flows.answers import Answers, PickReward
from client.flows.checkpoint import Checkpoint
from client.flows.denoising import DenoisingPolicy, DenoisingSettings
from client.flows.judge import judge
from client.flows.model import FlowModel, of_checkpoint
from client.flows.pairwise import PairSettings, contrast
from client.flows.proposals import most_different, shape_distribution
from client.flows.script import preferred
from client.flows.shapes import KINDS, S_CURVE
from client.flows.teaching import TeachSettings, inject
from common.errors import RewardError, SettingError

_PATIENCE = 20  # sets somebody looks at for one pick
_CANDIDATES = 32  # samples of which a set is chosen
_TYPICAL = 256  # samples the reward is put to scale on


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """What is compared.

    Attributes:
        methods: names from `METHODS`.
        picks: answers that every method learns from, >= 1.
        shown: shapes in a set, >= 2.
        samples: judged of each method, >= 16.
        seeds: repetitions, >= 1; the first is ``seed``.
        seed: of everything.
        kind: what the person loves.
        teach: the injection of all picks at once.
        pairs: the pairwise loss.
        denoising: the policy.
    """

    methods: tuple[str, ...] = ("base", "injection", "pairwise", "denoising")
    picks: int = 6
    shown: int = 4
    samples: int = 192
    seeds: int = 3
    seed: int = 0
    kind: int = S_CURVE
    teach: TeachSettings = field(default_factory=lambda: TeachSettings(steps=120))
    pairs: PairSettings = field(default_factory=PairSettings)
    denoising: DenoisingSettings = field(default_factory=DenoisingSettings)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise SettingError(f"method {unknown[0]!r} is unknown; known: {', '.join(METHODS)}")
        if self.picks < 1 or self.seeds < 1 or self.samples < 16 or not 2 <= self.shown <= _CANDIDATES:
            raise SettingError(
                f"picks={self.picks} and seeds={self.seeds} must be >= 1, samples={self.samples} >= 16 and "
                f"shown={self.shown} between 2 and {_CANDIDATES}"
            )
        if self.kind not in range(len(KINDS)) or not 0 <= self.seed < 2**31:
            raise SettingError(f"kind={self.kind} must be 0 or 1 and seed={self.seed} between 0 and 2^31 - 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """Everything a way of teaching may use.

    Attributes:
        base: the flow.
        answers: of the person.
        reward: fitted to them.
        anchors: ``(k, *shape)`` samples of the base.
        settings: of all methods.
        seed: of this repetition.
    """

    base: FlowModel
    answers: Answers
    reward: PickReward
    anchors: Tensor
    settings: ComparisonSettings
    seed: int

    def generator(self) -> torch.Generator:
        """Random numbers of this lesson, the same each time."""
        return torch.Generator(self.base.device).manual_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class Row:
    """How one method did.

    Attributes:
        method: its name.
        seed: of the repetition.
        loved: share of samples that are what the person loves: valid shapes of their kind.
        invalid: share of samples that are no shape.
        distance: median distance to the nearer curve, as a share of the size.
        spread: standard deviation of the angle of the loved shapes, degrees; 0 would be one shape over and over.
        reward: mean of the reward that was fitted to the answers; above what ``loved`` deserves where it is cheated.
        teaching_seconds: of the processor, to teach.
        item_seconds: of the processor, to draw one sample.
    """

    method: str
    seed: int
    loved: float
    invalid: float
    distance: float
    spread: float
    reward: float
    teaching_seconds: float
    item_seconds: float


def _base(lesson: Lesson) -> FlowModel:
    return lesson.base


def _injection(lesson: Lesson) -> FlowModel:
    base, picks = lesson.base, lesson.answers.winners
    taught = inject(
        base.velocity, base.velocity, picks, lesson.anchors, lesson.settings.teach, lesson.generator(), base.pairing
    )
    return base.moved(taught)


def _pairwise(lesson: Lesson) -> FlowModel:
    winners, losers = lesson.answers.pairs()
    return contrast(lesson.base, winners, losers, lesson.anchors, lesson.settings.pairs, lesson.generator())


def _denoising(lesson: Lesson) -> FlowModel:
    policy = DenoisingPolicy(lesson.base, lesson.reward, replace(lesson.settings.denoising, seed=lesson.seed))
    while not policy.done:
        policy.advance()
    return policy.flow


METHODS: dict[str, Callable[[Lesson], FlowModel]] = {
    "base": _base,
    "injection": _injection,
    "pairwise": _pairwise,
    "denoising": _denoising,
}
"""Ways of teaching: what is learned from a lesson, as a flow."""


def compare(
    checkpoint: Checkpoint,
    settings: ComparisonSettings,
    device: torch.device,
    report: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Teach the flow of the toy in several ways.

    Args:
        checkpoint: of the flow, on ``device``.
        settings: what is compared.
        device: where.
        report: called with each row as it is there.

    Returns:
        ``seeds * methods`` rows.

    Raises:
        RewardError: the person found nothing to pick.
    """
    rows: list[Row] = []
    base = of_checkpoint(checkpoint)
    for seed in range(settings.seed, settings.seed + settings.seeds):
        lesson = lesson_of(base, settings, seed, device)
        noise = base.noise(settings.samples, torch.Generator().manual_seed(9_000_000_000 + seed)).to(device)
        for method in settings.methods:
            begun = time.process_time()
            flow = METHODS[method](lesson)
            rows.append(_row(flow, lesson, noise, method, time.process_time() - begun))
            if report is not None:
                report(rows[-1])
    return rows


def lesson_of(base: FlowModel, settings: ComparisonSettings, seed: int, device: torch.device) -> Lesson:
    """Show sets of the base's shapes to an artificial person until they picked often enough.

    Raises:
        RewardError: they found nothing to pick.
    """
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that all devices show the same
    anchors = base.draw(base.noise(_TYPICAL, generator).to(device))
    sets, picks = list[Tensor](), list[int]()
    for _ in range(_PATIENCE * settings.picks):
        drawn = base.draw(base.noise(_CANDIDATES, generator).to(device))
        shown = drawn[most_different(drawn, settings.shown)]
        if (pick := preferred(shown, settings.kind)) is not None:
            sets.append(shown)
            picks.append(pick)
        if len(picks) == settings.picks:
            break
    else:
        raise RewardError(f"the person found {len(picks)} of {settings.picks} picks; ask for fewer")
    answers = Answers(torch.stack(sets), torch.tensor(picks, device=device))
    reward = PickReward.fit(shape_distribution, anchors, answers.shown, answers.picked)
    return Lesson(base=base, answers=answers, reward=reward, anchors=anchors, settings=settings, seed=seed)


def _row(flow: FlowModel, lesson: Lesson, noise: Tensor, method: str, taught: float) -> Row:
    begun = time.process_time()
    drawn = flow.draw(noise)
    took = time.process_time() - begun
    found = judge(drawn)
    angles = found.turn[found.valid & (found.kind == lesson.settings.kind)].double()
    return Row(
        method=method,
        seed=lesson.seed,
        loved=found.share(lesson.settings.kind),
        invalid=found.invalid,
        distance=float(found.distance.median()),
        spread=float(torch.rad2deg(angles.std(correction=0))) if len(angles) else 0.0,
        reward=float(lesson.reward(drawn).mean()),
        teaching_seconds=taught,
        item_seconds=took / len(noise),
    )


def mean_of(rows: Sequence[Row], method: str, what: str) -> float:
    """Mean over the seeds of one column; NaN where the method was not run."""
    found = [float(getattr(row, what)) for row in rows if row.method == method]
    return statistics.mean(found) if found else float("nan")
