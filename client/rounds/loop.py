"""The rounds: sample, filter, pair, choose, remember, train, move; then the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.rounds.realism import Realism, typicality
from client.rounds.record import Row
from client.rounds.reward import Memory, RewardModel, Sight, climb, make_reward, train
from client.rounds.settings import RoundsSettings
from client.rounds.stages import FILTERS, PAIRINGS, SAMPLERS, Candidates, Filter, Pairing, Sampler, Whereabouts
from client.rounds.stopping import STOPPINGS, Stopping
from client.rounds.user import BOTH, NEITHER, USERS, A, B, User

REFERENCE = 400  # random pictures that give the user's distances their scale
_STAGES = 1 << 20  # random streams, one for each round, never meet
_FIRST_WEIGHTS, _REFERENCE_LATENTS, _START = _STAGES - 1, _STAGES - 2, _STAGES - 3


@dataclass(frozen=True, eq=False)
class State:
    """Where rounds stand; with the settings, all that is needed to go on.

    Attributes:
        destination: ``(d,)`` what follows the reward gradient.
        favourite: ``(d,)`` what the user preferred to everything it met; starts as the destination.
        memory: every answer.
        weights: of the reward model, by name.
        path: ``(rounds + 1, d)`` the destination at the start and after each round.
        rows: one for each round.
    """

    destination: Tensor
    favourite: Tensor
    memory: Memory
    weights: dict[str, Tensor]
    path: Tensor
    rows: tuple[Row, ...]

    @property
    def round(self) -> int:
        """Rounds finished."""
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Shown:
    """What the user saw in a round, for loggers.

    Attributes:
        a: ``(n, 3, h, w)``.
        b: ``(n, 3, h, w)``.
        answer: ``(n,)`` int64.
    """

    a: Tensor
    b: Tensor
    answer: Tensor


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The replaceable parts of a round; see the registries of each."""

    sample: Sampler
    filter: Filter
    pair: Pairing
    stop: Stopping
    realism: Realism = typicality

    @classmethod
    def of(cls, settings: RoundsSettings, realism: Realism = typicality) -> Stages:
        """Those the settings name."""
        return cls(
            sample=SAMPLERS[settings.sampling],
            filter=FILTERS[settings.filtering],
            pair=PAIRINGS[settings.pairing],
            stop=STOPPINGS[settings.stopping],
            realism=realism,
        )


def make_user(pack: GeneratorPack, target: Tensor, settings: RoundsSettings) -> User:
    """The artificial user of the settings, with a target ``(3, h, w)`` of the size that is judged."""
    latents = pack.latents.sample(REFERENCE, _stream(settings.seed, _REFERENCE_LATENTS))
    pictures = pack.generate(latents, judged_size(pack, settings))
    return USERS[settings.user](target, pictures, settings.good_share, settings.tie, settings.noise)


def judged_size(pack: GeneratorPack, settings: RoundsSettings) -> int | None:
    """Side of the pictures the user judges; None where the generator draws only one size."""
    return settings.size if pack.manifest.resizable else None


