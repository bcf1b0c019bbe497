"""A prior learned from a million people on one machine: how fast, in how much memory, and what it is worth.

The folder keeps the prior after each round. A round is written down as charged before its noise is drawn, so a process
that is killed at any moment can go on without ever drawing noise for the same round twice: a sum that was interrupted
is done again, a round that was charged and not kept counts as spent.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch

from client.fit import log_predictive
from client.generators.pack import GeneratorPack
from client.ratings import Kind
from common import update
from common.errors import SettingError
from common.privacy.noise import Randomness, system_randomness
from common.privacy.settings import PrivacySettings
from simulations import machine
from simulations.batched import Round, Speed, Trained, Watch, train
from simulations.cold_start import FEEDBACK
from simulations.interview import DRAWS, WIDTH
from simulations.invented_crowd import InventedCrowd, Newcomers, World
from simulations.mechanisms import Everyone
from simulations.pace import Pace
from simulations.people import Population
from simulations.run_folder import RunFolder
from simulations.strategies.base import State, Task
from simulations.strategies.dp_em import DpEm

ABSTRACT = "abstract"
POINTS = (0, 5, 20)  # answers of newcomers after which they are recommended something
NEWTON_STEPS = 4  # that a posterior needs at least, for the count of operations
_MET_TOGETHER = 100


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Settings of the run; every field changes the result.

    Attributes:
        people: who take part; ratings: of each of them.
        ratings: see above.
        components: features k of the latent map; a taste has p = k + 1 weights.
        rounds: releases; each person takes part in all of them.
        epsilon: budget over all rounds, ``inf`` for none; delta: its failure probability.
        delta: see above.
        norm_bound: clip norm of one person's update; step: learning rate of the server.
        step: see above.
        feedback: like, choice, stars, best or worst.
        generator: pack that items come from, or ``"abstract"`` for items without pictures.
        pool: items that questions are about; unseen: items to recommend from.
        unseen: see above.
        new_people: newcomers the prior is tried on.
        shared: how much people have in common; archetypes: of them.
        archetypes: see above.
        precision: ``float32`` or ``float64``, of people's fits.
        seed: of items and people; never of noise.
    """

    people: int = 1_000_000
    ratings: int = 30
    components: int = 32
    rounds: int = 4
    epsilon: float = 1.0
    delta: float = 1e-6
    norm_bound: float = 6.0
    step: float = 2.0
    feedback: str = "like"
    generator: str = "art"
    pool: int = 4_000
    unseen: int = 2_000
    new_people: int = 500
    shared: float = 0.9
    archetypes: int = 5
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("people", "ratings", "components", "new_people"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}={getattr(self, name)} must be >= 1")
        if self.feedback not in FEEDBACK:
            raise SettingError(f"feedback={self.feedback!r} must be one of {', '.join(FEEDBACK)}")
        if self.precision not in ("float32", "float64"):
            raise SettingError(f"precision={self.precision!r} must be float32 or float64")
        if self.pool < 100 or self.unseen < 100:
            raise SettingError(f"pool={self.pool} and unseen={self.unseen} must be >= 100; try 4000 and 2000")
        self.promise, self.population, self.learner  # noqa: B018  (each checks its own part)

    @property
    def kind(self) -> Kind:
        """Kind of question."""
        return FEEDBACK[self.feedback]

    @property
    def parameters(self) -> int:
        """Weights p of a taste."""
        return self.components + 1

    @property
    def promise(self) -> PrivacySettings:
        """What is promised to everybody."""
        return PrivacySettings(
            epsilon=self.epsilon,
            delta=self.delta,
            participations=self.rounds,
            norm_bound=self.norm_bound,
            expected_people=self.people,
            minimum_people=1,
        )

    @property
    def population(self) -> Population:
        """The law of tastes."""
        return Population(shared=self.shared, archetypes=self.archetypes)

    @property
    def learner(self) -> DpEm:
        """The strategy."""
        return DpEm(norm_bound=self.norm_bound, rounds=self.rounds, step=self.step)

    def operations(self) -> float:
        """Float32 operations that one person's fit needs in one round, however it is done.

        ``NEWTON_STEPS`` steps of a Hessian (its half), a factorisation, two triangular solves and two products with
        the features; then the last Hessian, its inverse, and the outer product. Making people up is not counted.
        """
        rows, p = self.ratings * (2 if WIDTH[self.kind] > 1 else 1), self.parameters
        hessian, factor = rows * p * (p + 1), p**3 / 3
        step = hessian + factor + 2 * p**2 + 4 * rows * p
        return NEWTON_STEPS * step + hessian + p**3 + p * (p + 1)

    def traffic(self) -> float:
        """Bytes that one person's fit in one round reads or writes at least once: features, Hessians, the update."""
        width = 4 if self.precision == "float32" else 8
        rows, p = self.ratings * WIDTH[self.kind], self.parameters
        return width * (2 * rows * (p + 1) + 2 * (NEWTON_STEPS + 1) * p * p + 2 * update.length(p))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out.

    Attributes:
        trained: the state, the statement, the rounds.
        world: the items.
        newcomers: one row for each number of answers: percentile and held-out log likelihood, with and without prior.
        machine: what it can do at best.
        rate: people per second over all rounds that ran in this process, made up, fitted, added and noised.
        cpu_rate: the same per second of processor time, which others on the machine take less from.
        peak_memory: bytes.
        chunk: people worked on together at the end.
    """

    trained: Trained
    world: World
    newcomers: list[dict[str, float]]
    machine: machine.Machine
    rate: float
    cpu_rate: float
    peak_memory: int
    chunk: int


def run(
    settings: Scale,
    folder: RunFolder,
    device: torch.device,
    speed: Speed,
    *,
    randomness: Randomness = system_randomness,
    limits: machine.Machine | None = None,
    quiet: bool = False,
) -> Outcome:
    """Do what is not done yet.

    Args:
        settings: see ``Scale``.
        folder: of the run.
        device: where people are made up and fitted.
        speed: chunk and threads.
        randomness: of the noise; anything but the system's only in tests.
        limits: of the device; measured where they are not given.
        quiet: say nothing.
    """
    can = limits or machine.measure(device, speed.threads)
    world = _world(settings, folder, quiet)
    there = world.to(device, getattr(torch, settings.precision))
    population = settings.population
    crowd = InventedCrowd(
        there, settings.people, population, settings.seed, ratings=settings.ratings, kind=settings.kind
    )
    before = _kept(settings, folder, world)
    chunks = [speed.chunk]
    done = settings.people * (0 if before is None else len(before.rounds))
    began = time.process_time()
    with Pace(settings.people * settings.rounds, done, quiet=quiet) as pace:
        keeper = _Keeper(settings, folder, pace, chunks)
        trained = train(
            settings.learner,
            crowd,
            Everyone(settings.promise, randomness),
            flat=world.flat,
            chunk=speed.chunk,
            threads=speed.threads,
            watch=keeper.watch(0 if before is None else len(before.rounds)),
            after=before,
        )
    worked = time.process_time() - began
    made = settings.learner.prior(trained.state, world.pack, trained.statement, keeper.releases(trained))
    made.save(folder.path("prior"))
    new = dataclasses.replace(crowd, world=world.to(torch.device("cpu"), torch.float64)).newcomers(settings.new_people)
    return Outcome(
        trained=trained,
        world=world,
        newcomers=list(_meet(settings, trained.state, world, new)),
        machine=can,
        rate=keeper.rate,
        cpu_rate=keeper.people / worked if keeper.people else math.nan,
        peak_memory=machine.peak_memory(device),
        chunk=chunks[-1],
    )


def _world(settings: Scale, folder: RunFolder, quiet: bool) -> World:
    sizes = {"components": settings.components, "pool": settings.pool, "unseen": settings.unseen, "seed": settings.seed}

    def draw() -> World:
        if settings.generator == ABSTRACT:
            return World.abstract(**sizes)
        with Pace(settings.pool + settings.unseen, unit="pictures", quiet=quiet) as pace:
            pack = GeneratorPack.open(settings.generator)
            return World.make(pack, **sizes, advance=lambda n: pace.advance(n, "looking at pictures"))

    return World.cached(folder.path("world.safetensors"), draw)


class _Keeper:
    """Writes down what must survive, in the order that makes it survive."""

    def __init__(self, settings: Scale, folder: RunFolder, pace: Pace, chunks: list[int]) -> None:
        self.settings, self.folder, self.pace, self.chunks = settings, folder, pace, chunks
        self.people, self.seconds = 0, 0.0

    def watch(self, done: int) -> Watch:
        """For ``train``, with ``done`` rounds behind."""
        self.number = done + 1
        return Watch(on_chunk=self._chunk, on_noise=self._charge, on_round=self._keep, on_smaller=self._smaller)

    @property
    def rate(self) -> float:
        """People per second; NaN where nothing was left to do."""
        return self.people / self.seconds if self.seconds else math.nan

    @staticmethod
    def releases(trained: Trained) -> int:
        """Rounds that led to a prior."""
        return sum(record.released for record in trained.rounds)

    def _chunk(self, people: int) -> None:
        self.pace.advance(people, f"round {self.number} of {self.settings.rounds}")

    def _charge(self, number: int) -> None:
        self.folder.save_cell(f"charged-{number}", {"round": number, "date": time.time()})

    def _keep(self, record: Round, state: State) -> None:
        self.folder.write(f"state-{record.number}.safetensors", safetensors.torch.save(_plain(state)))
        self.folder.save_cell(f"round-{record.number}", dataclasses.asdict(record))
        self.number = record.number + 1
        self.people += self.settings.people
        self.seconds += record.seconds

    def _smaller(self, chunk: int) -> None:
        self.chunks.append(chunk)
        self.pace.say(f"out of memory: chunks are halved to {chunk} people; nothing is lost")


def _plain(state: State) -> State:
    return {name: tensor.cpu().contiguous().clone() for name, tensor in state.items()}


def _kept(settings: Scale, folder: RunFolder, world: World) -> Trained | None:
    """What earlier processes finished; a round that was charged and not kept is spent."""
    learner = settings.learner
    task = Task(items=world.pool, flat=world.flat, rounds=settings.rounds, ratings=settings.ratings)
    state, rounds = learner.start(task), []
    for number in range(1, settings.rounds + 1):
        cell = folder.cell(f"round-{number}")
        if cell is not None:
            state = safetensors.torch.load(folder.path(f"state-{number}.safetensors").read_bytes())
            rounds.append(Round(**cell))
        elif folder.cell(f"charged-{number}") is not None:
            rounds.append(Round(number=number, people=0, clipped=0, numbers=1, seconds=0.0, released=False))
        else:
            break
    promised = Everyone(settings.promise).statement(1, 0)
    return Trained(state=state, statement=promised, rounds=tuple(rounds)) if rounds else None


def _meet(settings: Scale, state: State, world: World, new: Newcomers) -> Iterator[dict[str, float]]:
    """Percentile of recommendations and log likelihood of held-out answers, with the prior and with the flat one."""
    learner = settings.learner
    flat = learner.start(Task(items=world.pool, flat=world.flat, rounds=1, ratings=settings.ratings))
    draws = torch.randn(
        DRAWS, settings.parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(settings.seed)
    )
    held_out = new.held_out.seen_as(world.unseen.features)
    for answers in sorted({min(point, settings.ratings) for point in POINTS}):
        row: dict[str, float] = {"answers": answers}
        for name, known in (("prior", state), ("flat", flat)):
            said = new.answers.first(answers).seen_as(learner.view(world.pool, known))
            scores, likely = [], []
            for first in range(0, settings.new_people, _MET_TOGETHER):
                some = slice(first, first + _MET_TOGETHER)
                posterior = learner.posterior(said.select(some), known)
                scores.append(posterior.scores(world.unseen.features))
                likely.append(log_predictive(held_out.select(some), posterior, known["thresholds"], draws).mean(1))
            row[f"percentile_{name}"] = float(new.percentile(torch.cat(scores)).mean())
            row[f"log_likelihood_{name}"] = float(torch.cat(likely).mean())
        yield row


def summary(settings: Scale, outcome: Outcome) -> dict[str, Any]:
    """The numbers of the run as one row of plain values; rates of this process, NaN where all was done before."""
    rate, can = outcome.rate, outcome.machine
    rounds: tuple[Round, ...] = outcome.trained.rounds
    people = max(sum(record.people for record in rounds), 1)
    return {
        "people": settings.people,
        "rounds": len(rounds),
        "releases": sum(record.released for record in rounds),
        "people_per_second": rate,
        "people_per_cpu_second": outcome.cpu_rate,
        "seconds": sum(record.seconds for record in rounds),
        "share_of_flops": rate * settings.operations() / can.flops,
        "share_of_bandwidth": rate * settings.traffic() / can.bandwidth,
        "flops": can.flops,
        "bandwidth": can.bandwidth,
        "peak_memory_bytes": outcome.peak_memory,
        "clipped": sum(record.clipped for record in rounds) / people,
        "chunk": outcome.chunk,
        "device": can.name,
        "load": can.load,
        "epsilon": outcome.trained.statement.epsilon,
    }
