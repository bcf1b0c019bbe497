"""An endless stream of items for one session: learn a policy from its answers, then draw from it.

Part of the answers is held out for the guard's judge. The others teach a taste model, and an ensemble of models each
without one fold of them; the policy raises what the model expects less what it and the ensemble are unsure of, and is
charged for items that are more extreme than the generator's own. How far the policy the guard kept had drifted is then
as far as it may go: within that it learns once more, from all answers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from client.classifiers.base import Answers, Points
from client.classifiers.labels import targets
from client.items import Item
from client.policy import LEVEL, keeping
from client.policy.flow import FlowSettings, LatentPolicy, check_level
from client.policy.goal import Goal, GoalSettings
from client.policy.guard import Check, Guard, GuardSettings, Tether
from client.policy.learner import Learner, LearnSettings, learner
from client.policy.population import policy_of, unheard
from client.policy.replay import warm_start
from client.policy.reward import Mixed, Part, Scaled, TasteReward, Typical
from client.policy.training import Learned, Tell, Training
from client.session import Session
from common.errors import RewardError, SettingError
from common.latents import LatentSpace
from common.population_policy import PopulationPolicy

FEWEST = 8  # answers that a policy can be learned from
STRICT = 5.0  # deviations of the reward that an item loses for each time it is too extreme
WARM = {"reparameterised": 0, "ppo": 60}  # steps: a black box is learned from quicker when not from nothing
SPLITS = 4  # ways to hold answers out that are tried, until the judge has something to say
SHY = 0.95  # of the divergence that was kept is aimed at again: learning sways about what it aims at
_TRIES = 4  # draws for items that are not too extreme, before the least extreme ones are taken


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """How a stream is learned; everything here changes what it shows.

    Attributes:
        learner: a name from ``client.policy.learner.LEARNERS``.
        couplings: layers of the policy; width: units of each.
        width: see above.
        held_out: share of the answers that only the guard's judge hears, 0 to below 1; 0 for no judge.
        members: taste models that each hear all of the other answers but one fold, 2 or more; 0 for no ensemble.
        caution: of the ensemble, see `TasteReward`.
        refit: most rounds of learning once more, from all answers, within the drift of what the guard kept; 0 for none.
        warm: steps of the warm start from the generator's best items; 0 for none, None for what suits the learner.
        seed: of everything random.
        goal: prices and variety.
        learn: rounds and batches.
        guard: when to stop.

    Raises:
        SettingError: a value is out of range.
    """

    learner: str = "reparameterised"
    couplings: int = 6
    width: int = 64
    held_out: float = 0.2
    members: int = 4
    caution: float = 2.0
    refit: int = 10
    warm: int | None = None
    seed: int = 0
    goal: GoalSettings = field(default_factory=GoalSettings)
    learn: LearnSettings = field(default_factory=LearnSettings)
    guard: GuardSettings = field(default_factory=GuardSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise SettingError(f"held_out={self.held_out} must be at least 0 and below 1; try 0.2")
        if self.members < 0 or self.members == 1 or (self.warm or 0) < 0 or not 0 <= self.caution < math.inf:
            raise SettingError(
                f"members={self.members} must be 0 or >= 2, warm={self.warm} and caution={self.caution} >= 0"
            )
        if self.refit < 0:
            raise SettingError(f"refit={self.refit} must be >= 0; try 10")

    @property
    def most_rounds(self) -> int:
        """Rounds until learning is over, where nothing stops it before."""
        return self.learn.rounds + (self.refit if self.held_out else 0)


class Sight:
    """A session's lens that looks only once at latents that several parts of a goal ask about."""

    def __init__(self, session: Session) -> None:
        self._lens, self._scale = session.lens, session.lens.scale.float()
        self._last: tuple[Tensor, Points] | None = None

    def __call__(self, latents: Tensor) -> Points:
        """Points of latents ``(n, d)``."""
        if (
            self._last is None
            or self._last[0] is not latents
            or self._last[1].features.requires_grad != (latents.requires_grad and torch.is_grad_enabled())
        ):
            self._last = latents, self._lens(latents)
        return self._last[1]

    def seen(self, latents: Tensor) -> Tensor:
        """What people see ``(n, k)``, each feature as large as it looks."""
        return self(latents).features[:, :-1] * self._scale


