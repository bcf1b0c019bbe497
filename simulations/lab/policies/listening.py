"""What people of a panel answer first, and the judge that heard answers no method did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from client.classifiers.base import Answers, Points
from client.generators.pack import GeneratorPack
from client.journal import Event, MemoryJournal
from client.policy.reward import Scaled, TasteReward
from client.ratings import ANSWERS, Choice, Kind
from client.session import Session
from simulations.lab.grid import Advance, Cell
from simulations.lab.policies.grid import PolicyGrid
from simulations.lab.policies.world import World, world_of
from simulations.players.session import SessionPlayer

HELD = 60  # answers of each person that no method hears

Heard = Mapping[str, Any]
"""Events of everybody's sessions, by `who`."""


def person_of(cell: Cell) -> int:
    """Whom a cell is about."""
    person = cell.axes["person"]
    assert isinstance(person, int), "the cell is about a person"
    return person


def who(cell: Cell) -> str:
    """Names a person of a panel over a generator."""
    return f"{cell.axes['generator']}-{cell.axes['repeat']}-{cell.axes['person']}"


def interview(grid: PolicyGrid, folder: str, cell: Cell, advance: Advance) -> dict[str, Any]:
    """The journal of a session in which a person answered, as JSON has it."""
    world, person = world_of(grid, folder, str(cell.axes["generator"]), cell.seeds["panel"]), person_of(cell)
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
