"""Streams compared: what people who answered a few questions are then shown without end, by one method or another.

Everybody of a panel answers the same number of A or B questions of an ordinary session. Each method then makes a stream
from that session, and its items are judged by the person's own utility, by answers no method heard, and by how far they
leave the generator and how varied they stay.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from client.classifiers.base import Answers, Points
from client.generators.pack import GeneratorPack
from client.journal import Event, MemoryJournal
from client.policy.flow import FlowSettings, LatentPolicy
from client.policy.goal import Goal, GoalSettings
from client.policy.guard import Check, Guard, GuardSettings
from client.policy.learner import learner
from client.policy.reward import Scaled, TasteReward
from client.policy.stream import Sight, StreamSettings
from client.policy.training import Training
from client.ratings import ANSWERS, Choice, Kind
from client.session import Session
from common.errors import SettingError
from simulations.contact_sheet import ContactSheet, Row, as_png, draw_sheet
from simulations.lab import policies_findings
from simulations.lab.frames import strict
from simulations.lab.grid import Advance, Cell, compute_all, derived_seed
from simulations.lab.lab_run import LabRun
from simulations.lab.scene import check_axis
from simulations.panel import KINDS, Panel
from simulations.people import AnswerNoise, Population
from simulations.players.session import SessionPlayer
from simulations.progress import Stages
from simulations.run_folder import RunFolder
from simulations.streams import STREAMS, stream
from simulations.streams.base import Listener
from simulations.streams.measures import coverage, frechet
from simulations.yardstick import Yardstick, pictures

COMMAND = "simulate policies"
REFERENCE = 400  # pictures that people's factors are standardised by
HELD = 60  # answers of each person that no method hears
SHOWN = 16  # items of a row of a contact sheet
_SHEET = 96  # pixels


@dataclass(frozen=True, kw_only=True)
class PolicyGrid:
    """Settings; every field changes the result.

    Attributes:
        methods: some of ``simulations.streams.STREAMS``.
        generator: pack, a name or a folder.
        people: on each panel; kinds: of taste, round robin, some of ``simulations.panel.KINDS``.
        kinds: see above.
        answers: A or B questions each of them answers first.
        items: of each stream that are judged.
        level: from 0 (safe) to 1 (surprising).
        rounds: most rounds of learning.
        law: pictures that percentiles refer to.
        own: items of the generator that streams are compared with.
        hacking: people for whom a learner without a guard is shown cheating.
        careless: rounds of that learner.
        sheets: people for whom a contact sheet is drawn.
        seed: master seed.
        repeats: independent panels.
    """

    methods: tuple[str, ...] = tuple(STREAMS)
    generator: str = "art"
    people: int = 8
    kinds: tuple[str, ...] = KINDS
    answers: int = 40
    items: int = 300
    level: float = 0.3
    rounds: int = 20
    law: int = 4_000
    own: int = 1_000
    hacking: int = 2
    careless: int = 40
    sheets: int = 2
    seed: int = 0
    repeats: int = 3

    def __post_init__(self) -> None:
        check_axis("methods", self.methods)
        for name in self.methods:
            if name not in STREAMS:
                raise SettingError(f"methods={name!r} is unknown; choose from {', '.join(STREAMS)}")
        for name, least in (
            ("people", 1),
            ("answers", 8),
            ("items", 20),
            ("law", 100),
            ("own", 20),
            ("repeats", 1),
            ("rounds", 1),
            ("careless", 1),
        ):
            if getattr(self, name) < least:
                raise SettingError(f"{name}={getattr(self, name)} must be >= {least}")
        if min(self.hacking, self.sheets) < 0:
            raise SettingError(f"hacking={self.hacking} and sheets={self.sheets} must be >= 0")
        if not 0 <= self.level <= 1:
            raise SettingError(f"level={self.level} must lie between 0 (safe) and 1 (surprising)")

    def stream_settings(self, seed: int) -> StreamSettings:
        """How policies are learned for one person."""
        from client.policy.learner import LearnSettings

        return StreamSettings(seed=seed, learn=LearnSettings(rounds=self.rounds))

    def everybody(self) -> list[dict[str, int]]:
        """Repeat and person, for each."""
        return [{"repeat": r, "person": p} for r in range(self.repeats) for p in range(self.people)]

    def interviews(self) -> list[Cell]:
        """What everybody answers first."""
        return [Cell(axes={"part": "answers", **who}, seeds=self._seeds(who), work=8) for who in self.everybody()]

    def cells(self) -> list[Cell]:
        """Streams, then cheating."""
        made = [
            Cell(axes={"method": method, **who}, seeds=self._seeds(who), work=_WORK.get(method, 20))
            for who in self.everybody()
            for method in self.methods
        ]
        fooled = [who for who in self.everybody() if who["person"] < self.hacking]
        return made + [Cell(axes={"part": "hacking", **who}, seeds=self._seeds(who), work=15) for who in fooled]

    def _seeds(self, who: dict[str, int]) -> dict[str, int]:
        person = derived_seed(self.seed, "person", who["repeat"], who["person"]) % 2**31
        return {"panel": derived_seed(self.seed, "panel", who["repeat"]) % 2**31, "person": person}


_WORK = {"base": 2, "best-of-n": 8, "search": 12, "policy": 15, "policy-ppo": 40, "distilled": 12}


@dataclass(frozen=True, eq=False)
class World:
    """One panel, what it is measured by, and the generator's own items.

    Attributes:
        pack: draws; panel: judges; yardstick: measures.
        panel: see above.
        yardstick: see above.
        own: ``(own, f)`` picture features of the generator's own items, along the yardstick's axes.
        levels: ``(people,)`` where each person's liking starts.
        noise: of answers.
    """

    pack: GeneratorPack
    panel: Panel
    yardstick: Yardstick
    own: Tensor
    levels: Tensor
    noise: AnswerNoise = field(default_factory=AnswerNoise)

    def judged(self, latents: Tensor, person: int) -> tuple[Tensor, Tensor]:
        """The person's utilities ``(n,)``, and picture features ``(n, f)``."""
        media = pictures(self.pack, latents)
        utilities = self.yardstick.standard(self.panel.utilities(media))
        return utilities[person], self.yardstick.features(media)

    def along(self, features: Tensor) -> Tensor:
        """Features ``(n, f)`` along the axes that vary most."""
        return (features - self.yardstick.centre) @ self.yardstick.axes