def prepare(session: Session, settings: StreamSettings, population: PopulationPolicy | None = None) -> Training:
    """A training of a policy for what a session knows; nothing is learned yet.

    Guarantee: how far the policy goes is decided with a judge that heard answers no model of it heard. The second part
    hears those answers too, so nothing that is fair judges it; it is held to the drift that was kept, in divergence and
    in what is seen, shares of the same limits. It may please the models more than the person within that drift, as much
    as models of all answers can be wrong there.

    Args:
        session: whose answers.
        settings: how.
        population: begins as everybody's policy, of its size, in place of the generator itself and its warm start.

    Raises:
        PriorError: the population policy is for another generator.
        SettingError: there are too few answers, or none of them is positive.
        RewardError: the taste tells no items apart.
    """
    answers, context = session.lesson()
    _check(answers)
    generator = torch.Generator().manual_seed(settings.seed)
    sight, space = Sight(session), session.pack.latents
    for _ in range(SPLITS):
        heard, held = _split(answers, settings.held_out, generator)
        goal = _goal(session, answers, context, heard, sight, settings, generator)
        judge = None
        if len(held):
            fair = session.fresh_model().fit(answers.select(held), context)
            judge = _told(TasteReward(sight, fair, caution=0), space, generator)
        guard = Guard(goal, judge, settings.guard, generator)
        if not len(held) or not guard.blind:
            break
    size = FlowSettings(
        dimension=space.dimension, couplings=settings.couplings, width=settings.width, seed=settings.seed
    )
    policy = LatentPolicy(size) if population is None else policy_of(population, session.pack)
    steps = settings.warm if settings.warm is not None else WARM[settings.learner]
    steps = steps if population is None else 0
    warm = partial(warm_start, policy, goal, generator, steps=steps) if steps else None
    again = None
    if settings.refit and len(held):
        again = partial(_again, policy, lambda how: _whole(session, answers, context, sight, how), settings)
    return Training(learner(settings.learner, policy, goal, settings.learn, generator), guard, warm, again)


def whole_goal(session: Session, settings: StreamSettings) -> Goal:
    """What a policy is learned for in the end: by all answers of a session.

    Raises:
        SettingError, RewardError: see `prepare`.
    """
    answers, context = session.lesson()
    _check(answers)
    return _whole(session, answers, context, Sight(session), settings)


def _whole(session: Session, answers: Answers, context: int, sight: Sight, settings: StreamSettings) -> Goal:
    generator = torch.Generator().manual_seed(settings.seed + 1)
    return _goal(session, answers, context, torch.arange(len(answers)), sight, settings, generator)


def _again(
    policy: LatentPolicy,
    whole: Callable[[StreamSettings], Goal],
    settings: StreamSettings,
    before: Guard,
    decided: Check,
) -> tuple[Learner, Guard]:
    """Learner and guard of the second part, which aims a little below the divergence that was kept."""
    aim = max(1e-6, SHY * decided.divergence)
    prices = replace(settings.goal, most=min(settings.goal.most, aim), nearest=min(settings.goal.nearest, aim / 2))
    goal, generator = whole(replace(settings, goal=prices)), torch.Generator().manual_seed(settings.seed + 2)
    how = replace(settings.learn, rounds=settings.refit)
    guard = Tether(goal, before, before.drift(decided), generator)
    return learner(settings.learner, policy, goal, how, generator), guard


def _goal(
    session: Session,
    answers: Answers,
    context: int,
    heard: Tensor,
    sight: Sight,
    settings: StreamSettings,
    generator: torch.Generator,
) -> Goal:
    """What a policy is learned for, from the answers of some rows."""
    taste, *ensemble = (
        session.fresh_model().fit(answers.select(rows), context) for rows in [heard, *_folds(heard, settings.members)]
    )
    parts = [
        Part(reward=TasteReward(sight, taste, ensemble, caution=settings.caution)),
        Part(reward=Typical(sight, session.extremeness), weight=STRICT, scaled=False),
    ]
    space = session.pack.latents
    return Goal.measure(Mixed(parts, space, generator), sight.seen, space, generator, settings.goal)


def _told(reward: TasteReward, space: LatentSpace, generator: torch.Generator) -> Scaled | None:
    """A judge on its scale; None where the held-out answers tell no items apart."""
    try:
        return Scaled.measure(reward, space, generator)
    except RewardError:
        return None


