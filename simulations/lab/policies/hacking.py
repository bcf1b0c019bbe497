"""A learner without a guard that is caught cheating: what it came to, and where the guard would have stopped it."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch

from client.classifiers import taste_model
from client.policy.flow import FlowSettings, LatentPolicy
from client.policy.goal import Goal, GoalSettings
from client.policy.guard import Check, Guard, GuardSettings
from client.policy.learner import LearnSettings, learner
from client.policy.reward import Scaled, TasteReward
from client.policy.stream import Sight
from client.policy.training import Training
from client.session import Session
from simulations.lab.grid import Advance, Cell
from simulations.lab.policies.grid import PolicyGrid
from simulations.lab.policies.listening import Heard, person_of, session_of, who
from simulations.lab.policies.world import World, world_of


def caught(grid: PolicyGrid, folder: str, heard: Heard, cell: Cell, advance: Advance) -> dict[str, Any]:
    """A careless learner, a model that is easily fooled, and almost no price: watched, and stopped by the guard.

    Both runs have the same seed; the guarded one does rounds that overshoot again, slower.
    """
    world, seed = world_of(grid, folder, str(cell.axes["generator"]), cell.seeds["panel"]), cell.seeds["person"]
    session = session_of(world.pack, heard[who(cell)], seed)
    return _watched(world, session, person_of(cell), seed, grid.careless)


def _watched(world: World, session: Session, person: int, seed: int, rounds: int) -> dict[str, Any]:
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