@lru_cache(maxsize=1)
def _world(grid: PolicyGrid, folder: str, seed: int) -> World:
    pack = GeneratorPack.open(grid.generator)
    generator = torch.Generator().manual_seed(seed)
    reference = pictures(pack, pack.latents.sample(REFERENCE, generator))
    wanted = pack.latents.sample(grid.people, generator)
    panel = Panel(
        Population(),
        people=grid.people,
        others=0,
        seed=seed,
        reference=reference,
        targets=lambda rows: pictures(pack, wanted[rows]),
        kinds=grid.kinds,
    )
    path = Path(folder) / f"yardstick-{seed}.safetensors"
    if not path.exists():
        Yardstick.make(pack, panel, law=grid.law, seed=seed + 1, advance=lambda share: None).save(path)
    yardstick = Yardstick.load(path)
    own = yardstick.features(pictures(pack, pack.latents.sample(grid.own, generator)))
    levels = AnswerNoise().levels(grid.people, generator)
    return World(pack, panel, yardstick, (own - yardstick.centre) @ yardstick.axes, levels)


def run(grid: PolicyGrid, out: str | Path = "plgl-policies", *, jobs: int = 1, quiet: bool = False) -> LabRun:
    """Compute what is not computed yet, and write tables, contact sheets and report.

    Args:
        grid: what to compare.
        out: folder; a run with the same settings is gone on with.
        jobs: processes.
        quiet: no progress.

    Raises:
        SettingError: a method needs something that is not installed.
        FolderError: the folder holds something else.
    """
    for method in grid.methods:
        stream(method)  # refuses what cannot be imported
    pack = GeneratorPack.open(grid.generator)
    settings = strict({**asdict(grid), "pack": f"{pack.name} {pack.version} {pack.hash}"})
    interviews, cells = grid.interviews(), grid.cells()
    with RunFolder.open(out, COMMAND, settings, seeds=[grid.seed]) as folder:
        stages = Stages({cell.label: cell.work for cell in [*interviews, *cells]}, quiet=quiet)
        with stages:
            place = str(folder.folder)
            said = compute_all(interviews, partial(_interview, grid, place), folder, stages, jobs=jobs)
            heard = {_who(cell): values["events"] for cell, values in zip(interviews, said, strict=True)}
            found = compute_all(cells, partial(_compute, grid, place, heard), folder, stages, jobs=jobs)
        rows = [{**cell.axes, **values} for cell, values in zip(cells, found, strict=True)]
        names = _sheets(grid, folder, rows)
        report = policies_findings.report(grid, rows, settings, stages.seconds, names)
        report.write(folder)
        folder.finish()
        return LabRun.of(folder.folder, report)