def learn(
    session: Session,
    settings: StreamSettings,
    tell: Tell | None = None,
    population: PopulationPolicy | None = None,
) -> Learned:
    """The policy of a session: the one that is kept if it was learned from the same answers, or learned now.

    Guarantee: the same answers, generator and settings give the same policy, interrupted or not. Where the session has
    a store, every finished round is kept there, so that Ctrl-C, an error or a power cut loses at most one.

    Args:
        session: whose answers.
        settings: how.
        tell: is told of every check.
        population: what learning begins with; as long as there are fewer than `FEWEST` answers, it is the policy.

    Raises:
        SettingError, RewardError, OutOfMemory: see `prepare` and `Training.run`.
        PriorError: the population policy is for another generator.
        StorageError: the disk refuses.
    """
    if population is not None and len(session.lesson()[0]) < FEWEST:
        return unheard(policy_of(population, session.pack))
    mark, kept = fingerprint(session, settings, population), keeping.load(session)
    same = kept is not None and kept.fingerprint == mark
    if kept is not None and same and kept.finished:
        return kept.learned
    training = prepare(session, settings, population)
    if kept is not None and same:
        training.restore(kept.state, kept.stopped)
    return training.run(tell, lambda: keeping.save(session, training, mark))


def more(
    session: Session,
    count: int,
    level: float,
    settings: StreamSettings | None = None,
    population: PopulationPolicy | None = None,
) -> list[Item]:
    """So many more items for a wall, from the session's policy; learns it first where it is not kept for these answers.

    A session without a store has nowhere to keep a policy: hold on to a `Stream` instead.

    Args:
        session: whose; the items are remembered as shown and can be rated.
        count: how many, from 1 to 200.
        level: from 0 (safe) to 1 (surprising).
        settings: how a policy is learned.
        population: what everybody likes: the items of somebody who answered little or nothing, and where learning
            begins; see `learn`.

    Raises:
        SettingError: count or level out of range, or too few answers; see `prepare`.
        PriorError: the population policy is for another generator.
    """
    if not 1 <= count <= 200:
        raise SettingError(f"count={count} must lie between 1 and 200")
    check_level(level)
    learned = learn(session, settings or StreamSettings(), population=population)
    return Stream(session, learned.policy, level=level).items(count)


def _check(answers: Answers) -> None:
    said = len(answers)
    if said < FEWEST:
        few = "1 answer is" if said == 1 else f"{said} answers are"
        raise SettingError(f"{few} too few for a stream, which needs {FEWEST}; rate more with: plgl rate")
    target = targets(answers).nan_to_num(nan=1.0)  # a comparison says that something is better
    if not bool((target > 0.5).any()):
        raise SettingError(f"none of {said} answers is positive; like something first, with: plgl rate")


def _split(answers: Answers, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows to learn from, and rows held out."""
    order = torch.randperm(len(answers), generator=generator)
    held = round(share * len(answers))
    return order[held:].sort().values, order[:held].sort().values


def _folds(rows: Tensor, members: int) -> Sequence[Tensor]:
    """Rows for each member: all but its fold."""
    fold = torch.arange(len(rows)) % max(1, members)
    return [rows[fold != member] for member in range(members)]


class Stream:
    """Items of a policy, as many as are asked for.

    Attributes:
        policy: draws.
        level: from 0 (safe) to 1 (surprising).
    """

    def __init__(
        self, session: Session, policy: LatentPolicy, *, level: float = LEVEL, seed: int | None = None
    ) -> None:
        """Draw for a session; without a seed the items are new each time.

        Raises:
            SettingError: the level lies outside 0 to 1, or the policy is for another generator.
        """
        check_level(level)
        if policy.settings.dimension != session.pack.latents.dimension:
            raise SettingError(
                f"the policy is for {policy.settings.dimension} numbers, {session.pack.name} takes "
                f"{session.pack.latents.dimension}; learn one for this generator"
            )
        self.policy, self.level, self._session = policy, level, session
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def latents(self, count: int) -> Tensor:
        """Latents ``(count, d)``, none more extreme than a proposal may be as long as the policy draws such.

        Raises:
            SettingError: the count is negative.
        """
        found = self.policy.draw(count, self.level, self._generator)
        for _ in range(_TRIES):
            with torch.no_grad():
                wild = self._session.extremeness(self._session.lens(found)) > 1
            if not bool(wild.any()):
                break
            found[wild] = self.policy.draw(int(wild.sum()), self.level, self._generator)
        return found

    def items(self, count: int) -> list[Item]:
        """Items that can be rated like any other; the session remembers that they were shown."""
        return self._session.items_at(self.latents(count))


def fingerprint(session: Session, settings: StreamSettings, population: PopulationPolicy | None = None) -> str:
    """Names what a policy was learned from: the generator, the answers that count, and the settings.

    It is a digest of private things, so it stays where the policy is.
    """
    said = [rated.to_json() for rated in session.history]
    about = [session.pack.hash, session.profile, session.context, session.model_name, said, asdict(settings)]
    about += [] if population is None else [population.digest]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