class Rounds:
    """Rounds with one user.

    Guarantee: the same pack, user, settings and stages give the same states on the same machine, in one go or resumed
    from any state. The user is shown pictures only; the favourite is replaced only by what the user preferred to it.
    """

    def __init__(
        self,
        pack: GeneratorPack,
        user: User,
        settings: RoundsSettings,
        stages: Stages | None = None,
        state: State | None = None,
    ) -> None:
        """Start, or go on from a state of a run with the same settings."""
        self.pack, self.user, self.settings = pack, user, settings
        self.stages = stages or Stages.of(settings)
        self.sight = Sight(pack, settings.inputs)
        self.model: RewardModel = make_reward(settings.reward, self.sight.width, _stream(settings.seed, _FIRST_WEIGHTS))
        if state is not None:
            self.model.load_state_dict(state.weights)
        self.state = state or self._start()

    @property
    def stopped(self) -> bool:
        """Whether the stopping rule says so; the limit of rounds aside."""
        return self.stages.stop(self.state.rows, self.settings.distance, self.settings.patience)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.stopped or self.state.round >= self.settings.rounds

    def run(self) -> Iterator[Shown]:
        """Rounds until finished; after each, ``state`` is the new one and what was shown is given out."""
        while not self.finished:
            yield self.step()

    def step(self) -> Shown:
        """One round."""
        state, settings = self.state, self.settings
        generator = _stream(settings.seed, state.round)
        angle = max(settings.smallest_angle, settings.angle * settings.shrink**state.round)
        kept = self._kept(angle, generator)
        pairs = self.stages.pair(self._reward(kept), settings.pairs, generator)
        flip = torch.rand(len(pairs), generator=generator) < 0.5
        pairs = torch.where(flip[:, None], pairs.flip(1), pairs)
        questions = _Questions(self, generator)
        answer = questions.ask(kept[pairs[:, 0]], kept[pairs[:, 1]])
        loss = train(self.model, self.sight, questions.memory, settings.epochs, generator)
        favourite = state.favourite
        for challenger in self._winners(kept, pairs, answer):
            favourite = questions.duel(favourite, challenger)
        destination = climb(self.model, self.sight, self.pack.latents, favourite, angle)
        favourite = questions.duel(favourite, destination)
        row = self._row(questions, kept, destination, favourite, loss, angle)
        self.state = State(
            destination=destination,
            favourite=favourite,
            memory=questions.memory,
            weights={name: value.clone() for name, value in self.model.state_dict().items()},
            path=torch.cat([state.path, destination[None]]),
            rows=(*state.rows, row),
        )
        return questions.shown()

    def draw(self, latents: Tensor) -> Tensor:
        """Pictures ``(n, 3, h, w)`` of the size that is judged."""
        return self.pack.generate(latents, judged_size(self.pack, self.settings))

    def _start(self) -> State:
        space = self.pack.latents
        first = space.project(space.sample(1, _stream(self.settings.seed, _START)))
        return State(first[0], first[0], Memory.empty(space.dimension), {}, first, ())

    def _kept(self, angle: float, generator: torch.Generator) -> Tensor:
        """``(2 * pairs, d)``: the favourite, then what the filter keeps of the sampled."""
        where = Whereabouts(self.pack.latents, self.state.favourite, angle)
        latents = self.stages.sample(where, self.settings.candidates, generator)
        candidates = Candidates(
            latents, self._reward(latents), lambda: self.stages.realism(latents, self.draw(latents))
        )
        rows = self.stages.filter(candidates, 2 * self.settings.pairs - 1)
        return torch.cat([self.state.favourite[None], latents[rows]])

    @torch.no_grad()
    def _reward(self, latents: Tensor) -> Tensor:
        rewards: Tensor = self.model(self.sight(latents))
        return rewards

    def _winners(self, kept: Tensor, pairs: Tensor, answer: Tensor) -> Tensor:
        """``(0 or 1, d)``: of the pictures that won their pair, the one the trained model likes best."""
        won = torch.cat([pairs[answer == A, 0], pairs[answer == B, 1]])
        won = won[won != 0]  # the favourite need not fight itself
        if not len(won):
            return kept[:0]
        return kept[won[self._reward(kept[won]).argmax()]][None]

    def _row(
        self, asked: _Questions, kept: Tensor, destination: Tensor, favourite: Tensor, loss: float, angle: float
    ) -> Row:
        rewards = self._reward(torch.cat([destination[None], kept]))
        near = self.user.eye.distance(self.draw(torch.stack([destination, favourite])))
        answer = asked.memory.answer[len(self.state.memory) :]
        count = [int((answer == kind).sum()) for kind in (A, B, BOTH, NEITHER)]
        return Row(
            round=self.state.round + 1,
            loss=loss,
            reward_mean=float(rewards[1:].mean()),
            reward_best=float(rewards[1:].max()),
            reward_destination=float(rewards[0]),
            distance=float(near[0]),
            distance_favourite=float(near[1]),
            angle=angle,
            questions=len(answer),
            a=count[0],
            b=count[1],
            both=count[2],
            neither=count[3],
        )


class _Questions:
    """The questions of one round."""

    def __init__(self, rounds: Rounds, generator: torch.Generator) -> None:
        self.memory = rounds.state.memory
        self._rounds, self._generator = rounds, generator
        self._shown: list[Shown] = []

    def ask(self, a: Tensor, b: Tensor) -> Tensor:
        """Show pairs of latents ``(n, d)`` as pictures; remember and return the answers ``(n,)``."""
        pictures_a, pictures_b = self._rounds.draw(a), self._rounds.draw(b)
        answer = self._rounds.user.compare(pictures_a, pictures_b, self._generator)
        self.memory = self.memory.add(a, b, answer)
        self._shown.append(Shown(pictures_a, pictures_b, answer))
        return answer

    def duel(self, favourite: Tensor, challenger: Tensor) -> Tensor:
        """The challenger where the user prefers it, else the favourite; each ``(d,)``."""
        if torch.equal(favourite, challenger):
            return favourite
        flip = bool(torch.rand((), generator=self._generator) < 0.5)
        a, b = (challenger, favourite) if flip else (favourite, challenger)
        won = A if flip else B
        return challenger if int(self.ask(a[None], b[None])) == won else favourite

    def shown(self) -> Shown:
        """Everything shown so far in this round."""
        return Shown(*(torch.cat([getattr(each, name) for each in self._shown]) for name in ("a", "b", "answer")))


def _stream(seed: int, stage: int) -> torch.Generator:
    """Random numbers of one round (or of one thing drawn before the first): nothing to store, nothing to replay."""
    return torch.Generator().manual_seed(seed * _STAGES + stage)