def _person(cell: Cell) -> int:
    person = cell.axes["person"]
    assert isinstance(person, int), "every cell is about a person"
    return person


def _who(cell: Cell) -> str:
    return f"{cell.axes['repeat']}-{cell.axes['person']}"


def _interview(grid: PolicyGrid, folder: str, cell: Cell, advance: Advance) -> dict[str, Any]:
    """The journal of a session in which a person answered, as JSON has it."""
    world, person = _world(grid, folder, cell.seeds["panel"]), _person(cell)
    player = SessionPlayer(world.pack, cell.seeds["person"])
    for asked in range(grid.answers):
        utilities = world.judged(player.ask(), person)[0]
        step = torch.Generator().manual_seed(cell.seeds["person"] + asked)
        level = world.levels[person : person + 1]
        player.tell(int(world.noise.answer(Kind.CHOICE, utilities[None, None], level, step)[0, 0]))
        advance(1 / grid.answers)
    events = player.session.journal.events()
    plain = [
        {"kind": e.kind, "body": e.body, "latent": None if e.latent is None else e.latent.tolist()} for e in events
    ]
    return {"events": plain}


def session_of(pack: GeneratorPack, events: Sequence[dict[str, Any]], seed: int) -> Session:
    """The session of a journal that was kept as JSON."""
    journal = MemoryJournal()
    journal.append(
        [
            Event(each["kind"], each["body"], None if each["latent"] is None else torch.tensor(each["latent"]))
            for each in events
        ]
    )
    return Session(pack, journal, seed=seed)


def _compute(grid: PolicyGrid, folder: str, heard: dict[str, Any], cell: Cell, advance: Advance) -> dict[str, Any]:
    world = _world(grid, folder, cell.seeds["panel"])
    session = session_of(world.pack, heard[_who(cell)], cell.seeds["person"])
    if cell.axes.get("part") == "hacking":
        return _hacking(world, session, _person(cell), cell.seeds["person"], grid.careless)
    listener = _listener(grid, session, cell)
    made = stream(str(cell.axes["method"]))(listener)
    started = time.process_time()
    latents = made.draw(grid.items)
    seconds = time.process_time() - started
    person = _person(cell)
    return {
        **_measured(world, latents, person),
        "held_out": _held_out(world, session, latents, person, cell.seeds["person"]),
        "seconds_per_item": seconds / grid.items,
        "seconds_to_learn": made.seconds,
        "parameters": made.size,
        "note": made.note,
        "shown": latents[:SHOWN].tolist() if person < grid.sheets else [],
    }


@lru_cache(maxsize=1)
def _remembered(grid: PolicyGrid, panel: int, person: int) -> list[Listener]:
    return []


def _listener(grid: PolicyGrid, session: Session, cell: Cell) -> Listener:
    """The listener of a person; the methods of one person come after each other and share what they learned."""
    kept = _remembered(grid, cell.seeds["panel"], cell.seeds["person"])
    if not kept:
        seed = cell.seeds["person"]
        kept.append(Listener(session, grid.stream_settings(seed), level=grid.level, seed=seed))
    return kept[0]


def _measured(world: World, latents: Tensor, person: int) -> dict[str, float]:
    utilities, features = world.judged(latents, person)
    along = world.along(features)
    found = coverage(along, world.own[: len(along)])
    percentile = world.yardstick.percentile(utilities.expand(world.panel.people, -1))[person]
    return {
        "utility": float(utilities.mean()),
        "percentile": float(percentile.mean()),
        "loved": float((percentile >= 0.99).double().mean()),
        "diversity": float(world.yardstick.diversity(features[None])),
        "frechet": frechet(along, world.own),
        "precision": found.precision,
        "recall": found.recall,
        "extreme": float(world.yardstick.extreme(features).double().mean()),
    }


def _held_out(world: World, session: Session, latents: Tensor, person: int, seed: int) -> float:
    """Mean reward by a taste model fitted to answers about random items that no method heard, in deviations."""
    judge = held_out_judge(world, session, person, seed)
    with torch.no_grad():
        return float(judge(latents).mean())


def held_out_judge(world: World, session: Session, person: int, seed: int) -> Scaled:
    """A taste model fitted to ``HELD`` fresh answers of a person about random items."""
    generator = torch.Generator().manual_seed(seed + 77)
    shown = world.pack.latents.sample(2 * HELD, generator)
    utilities = world.judged(shown, person)[0].reshape(1, HELD, 2)
    said = world.noise.answer(Kind.CHOICE, utilities, world.levels[person : person + 1], generator)[0].tolist()
    ratings = [Choice(2 * i, 2 * i + 1, ANSWERS[value]) for i, value in enumerate(said)]
    with torch.no_grad():
        points: Points = session.lens(shown)
        taste = session.fresh_model().fit(Answers.of(ratings, points))
    return Scaled.measure(TasteReward(session.lens, taste, caution=0), world.pack.latents, generator)


def _hacking(world: World, session: Session, person: int, seed: int, rounds: int) -> dict[str, Any]:
    """A careless learner, a model that is easily fooled, and almost no price: watched, and stopped by the guard.

    Both runs have the same seed; the guarded one does rounds that overshoot again, slower.
    """
    free = GuardSettings(divergence=math.inf, distance=math.inf, rise=math.inf)
    watched: list[dict[str, Any]] = []

    def stands(policy: LatentPolicy, check: Check) -> dict[str, Any]:
        row = {name: value if math.isfinite(value) else None for name, value in asdict(check).items()}
        noise = world.pack.latents.sample(100, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            places = policy(noise, torch.zeros(100)).places
        if not bool(places.isfinite().all()):
            return row
        utilities, features = world.judged(places, person)
        return row | {
            "utility": float(utilities.mean()),
            "diversity": float(world.yardstick.diversity(features[None])),
            "extreme": float(world.yardstick.extreme(features).double().mean()),
        }

    careless = _careless(session, free, seed, rounds)
    careless.run(lambda check: watched.append(stands(careless.learner.policy, check)))
    guarded = _careless(session, GuardSettings(), seed, rounds)
    caught = guarded.run()
    return {
        "rounds": watched,
        "kept": stands(caught.policy, caught.kept),
        "stopped": caught.stopped,
        "stopped_round": caught.checks[-1].round,
        "drift": guarded.guard.drift(caught.checks[-1]),
    }


def _careless(session: Session, settings: GuardSettings, seed: int, rounds: int) -> Training:
    """A training that trusts a logistic regression on the latents and pays next to nothing for leaving them."""
    from client.classifiers import taste_model
    from client.policy.learner import LearnSettings

    answers, context = session.lesson()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(answers), generator=generator)
    held = max(2, len(answers) // 5)
    sight, space = Sight(session), session.pack.latents
    naive = taste_model("logistic").fit(answers.select(order[held:]), context)
    fair = session.fresh_model().fit(answers.select(order[:held]), context)
    prices = GoalSettings(safe=0.02, surprising=0.02, variety=0, most=math.inf, nearest=math.inf)
    goal = Goal.measure(TasteReward(sight, naive, caution=0), sight.seen, space, generator, prices)
    judge = Scaled.measure(TasteReward(sight, fair, caution=0), space, generator)
    guard = Guard(goal, judge, settings, generator)
    policy = LatentPolicy(FlowSettings(dimension=space.dimension, seed=seed))
    return Training(learner("reparameterised", policy, goal, LearnSettings(rounds=rounds), generator), guard)


def _sheets(grid: PolicyGrid, folder: RunFolder, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Contact sheets of some people of the first panel, one row for each method."""
    pack, names = GeneratorPack.open(grid.generator), []
    size = _SHEET if pack.manifest.resizable else None
    for person in range(min(grid.sheets, grid.people)):
        mine = [row for row in rows if row.get("method") and row["repeat"] == 0 and row["person"] == person]
        lines = []
        for row in mine:
            media = pack.generate(torch.tensor(row["shown"]), size)
            drawn = ((media.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
            lines.append(Row(f"{row['method']}: {100 * row['percentile']:.0f}th percentile of their taste", drawn))
        if lines:
            title = f"Streams after {grid.answers} answers"
            sheet = ContactSheet(title=title, person=f"person {person + 1}", rows=lines)
            name = f"sheet-{person + 1}.png"
            folder.write(name, as_png(draw_sheet(sheet, columns=SHOWN, cell=_SHEET, text=20)))
            names.append(name)
    return names
